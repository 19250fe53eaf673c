"""MultiHeadAttention: one set of weights, interchangeable algorithms. Its kernels of PyTorch: tests/verify."""

from typing import Any, get_args

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, RangeError, ShapeError
from compyute_transformer.nn import MultiHeadAttention, RMSNorm, RotaryPosition
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops import Mask
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.registry import cast

ALL: tuple[Implementation, ...] = get_args(Implementation)
B, T, S, C = 2, 5, 7, 12

RNG = np.random.default_rng(1)
SEEN_BY_HEAD = RNG.random((B, 6, T, S)) < 0.5
SEEN_BY_HEAD[..., 0] = True
CASES: dict[str, dict[str, Any]] = {
    "self": {},
    "causal window": {"mask": Mask(causal=True, window=3)},
    "cross": {"cross": True},
    "cross, key lengths": {"cross": True, "mask": Mask(key_lengths=np.array([7, 4]))},
    "cross, a mask for each head": {"cross": True, "mask": Mask(array=SEEN_BY_HEAD)},
    "cross, an added mask": {"cross": True, "mask": Mask(array=RNG.normal(size=(T, S)))},
    "no biases": {"bias": False, "cross": True},
    "grouped heads": {"num_kv_heads": 2},
    "one key/value head": {"num_kv_heads": 1, "cross": True},
    "dropout": {"dropout": 0.4},
    "everything": {
        "num_kv_heads": 3,
        "cross": True,
        "dropout": 0.4,
        "mask": Mask(True, 4, np.array([7, 4]), SEEN_BY_HEAD),
    },
}


def build(num_kv_heads: int | None = None, bias: bool = True, dropout: float = 0.0) -> MultiHeadAttention:
    module = MultiHeadAttention(C, 6, num_kv_heads, bias=bias, dropout=dropout)
    module.generator = Generator(1, DROPOUT)
    randomize(module.to(dtype=np.float64))
    return module


def inputs(cross: bool) -> tuple[Array, Array | None]:
    rng = np.random.default_rng(2)
    return rng.normal(size=(B, T, C)), rng.normal(size=(B, S, C)) if cross else None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_implementations_switched_in_place_are_equal(case: str, dtype: type) -> None:
    options = dict(CASES[case])
    mask, cross = cast(options.pop("mask", Mask()), dtype), options.pop("cross", False)
    module = build(**options).to(dtype=dtype)
    x, memory = cast(inputs(cross), dtype)
    dy = np.random.default_rng(3).normal(size=x.shape).astype(dtype)
    results = {}
    for name in ALL:
        module.implementation = name
        module.generator.offset = 0
        module.zero_grad()
        y = module(x, memory, mask)
        dx, dmemory = module.backward(dy)
        gradients = {path: parameter.grad.copy() for path, parameter in module.named_parameters()}
        results[name] = {"y": y, "dx": dx, **({"dmemory": dmemory} if cross else {}), **gradients}
        assert cross or dmemory is None
    for name in ALL:
        for what, value in results["parallel"].items():
            assert results[name][what].dtype == dtype
            assert relative_error(results[name][what], value) <= limit("kernel", dtype), (name, what)


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("case", ["causal window", "cross", "everything"])
def test_the_gradients_follow_the_differences(implementation: Implementation, case: str) -> None:
    options = dict(CASES[case])
    mask, cross = options.pop("mask", Mask()), options.pop("cross", False)
    module = build(**options)
    module.implementation = implementation
    given = [array for array in inputs(cross) if array is not None]
    error = module_error(module, given, lambda x, memory=None: module(x, memory, mask))
    assert error <= limit("differences", np.float64)


