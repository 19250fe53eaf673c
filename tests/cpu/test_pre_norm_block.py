"""A pre-norm block at once, in bfloat16: the numbers of its lines, whatever the kernel, and when its lines run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest

from compyute_transformer import use_kernels
from compyute_transformer.arrays import Array
from compyute_transformer.cpu import _kernel, _products, pre_norm_block
from compyute_transformer.cpu._packing import pack_gradient, pack_panels, pack_rows
from compyute_transformer.cpu._products import Onto
from compyute_transformer.cpu.norm import layer_norm_packed
from compyute_transformer.errors import BackwardError, DtypeError, RangeError, ShapeError
from compyute_transformer.nn import Dropout, FeedForward, LayerNorm, Linear, MultiHeadAttention, PreNormBlock, RMSNorm
from compyute_transformer.nn import block as block_module
from compyute_transformer.nn.dropout import share_generator
from compyute_transformer.nn.observer import Observer, observe
from compyute_transformer.ops import Mask
from compyute_transformer.ops.dropout import DropoutSaved, dropout_backward, dropout_forward
from compyute_transformer.ops.norm import layer_norm
from compyute_transformer.precision import use_precision
from compyute_transformer.random import DROPOUT, Generator, RandomKey
from compyute_transformer.threads import set_threads, threads

RNG = np.random.default_rng(0)
B, T, C = 3, 13, 36  # 39 rows
SEEN = RNG.random((B, 1, T, T)) < 0.7


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


def made(
    dropout: float = 0.0, bias: bool = True, kv_heads: int = 4, activation: Any = "gelu_tanh", kind: Any = PreNormBlock
) -> PreNormBlock:
    """Return a block with all numbers drawn at random, the same at each call."""
    attention = MultiHeadAttention(C, 4, kv_heads, bias=bias, dropout=dropout)
    feed_forward = FeedForward(C, 70, bias=bias, activation=activation)
    norms = (LayerNorm(C, bias=bias), LayerNorm(C, 1e-3, bias=bias))
    block: PreNormBlock = kind(norms[0], attention, Dropout(dropout), norms[1], feed_forward, Dropout(dropout / 2))
    rng = np.random.default_rng(1)
    for parameter in block.parameters():
        parameter.data = (0.3 * rng.standard_normal(parameter.data.shape)).astype(np.float32)
    return share_generator(block, Generator(5, stream=DROPOUT))


def outcome(block: PreNormBlock, x: Array, dy: Array, mask: Mask) -> dict[str, Array | None]:
    """Return y, dx and the gradient of every parameter."""
    block.zero_grad()
    y = block(x, mask)
    dx = block.backward(dy)
    return {"y": y, "dx": dx, **{name: p.grad for name, p in block.named_parameters()}}


def check(got: dict[str, Array | None], expected: dict[str, Array | None]) -> None:
    """Raise unless numbers are the same but for the order of sums, and so but for a few that are rounded otherwise."""
    for name, array in expected.items():
        if array is None:
            assert got[name] is None, name
            continue
        error = np.abs(got[name] - array)
        assert np.median(error) <= 2e-6 * np.abs(array).max(), name
        assert error.max() <= 4e-3 * np.abs(array).max(), name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the blocks that were computed at once."""
    found, own = [], pre_norm_block.block_forward
    monkeypatch.setattr(pre_norm_block, "block_forward", lambda *given: (found.append(1), own(*given))[1])
    return found


