"""GGUF files: every type of tensor, the rows of queries and keys, the tokenizer inside, and files that are no such."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer import cli
from compyute_transformer.data import BytePairTokenizer, train_tokenizer
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import ConfigError, DataError
from compyute_transformer.exchange import AutoModel, Pretrained, read_gguf, save_gguf, tokenizer_of, write_tensors
from compyute_transformer.exchange.gguf import OUTSIDE, PARTS
from compyute_transformer.exchange.quantized import quantize_q8_0
from compyute_transformer.models import GPT, GPTConfig, Llama, LlamaConfig
from compyute_transformer.training import start_from, start_run
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)
C, H, K, D, F, V, L = 32, 4, 2, 8, 64, 11, 16
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(given: Any) -> bytes:
    """A value of metadata with its type before it."""
    if isinstance(given, str):
        return struct.pack("<I", 8) + text(given)
    if isinstance(given, list):
        items = [value(item) for item in given]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)
    return struct.pack("<If", 6, given) if isinstance(given, float) else struct.pack("<II", 4, given)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(name) + value(given) for name, given in metadata.items())
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += text(name) + axes + struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + data


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_every_type_is_decoded_by_its_formula(tmp_path: Path) -> None:
    plain, scale, least = draw(2, 32), np.array([[0.5], [-0.25]], np.float32), np.array([[3.0], [-1.0]], np.float32)
    signed = RNG.integers(-128, 128, (2, 32)).astype(np.int8)
    nibbles = RNG.integers(0, 16, (2, 32)).astype(np.uint8)
    d, m, packed = scale.astype("<f2"), least.astype("<f2"), nibbles[:, :16] | nibbles[:, 16:] << 4
    tensors = {
        "F32": (F32, plain.tobytes(), plain),
        "F16": (F16, plain.astype("<f2").tobytes(), plain.astype(np.float16).astype(np.float32)),
        "BF16": (BF16, (plain.view("<u4") >> 16).astype("<u2").tobytes(), (plain.view("<u4") >> 16 << 16).view("<f4")),
        "Q8_0": (Q8_0, b"".join(d[i].tobytes() + signed[i].tobytes() for i in range(2)), scale * signed),
        "Q4_0": (Q4_0, b"".join(d[i].tobytes() + packed[i].tobytes() for i in range(2)), scale * (nibbles - 8.0)),
        "Q4_1": (
            Q4_1,
            b"".join(d[i].tobytes() + m[i].tobytes() + packed[i].tobytes() for i in range(2)),
            scale * nibbles + least,
        ),
    }
    path = tmp_path / "file.gguf"
    path.write_bytes(gguf({}, {name: (kind, (2, 32), raw) for name, (kind, raw, _) in tensors.items()}))
    file = read_gguf(path)
    assert len(file) == 6
    for name, (_, _, expected) in tensors.items():
        assert file.kind(name) == name
        assert file[name].dtype == np.float32
        assert file[name].shape == file.shape(name) == (2, 32)
        assert np.allclose(file[name], expected, rtol=1e-6, atol=0)


def of_four_bits(block: bytes) -> tuple[list[float], list[float], list[int]]:
    """The scales and minima of the eight groups of a block of Q4_K or Q5_K, and its four-bit numbers, one by one."""
    d, m = (float(np.frombuffer(block[at : at + 2], "<f2")[0]) for at in (0, 2))
    packed, start = block[4:16], 16 if len(block) == 144 else 48
    scales, minima = [], []
    for j in range(8):
        if j < 4:
            scale, least = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = packed[j + 4] & 15 | packed[j - 4] >> 6 << 4
            least = packed[j + 4] >> 4 | packed[j] >> 6 << 4
        scales.append(d * scale)
        minima.append(m * least)
    # 32 bytes hold a group in their lower halves, and the next group in their upper ones
    numbers = [block[start + 32 * (j // 2) + i] >> 4 * (j % 2) & 15 for j in range(8) for i in range(32)]
    return scales, minima, numbers


def q4_k(block: bytes) -> list[float]:
    scales, minima, numbers = of_four_bits(block)
    return [scales[n // 32] * q - minima[n // 32] for n, q in enumerate(numbers)]


def q5_k(block: bytes) -> list[float]:
    scales, minima, numbers = of_four_bits(block)
    fives = [q + 16 * (block[16 + n % 32] >> n // 32 & 1) for n, q in enumerate(numbers)]
    return [scales[n // 32] * q - minima[n // 32] for n, q in enumerate(fives)]


def q6_k(block: bytes) -> list[float]:
    d = float(np.frombuffer(block[208:210], "<f2")[0])
    x = []
    for n in range(256):
        half, quarter, i = n // 128, n % 128 // 32, n % 32
        low = block[64 * half + 32 * (quarter % 2) + i] >> 4 * (quarter // 2) & 15
        high = block[128 + 32 * half + i] >> 2 * quarter & 3
        x.append(d * int(np.int8(block[192 + n // 16] - 256 * (block[192 + n // 16] > 127))) * (low + 16 * high - 32))
    return x


def q5(block: bytes, least: bool) -> list[float]:
    d, m = (float(np.frombuffer(block[at : at + 2], "<f2")[0]) for at in (0, 2))
    fifths, start = int.from_bytes(block[4:8] if least else block[2:6], "little"), 8 if least else 6
    q = [(block[start + n % 16] >> 4 * (n // 16) & 15) + 16 * (fifths >> n & 1) for n in range(32)]
    return [d * each + m if least else d * (each - 16) for each in q]


@pytest.mark.parametrize(
    ("code", "name", "size", "formula"),
    [
        (6, "Q5_0", 22, lambda block: q5(block, least=False)),
        (7, "Q5_1", 24, lambda block: q5(block, least=True)),
        (12, "Q4_K", 144, q4_k),
        (13, "Q5_K", 176, q5_k),
        (14, "Q6_K", 210, q6_k),
    ],
)
def test_numbers_of_more_bits_are_decoded_one_by_one(
    code: int, name: str, size: int, formula: Any, tmp_path: Path
) -> None:
    raw = RNG.integers(0, 256, (4, size)).astype(np.uint8)
    for at in (208,) if name == "Q6_K" else (0, 2) if name not in ("Q5_0",) else (0,):
        raw[:, at : at + 2] = RNG.normal(size=(4, 1)).astype("<f2").view(np.uint8)
    expected = np.array([formula(block.tobytes()) for block in raw]).reshape(2, -1)
    path = tmp_path / "file.gguf"
    path.write_bytes(gguf({}, {"x": (code, expected.shape, raw.tobytes())}))
    assert read_gguf(path).kind("x") == name
    assert np.allclose(read_gguf(path)["x"], expected, rtol=1e-5, atol=1e-6)


def llama() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors of a small Llama, by their names in a Hugging Face directory."""
    config = {
        "model_type": "llama",
        "vocab_size": V,
        "max_position_embeddings": L,
        "hidden_size": C,
        "intermediate_size": F,
        "num_hidden_layers": 1,
        "num_attention_heads": H,
        "num_key_value_heads": K,
        "rms_norm_eps": 1e-3,
        "rope_theta": 500.0,
    }
    tensors = {"model.embed_tokens.weight": draw(V, C), "model.norm.weight": draw(C), "lm_head.weight": draw(V, C)}
    rows = {"self_attn.q_proj": (H * D, C), "self_attn.k_proj": (K * D, C), "self_attn.v_proj": (K * D, C)}
    rows |= {"self_attn.o_proj": (C, C), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}
    tensors |= {f"model.layers.0.{name}.weight": draw(*shape) for name, shape in rows.items()}
    tensors |= {f"model.layers.0.{name}.weight": draw(C) for name in ("input_layernorm", "post_attention_layernorm")}
    return config, tensors


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": L,
    "llama.embedding_length": C,
    "llama.feed_forward_length": F,
    "llama.block_count": 1,
    "llama.attention.head_count": H,
    "llama.attention.head_count_kv": K,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-3)),
    "llama.rope.freq_base": 500.0,
}


