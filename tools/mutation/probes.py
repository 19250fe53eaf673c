"""Probes: what a mutant must compute alike, before it is called equivalent.

They are none of the cases the checks run on. Shapes, options, masks and sizes of numbers are drawn at random, from
other ranges: single rows and keys, wide and narrow heads, scores that overflow an exponential, float32 beside float64,
arrays laid out by columns. Each probe returns everything a caller can see: outputs, gradients, attention weights,
parameters after a step.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.attention import NO_MASK, Mask
from compyute_transformer.ops.loss import IGNORE_INDEX
from compyute_transformer.ops.multi_head import attention_weights
from compyute_transformer.random import DROPOUT, RandomKey
from compyute_transformer.verify.record import Op, cast, cotangent, map_arrays
from compyute_transformer.verify.registry import REGISTRY

from .sources import poisoned

__all__ = ["Probe", "op_probes"]

Rng = np.random.Generator
Draws = Callable[[Rng, int], dict[str, Any]]  # arguments of an op, from a generator and the number of the probe
PROBES = 40  # of each op
TOLERANCES = {"float64": 1e-13, "float32": 1e-6}


@dataclass(frozen=True)
class Probe:
    """One call and its results: arrays, or the name of the error it ended in.

    magnifies: how much larger than a rounding of its inputs the rounding of its results may be.
    """

    name: str
    call: Callable[[], Any]
    magnifies: float = 1.0

    def run(self) -> list[Any]:
        """Every array of the results."""
        found: list[Any] = []
        try:
            with poisoned(), use_kernels("reference"), np.errstate(all="ignore"):
                map_arrays(lambda array: found.append(np.array(array)), self.call())
        except Exception as error:  # a mutant may raise anything, and that too is a difference
            return [type(error).__name__]
        return found

    def agrees(self, wanted: list[Any]) -> bool:
        """Whether it gives these results now: shapes, dtypes and errors, and numbers to 1e-13 of the largest of all.

        In float32 to 1e-6. Both times `magnifies`. Of all: a gradient that is zero but for rounding may round anew.
        """
        found = self.run()
        size = self.magnifies * max(map(_largest, wanted), default=0.0)
        return len(found) == len(wanted) and all(_same(a, b, size) for a, b in zip(found, wanted, strict=True))


def _largest(result: Any) -> float:
    if isinstance(result, str) or result.dtype.kind != "f":
        return 0.0
    return float(np.abs(result[np.isfinite(result)]).max(initial=0.0))


def _same(a: Any, b: Any, size: float) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return bool(isinstance(a, str) and isinstance(b, str) and a == b)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a, b, rtol=0.0, atol=TOLERANCES[a.dtype.name] * size, equal_nan=True))


# --- ops -------------------------------------------------------------------------------------------------------------


def op_probes(seed: int) -> Iterator[Probe]:
    """Probes of every op of the registry, the same for the same seed."""
    for index, (name, op) in enumerate(REGISTRY.items()):
        kind = "multi_head" if name.endswith("multi_head") else name
        draw: Draws = DRAWS.get(kind, partial(_of_a_case, op))
        for number in range(PROBES):
            rng = np.random.default_rng([seed, 6, index, number])
            dtype = np.float32 if number % 4 == 3 else np.float64
            arguments = cast(draw(rng, number), dtype)
            if number % 3 == 2:
                arguments = map_arrays(_by_columns, arguments)
            magnifies = 1000.0 if _size(number) > 1.0 and "attention" in name else 1.0
            yield Probe(f"{name} {number}", partial(_run_op, op, arguments), magnifies)


def _run_op(op: Op, arguments: dict[str, Any]) -> Any:
    given = map_arrays(np.copy, arguments)
    y, saved = op.forward(**given)
    dy = cotangent(y, 7)
    once, again = op.backward(dy, saved), op.backward(dy, saved)  # a backward must leave what was saved as it is
    weights = attention_weights(saved) if op.name.endswith("multi_head") else None
    short = getattr(sys.modules[op.forward.__module__], op.name, None)
    alone = None if short is None else short(**given)
    return y, alone, weights, _tuple(once), _tuple(again), np.array(_bytes(given) == _bytes(arguments))


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _bytes(value: Any) -> list[bytes]:
    found: list[bytes] = []
    map_arrays(lambda array: found.append(array.tobytes()), value)
    return found


def _by_columns(array: Array) -> Array:
    return np.asfortranarray(array).reshape(array.shape)


def _size(number: int) -> float:
    """Of the inputs: one, small, or so large that an exponential overflows unless its argument is shifted."""
    return 40.0 if number % 10 == 6 else 0.01 if number % 10 == 3 else 1.0


def _of_a_case(op: Op, rng: Rng, number: int) -> dict[str, Any]:
    """For an op without a draw of its own: the inputs of one of its cases, with other numbers in the float arrays."""

    def other(array: Array) -> Array:
        return rng.normal(size=array.shape) * _size(number) if array.dtype.kind == "f" else array

    return map_arrays(other, op.cases[number % len(op.cases)].arguments())


def _rows(rng: Rng) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, 6, rng.integers(0, 4)))


def _embedding(rng: Rng, number: int) -> dict[str, Any]:
    V, C = rng.integers(1, 9, 2)
    return {"ids": np.asarray(rng.integers(0, V, _rows(rng))), "weight": rng.normal(size=(V, C))}


def _patch_embedding(rng: Rng, number: int) -> dict[str, Any]:
    P, channels, high, wide, C, B = (int(n) for n in rng.integers(1, 5, 6))
    return {
        "images": rng.normal(size=(B, P * high, P * wide, channels)),
        "weight": rng.normal(size=(C, P * P * channels)),
        "bias": rng.normal(size=C) if number % 3 else None,
        "patch_size": P,
    }


def _class_token(rng: Rng, number: int) -> dict[str, Any]:
    B, N, C = rng.integers(1, 7, 3)
    return {"x": rng.normal(size=(B, N, C)), "weight": rng.normal(size=C)}


def _learned(rng: Rng, number: int) -> dict[str, Any]:
    B, T, C, start, rest = (int(n) for n in rng.integers(1, 7, 5))
    given = {"x": rng.normal(size=(B, T, C)), "weight": rng.normal(size=(start + T + rest - 1, C))}
    return given | ({"start": start} if number % 2 else {})


def _sinusoidal(rng: Rng, number: int) -> dict[str, Any]:
    B, T, C, start = (int(n) for n in rng.integers(1, 12, 4))
    return {"x": rng.normal(size=(B, T, C))} | ({"start": start * 50} if number % 2 else {})


def _linear(rng: Rng, number: int) -> dict[str, Any]:
    inputs, outputs = rng.integers(1, 9, 2)
    bias = rng.normal(size=outputs) if number % 3 else None
    return {"x": rng.normal(size=(*_rows(rng), inputs)), "weight": rng.normal(size=(outputs, inputs)), "bias": bias}


def _layer_norm(rng: Rng, number: int) -> dict[str, Any]:
    C = int(rng.integers(2, 9))
    given = {
        "x": rng.normal(size=(*_rows(rng), C)) * _size(number) + rng.normal(),
        "weight": rng.normal(size=C),
        "bias": rng.normal(size=C) if number % 3 else None,
    }
    return given | ({"eps": float(rng.choice([1e-5, 1e-2, 1.0]))} if number % 2 else {})


def _rms_norm(rng: Rng, number: int) -> dict[str, Any]:
    C = int(rng.integers(2, 9))
    given = {"x": rng.normal(size=(*_rows(rng), C)) * _size(number), "weight": rng.normal(size=C)}
    return given | ({"eps": float(rng.choice([1e-5, 1e-2, 1.0]))} if number % 2 else {})


def _rotary(rng: Rng, number: int) -> dict[str, Any]:
    B, H, T, P, rest = (int(n) for n in rng.integers(1, 5, 5))
    given = {"x": rng.normal(size=(B, H, T, 2 * P + rest - 1))}
    given |= {"cos": rng.normal(size=(T, P)), "sin": rng.normal(size=(T, P))}
    return given | ({"interleaved": bool(rng.random() < 0.5)} if number % 3 else {})


def _silu(rng: Rng, number: int) -> dict[str, Any]:
    return {"x": np.asarray(rng.normal(size=_rows(rng)) * _size(number))}


def _gated(rng: Rng, number: int) -> dict[str, Any]:
    rows = _rows(rng)
    given = {"gate": np.asarray(rng.normal(size=rows) * _size(number)), "up": np.asarray(rng.normal(size=rows))}
    return given | ({"activation": str(rng.choice(["silu", "gelu", "gelu_tanh"]))} if number % 3 else {})


def _relu(rng: Rng, number: int) -> dict[str, Any]:
    x = np.asarray(rng.normal(size=_rows(rng)))
    return {"x": np.where(rng.random(x.shape) < 0.2, 0.0, x)}  # and the kink itself


def _gelu(rng: Rng, number: int) -> dict[str, Any]:
    given = {"x": np.asarray(rng.normal(size=_rows(rng)) * _size(number))}
    return given | ({"approximate": str(rng.choice(["tanh", "none"]))} if number % 3 else {})


def _softmax(rng: Rng, number: int) -> dict[str, Any]:
    x = rng.normal(size=(*_rows(rng), int(rng.integers(1, 8)))) * 30 * _size(number)
    if number % 2:
        x = np.where(rng.random(x.shape) < 0.5, -np.inf, x)
    return {"x": x}


def _dropout(rng: Rng, number: int) -> dict[str, Any]:
    shape = tuple(int(n) for n in rng.integers(1, 8, rng.integers(1, 5)))
    probability = float(rng.choice([0.0, 0.001, 0.5, 0.9]))
    return {"x": rng.normal(size=shape), "probability": probability, "key": RandomKey(11, DROPOUT, number)}


def _cross_entropy(rng: Rng, number: int) -> dict[str, Any]:
    V, rows = int(rng.integers(2, 9)), _rows(rng)
    targets = np.asarray(rng.integers(0, V, rows))
    ignore = IGNORE_INDEX if number % 2 else int(rng.integers(0, V))
    targets = np.where(rng.random(rows) < (1.0 if number == 5 else 0.3), ignore, targets)
    given = {"logits": rng.normal(size=(*rows, V)) * 30 * _size(number), "targets": np.asarray(targets)}
    options = {"ignore_index": ignore, "label_smoothing": float(rng.choice([0.0, 0.2, 0.7]))}
    return given | ({"ignore_index": ignore} if number % 3 == 0 else options if number % 3 == 1 else {})


def _mask(rng: Rng, B: int, H: int, T: int, S: int) -> Mask:
    """Any of the flags, and either kind of array in any of the shapes that fit."""
    array = None
    if rng.random() < 0.6:
        full = (B, H, T, S)
        shape = full[2:] if rng.random() < 0.3 else tuple(n if rng.random() < 0.6 else 1 for n in full)
        array = rng.random(shape) < 0.7
        if rng.random() < 0.5:
            array = np.where(array, rng.normal(size=shape), -np.inf)
    return Mask(
        causal=bool(rng.random() < 0.5),
        window=int(rng.integers(1, S + 2)) if rng.random() < 0.4 else None,
        key_lengths=rng.integers(0, S + 1, B) if rng.random() < 0.4 else None,
        array=array,
    )


def _heads(rng: Rng) -> tuple[int, int]:
    H, K = ((1, 1), (2, 1), (2, 2), (4, 2), (5, 5), (6, 3), (6, 2))[int(rng.integers(7))]
    return H, K


def _attention(rng: Rng, number: int) -> dict[str, Any]:
    (H, K), (B, T, S, D) = _heads(rng), (int(n) for n in rng.integers(1, 8, 4))
    size = _size(number)
    given = {
        "q": rng.normal(size=(B, H, T, D)) * size,
        "k": rng.normal(size=(B, K, S, D)) * size,
        "v": rng.normal(size=(B, K, S, D)),
    }
    if number % 4 == 0:
        return given
    return given | {"mask": _mask(rng, B, H, T, S) if number % 4 != 1 else NO_MASK, **_drops(rng, number)}


def _multi_head(rng: Rng, number: int) -> dict[str, Any]:
    (H, K), (B, T, S, D, C) = _heads(rng), (int(n) for n in rng.integers(1, 8, 5))
    cross, width = bool(number % 2), (H + 2 * K) * D
    given = {
        "x": rng.normal(size=(B, T, C)),
        "memory": rng.normal(size=(B, S, C)) if cross else None,
        "in_weight": rng.normal(size=(width, C)) * C**-0.5,
        "in_bias": rng.normal(size=width) if rng.random() < 0.6 else None,
        "out_weight": rng.normal(size=(C, H * D)),
        "out_bias": rng.normal(size=C) if rng.random() < 0.6 else None,
        "num_heads": H,
    }
    if number % 4 == 0 and K == H:
        return given
    return given | {"num_kv_heads": K, "mask": _mask(rng, B, H, T, S if cross else T), **_drops(rng, number)}


def _drops(rng: Rng, number: int) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {}
    return {
        "dropout": float(rng.choice([0.0, 0.001, 0.2, 0.7])),
        "key": RandomKey(13, DROPOUT, number, int(rng.integers(3))),
    }


DRAWS: dict[str, Draws] = {
    "embedding": _embedding,
    "patch_embedding": _patch_embedding,
    "class_token": _class_token,
    "learned_position": _learned,
    "sinusoidal_position": _sinusoidal,
    "linear": _linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rotary_position": _rotary,
    "silu": _silu,
    "gated_activation": _gated,
    "relu": _relu,
    "gelu": _gelu,
    "softmax": _softmax,
    "dropout": _dropout,
    "attention": _attention,
    "fused_attention": _attention,
    "multi_head": _multi_head,
    "cross_entropy": _cross_entropy,
}
