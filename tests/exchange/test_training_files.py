"""Files of nanoGPT and Compyute, and the reader of pickles that builds nothing but arrays and plain values."""

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import TEXT

from compyute_transformer import cli
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import ConfigError, DataError, StateError
from compyute_transformer.exchange import AutoModel, Pretrained
from compyute_transformer.exchange.pickles import read_pickle, read_torch
from compyute_transformer.exchange.training_files import read_meta
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)
V, L, C, H = 11, 16, 12, 3


def draw(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape) * shape[-1] ** -0.5)


def nanogpt(bias: bool, vocab_size: int = V) -> dict[str, Any]:
    """What nanoGPT's train.py saves."""
    state = {"transformer.wte.weight": draw(vocab_size, C), "transformer.wpe.weight": draw(L, C)}
    for i in range(2):
        block = f"transformer.h.{i}"
        for name, shape in {
            "attn.c_attn": (3 * C, C),
            "attn.c_proj": (C, C),
            "mlp.c_fc": (4 * C, C),
            "mlp.c_proj": (C, 4 * C),
        }.items():
            state[f"{block}.{name}.weight"] = draw(*shape)
            if bias:
                state[f"{block}.{name}.bias"] = draw(shape[0])
        for name in ("ln_1", "ln_2"):
            state[f"{block}.{name}.weight"] = draw(C)
            if bias:
                state[f"{block}.{name}.bias"] = draw(C)
        state[f"{block}.attn.bias"] = torch.ones(1, 1, L, L)
    state["transformer.ln_f.weight"] = draw(C)
    if bias:
        state["transformer.ln_f.bias"] = draw(C)
    state["lm_head.weight"] = state["transformer.wte.weight"]  # tied
    arguments = {"n_layer": 2, "n_head": H, "n_embd": C, "block_size": L, "bias": bias, "vocab_size": vocab_size}
    return {
        "model": OrderedDict((f"_orig_mod.{name}", tensor) for name, tensor in state.items()),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": draw(2, 3).T}},
            "param_groups": [{"lr": 0.1}],
        },
        "model_args": {**arguments, "dropout": 0.0},
        "iter_num": 3,
        "best_val_loss": torch.tensor(1.5),
        "config": {"device": "cpu", "compile": True, "betas": (0.9, None)},
    }


