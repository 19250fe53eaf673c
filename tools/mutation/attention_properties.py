"""What attention keeps beyond right gradients.

weighted sum    a value that is infinite or NaN counts where its weight is not zero, and nowhere else
hidden          what a hidden key and its value hold, even NaN, changes nothing
large scores    no exponential overflows; every implementation gives the same
prepared        the weights of attention that turns or normalizes its heads are those that it used
norms           attention that normalizes its heads, and turns none, goes back as it went forth
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.nn import MultiHeadAttention, RMSNorm, RotaryPosition
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops.attention import Mask, weighted_sum
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.record import cotangent
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Result, relative_error

from .probes import Probe
from .properties import Property, check_that, measured

__all__ = ["attention_probes", "attention_properties"]

SAME = 1e-12
OPS = ("attention", "fused_attention")


def attention_properties() -> Iterator[Property]:
    """Every property of attention, with its name."""
    yield "weighted sum", _weighted_sum
    for name in OPS:
        yield f"hidden {name}", partial(_hidden, name)
    yield "large scores", _large_scores
    for name in get_args(Implementation):
        yield f"prepared {name}", partial(_prepared, name)
        yield f"norms {name}", partial(_norms, name)


def _wild(rng: np.random.Generator, dtype: Any) -> tuple[Array, Array]:
    """Weights, half of them zero, and values of which one in some columns is no finite number."""
    weights = (rng.random((2, 3, 4, 5)) * (rng.random((2, 3, 4, 5)) < 0.5)).astype(dtype)
    values = rng.normal(size=(2, 3, 5, 6)).astype(dtype)
    for column, number in enumerate((np.nan, np.inf, -np.inf, np.nan)):
        values[:, :, column, column] = number
    return weights, values


def _weighted_sum() -> Iterator[Result]:
    for dtype, allowed in ((np.float64, 1e-13), (np.float32, 1e-6)):
        weights, values = _wild(np.random.default_rng(5), dtype)
        with np.errstate(invalid="ignore"):
            found = weighted_sum(weights, values)
        wanted = np.zeros((2, 3, 4, 6), dtype)
        for b, h, t, d in np.ndindex(*wanted.shape):
            for s in range(5):
                if weights[b, h, t, s]:
                    wanted[b, h, t, d] += weights[b, h, t, s] * values[b, h, s, d]
        same = found.shape == wanted.shape and bool(np.allclose(found, wanted, allowed, allowed, equal_nan=True))
        yield check_that("weighted_sum", "a loop over the values", same and found.dtype == wanted.dtype)
        yield check_that("weighted_sum", "some reached, some not", 0 < np.isfinite(wanted[..., 0]).sum() < 24)


def _hidden(name: str) -> Iterator[Result]:
    op, rng = REGISTRY[name], np.random.default_rng(5)
    q, k, v = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(2, 2, 6, 3)), rng.normal(size=(2, 2, 6, 3))
    hidden = np.arange(6) >= np.array([4, 5])[:, None]
    added = np.where(hidden, -np.inf, rng.normal(size=(2, 6)))[:, None, None, :]
    by_length = Mask(key_lengths=np.array([4, 5]))
    for mask in (by_length, Mask(array=added), by_length._replace(soft_cap=2.0)):
        results = []
        for held in (0.0, np.nan):
            for array in (k, v):
                array.swapaxes(1, 2)[hidden] = held
            y, saved = op.forward(q, k, v, mask)
            dy = cotangent(y)
            with np.errstate(invalid="ignore"):
                results.append((y, *op.gradients(dy, saved).values()))
        for subject, zeros, nans in zip(("y", "dq", "dk", "dv"), *results, strict=True):
            yield measured(name, "", f"{subject} beside hidden NaN", relative_error(nans, zeros), SAME)
        for subject, gradient in zip(("dk", "dv"), results[1][2:], strict=True):
            gone = not gradient.swapaxes(1, 2)[hidden].any()
            yield check_that(name, f"{subject} of a hidden key is zero", gone)


def _large_scores() -> Iterator[Result]:
    rng = np.random.default_rng(5)
    q, k, v = 60.0 * rng.normal(size=(2, 4, 5, 3)), 60.0 * rng.normal(size=(2, 2, 6, 3)), rng.normal(size=(2, 2, 6, 3))
    seen = rng.random((2, 4, 5, 6)) < 0.6
    seen[0, 0, 0] = False  # a query that sees no key
    results = []
    for name in OPS:
        y, saved = REGISTRY[name].forward(q, k, v, Mask(array=seen))
        results.append((y, *REGISTRY[name].gradients(cotangent(y), saved).values()))
    for subject, ours, theirs in zip(("y", "dq", "dk", "dv"), *results, strict=True):
        yield measured("fused_attention", "", f"{subject} beside attention", relative_error(ours, theirs), 1e-9)


def _module(implementation: Implementation, **parts: Any) -> MultiHeadAttention:
    """4 query heads and 2 key/value heads of width 6, of a stream of width 8."""
    parts |= {name: RMSNorm(6, 0.1) for name in ("q_norm", "k_norm")}
    module = MultiHeadAttention(8, 4, 2, head_dim=6, implementation=implementation, **parts).to(dtype=np.float64)
    randomize(module)
    return module


def _prepared(implementation: Implementation) -> Iterator[Result]:
    """Weigh the values by the weights: that must be the output."""
    module, x = _module(implementation, rotary=RotaryPosition(6)), np.random.default_rng(5).normal(size=(2, 5, 8))
    mask = Mask(causal=True, window=3)
    y, weights = module.eval().forward_with_weights(x, None, mask)
    values = x @ module.in_weight.data[36:].T + module.in_bias.data[36:]
    heads = [weights[:, h] @ values[..., 6 * (h // 2) : 6 * (h // 2 + 1)] for h in range(4)]
    weighed = np.concatenate(heads, axis=-1) @ module.out_weight.data.T + module.out_bias.data
    yield measured("MultiHeadAttention", implementation, "weights that were used", relative_error(y, weighed), SAME)
    yield measured("MultiHeadAttention", implementation, "y", relative_error(module(x, mask=mask), weighed), SAME)


def _norms(implementation: Implementation) -> Iterator[Result]:
    module, rng = _module(implementation), np.random.default_rng(5)
    x, direction, dy = rng.normal(size=(3, 2, 5, 8))
    module(x, mask=Mask(causal=True))
    slope = (module.backward(dy)[0] * direction).sum()
    above, below = (module.eval()(x + step * direction, mask=Mask(causal=True)) for step in (1e-5, -1e-5))
    wanted = ((above - below) * dy).sum() / 2e-5
    yield measured("MultiHeadAttention", implementation, "slope", abs(slope - wanted) / abs(wanted), 1e-7)


def attention_probes(seed: int) -> Iterator[Probe]:
    """Probes of values that are no finite numbers, the same for the same seed."""
    for number in range(4):
        yield Probe(f"weighted_sum {number}", partial(_run_weighted_sum, [seed, 14, number]))


def _run_weighted_sum(seed: list[int]) -> Any:
    weights, values = _wild(np.random.default_rng(seed), np.float32 if seed[-1] % 2 else np.float64)
    return weighted_sum(weights, values), weighted_sum(weights, np.nan_to_num(values, posinf=3.0, neginf=2.0))