@pytest.mark.parametrize("implementation", ALL)
def test_a_backward_belongs_to_the_implementation_that_ran_forward(implementation: Implementation) -> None:
    module = build()
    x, _ = inputs(cross=False)
    module.implementation = implementation
    module(x)
    module.implementation = "sequential" if implementation != "sequential" else "parallel"
    dx, _ = module.backward(x)
    module(x)
    assert relative_error(module.backward(x)[0], dx) <= 1e-12


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("cross", [False, True])
def test_attention_weights_are_returned_before_dropout(implementation: Implementation, cross: bool) -> None:
    module = build(dropout=0.6)
    module.implementation = implementation
    x, memory = inputs(cross)
    mask = Mask(causal=True)
    y, weights = module.forward_with_weights(x, memory, mask)
    module.generator.offset = 0
    assert np.array_equal(y, module(x, memory, mask))
    assert weights.shape == (B, 6, T, S if cross else T)
    assert np.abs(weights.sum(-1) - 1.0).max() <= 1e-12
    hidden = np.triu(np.ones(weights.shape[2:], dtype=bool), k=1 + weights.shape[3] - T)
    assert not weights[:, :, hidden].any()
    assert weights[:, :, ~hidden].all()
    _, in_eval = module.eval().forward_with_weights(x, memory, mask)
    assert np.array_equal(weights, in_eval)


@pytest.mark.parametrize("implementation", ALL)
def test_weights_can_be_asked_for_before_a_backward(implementation: Implementation) -> None:
    module = build(dropout=0.3)
    module.implementation = implementation
    x, _ = inputs(cross=False)
    module.forward_with_weights(x)
    dx, _ = module.backward(x)
    module.generator.offset = 0
    module(x)
    assert np.array_equal(dx, module.backward(x)[0])


@pytest.mark.parametrize("implementation", ALL)
def test_in_eval_nothing_is_dropped_drawn_or_kept(implementation: Implementation) -> None:
    module, plain = build(dropout=0.5), build()
    module.implementation = implementation
    x, _ = inputs(cross=False)
    y = module.eval()(x)
    assert relative_error(y, plain(x)) <= 1e-12
    assert module.generator.offset == 0
    for _ in range(5):
        module.forward_with_weights(x)
    assert module._saved == []


def test_one_query_against_many_keys_is_masked_too() -> None:
    module = build()
    x, memory = inputs(cross=True)
    mask = Mask(key_lengths=np.array([3, 7]))
    y, weights = module.forward_with_weights(x[:, -1:], memory, mask)
    assert not weights[0, :, :, 3:].any()
    assert relative_error(y, module(x, memory, mask)[:, -1:]) <= 1e-12


def test_weights_have_the_layout_of_torch_and_biases_start_at_zero() -> None:
    module = MultiHeadAttention(C, 6, num_kv_heads=2)
    shapes = {path: parameter.shape for path, parameter in module.named_parameters()}
    assert shapes == {"in_weight": (20, 12), "in_bias": (20,), "out_weight": (12, 12), "out_bias": (12,)}
    assert not module.in_bias.data.any()
    assert not module.out_bias.data.any()
    bare = MultiHeadAttention(C, 6, bias=False)
    assert bare.in_bias is bare.out_bias is None
    assert list(bare.state_dict()) == ["in_weight", "out_weight"]


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        ((0, None), RangeError, "num_heads is a whole number of at least 1, got 0"),
        ((-3, None), RangeError, "num_heads is a whole number of at least 1, got -3"),
        ((2.0, None), RangeError, r"num_heads is a whole number of at least 1, got 2\.0"),
        ((5, None), ShapeError, r"num_heads must divide the width.*1, 2, 3, 4, 6, 12\."),
        ((6, 0), RangeError, "num_kv_heads is a whole number of at least 1, got 0"),
        ((6, 4), ShapeError, "num_kv_heads must divide num_heads, got 6 heads and 4"),
        ((6, 12), ShapeError, "num_kv_heads must divide num_heads"),
    ],
)
@pytest.mark.usefixtures("validation_only")
def test_heads_that_do_not_divide_are_refused(heads: tuple[int, int | None], error: type, message: str) -> None:
    with pytest.raises(error, match="^MultiHeadAttention: " + message):
        MultiHeadAttention(C, *heads)


