"""Our modules inside models of Compyute, and files that its own loader reads.

Compyute is on no package index. Where it is installed the tests run with it; elsewhere with a stand-in of the few names
that are used, which does what Compyute does.
"""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from compyute_transformer import nn
from compyute_transformer.errors import ConfigError, MissingExtraError
from compyute_transformer.exchange import AutoModel, as_compyute, save_compyute
from compyute_transformer.models import GPT, GPTConfig, Llama, LlamaConfig
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)


class Tensor:
    """As `compyute.Tensor`."""

    __slots__ = "_iterator", "data", "grad"

    def __init__(self, data: Any) -> None:
        self.data, self.grad, self._iterator = data, None, 0

    @property
    def shape(self) -> Any:
        return self.data.shape


class Parameter(Tensor):
    """As `compyute.nn.Parameter`."""

    def __init__(self, data: Tensor) -> None:
        super().__init__(data.data)


class Buffer(Parameter):
    """As `compyute.nn.Buffer`."""


class Module:
    """As `compyute.nn.Module`."""

    def __init__(self, label: str | None = None) -> None:
        self.label = label
        self.trainable, self.is_training = True, True
        self._parameters: dict[str, Parameter] = {}
        self.cleaned = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._parameters[name] = value
        super().__setattr__(name, value)

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)  # type: ignore[attr-defined, no-any-return]

    def get_parameters(self) -> Any:
        return iter(self._parameters.values())

    def training(self) -> None:
        self.is_training = True

    def inference(self) -> None:
        self.is_training = False

    def clean(self, force: bool = False) -> None:
        for p in self._parameters.values():
            p.grad = None

    @staticmethod
    def register_forward(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    @staticmethod
    def register_backward(function: Callable[..., Any]) -> Callable[..., Any]:
        return function


@pytest.fixture
def compyute(monkeypatch: pytest.MonkeyPatch) -> Any:
    if find_spec("compyute") is not None:
        import compyute  # type: ignore[import-not-found]

        return compyute
    package, inner, parameter = (ModuleType(f"compyute{name}") for name in ("", ".nn", ".nn.parameter"))
    package.Tensor, package.nn, inner.Module = Tensor, inner, Module  # type: ignore[attr-defined]
    parameter.Parameter, parameter.Buffer = Parameter, Buffer  # type: ignore[attr-defined]
    for kind in (Parameter, Buffer):
        monkeypatch.setattr(kind, "__module__", "compyute.nn.parameter")
    for made in (package, inner, parameter):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    return package


def block() -> nn.PreNormBlock:
    made = nn.PreNormBlock(
        nn.LayerNorm(6),
        nn.MultiHeadAttention(6, 2),
        nn.Dropout(0.0),
        nn.LayerNorm(6),
        nn.FeedForward(6, 7),
        nn.Dropout(0.0),
    )
    randomize(made)
    return made.to(dtype=np.float64)


def values(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.normal(size=shape)


def gradients(module: nn.Module) -> dict[str, Any]:
    return {name: None if p.grad is None else p.grad.copy() for name, p in module.named_parameters()}


def test_a_module_does_in_compyute_what_it_does_here(compyute: Any) -> None:
    ours, other = block(), block()
    theirs = as_compyute(other)
    assert theirs.wrapped is other
    assert theirs.label == "PreNormBlock"
    assert as_compyute(block(), "mine").label == "mine"
    assert list(theirs._parameters) == [name for name, _ in ours.named_parameters()]
    for _ in range(2):  # the second time adds
        x, dy = values((2, 5, 6)), values((2, 5, 6))
        y = theirs(compyute.Tensor(x))
        assert isinstance(y, compyute.Tensor)
        np.testing.assert_array_equal(y.data, ours(x))
        np.testing.assert_array_equal(theirs.backward(compyute.Tensor(dy)).data, ours.backward(dy))
        for name, parameter in ours.named_parameters():
            np.testing.assert_array_equal(theirs._parameters[name].grad.data, parameter.grad)


def test_an_update_is_seen_on_both_sides_and_reset_gradients_begin_anew(compyute: Any) -> None:
    ours = block()
    theirs = as_compyute(ours)
    x, dy = compyute.Tensor(values((1, 3, 6))), compyute.Tensor(values((1, 3, 6)))
    theirs(x)
    theirs.backward(dy)
    first = gradients(ours)
    for p in theirs.get_parameters():
        p.data -= 0.1 * p.grad.data  # as its optimizers do
        p.grad = None  # reset_grads
    np.testing.assert_array_equal(theirs(x).data, ours.eval()(x.data))
    ours.train()
    theirs.clean(True)
    theirs(x)
    theirs.backward(dy)
    once = gradients(ours)
    assert any(np.abs(once[name] - first[name]).max() > 1e-6 for name in once)
    for p in theirs.get_parameters():
        p.grad = compyute.Tensor(np.ones_like(p.data))  # what somebody put there
    theirs(x)
    theirs.backward(dy)
    for name, gradient in gradients(ours).items():
        np.testing.assert_allclose(gradient, once[name] + 1, rtol=1e-12)
        assert theirs._parameters[name].grad.data is dict(ours.named_parameters())[name].grad


def test_data_that_are_replaced_are_taken_over(compyute: Any) -> None:
    ours, other = block(), block()
    theirs = as_compyute(ours)
    given = {name: values(p.shape).astype(np.float32) for name, p in ours.named_parameters()}
    for name, array in given.items():
        theirs._parameters[name].data = array  # load_state_dict, to_type
    other.to(dtype=np.float32).load_state_dict(given)
    x = values((1, 3, 6)).astype(np.float32)
    y = theirs(compyute.Tensor(x)).data
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, other(x))
    for name, p in ours.named_parameters():
        assert theirs._parameters[name].data is p.data


def test_modes_and_frozen_modules(compyute: Any) -> None:
    ours = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)) if hasattr(nn, "Sequential") else nn.FeedForward(6, 7)
    theirs = as_compyute(ours)
    assert ours.training
    theirs.inference()
    assert not ours.training
    assert not theirs.is_training
    theirs.training()
    assert ours.training
    x = compyute.Tensor(values((2, 3, 6)).astype(np.float32))
    theirs.trainable = False
    theirs(x)
    dx = theirs.backward(compyute.Tensor(np.ones((2, 3, 6), np.float32)))
    assert np.abs(dx.data).max() > 0
    assert all(p.grad is None for p in (*theirs.get_parameters(), *ours.parameters()))
    assert all(p.requires_grad for p in ours.parameters())
    theirs(x)
    theirs.clean(True)
    theirs.trainable = True
    theirs(x)
    theirs.backward(compyute.Tensor(np.ones((2, 3, 6), np.float32)))  # of the last forward
    assert all(p.grad is not None for p in theirs.get_parameters())