def as_gguf(tensors: dict[str, np.ndarray], metadata: dict[str, Any] = METADATA) -> bytes:
    theirs = {f"model.layers.0.{ours}": f"blk.0.{name}" for name, ours in PARTS.items()}
    theirs |= {ours: name for name, ours in OUTSIDE.items()}
    found = {}
    for name, array in tensors.items():
        stem = name.removesuffix(".weight")
        heads = {"q_proj": H, "k_proj": K}.get(stem.rpartition(".")[2])
        if heads is not None:  # llama.cpp puts the two columns of a pair side by side
            array = array.reshape(heads, 2, D // 2, C).swapaxes(1, 2).reshape(array.shape)
        found[f"{theirs[stem]}.weight"] = (F32, array.shape, np.ascontiguousarray(array).tobytes())
    return gguf(metadata, found)


def test_a_llama_is_that_of_the_directory_it_was_converted_from(tmp_path: Path) -> None:
    config, tensors = llama()
    write_tensors(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.gguf").write_bytes(as_gguf(tensors))
    ids = RNG.integers(0, V, (2, 9))
    from_directory, from_file = AutoModel.from_pretrained(tmp_path), Llama.from_pretrained(tmp_path / "model.gguf")
    assert np.allclose(from_file(ids), from_directory(ids), atol=1e-6)
    assert from_file.config.num_kv_heads == K
    assert not from_file.config.tie_word_embeddings
    del tensors["lm_head.weight"]
    (tmp_path / "tied.gguf").write_bytes(as_gguf(tensors))
    assert Llama.from_pretrained(tmp_path / "tied.gguf").config.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"general.architecture": "mamba"}, "a GGUF file holds a llama, qwen2 or qwen3, got 'mamba'"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled rotary positions in a GGUF file cannot be read"),
    ],
    ids=str,
)
def test_what_our_models_do_not_have_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(as_gguf(llama()[1], METADATA | change))
    with pytest.raises(ConfigError, match=words):
        AutoModel.from_pretrained(tmp_path / "model.gguf")