@pytest.mark.parametrize("dropout", [-0.5, 1.0, 1.5, float("nan")])
def test_a_dropout_outside_its_range_is_refused(dropout: float) -> None:
    with pytest.raises(RangeError, match=r"MultiHeadAttention: a dropout probability lies in \[0, 1\)"):
        MultiHeadAttention(C, 6, dropout=dropout)


def test_an_implementation_that_does_not_exist_is_refused() -> None:
    message = f"one of {', '.join(ALL)}, got 'flash'"
    with pytest.raises(ConfigError, match=message):
        MultiHeadAttention(C, 6, implementation="flash")
    module = MultiHeadAttention(C, 6)
    with pytest.raises(ConfigError, match=message):
        module.implementation = "flash"
    assert module.implementation == "auto"


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.usefixtures("validation_only")
def test_an_input_of_four_axes_is_refused(implementation: Implementation) -> None:
    module = MultiHeadAttention(C, 6, implementation=implementation)
    with pytest.raises(ShapeError, match=r"x must have shape \(any, any, any\), batch, time, width"):
        module(np.zeros((2, 2, 5, C), dtype=np.float32))


@pytest.mark.parametrize(("missing", "left"), [("in_bias", "out_bias"), ("out_bias", "in_bias")])
def test_either_bias_may_be_taken_away(missing: str, left: str) -> None:
    module = build()
    setattr(module, missing, None)
    assert set(module.state_dict()) == {"in_weight", "out_weight", left}
    assert module_error(module, [inputs(cross=False)[0]]) <= limit("differences", np.float64)


class Grown:
    """A cache that keeps everything, by concatenation."""

    def __init__(self) -> None:
        self.held: list[tuple[Array, Array]] = []

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        self.held.append((k, v))
        keys, values = zip(*self.held, strict=True)
        return np.concatenate(keys, axis=2), np.concatenate(values, axis=2)


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize(
    "mask",
    [Mask(causal=True), Mask(causal=True, window=2), Mask(causal=True, array=RNG.random((B, 6, T, T)) < 0.7)],
    ids=["causal", "window", "a mask for each head"],
)
def test_with_a_cache_each_part_attends_as_in_the_whole(implementation: Implementation, mask: Mask) -> None:
    module = build(num_kv_heads=2, dropout=0.5).eval()
    module.implementation = implementation
    x, _ = inputs(cross=False)
    whole, cache, start = module(x, mask=mask), Grown(), 0
    for length in (2, 1, 2):
        end = start + length
        part = mask if mask.array is None else mask._replace(array=mask.array[:, :, start:end, :end])
        y = module(x[:, start:end], mask=part, cache=cache)
        assert relative_error(y, whole[:, start:end]) <= 1e-12
        start = end
    assert not module._saved


def test_a_mask_of_all_positions_is_cut_to_those_that_the_cache_returns() -> None:
    class Last(Grown):
        def append(self, k: Array, v: Array) -> tuple[Array, Array]:
            k, v = super().append(k, v)
            return k[:, :, -3:], v[:, :, -3:]

    module = build().eval()
    x, _ = inputs(cross=False)
    seen = np.array([True, True, False, True, True])[None, None, None, :]
    whole = module(x, mask=Mask(causal=True, window=3, array=seen))
    cache = Last()
    for t in range(T):
        y = module(x[:, t : t + 1], mask=Mask(causal=True, window=3, array=seen[..., : t + 1]), cache=cache)
        assert relative_error(y, whole[:, t : t + 1]) <= 1e-12


def test_a_cache_in_training_or_with_a_memory_is_refused() -> None:
    module = build()
    x, memory = inputs(cross=True)
    with pytest.raises(ConfigError, match=r"eval\(\) only.*got a module in training.*Call model.eval\(\)"):
        module(x, cache=Grown())
    with pytest.raises(ConfigError, match="got a memory"):
        module.eval()(x, memory, cache=Grown())
    with pytest.raises(ShapeError, match="MultiHeadAttention: x"):
        module(x[0], cache=Grown())