def test_a_whole_model_and_attention_take_ids_and_vectors(compyute: Any) -> None:
    config = LlamaConfig(7, 8, 12, 2, 1)
    ours, model = Llama(config, seed=1), Llama(config, seed=1)
    theirs = as_compyute(model)
    ids, dlogits = np.array([[1, 2, 3]]), values((1, 3, 7)).astype(np.float32)
    np.testing.assert_array_equal(theirs(compyute.Tensor(ids)).data, ours(ids))
    theirs.backward(compyute.Tensor(dlogits))
    ours.backward(dlogits)
    for name, p in ours.named_parameters():
        np.testing.assert_array_equal(theirs._parameters[name].grad.data, p.grad)
    embedding = as_compyute(nn.Embedding(7, 4))
    embedding(compyute.Tensor(ids))
    assert embedding.backward(compyute.Tensor(np.ones((1, 3, 4), np.float32))).shape in ((0,), (1, 3, 4))
    attention = as_compyute(nn.MultiHeadAttention(6, 2))
    x = compyute.Tensor(values((1, 3, 6)).astype(np.float32))
    attention(x)
    assert attention.backward(x).shape == (1, 3, 6)


def test_without_compyute_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compyute", None)
    with pytest.raises(MissingExtraError, match="as_compyute: the package compyute must be importable"):
        as_compyute(nn.Linear(2, 3))


SMALL = GPTConfig(11, 8, 12, 3, 2, mlp_dim=17)
ORDER = ["ln1.w", "ln1.b", "attn.w_i", "attn.b_i", "attn.w_o", "attn.b_o", "attn.mask", "ln2.w", "ln2.b"]
ORDER += ["mlp.up_proj.w", "mlp.up_proj.b", "mlp.down_proj.w", "mlp.down_proj.b"]


@pytest.mark.parametrize("mask", [True, False])
def test_a_file_is_what_compyute_would_have_written(mask: bool, compyute: Any, tmp_path: Path) -> None:
    model = GPT(SMALL).eval()
    randomize(model)
    save_compyute(model, tmp_path / "gpt.cp", mask=mask)
    saved = pickle.loads((tmp_path / "gpt.cp").read_bytes())
    assert list(saved) == ["model", "optim"]
    state = saved["model"]
    assert type(state) is OrderedDict
    assert list(state) == [
        *("pos", "token_emb.w", "pos_emb.w"),
        *(f"blocks.{i}.{name}" for i in range(2) for name in ORDER if mask or name != "attn.mask"),
        *("ln.w", "ln.b", "head.w"),
    ]
    parameter = sys.modules["compyute.nn.parameter"]
    for name, each in state.items():
        is_buffer = name == "pos" or name.endswith("mask")
        assert type(each) is (parameter.Buffer if is_buffer else parameter.Parameter)
        assert each.grad is None
        assert each.data.flags.c_contiguous
        assert each.data.flags.writeable
    np.testing.assert_array_equal(state["pos"].data, np.arange(8)[None])
    assert state["pos"].data.dtype == np.int32
    np.testing.assert_array_equal(state["head.w"].data, model.token_embedding.weight.data)
    np.testing.assert_array_equal(state["blocks.1.mlp.down_proj.b"].data, model.blocks[1].feed_forward.down.bias.data)
    if mask:
        expected = np.where(np.arange(8) > np.arange(8)[:, None], -np.inf, 0.0)
        np.testing.assert_array_equal(state["blocks.0.attn.mask"].data, expected)
    again = AutoModel.from_pretrained(tmp_path / "gpt.cp", num_heads=3)
    assert again.config == model.config
    ids = RNG.integers(0, 11, (2, 5))
    np.testing.assert_array_equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": False}, "bias True, got False"),
        ({"num_kv_heads": 1}, "num_kv_heads None, got 1"),
        ({"activation": "gelu"}, "activation gelu_tanh, got gelu"),
        ({"window": 3}, "window None, got 3"),
        ({"soft_cap": 2.0}, "soft_cap None, got 2"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings True, got False"),
        ({"norm_eps": 1e-3}, "norm_eps 1e-05, got 0.001"),
    ],
)
def test_what_compyute_cannot_express_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"vocab_size": 11, "context_length": 8, "embed_dim": 12, "num_heads": 3, "num_layers": 1}
    with pytest.raises(ConfigError, match=words):
        save_compyute(GPT(GPTConfig(**fields, **options)), tmp_path / "x")
    with pytest.raises(ConfigError, match="holds a GPT, got Llama"):
        save_compyute(Llama(LlamaConfig(**fields)), tmp_path / "x")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