def test_the_tokenizer_inside_encodes_as_the_one_it_was_made_of(tmp_path: Path) -> None:
    words = "a text of a few words, words of a text, and 1984 numbers"
    tokenizer: Any = train_tokenizer("bpe", words, 280)
    state = json.loads(tokenizer._tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, "<|end|>"],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3],
    }
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(metadata, {}))
    inside = tokenizer_of(path)
    assert inside.encode(words).tolist() == tokenizer.encode(words).tolist()
    assert inside.encode("few<|end|>").tolist() == [*tokenizer.encode("few"), len(tokens)]
    assert inside.decode(inside.encode(words)) == words
    for change in (
        {"tokenizer.ggml.merges": ["no such"]},
        {"tokenizer.ggml.merges": [1]},
        {"tokenizer.ggml.add_bos_token": 1},
        {"tokenizer.ggml.add_bos_token": 1, "tokenizer.ggml.bos_token_id": 9999},
        {"tokenizer.ggml.add_bos_token": 1, "tokenizer.ggml.bos_token_id": tokens.index("$")},
    ):
        path.write_bytes(gguf(metadata | change, {}))
        with pytest.raises(DataError, match="does not hold together"):
            tokenizer_of(path)
    path.write_bytes(gguf(metadata | {"tokenizer.ggml.add_bos_token": 1, "tokenizer.ggml.bos_token_id": 5}, {}))
    assert tokenizer_of(path).encode("few", add_special_tokens=True).tolist() == [5, *tokenizer.encode("few")]
    path.write_bytes(gguf(metadata | {"tokenizer.ggml.model": "llama"}, {}))
    with pytest.raises(DataError, match="kinds gpt-2, smollm, got 'llama'"):
        tokenizer_of(path)


# --- written ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(V, L, C, H, 2, num_kv_heads=K, norm_eps=1e-3, rope_theta=500.0),
        LlamaConfig(V, L, C, H, 1, tie_word_embeddings=False, attn_bias=True),
        LlamaConfig(V, L, C, H, 1, head_dim=6, qk_norm=True, mlp_dim=48),
    ],
    ids=["llama", "qwen2", "qwen3"],
)
def test_what_is_written_is_read_with_the_same_logits(config: LlamaConfig, tmp_path: Path) -> None:
    model = Llama(config).eval()
    randomize(model)
    ids = RNG.integers(0, V, (2, 9))
    save_gguf(model, tmp_path / "model.gguf", dtype="float32")
    again = Llama.from_pretrained(tmp_path / "model.gguf")
    assert np.array_equal(again(ids), model(ids))
    for field in ("norm_eps", "rope_theta", "head_width", "mlp_width", "attn_bias", "qk_norm", "tie_word_embeddings"):
        assert getattr(again.config, field) == getattr(config, field)


