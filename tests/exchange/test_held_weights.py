"""Weights in int8 and bfloat16 out of files: what is taken as it lies there, and every command that asks for it."""

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli, use_kernels
from compyute_transformer.cli.models import open_model
from compyute_transformer.data import train_tokenizer
from compyute_transformer.environment.products import fastest_precision
from compyute_transformer.errors import ConfigError
from compyute_transformer.exchange import AutoModel, Pretrained, gguf, read_gguf, read_tensors, save_gguf
from compyute_transformer.exchange.names import llama_pieces
from compyute_transformer.exchange.pretrained import check_memory
from compyute_transformer.generation import Sampling, evaluate_ids, generate, stream
from compyute_transformer.models import Llama, LlamaConfig
from compyute_transformer.nn.quantize import quantize_weights
from compyute_transformer.ops.quantized import QuantizedWeight
from compyute_transformer.precision import use_precision
from compyute_transformer.training import load_run
from compyute_transformer.verify.function import randomize

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def llama(vocab_size: int = 11) -> Llama:
    model = Llama(LlamaConfig(vocab_size, 64, 32, 4, 1, num_kv_heads=2, mlp_dim=64, tie_word_embeddings=False)).eval()
    randomize(model)
    return model


def is_mapped(array: Any) -> bool:
    """Return whether the bytes of an array lie in a mapped file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


def test_q8_0_is_taken_as_int8_and_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gguf(llama(), tmp_path / "model.gguf", dtype="q8_0")
    decoded: list[str] = []
    plain = gguf.Gguf.__getitem__

    def noting(self: Any, name: str) -> Any:
        decoded.append(name)
        return plain(self, name)

    monkeypatch.setattr(gguf.Gguf, "__getitem__", noting)
    model = AutoModel.from_pretrained(tmp_path / "model.gguf", weights="int8")
    assert sorted(decoded) == ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"]
    held = {name: p.data for name, p in model.named_parameters() if isinstance(p.data, QuantizedWeight)}
    assert len(held) == 7
    file, blocks = read_gguf(tmp_path / "model.gguf"), {}
    for name in file:
        if file.kind(name) == "Q8_0":
            blocks[name] = file._blocks(name)
    found = held["blocks.0.feed_forward.down.weight"]
    assert found.values.tobytes() == blocks["blk.0.ffn_down.weight"][:, 2:].tobytes()
    assert found.scales is not None
    assert found.scales.astype("<f2").tobytes() == blocks["blk.0.ffn_down.weight"][:, :2].tobytes()
    whole = AutoModel.from_pretrained(tmp_path / "model.gguf")  # decoded: the rows of queries and keys are in halves
    for name, weight in held.items():
        assert np.array_equal(np.asarray(weight), whole.state_dict()[name]), name


@pytest.mark.skipif(os.name == "nt", reason="a file that is mapped cannot be replaced there")
def test_bfloat16_and_float32_are_mapped_and_not_copied(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "bfloat16", dtype="bfloat16")
    model.save_pretrained(tmp_path / "float32")
    held = AutoModel.from_pretrained(tmp_path / "bfloat16", weights="bfloat16").named_parameters()
    bits = {name: p.data.values for name, p in held if isinstance(p.data, QuantizedWeight)}
    whole = {name: p.data for name, p in AutoModel.from_pretrained(tmp_path / "float32").named_parameters()}
    for arrays, number in ((bits, 7), (whole, 10)):
        copied = {name for name, array in arrays.items() if not is_mapped(array)}
        assert (len(arrays), copied) == (number, {"blocks.0.attention.in_weight"})  # which is three tensors of the file
    stored = read_tensors(tmp_path / "bfloat16")
    assert np.array_equal(
        np.asarray(QuantizedWeight(bits["blocks.0.feed_forward.up.weight"])),
        stored["model.layers.0.mlp.up_proj.weight"],
    )
    converted = AutoModel.from_pretrained(tmp_path / "bfloat16").named_parameters()  # to float32, which is a copy
    assert not any(is_mapped(p.data) for _, p in converted)


def test_a_command_copies_no_weights_of_a_model_that_is_where_it_computes(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path, tokenizer=train_tokenizer("characters", "abcdefghijk"))
    arrays = {name: p.data for name, p in open_model(str(tmp_path)).model.named_parameters()}
    copied = {name for name, array in arrays.items() if not is_mapped(array)}
    assert copied == ({"blocks.0.attention.in_weight"} if os.name != "nt" else set(arrays))


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows does not say its memory so")
def test_a_model_larger_than_memory_is_refused_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (16 << 30) // 4096}.__getitem__)
    llama2 = llama_pieces(LlamaConfig(32000, 4096, 4096, 32, 32, mlp_dim=11008, tie_word_embeddings=False))
    words = r"the weights take 25\.1 GiB, and this machine has 16\.0 GiB of memory\. Give weights='int8', a smaller"
    with pytest.raises(ConfigError, match=f"^from_pretrained: {words}"):
        check_memory(llama2, 4)
    check_memory(llama2, 4, 2.0)
    check_memory(llama2, 4, 1.125)
    llama().save_pretrained(tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8}.__getitem__)  # 8,640 numbers
    with pytest.raises(ConfigError, match=r"the weights take 0\.0 GiB, and this machine has 0\.0 GiB"):
        AutoModel.from_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, weights="int8").num_parameters == llama().num_parameters


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a model that chats."""
    folder = tmp_path_factory.mktemp("held") / "model"
    tokenizer = train_tokenizer("bpe", TEXT, 262)
    llama(tokenizer.vocab_size).save_pretrained(folder, tokenizer=tokenizer)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert (left.value.code or 0) == code