# --- a memory projected once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("bias", [True, False])
def test_a_memory_projected_once_gives_what_the_memory_gives(implementation: Implementation, bias: bool) -> None:
    module = (
        MultiHeadAttention(12, 6, 2, bias=bias, dropout=0.4, implementation=implementation).to(dtype=np.float64).eval()
    )
    randomize(module)
    x, memory = np.random.default_rng(0).normal(size=(2, 2, 5, 12))
    for mask in (Mask(), Mask(key_lengths=np.array([5, 2])), Mask(array=np.eye(5, dtype=bool))):
        y = module(x, module.project_memory(memory), mask)
        np.testing.assert_allclose(y, module(x, memory, mask), rtol=1e-12, atol=1e-14)


def test_a_memory_projected_once_is_refused_in_training() -> None:
    module = MultiHeadAttention(12, 3)
    x = np.zeros((2, 5, 12), np.float32)
    projected = module.project_memory(x)
    with pytest.raises(ConfigError, match=r"in eval\(\) only.*got a module in training"):
        module(x, projected)
    with pytest.raises(ShapeError, match="memory must have shape"):
        module.project_memory(x[..., :5])


@pytest.mark.parametrize("mask", [None, True, np.eye(5, dtype=bool), "causal"], ids=str)
def test_a_mask_that_is_no_mask_is_refused_by_one_sentence(mask: Any) -> None:
    with pytest.raises(ConfigError, match=r"mask is a Mask, got .*Give Mask\(causal=True\), or Mask\(array=\.\.\.\)"):
        MultiHeadAttention(12, 3)(np.zeros((1, 5, 12), np.float32), None, mask)


def prepared(**options: Any) -> MultiHeadAttention:
    module = MultiHeadAttention(C, 6, 2, head_dim=4, rotary=RotaryPosition(4), **options)
    randomize(module.to(dtype=np.float64))
    return module


def test_a_head_may_have_a_width_of_its_own() -> None:
    module = MultiHeadAttention(C, 3, 1, head_dim=5, out_bias=False)
    assert (module.in_weight.shape, module.out_weight.shape) == ((25, C), (C, 15))
    assert module.in_bias is not None
    assert module.out_bias is None
    y = module(np.ones((2, T, C), np.float32))
    assert y.shape == (2, T, C)
    with pytest.raises(RangeError, match="head_dim"):
        MultiHeadAttention(C, 3, head_dim=0)


def test_rotary_attention_does_not_depend_on_where_a_text_begins_but_on_its_order() -> None:
    module, x = prepared().eval(), RNG.normal(size=(B, T, C))
    y = module(x)
    module.rotary.forward = lambda x, start=0, turn=module.rotary.forward: turn(x, start + 50)  # type: ignore[method-assign, union-attr, misc]
    assert relative_error(module(x), y) <= 1e-12
    assert relative_error(module(x[:, ::-1])[:, ::-1], y) > 1e-3


@pytest.mark.parametrize("implementation", ALL)
def test_weights_of_rotary_attention_are_those_it_used(implementation: Implementation) -> None:
    module = prepared(implementation=implementation, q_norm=RMSNorm(4), k_norm=RMSNorm(4)).eval()
    x = RNG.normal(size=(B, T, C))
    y, weights = module.forward_with_weights(x, None, Mask(causal=True))
    assert weights.shape == (B, 6, T, T)
    assert np.allclose(weights.sum(-1), 1.0)
    rows = x @ module.in_weight.data[32:].T + module.in_bias.data[32:]  # type: ignore[union-attr]
    v = rows.reshape(B, T, 2, 4).swapaxes(1, 2).repeat(3, axis=1)
    merged = (weights @ v).swapaxes(1, 2).reshape(B, T, 24)
    assert relative_error(merged @ module.out_weight.data.T + module.out_bias.data, y) <= 1e-12  # type: ignore[union-attr]


def test_rotary_attention_refuses_a_memory() -> None:
    x = RNG.normal(size=(B, T, C))
    with pytest.raises(ConfigError, match="rotary positions and norms of queries and keys are for self-attention"):
        prepared()(x, x)