def test_matrices_are_rounded_and_vectors_are_not(tmp_path: Path) -> None:
    model = Llama(LlamaConfig(V, L, C, H, 1, head_dim=6, mlp_dim=64))
    randomize(model)
    matrix = dict(model.named_parameters())["blocks.0.feed_forward.down.weight"].data
    matrix[0, :32], matrix[1, :32] = 0.0, np.arange(-127, -95) / 2  # no scale; halves
    for dtype, kind, bits in (("float16", "F16", 11), ("q8_0", "Q8_0", 7)):
        save_gguf(model, tmp_path / f"{dtype}.gguf", dtype=dtype)
        file = read_gguf(tmp_path / f"{dtype}.gguf")
        assert file.kind("blk.0.ffn_down.weight") == kind
        assert file.kind("blk.0.attn_output.weight") == "F16"  # 24 columns are no whole block
        assert file.kind("blk.0.ffn_norm.weight") == "F32"
        found = file["blk.0.ffn_down.weight"]
        largest = np.abs(matrix.reshape(-1, 32)).max(1).repeat(32).reshape(matrix.shape)
        assert np.abs(found - matrix).max() > 0
        assert (np.abs(found - matrix) <= largest * 2.0**-bits).all()
    scaled = np.round(found[1, :32] / (63.5 / 127))
    assert scaled.tolist() == list(range(-127, -95))
    assert not found[0, :32].any()


def test_the_blocks_of_q8_0_are_those_of_the_published_rounding() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :5] = [127, 0.5, -0.5, 1.5, -2.5]  # with the scale 1; halves are rounded away from zero
    block = np.frombuffer(quantize_q8_0(x), np.uint8)
    assert block[:2].view("<f2")[0] == 1
    assert block[2:7].view(np.int8).tolist() == [127, 1, -1, 2, -3]


@pytest.mark.parametrize("ends", ["generation_config.json", "config.json"])
def test_a_run_that_went_on_from_a_model_ends_its_texts_as_that_does(ends: str, tmp_path: Path) -> None:
    """In a GGUF file as in a directory; before there was a generation_config.json, config.json had the values."""
    words, base, run = "a text of a few words, words of a text. " * 9, tmp_path / "base", tmp_path / "run"
    tokenizer = train_tokenizer("bpe", words, 280)
    Llama(LlamaConfig(tokenizer.vocab_size, L, C, H, 1)).save_pretrained(base, tokenizer=tokenizer)
    known = json.loads((base / ends).read_text()) if (base / ends).exists() else {}
    (base / ends).write_text(json.dumps({**known, "eos_token_id": 3}))
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "text.txt").write_text(words)
    start = start_from(base)
    few = {"steps": 1, "batch_size": 1, "eval_every": 0, "sample_every": 0, "precision": "float32"}
    with use_kernels("reference"):
        start_run([str(tmp_path / "text.txt")], start.resolve("finetune", None, few), run, model=start)
    for target in ("out.gguf", "out"):
        with pytest.raises(SystemExit) as left:
            cli.main(["convert", str(run), str(tmp_path / target)])
        assert not left.value.code
        opened = Pretrained(tmp_path / target)
        assert opened.defaults.stop_ids == (3,)
        assert opened.template_source == "{{ messages }}"
        assert opened.encode("a few words") == tokenizer.encode("a few words").tolist()