@contextmanager
def lines() -> Iterator[None]:
    """Let the lines of blocks run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_module, "block_forward_at_once", lambda *given: None)
        yield


MASKS = {
    "causal": Mask(causal=True),
    "window": Mask(causal=True, window=4),
    "lengths": Mask(key_lengths=np.array([13, 5, 1])),
    "array": Mask(causal=True, array=SEEN),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"bias": False, "dropout": 0.2},
        {"kv_heads": 2, "activation": "relu", "dropout": 0.1},
        {"activation": "gelu"},
    ],
    ids=str,
)
def test_it_computes_what_its_lines_compute(packed: Any, calls: list[int], options: dict[str, Any], mask: Mask) -> None:
    x, dy = draw(B, T, C), draw(B, T, C)
    got = outcome(made(**options), x, dy, mask)
    assert calls == [1]
    with lines():
        expected = outcome(made(**options), x, dy, mask)
    assert calls == [1]
    check(got, expected)


def test_it_is_near_the_reference(packed: Any, calls: list[int]) -> None:
    """Within what rounding the slopes of the activation moves; see `feed_forward`."""
    x, dy = draw(B, T, C), draw(B, T, C)
    got = outcome(made(0.2), x, dy, MASKS["causal"])
    with use_kernels("reference"):
        expected = outcome(made(0.2), x, dy, MASKS["causal"])
    assert calls == [1]
    for name, array in expected.items():
        error = np.linalg.norm(got[name] - array) / np.linalg.norm(array)  # type: ignore[operator]
        assert error <= (1e-3 if name == "y" else 1e-2), name


@pytest.mark.parametrize("frozen", ["attention", "feed_forward", "norm", "weight", "bias", ""])
def test_frozen_parameters_have_no_gradient_and_change_no_other(packed: Any, calls: list[int], frozen: str) -> None:
    x, dy, found = draw(B, T, C), draw(B, T, C), []
    for which in (nullcontext, lines):
        block = made(0.1)
        for name, parameter in block.named_parameters():
            parameter.requires_grad = frozen not in name
        with which():
            found.append(outcome(block, x, dy, MASKS["causal"]))
    assert calls == [1]
    check(*found)
    assert all((array is None) == (frozen in name) for name, array in found[0].items() if "." in name)


def test_it_runs_again_where_a_model_recomputes(packed: Any, calls: list[int]) -> None:
    x, dy, block = draw(B, T, C), draw(B, T, C), made(0.3)
    expected = outcome(block, x, dy, MASKS["causal"])
    again = made(0.3)
    again.recompute = True
    got = outcome(again, x, dy, MASKS["causal"])
    assert calls == [1] * 3
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, name)


def test_the_last_forward_is_the_first_to_be_taken_back(packed: Any) -> None:
    x, dy, found = draw(2, B, T, C), draw(2, B, T, C), []
    for which in (nullcontext, lines):
        block = made(0.2)
        with which():
            ys = [block(part, MASKS["causal"]) for part in x]
            dxs = [block.backward(part) for part in dy]
        assert not any(part._saved for part in block.modules())
        numbers = {**dict(zip("01", ys, strict=True)), **dict(zip("23", dxs, strict=True))}
        found.append(numbers | {name: p.grad for name, p in block.named_parameters()})
    check(*found)


def test_the_threads_do_not_change_a_bit(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel, "WORTH_THREADS", 0)  # so that two threads share tasks as small as these
    x, dy, before, found = draw(25, T, C), draw(25, T, C), threads(), []
    try:
        for count in (1, 2):
            set_threads(count, override=True)
            found.append(outcome(made(0.3), x, dy, Mask(causal=True)))
            assert _kernel.num_threads() == count
    finally:
        set_threads(before, override=True)
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array, name)


def test_the_last_forward_is_taken_back_first_whichever_way_it_ran(packed: Any) -> None:
    x, dy, found = draw(2, B, T, C), draw(2, B, T, C), []
    for is_mixed in (True, False):
        block, dxs = made(), []
        for order in ((0, 1), (1, 0)):
            for index in order:  # 1: by the lines
                with lines() if index or not is_mixed else nullcontext():
                    block(x[index], MASKS["causal"])
            dxs += [block.backward(dy[index]) for index in reversed(order)]
        found.append({**dict(zip("0123", dxs, strict=True)), **{name: p.grad for name, p in block.named_parameters()}})
    check(*found)


def test_heads_of_width_one_with_keys_of_one_head(packed: Any, calls: list[int]) -> None:
    x, dy, found = draw(1, 17, C), draw(1, 17, C), []
    for which in (nullcontext, lines):
        block = made()
        block.attention = MultiHeadAttention(C, 2, 1, head_dim=1)
        rng = np.random.default_rng(3)
        for parameter in block.attention.parameters():
            parameter.data = rng.standard_normal(parameter.data.shape, dtype=np.float32)
        with which(), use_kernels("auto"):  # attention itself has no kernel for these
            found.append(outcome(block, x, dy, MASKS["causal"]))
    assert calls == [1]
    check(*found)


class WithOwnBackward(PreNormBlock):
    """A block whose forward is inherited, and whose backward needs what its lines save."""

    def backward(self, dx: Array) -> Array:
        """Return the gradient of the stream, by lines of its own."""
        dbranch = self.feed_forward.backward(self.feed_forward_dropout.backward(dx))
        dx = dx + self.feed_forward_norm.backward(dbranch)
        dbranch, _ = self.attention.backward(self.attention_dropout.backward(dx))
        return dx + self.attention_norm.backward(dbranch)


def test_a_subclass_with_a_backward_of_its_own_runs_its_lines(packed: Any, calls: list[int]) -> None:
    x, dy = draw(B, T, C), draw(B, T, C)
    got = outcome(made(kind=WithOwnBackward), x, dy, MASKS["causal"])
    assert not calls
    check(got, outcome(made(), x, dy, MASKS["causal"]))


class Twice(FeedForward):
    """A network whose forward is inherited, and whose backward needs what its lines save."""

    def backward(self, dy: Array) -> Array:
        """Return the gradient of a network without its activation."""
        return self.up.backward(self.down.backward(dy))


def test_a_network_with_a_backward_of_its_own_runs_its_lines(packed: Any) -> None:
    network = Twice(C, 40)
    network(draw(B, T, C))
    assert network.backward(draw(B, T, C)).shape == (B, T, C)


def test_recompute_that_is_set_too_late_is_said(packed: Any) -> None:
    block = made()
    block(draw(B, T, C))
    block.recompute = True
    with pytest.raises(BackwardError, match="recompute was set after the forward whose backward this is"):
        block.backward(draw(B, T, C))


WRONG: dict[str, tuple[Callable[[Any], object], Any, Any]] = {
    "p": (lambda block: setattr(block.attention_dropout, "p", 2.0), None, RangeError),
    "p of weights": (lambda block: setattr(block.attention, "dropout", -1), None, RangeError),
    "eps": (lambda block: setattr(block.feed_forward_norm, "eps", float("nan")), None, RangeError),
    "heads": (lambda block: setattr(block.attention, "num_heads", 0), None, RangeError),
    "x": (lambda block: None, [[[1.0] * C] * T] * B, DtypeError),
    "a mask": (lambda block: None, Mask(key_lengths=np.array([1, 2, 99])), RangeError),
}


@pytest.mark.parametrize(("change", "given", "error"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_the_lines_which_draw_what_they_draw(
    packed: Any, calls: list[int], change: Callable[[Any], object], given: Any, error: Any
) -> None:
    multiply_a_little = pack_rows(draw(32, 32)), pack_panels(draw(32, 32))
    _products.multiply(packed, *multiply_a_little, np.empty((32, 32), np.float32))  # which the fixture expects
    offsets = []
    for which in (nullcontext, lines):
        block = made(0.1)
        change(block)
        x, mask = (given, Mask()) if isinstance(given, list) else (draw(B, T, C), given or Mask())
        with which(), use_kernels("auto"), pytest.raises(error):
            block(x, mask)
        offsets.append(block.attention_dropout.generator.offset)
    assert not calls
    assert offsets[0] == offsets[1]


@pytest.mark.parametrize("kind", ["block", "network"])
@pytest.mark.parametrize(
    "dy",
    [np.zeros((B, T, C)), np.zeros((B, T, C), np.complex64), np.zeros((B, T, C), np.int32), [1.0], None],
    ids=["float64", "complex64", "int32", "list", "None"],
)
def test_a_gradient_of_another_dtype_is_refused(packed: Any, kind: str, dy: Any) -> None:
    module: Any = made() if kind == "block" else FeedForward(C, 40)
    module(draw(B, T, C))
    with pytest.raises(DtypeError):
        module.backward(dy)


def with_a_replaced_norm(block: Any) -> None:
    block.attention_norm = RMSNorm(C)


def with_a_forward_of_its_own(block: Any) -> None:
    own = block.feed_forward.forward
    block.feed_forward.forward = lambda x: own(x)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a norm": with_a_replaced_norm,
    "a forward": with_a_forward_of_its_own,
    "an algorithm": lambda block: setattr(block.attention, "implementation", "parallel"),
    "a precision": lambda block: setattr(block.feed_forward.down, "precision", "float32"),
    "a dtype": lambda block: block.to(dtype=np.float64),
    "a mode": lambda block: block.eval(),
    "a part's mode": lambda block: block.attention_dropout.eval(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_its_lines_run_where_a_part_is_something_else(
    calls: list[int], packed: Any, change: Callable[[Any], object]
) -> None:
    block = made(0.1)
    block(draw(B, T, C))
    assert calls == [1]
    change(block)
    with use_kernels("auto"):
        block(draw(B, T, C).astype(block.attention.in_weight.dtype))
    assert calls == [1]


@pytest.mark.parametrize("kind", [Linear, LayerNorm, FeedForward, Dropout, MultiHeadAttention])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_its_lines_run_where_a_class_was_changed(
    packed: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, phase: str
) -> None:
    own, seen = getattr(kind, phase), []

    def changed(self: Any, *given: Any, **options: Any) -> Any:
        seen.append(self)
        return own(self, *given, **options)

    block, x = made(0.1), draw(B, T, C)
    block(x, MASKS["causal"])
    block.backward(draw(B, T, C))
    assert not seen
    monkeypatch.setattr(kind, phase, changed)
    block(x, MASKS["causal"])
    block.backward(draw(B, T, C))
    parts = (*block._modules.values(), block.feed_forward.up, block.feed_forward.down)
    assert set(seen) == {part for part in parts if type(part) is kind}


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("name", ["up", "down"])
def test_a_layer_of_a_network_that_was_changed_runs(packed: Any, name: str, phase: str) -> None:
    for module in (made(), FeedForward(C, 40)):
        network = getattr(module, "feed_forward", module)
        part, seen = getattr(network, name), []
        own = getattr(part, phase)
        setattr(part, phase, lambda given, own=own, seen=seen: (seen.append(1), own(given))[1])
        module(draw(B, T, C))
        module.backward(draw(B, T, C))
        assert seen == [1]


def test_a_layer_of_a_network_with_a_precision_of_its_own_has_it(packed: Any) -> None:
    network, x = FeedForward(C, 40), draw(B, T, C)
    rounded = network(x)
    network.up.precision = "float32"
    assert np.abs(network(x) - rounded).max() > 1e-5


def test_its_lines_run_where_they_are_watched_and_for_few_rows(calls: list[int], packed: Any) -> None:
    block = made()
    with observe(block, Observer()):
        block(draw(B, T, C))
    block(draw(1, 16, C))
    with use_precision("float32"):
        block(draw(B, T, C))
    assert not calls
    block(draw(1, 17, C))
    assert calls == [1]


def test_a_gradient_of_another_shape_is_refused(packed: Any) -> None:
    block = made()
    block(draw(B, T, C))
    with pytest.raises(ShapeError, match=r"dy must have shape \(3, 13, 36\), the shape of y, got \(3, 13, 35\)"):
        block.backward(draw(B, T, 35))


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("attention_norm", "bias", (C + 1,)),
        ("attention", "in_weight", (3 * C - 1, C)),
        ("attention", "in_bias", (3 * C + 4,)),
        ("attention", "out_bias", (1,)),
        ("feed_forward_norm", "weight", (C + 4,)),
    ],
)
def test_a_weight_of_another_shape_is_refused(packed: Any, part: str, name: str, shape: tuple[int, ...]) -> None:
    block = made()
    block(draw(B, T, C))
    getattr(getattr(block, part), name).data = draw(*shape)
    with use_kernels("auto"), pytest.raises(ShapeError):
        block(draw(B, T, C))


# --- the kernels it is made of ---


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize(("rows", "columns"), [(39, 36), (200, 70), (64, 320)])
def test_a_product_is_dropped_and_added_to_a_stream(packed: Any, rows: int, columns: int, p: float) -> None:
    x, w, stream, bias = draw(rows, 40), draw(columns, 40), draw(rows, columns), draw(columns)
    product, y = np.empty((2, rows, columns), np.float32)
    _products.multiply(packed, pack_rows(x), pack_panels(w), product, bias)
    key = RandomKey(3, DROPOUT, 7)
    saved = DropoutSaved(p, key, product.shape)
    _products.multiply(packed, pack_rows(x), pack_panels(w), y, bias, Onto(stream, saved if p else None))
    np.testing.assert_allclose(y, stream + dropout_forward(product, p, key)[0], rtol=3e-7, atol=2e-6)


@pytest.mark.parametrize("shape", [(39, 36), (64, 32), (1, 70), (333, 130)])
def test_a_gradient_passes_dropout_while_it_is_packed(shape: tuple[int, int]) -> None:
    dy, saved = draw(*shape), DropoutSaved(0.4, RandomKey(3, DROPOUT, 7), shape)
    for got, expected in zip(pack_gradient(dy, saved), pack_gradient(dropout_backward(dy, saved)), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(39, 36), (64, 32), (1, 70), (333, 130)])
def test_a_norm_is_packed_as_it_is_computed(shape: tuple[int, int], has_bias: bool) -> None:
    x, weight, bias = draw(*shape), draw(shape[1]), draw(shape[1]) if has_bias else None
    rows, saved = layer_norm_packed(x, weight, bias, 1e-5)
    expected = pack_rows(layer_norm(x, weight, bias, 1e-5))
    apart = rows.astype(np.int64) - expected
    assert np.abs(apart).max() <= 1, "more than a last bit"
    assert (apart != 0).mean() < 0.01
    np.testing.assert_allclose(saved.mean, x.mean(1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(saved.rstd, (x.var(1) + 1e-5) ** -0.5, rtol=1e-5)