def logits(state: Any, ids: Any) -> Any:
    """NanoGPT's forward."""
    at = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}.get
    F = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (C,), at(f"{name}.weight"), at(f"{name}.bias"), 1e-5)

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, at(f"{name}.weight"), at(f"{name}.bias"))

    x = at("transformer.wte.weight")[ids] + at("transformer.wpe.weight")[: ids.shape[1]]
    for i in range(2):
        block = f"transformer.h.{i}"
        q, k, v = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(C, -1)
        q, k, v = (each.unflatten(-1, (H, -1)).transpose(1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{block}.attn.c_proj")
        y = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + linear(y, f"{block}.mlp.c_proj")
    return F.linear(norm(x, "transformer.ln_f"), at("lm_head.weight"))


@pytest.mark.parametrize("bias", [False, True])
def test_the_logits_of_a_checkpoint_are_those_of_nanogpt(bias: bool, tmp_path: Path) -> None:
    saved = nanogpt(bias)
    torch.save(saved, tmp_path / "ckpt.pt")
    model = GPT.from_pretrained(tmp_path / "ckpt.pt", dtype=np.float64)
    assert model.config == GPTConfig(V, L, C, H, 2, bias=bias, activation="gelu")
    ids = RNG.integers(0, V, (2, 9))
    assert np.abs(model(ids) - logits(saved["model"], torch.from_numpy(ids)).numpy()).max() <= 1e-12


def test_a_checkpoint_and_its_characters_become_a_directory(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer.train(TEXT)
    torch.save(nanogpt(False, tokenizer.vocab_size), tmp_path / "ckpt.pt")
    stoi = {character: i for i, character in enumerate(tokenizer.characters)}
    meta = {"vocab_size": len(stoi), "itos": {i: c for c, i in stoi.items()}, "stoi": stoi}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(SystemExit) as left:
        cli.main(["convert", str(tmp_path / "ckpt.pt"), str(tmp_path / "out")])
    assert not left.value.code
    first, second = Pretrained(tmp_path / "ckpt.pt"), Pretrained(tmp_path / "out")
    assert first.encode("the owl") == second.encode("the owl") == tokenizer.encode("the owl").tolist()
    ids = np.array([first.encode("the owl")])
    assert np.allclose(first.model(ids), second.model(ids), atol=1e-6)
    swapped = dict(zip(stoi, reversed(stoi.values()), strict=True))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": swapped}))
    again = read_meta(tmp_path / "meta.pkl")
    assert again.encode("the owl").tolist() == [swapped[character] for character in "the owl"]
    for wrong in ({"stoi": {"a": 1}}, {"stoi": {"ab": 0}}, {"itos": {}}, [1], {"stoi": {"a": 0, "b": None}}):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps(wrong))
        with pytest.raises(DataError, match="must hold stoi"):
            read_meta(tmp_path / "meta.pkl")


@pytest.fixture
def compyute(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for Compyute, whose tensors are pickled as its own are."""

    class Tensor:
        __slots__ = "_iterator", "data", "grad"

        def __init__(self, data: Any) -> None:
            self.data, self.grad, self._iterator = data, None, 0

    class Parameter(Tensor):
        pass

    for module, kind in (("compyute.tensors", Tensor), ("compyute.nn.parameter", Parameter)):
        kind.__module__, kind.__qualname__ = module, kind.__name__
        made = ModuleType(module)
        setattr(made, kind.__name__, kind)
        for name in ("compyute", "compyute.nn", module):
            monkeypatch.setitem(sys.modules, name, made if name == module else ModuleType(name))
    return Tensor, Parameter


NAMES = {
    "token_embedding.weight": "token_emb.w",
    "position.weight": "pos_emb.w",
    "attention_norm.weight": "ln1.w",
    "attention_norm.bias": "ln1.b",
    "attention.in_weight": "attn.w_i",
    "attention.in_bias": "attn.b_i",
    "attention.out_weight": "attn.w_o",
    "attention.out_bias": "attn.b_o",
    "feed_forward_norm.weight": "ln2.w",
    "feed_forward_norm.bias": "ln2.b",
    "feed_forward.up.weight": "mlp.up_proj.w",
    "feed_forward.up.bias": "mlp.up_proj.b",
    "feed_forward.down.weight": "mlp.down_proj.w",
    "feed_forward.down.bias": "mlp.down_proj.b",
    "norm.weight": "ln.w",
    "norm.bias": "ln.b",
    "head.weight": "head.w",
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_state_of_compyute_is_read(tied: bool, bias: bool, protocol: int, compyute: Any, tmp_path: Path) -> None:
    Tensor, Parameter = compyute
    model = GPT(GPTConfig(V, L, C, H, 2, mlp_dim=17, bias=bias, tie_word_embeddings=tied)).eval()
    randomize(model)
    state = OrderedDict(pos=Tensor(np.arange(L, dtype=np.int32)))
    for name, parameter in model.named_parameters():
        head, _, part = name.partition(".")
        block, _, rest = part.partition(".")
        theirs = f"blocks.{block}.{NAMES[rest]}" if head == "blocks" else NAMES[name]
        state[theirs] = Parameter(parameter.data.copy())
    state["blocks.0.attn.mask"] = Tensor(np.ones((L, L), np.float32))
    if tied:
        state["head.w"] = state["token_emb.w"]
    path = tmp_path / "gpt.cp"
    path.write_bytes(pickle.dumps({"model": state, "optim": {"t": 3}}, protocol=protocol))
    again = AutoModel.from_pretrained(path, num_heads=H)
    ids = RNG.integers(0, V, (2, 9))
    assert np.array_equal(again(ids), model(ids))
    assert again.config == model.config
    with pytest.raises(ConfigError, match="Give num_heads"):
        AutoModel.from_pretrained(path)
    with pytest.raises(ConfigError, match="is a field of GPTConfig"):
        AutoModel.from_pretrained(path, num_heads=H, wide=True)
    del state["ln.w"]
    path.write_bytes(pickle.dumps(state, protocol=protocol))
    with pytest.raises(StateError, match=r"missing: ln\.w"):
        AutoModel.from_pretrained(path, num_heads=H)


# --- pickles ---------------------------------------------------------------------------------------------------------

PLAIN = {
    "a": [1, -2, 2.5, None, True, False],
    "b": (),
    "c": (1,),
    "d": ("x", "ä😀"),
    "e": (1, 2, 3, 4),
    "f": b"\x00\xff",
}
PLAIN |= {"g": 1 << 70, "h": -5, "i": {"j": {}}, "k": "x" * 300, "l": 70000, 3: 300}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    shared = [1]
    path.write_bytes(pickle.dumps({**PLAIN, "o": OrderedDict(p=1), "s": shared, "t": shared}, protocol=protocol))
    found = read_pickle(path)
    assert {key: found[key] for key in PLAIN} == PLAIN
    assert found["o"] == {"p": 1}
    assert found["s"] is found["t"]
    for array in (np.arange(6, dtype="<f4").reshape(2, 3), np.arange(6).reshape(2, 3).T, np.ones((0, 3), np.float16)):
        path.write_bytes(pickle.dumps({"x": array, "y": array.dtype.type(3)}, protocol=protocol))
        read = read_pickle(path)
        assert np.array_equal(read["x"], array)
        assert read["x"].dtype == array.dtype
        assert read["y"] == 3


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
)
def test_tensors_of_torch_come_back(dtype: str, tmp_path: Path) -> None:
    whole = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    tensors = {"whole": whole, "transposed": whole.T, "part": whole[1:3, ::2], "none": whole[:0], "number": whole[2, 3]}
    torch.save({**tensors, "nested": {"parameter": torch.nn.Parameter(torch.ones(2))}}, tmp_path / "x.pt")
    found = read_torch(tmp_path / "x.pt")
    for name, tensor in tensors.items():
        expected = tensor.float() if dtype == "bfloat16" else tensor
        assert np.array_equal(found[name], expected.numpy())
        assert str(found[name].dtype) == str(expected.dtype).removeprefix("torch.")
    assert found["nested"]["parameter"].tolist() == [1, 1]


class Call:
    """Something whose pickle calls a function."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def nested(depth: int) -> bytes:
    """A dict of which the key is a tuple that holds itself twice, and so on: its hash would take for ever."""
    return b"\x80\x02})" + b"q\x000h\x00h\x00\x86" * depth + b"K\x01s."


def test_a_text_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for text in ("Once upon a time", "Peter"):
        path.write_text(text)
        for read in (read_pickle, read_torch):
            with pytest.raises(DataError, match=r"text\.txt must be a file that torch\.save or pickle wrote"):
                read(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps(Call(os.system, ("true",))), "names .*system"),
        (pickle.dumps(Call(eval, ("1",)), protocol=0), r"names .*eval"),
        (pickle.dumps(Call(np.frombuffer, (b"1234",))), "frombuffer"),
        (pickle.dumps(Path), "names pathlib"),
        (pickle.dumps(np.array([None])), "arrays hold numbers"),
        (pickle.dumps(np.array(["a"])), "arrays hold numbers"),
        (pickle.dumps(np.array([1.0], ">f8")), "little-endian|arrays hold numbers"),
        (pickle.dumps({1, 2}), "EMPTY_SET|neither"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "names builtins.eval"),
        (b"\x80\x02K\x01)R.", "calls something"),
        (b"\x80\x02]K\x01b.", "changes something"),
        (b"\x80\x02K\x01K\x01a.", "no container"),
        (b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b".", "cannot be read"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "cannot be read"),
        (b"\x80\x02\x8a" + b"\xff" * 3, "cannot be read"),
        (b"\x80\x02K\x01Q.", "BINPERSID"),
        (nested(60), "keys of a dict"),
        (b"\x80\x02]q\x00h\x00a", "cannot be read"),
        (b"", "cannot be read"),
        (b"}" * 100000 + b".", None),
    ],
    ids=range(20),
)
def test_a_pickle_that_does_anything_else_is_refused(data: bytes, words: str | None, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    if words is None:
        assert read_pickle(tmp_path / "x.pkl") == {}
        return
    with pytest.raises(DataError, match=f"(?s)must hold tensors and plain values; it cannot be read.*({words})?"):
        read_pickle(tmp_path / "x.pkl")
    with pytest.raises(DataError, match=words):
        read_pickle(tmp_path / "x.pkl")


def archive(path: Path, change: Any = None, compress: bool = False) -> None:
    """A file of torch.save, entry by entry changed."""
    whole = io.BytesIO()
    torch.save({"x": torch.arange(6.0).reshape(2, 3)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else 0) as new:
        for name in old.namelist():
            data = old.read(name)
            changed = data if change is None else change(name.partition("/")[2], data)
            if changed is not None:
                new.writestr(name, changed)


@pytest.mark.parametrize(
    ("change", "compress", "words"),
    [
        (None, True, "is compressed|more than the file"),
        (lambda name, data: b"big" if name == "byteorder" else data, False, "big-endian"),
        (lambda name, data: None if name == "data.pkl" else data, False, "has one data.pkl"),
        (lambda name, data: None if name == "data/0" else data, False, "cannot be read"),
        (lambda name, data: data[:20] if name == "data/0" else data, False, "reaches outside"),
        (lambda name, data: data.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"), False, "reaches outside"),
        (lambda name, data: data.replace(b"K\x03K\x01\x86", b"K\x09K\x01\x86"), False, "reaches outside"),
        (lambda name, data: data.replace(b"FloatStorage", b"FloatSTorage"), False, "names torch"),
        (lambda name, data: data.replace(b"storage", b"sTorage"), False, "no storage"),
    ],
    ids=range(9),
)
def test_an_archive_that_does_not_hold_together_is_refused(
    change: Any, compress: bool, words: str, tmp_path: Path
) -> None:
    archive(tmp_path / "x.pt")
    assert read_torch(tmp_path / "x.pt")["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    archive(tmp_path / "x.pt", change, compress)
    with pytest.raises(DataError, match=f"(?s)^read_torch: .*({words})"):
        read_torch(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"model": {}}, "no tensors of a model"),
        ([1], "no tensors of a model"),
        ({"model": {"x": torch.ones(2)}, "model_args": {"n_layer": 2}}, "no model_args with vocab_size"),
    ],
)
def test_what_is_no_model_is_refused(saved: Any, words: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(DataError, match=words):
        AutoModel.from_pretrained(tmp_path / "x.pt")
    (tmp_path / "x.cp").write_bytes(pickle.dumps({"model": {"x": np.ones(2)}}))
    with pytest.raises(DataError, match=r"has no token_emb\.w, pos_emb\.w"):
        AutoModel.from_pretrained(tmp_path / "x.cp", num_heads=1)


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    torch.save({"x": torch.arange(6.0).reshape(2, 3), "y": {"z": [1, "two"]}}, tmp_path / "x.pt")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": np.arange(6), "y": {"z": [1, "two"]}}))
    for name, read in (("x.pt", read_torch), ("x.pkl", read_pickle)):
        path = tmp_path / name
        whole, refused = path.read_bytes(), 0
        for _ in range(300):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), int(rng.integers(1, 4))):
                data[at] = int(rng.integers(256))
            path.write_bytes(data)
            try:
                read(path)
            except DataError:
                refused += 1
        assert 50 < refused < 300