@pytest.mark.parametrize("digits", [False, True])
def test_the_tokenizer_and_the_template_go_along(digits: bool, tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, pre_tokenizers

    words = "a text of a few words, words of a text, and 1984 numbers"
    library: Any = Tokenizer.from_str(train_tokenizer("bpe", words, 280)._tokenizer.to_str())  # type: ignore[union-attr]
    if digits:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        library.pre_tokenizer = pre_tokenizers.Sequence(parts)
    library.add_tokens([AddedToken("<|end|>", special=True), AddedToken("<tool>", special=False, normalized=False)])
    tokenizer = BytePairTokenizer(library)
    first = tmp_path / "first"
    Llama(LlamaConfig(tokenizer.vocab_size, L, C, H, 1)).save_pretrained(first, tokenizer=tokenizer)
    (first / "chat_template.jinja").write_text("{{ messages }}")
    end = tokenizer.vocab_size - 2
    special = {"eos_token_id": [end, 3], "bos_token_id": 1, "pad_token_id": -1}  # -1: there is none
    (first / "generation_config.json").write_text(json.dumps(special))
    Pretrained(first).save(tmp_path / "model.gguf")
    opened = Pretrained(tmp_path / "model.gguf")
    text = words + "<|end|><tool> 1985"
    assert opened.encode(text) == tokenizer.encode(text).tolist()
    assert opened.tokenizer.decode(tokenizer.encode(text)) == text
    assert opened.template_source == "{{ messages }}"
    assert opened.defaults.stop_ids == (end, 3)
    assert opened.special_texts["eos_token"] == "<|end|>"
    assert "pad_token" not in opened.special_texts
    opened.save(tmp_path / "second")
    again = Pretrained(tmp_path / "second")
    assert again.encode(text) == tokenizer.encode(text).tolist()
    assert again.template_source == "{{ messages }}"
    assert again.defaults.stop_ids == (end, 3)
    ids = RNG.integers(0, V, (1, 5))
    assert np.allclose(again.model(ids), opened.model(ids), atol=1e-6)


def test_the_types_of_metadata_are_those_that_llama_cpp_asks_for(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", "the new lower few", 270)
    model = Llama(LlamaConfig(tokenizer.vocab_size, 16, 32, num_heads=4, num_layers=1))
    path = tmp_path / "model.gguf"
    save_gguf(model, path, tokenizer=tokenizer, special_ids={"eos": 2})
    data = path.read_bytes()
    for key, types in {
        "tokenizer.ggml.token_type": (9, 5),  # a list of int32
        "tokenizer.ggml.tokens": (9, 8),  # a list of texts
        "tokenizer.ggml.eos_token_id": (4,),  # uint32
        "tokenizer.ggml.add_bos_token": (7,),  # bool
        "llama.block_count": (4,),
        "llama.rope.freq_base": (6,),  # float32
    }.items():
        at = data.index(text(key)) + len(text(key))
        assert struct.unpack_from(f"<{len(types)}I", data, at) == types, key


def test_what_the_format_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(DataError, match="dtype is one of float32, float16, q8_0, got 'int3'"):
        save_gguf(Llama(LlamaConfig(V, L, C, H, 1)), path, dtype="int3")
    with pytest.raises(ConfigError, match=r"window 3 here|holds a Llama.* here"):
        save_gguf(Llama(LlamaConfig(V, L, C, H, 1, window=3)), path)
    with pytest.raises(ConfigError, match="cannot express rope_scaling 'linear', mlp_bias True"):
        save_gguf(Llama(LlamaConfig(V, L, C, H, 1, rope_scaling="linear", mlp_bias=True)), path)
    with pytest.raises(ConfigError, match="got GPTConfig"):
        save_gguf(GPT(GPTConfig(V, L, C, H, 1)), path)
    with pytest.raises(DataError, match="the kinds gpt-2, smollm, got another"):
        save_gguf(Llama(LlamaConfig(V, L, C, H, 1)), path, tokenizer=train_tokenizer("characters", "abc"))
    assert not path.exists()


ONE = {"x": (F32, (2, 32), draw(2, 32).tobytes())}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"GGML" + b"\0" * 40, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "names 1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62), "it ends at byte"),
        (gguf({"a": [1, 2]}, {})[:-40], "it ends at byte"),
        (gguf({"a": [[1]]}, {}), "items of the type 9, which are neither texts nor numbers"),
        (gguf({"general.alignment": 0}, ONE), "general.alignment is 0"),
        (gguf({}, {"x": (4, (2, 32), b"")}), "has the type 4; those that are read are F32, F16, Q4_0"),
        (gguf({}, {"x": (Q8_0, (2, 31), b"")}), "of Q8_0 has the shape"),
        (gguf({}, {"x": (F32, (1 << 40, 1 << 40), b"")}), "has the shape"),
        (gguf({}, {"x": (F32, (1 << 20, 32), b"1234")}), "ends past the end of the file"),
        (gguf({}, ONE)[:-1], "ends past the end of the file"),
    ],
)
def test_a_bad_file_is_refused_in_words(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(data)
    with pytest.raises(DataError, match=f"^read_gguf: .*{words}"):
        read_gguf(tmp_path / "file.gguf")


def test_lists_of_metadata_are_texts_or_numbers(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(gguf({"a": [1, 70000], "b": [0.5, -2.0], "c": ["x", "yz"]}, {}))
    metadata = read_gguf(tmp_path / "file.gguf").metadata
    assert {name: list(values) for name, values in metadata.items()} == {
        "a": [1, 70000],
        "b": [0.5, -2.0],
        "c": ["x", "yz"],
    }


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    whole, path = gguf({"a": ["x", "y"], "b": 3}, ONE), tmp_path / "file.gguf"
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole) - 256, int(rng.integers(1, 4))):
            data[at] = int(rng.integers(256))
        path.write_bytes(data[: len(data) - int(rng.integers(0, 2)) * 100])
        try:
            for array in read_gguf(path).values():
                assert array.nbytes <= len(whole)
        except DataError:
            refused += 1
    assert 200 < refused < 500
