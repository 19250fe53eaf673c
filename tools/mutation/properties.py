"""What the library keeps beyond right gradients, as checks a mutant must survive: the ops, and AdamW.

names       the short name of an op is its forward without what it saves
defaults    an option that is left out is the documented one, in the result and in what is saved
inputs      what was given and what was saved stay as they are; float32 stays float32
left out    a gradient that is not asked for is None, and the others are the same
quantized   a weight in int8 or bfloat16 is widened as its type says, and is no array
bfloat16    operands of products are rounded, all of them and nothing else, also those of the backward
kink        ReLU's slope at 0 is 0
large       numbers so large that an exponential of them overflows, or that two of them lose their difference
overwrite   the gradient of the loss is the same where it is written over the logits, and it is there
AdamW       moves weights as PyTorch's does; weights of float16 are moved by moments of float32
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.nn import Parameter
from compyute_transformer.ops.attention import AttentionSaved, drop_weights, fused_attention_weights
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.multi_head import Needs
from compyute_transformer.ops.quantized import QuantizedWeight, arrays_of, is_quantized, quantized_linear
from compyute_transformer.optim.adamw import AdamW, AdamWOptions, adamw_update
from compyute_transformer.optim.flat import FlatBuffer
from compyute_transformer.precision import round_to_bfloat16, use_precision
from compyute_transformer.verify.record import Case, Op, cast, cotangent, map_arrays
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Result, relative_error
from compyute_transformer.verify.torch.base import import_torch

__all__ = ["Property", "check_that", "measured", "op_properties"]

Property: TypeAlias = tuple[str, Callable[[], Iterable[Result]]]

OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.1, "weight_decay": 0.5},
    {"betas": (0.8, 0.95), "eps": 1e-3},
    {"betas": (0.0, 0.0), "weight_decay": 0.0},
    {"betas": (0.0, 0.9), "weight_decay": 0.3},
)


def op_properties() -> Iterator[Property]:
    """Every property of the ops and of AdamW, with its name."""
    for op in REGISTRY.values():
        if op.defaults:
            yield f"defaults {op.name}", partial(_defaults, op, op.defaults)
        short = getattr(sys.modules[op.forward.__module__], op.name, None)
        for case in op.cases:
            if short is not None:
                yield f"names {op.name} [{case.name}]", partial(_names, op, short, case)
            yield f"inputs {op.name} [{case.name}]", partial(_inputs, op, case)
        if needs := _needs(op):
            yield f"left out {op.name}", partial(_left_out, op, needs)
    for case in REGISTRY["linear"].cases:
        yield f"bfloat16 linear [{case.name}]", partial(_bfloat16_linear, case)
    for name in ("attention", "fused_attention"):
        for case in REGISTRY[name].cases:
            yield f"bfloat16 {name} [{case.name}]", partial(_bfloat16_attention, REGISTRY[name], case)
    for kind in ("int8", "bfloat16"):
        for rows in ((), (2, 3)):
            yield f"quantized linear [{kind}, {rows}]", partial(_quantized_linear, kind, rows)
    yield "kink relu", _kink
    yield "large silu", _large_silu
    yield "large cross_entropy", _large_logits
    yield "overwrite cross_entropy", _overwrite
    for index, options in enumerate(OPTIMIZERS):
        yield f"AdamW {index}", partial(_adamw, options)
    yield "AdamW of float16", _adamw_of_float16


def measured(name: str, case: str, subject: str, error: float, allowed: float) -> Result:
    """Return the result of a comparison that belongs to no method of `compyute verify`."""
    return Result(name, case, "property", "float64", subject, error, allowed)


def check_that(name: str, subject: str, holds: bool) -> Result:
    """A check of something that is so or is not."""
    return measured(name, "", subject, 0.0 if holds else float("inf"), 0.0)


def _names(op: Op, short: Callable[..., Array], case: Case) -> Iterator[Result]:
    values = tuple(case.arguments().values())
    yield check_that(op.name, "its short name", np.array_equal(short(*values), op.forward(*values)[0]))


def _defaults(op: Op, options: Mapping[str, Any]) -> Iterator[Result]:
    given = {name: value for name, value in op.cases[0].arguments().items() if name not in options}
    short, long = op.forward(**given), op.forward(**given, **options)
    yield check_that(op.name, "options left out", np.array_equal(short[0], long[0]))
    yield check_that(op.name, "options left out, what is saved", _scalars(short[1]) == _scalars(long[1]))


def _scalars(saved: Any) -> list[Any]:
    """Return everything that was saved and is no array, in its order."""
    if isinstance(saved, tuple):
        return [scalar for item in saved for scalar in _scalars(item)]
    return [] if isinstance(saved, np.ndarray) else [saved]


def _inputs(op: Op, case: Case) -> Iterator[Result]:
    arguments = case.arguments(dtype=np.float32)
    y, saved = op.forward(*arguments.values())
    dy = cotangent(y)
    before = cast((y, saved, dy), np.float32)  # a copy
    first, second = op.backward(dy, saved), op.backward(dy, saved)
    pairs = (("arguments", arguments, case.arguments(dtype=np.float32)), ("saved", (y, saved, dy), before))
    for subject, now, then in (*pairs, ("second backward", (first,), (second,))):
        yield check_that(op.name, subject, all(map(np.array_equal, _arrays(now), _arrays(then))))
    floats = {array.dtype.name for array in _arrays((y, saved, first)) if array.dtype.kind == "f"}
    yield check_that(op.name, "float32 throughout", floats <= {"float32"})


def _rounded(array: Array) -> Array:
    return round_to_bfloat16(array.astype(np.float32))


def _bfloat16_linear(case: Case) -> Iterator[Result]:
    x, weight, bias = case.arguments(dtype=np.float32).values()
    with use_precision("bfloat16"):
        y, saved = linear_forward(x, weight, bias)
    dy = cotangent(y)
    expected, exact = linear_forward(_rounded(x), _rounded(weight), bias)
    found = (y, *linear_backward(dy, saved))
    sums = None if bias is None else dy.reshape(-1, dy.shape[-1]).sum(0)
    for name, ours, theirs in zip(
        ("y", "dx", "dweight", "dbias"), found, (expected, *linear_backward(_rounded(dy), exact)[:2], sums), strict=True
    ):
        error = relative_error(ours, theirs) if ours is not None and theirs is not None else float(ours is not theirs)
        yield measured("linear", f"bfloat16 {case.name}", name, error, 1e-6)
    wide = {key: None if value is None else value.astype(np.float64) for key, value in case.arguments().items()}
    with use_precision("bfloat16"):
        y, saved = linear_forward(*wide.values())
    yield check_that("linear", "float64 is not rounded", np.array_equal(y, linear_forward(*wide.values())[0]))
    yield check_that("linear", "the precision is saved", saved.precision == "bfloat16")


def _quantized_linear(kind: str, rows: tuple[int, ...]) -> Iterator[Result]:
    rng = np.random.default_rng(1)
    x, bias = rng.normal(size=(*rows, 64)), rng.normal(size=5)
    if kind == "int8":
        values, scales = rng.integers(-127, 128, (5, 64)).astype(np.int8), rng.normal(size=(5, 2)).astype(np.float32)
        wide, weight = values * np.repeat(scales, 32, axis=1).astype(np.float64), QuantizedWeight(values, scales)
    else:
        values = (rng.normal(size=(5, 64)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        wide = (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        weight = QuantizedWeight(values)
    given = x.copy()
    for added in (None, bias):
        y = quantized_linear(x, weight, added)
        expected = np.einsum("...i,oi->...o", x, wide) + (0.0 if added is None else added)
        subject = "y without bias" if added is None else "y"
        yield measured("quantized_linear", kind, subject, relative_error(y, expected), 1e-6)
        yield check_that("quantized_linear", "the shape of y", y.shape == expected.shape)
        same, saved = linear_forward(x, weight, added)  # type: ignore[arg-type]
        yield check_that("linear", "a quantized weight", np.array_equal(same, y))
        kept = saved.x is x and saved.weight is weight and saved.has_bias == (added is not None)
        yield check_that("linear", "what is saved beside it", kept)
    for dtype in (np.float16, np.float32):
        narrow = quantized_linear(x.astype(dtype), weight, bias.astype(dtype))
        yield check_that("quantized_linear", "the dtype of x", narrow.dtype == dtype)
    yield check_that("quantized_linear", "x", np.array_equal(x, given))
    yield check_that("quantized_linear", "which is no array", is_quantized(weight) and not is_quantized(x))
    yield check_that("quantized_linear", "the arrays", list(arrays_of({"w": weight, "x": x, "b": None})) == ["x", "b"])


def _bfloat16_attention(op: Op, case: Case) -> Iterator[Result]:
    q, k, v, mask, dropout, key = case.arguments(dtype=np.float32).values()
    with use_precision("bfloat16"):
        y, saved = op.forward(q, k, v, mask, dropout, key)
    dy = cotangent(y)
    found = (y, *op.backward(dy, saved))
    q, k, v, dy = (_rounded(x) for x in (q, k, v, dy))
    _, exact = op.forward(q, k, v, mask, dropout, key)  # whose weights are not rounded
    weights = exact.weights if isinstance(exact, AttentionSaved) else fused_attention_weights(exact)
    group, scale = q.shape[1] // k.shape[1], np.float32(q.shape[3] ** -0.5)
    keys, values = k.repeat(group, axis=1), v.repeat(group, axis=1)
    dropped = _rounded(drop_weights(weights, dropout, key))
    y = dropped @ values
    dweights = drop_weights(dy @ values.swapaxes(2, 3), dropout, key)
    delta = weights * dweights if isinstance(exact, AttentionSaved) else dy * y
    dscores = weights * (dweights - delta.sum(-1, keepdims=True)) * scale
    if mask.soft_cap is not None:
        dscores *= 1 - np.tanh(q @ keys.swapaxes(2, 3) * scale / np.float32(mask.soft_cap)) ** 2
    dscores = _rounded(dscores)
    dk, dv = (left.swapaxes(2, 3) @ right for left, right in ((dscores, q), (dropped, dy)))
    dk, dv = (x.reshape(*k.shape[:2], group, *k.shape[2:]).sum(2) for x in (dk, dv))
    for name, ours, theirs in zip(("y", "dq", "dk", "dv"), found, (y, dscores @ keys, dk, dv), strict=True):
        yield measured(op.name, f"bfloat16 {case.name}", name, relative_error(ours, theirs), 3e-4)


def _needs(op: Op) -> dict[str, dict[str, Any]]:
    """Return the options of a backward that leave one gradient out, by the name of its argument."""
    options = signature(op.backward).parameters
    if "needs" in options:
        return {name: {"needs": Needs()._replace(**{name: False})} for name in Needs._fields}
    return {name.removeprefix("needs_"): {name: False} for name in options if name.startswith("needs_")}


def _left_out(op: Op, needs: dict[str, dict[str, Any]]) -> Iterator[Result]:
    backward: Any = op.backward
    for case in op.cases:
        y, saved = op.forward(**case.arguments())
        dy = cotangent(y)
        whole = op.gradients(dy, saved)
        for left_out, option in needs.items():
            for name, gradient in op.by_name(backward(dy, saved, **option)).items():
                there = name != left_out and whole[name] is not None
                same = np.array_equal(gradient, whole[name]) if there and gradient is not None else gradient is None
                yield check_that(op.name, f"d{name} without d{left_out}", same and there == (gradient is not None))


def _arrays(value: Any) -> list[Any]:
    found: list[Any] = []
    map_arrays(found.append, value)
    return found


def _kink() -> Iterator[Result]:
    op, x = REGISTRY["relu"], np.array([-1.0, 0.0, 1.0])
    dx = op.backward(np.ones(3), op.forward(x)[1])
    yield check_that(op.name, "slope at 0", np.array_equal(dx, [0.0, 0.0, 1.0]))


def _large_silu() -> Iterator[Result]:
    op, x = REGISTRY["silu"], np.array([-1000.0, -800.0, 0.0, 800.0, 1000.0])
    y, saved = op.forward(x)
    yield check_that(op.name, "y of large numbers", np.array_equal(y, np.maximum(x, 0.0)))
    dx = op.backward(np.ones(5), saved)
    yield check_that(op.name, "dx of large numbers", np.array_equal(dx, [0.0, 0.0, 0.5, 1.0, 1.0]))


def _large_logits() -> Iterator[Result]:
    op, targets = REGISTRY["cross_entropy"], np.array([0, 2])
    for size, wanted, probabilities in (
        (np.array([[0.0, 1600.0, 1600.0], [800.0, -800.0, 0.0]]), 1200.0 + np.log(2.0) / 2, [[0, 0.5, 0.5], [1, 0, 0]]),
        (np.full((2, 3), 1e17), np.log(3.0), np.full((2, 3), 1 / 3)),
    ):
        loss, saved = op.forward(size, targets)
        yield measured(op.name, "", "loss of large logits", relative_error(loss, np.asarray(wanted)), 1e-14)
        expected = (np.array(probabilities) - np.eye(3)[targets]) / 2
        dlogits = op.backward(np.asarray(1.0), saved)
        yield measured(op.name, "", "gradient of large logits", relative_error(dlogits, expected), 1e-14)


def _overwrite() -> Iterator[Result]:
    op = REGISTRY["cross_entropy"]
    backward: Any = op.backward
    for case in op.cases:
        _, saved = op.forward(**case.arguments())
        expected = backward(0.7, saved)
        yield check_that(op.name, "a gradient of its own", not np.shares_memory(expected, saved.logits))
        over = backward(0.7, saved, overwrite=True)
        yield check_that(op.name, "written over the logits", np.shares_memory(over, saved.logits))
        yield check_that(op.name, "the same gradient", np.array_equal(over, expected))


def _adamw(options: dict[str, Any]) -> Iterator[Result]:
    torch = import_torch()
    rng = np.random.default_rng(3)
    for dtype, allowed in ((np.float64, 1e-12), (np.float32, 1e-6)):
        flat = FlatBuffer(Parameter(rng.normal(size=shape).astype(dtype)) for shape in ((4, 3), (5,), (2, 3, 2), (3,)))
        theirs = [torch.from_numpy(parameter.data.copy()).requires_grad_() for parameter in flat.parameters]
        groups = [
            {"params": [p for p in theirs if p.ndim >= 2]},
            {"params": [p for p in theirs if p.ndim < 2], "weight_decay": 0.0},
        ]
        own = [
            {"params": [p for p in flat.parameters if p.ndim >= 2]},
            {"params": [p for p in flat.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        ours, oracle = AdamW(own, **options), torch.optim.AdamW(groups, **options)
        for step in range(1, 6):
            flat.grad[...] = rng.normal(size=flat.grad.size) * 10.0 ** rng.uniform(-3, 1, flat.grad.size)
            for parameter, their in zip(flat.parameters, theirs, strict=True):
                their.grad = torch.from_numpy(np.array(parameter.grad))
            ours.step()
            oracle.step()
            for parameter, their in zip(flat.parameters, theirs, strict=True):
                error = relative_error(parameter.data, their.detach().numpy())
                yield measured("AdamW", np.dtype(dtype).name, f"weights after step {step}", error, allowed)


def _adamw_of_float16() -> Iterator[Result]:
    """Give a gradient whose square vanishes in float16."""
    weight, gradient = np.ones(3, np.float16), np.full(3, 1e-4, np.float16)
    first, second = np.zeros((2, 3), np.float32)
    adamw_update(weight, gradient, first, second, 1, AdamWOptions(0.125, (0.9, 0.99), 1e-8, 0.0))
    square = np.float32(gradient[0]) ** 2
    yield measured("AdamW", "float16", "v", relative_error(second, np.full(3, 0.01 * square, np.float32)), 1e-6)
    yield check_that("AdamW", "weights of float16", np.array_equal(weight, np.full(3, 0.875, np.float16)))