REFERENCE = ("--kernels", "reference", "--json")


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_a_command_computes_with_the_weights_it_is_asked_for(
    kind: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Pretrained(folder, weights=kind)
    assert isinstance(opened.model.head.weight.data, QuantizedWeight)
    (tmp_path / "owl.txt").write_text(TEXT[:300])
    with use_kernels("reference"):
        text = generate(opened.model, opened.tokenizer, "The owl", max_new_tokens=20, temperature=0)
        found = evaluate_ids(opened.model, opened.tokenizer, opened.encode(TEXT[:300]), stride=32)
        plain = evaluate_ids(Pretrained(folder).model, opened.tokenizer, opened.encode(TEXT[:300]), stride=32)
    assert found["perplexity"] != plain["perplexity"]
    said = ("--prompt", "The owl", "--max-new-tokens", 20, "--weights", kind, *REFERENCE)
    for command in ("generate", "chat"):
        run(command, folder, *said, *(("--temperature", 0) if command == "generate" else ()))
        assert json.loads(capsys.readouterr().out)["text"] == text
    run("eval", folder, tmp_path / "owl.txt", "--stride", 32, "--weights", kind, *REFERENCE)
    evaluated = json.loads(capsys.readouterr().out)
    assert {name: evaluated[name] for name in found} == pytest.approx(found, rel=1e-6)


def test_a_text_is_generated_with_products_of_the_precision_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Pretrained(folder)
    said = ("--prompt", "The owl", "--max-new-tokens", 9, "--temperature", 0, *REFERENCE)
    found = {}
    for precision in ("float32", "bfloat16"):
        run("generate", folder, "--precision", precision, *said)
        answer = json.loads(capsys.readouterr().out)
        with use_kernels("reference"), use_precision(precision):  # type: ignore[arg-type]
            pieces = stream(opened.model, opened.tokenizer, "The owl", max_new_tokens=9, temperature=0)
            assert answer["text"] == "".join(pieces)
        assert answer["log_probabilities"] == pytest.approx(pieces.log_probabilities, abs=1e-6)
        found[precision] = answer["log_probabilities"]
        run("chat", folder, "--precision", precision, *said)
        assert json.loads(capsys.readouterr().out)["text"] == answer["text"]
        run("generate", folder, "--precision", precision, "--weights", "int8", *said)
        held = json.loads(capsys.readouterr().out)["log_probabilities"]
        model = Pretrained(folder, weights="int8").model
        with use_kernels("reference"), use_precision(precision):  # type: ignore[arg-type]
            pieces = stream(model, opened.tokenizer, "The owl", max_new_tokens=9, temperature=0)
            list(pieces)
        assert held == pytest.approx(pieces.log_probabilities, abs=1e-6)
    assert abs(found["float32"][0] - found["bfloat16"][0]) > 1e-5
    run("generate", folder, "--precision", "auto", *said)
    assert json.loads(capsys.readouterr().out)["log_probabilities"] == found[fastest_precision("cpu")]


def test_a_run_generates_with_weights_in_few_bits_and_is_evaluated_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "owl.txt").write_text(TEXT)
    run("train", tmp_path / "owl.txt", "--out", tmp_path / "run", "--steps", 2, "--kernels", "reference", *TINY)
    capsys.readouterr()
    said = ("--prompt", "The owl", "--max-new-tokens", 9, "--temperature", 0, "--weights", "bfloat16", *REFERENCE)
    run("generate", tmp_path / "run", *said)
    trained = load_run(tmp_path / "run")
    quantize_weights(trained.model, "bfloat16")
    with use_kernels("reference"):
        sampling = Sampling(temperature=0)
        text = generate(trained.model, trained.tokenizer, "The owl", max_new_tokens=9, sampling=sampling)
    assert json.loads(capsys.readouterr().out)["text"] == text
    run("eval", tmp_path / "run", "--weights", "int8", code=2)
    assert "--weights is for published models" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_converted_files_hold_the_weights_in_few_bits(folder: Path, tmp_path: Path) -> None:
    run("convert", folder, tmp_path / "model.gguf", "--weights", "int8")
    file = read_gguf(tmp_path / "model.gguf")
    assert {file.kind(name) for name in file} == {"Q8_0", "F32"}
    run("convert", folder, tmp_path / "half", "--weights", "bfloat16")
    tensors = read_tensors(tmp_path / "half")
    assert {tensors.dtype(name) for name in tensors} == {"BF16"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "--weights", "int8", "--device", "cuda"), "--weights int8 is for --device cpu"),
        (("chat", "--prompt", "a", "--weights", "bfloat16", "--device", "cuda"), "bfloat16 is for --device cpu"),
        (("eval", "owl.txt", "--weights", "int8", "--device", "cuda"), "--weights int8 is for --device cpu"),
        (
            ("generate", "--precision", "tf32"),
            "tf32 is of the tensor cores of a GPU; on a CPU choose float32 or bfloat16",
        ),
        (("chat", "--prompt", "a", "--precision", "tf32"), "--precision tf32 is of the tensor cores of a GPU"),
        (("generate", "--weights", "int4"), "'int4' is not one of 'float32', 'bfloat16', 'int8'"),
        (("convert", "OUT", "--weights", "int8"), "weights in int8 are kept in a .gguf file, as its type q8_0"),
        (("convert", "OUT.gguf", "--weights", "bfloat16"), "weights in bfloat16 are kept in a directory"),
        (("convert", "OUT", "--weights", "bfloat16", "--dtype", "float32"), "--weights says the dtype too"),
    ],
    ids=str,
)
def test_what_weights_cannot_be_is_refused(
    arguments: Any, words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *others = arguments
    others = [tmp_path / each if each.startswith("OUT") else each for each in others]
    run(command, folder, *others, code=2)
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
