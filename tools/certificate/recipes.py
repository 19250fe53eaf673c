"""Example inputs written as data, so that whoever holds a certificate can draw them again without the library.

A case of the registry is a function that draws; its recipe says in JSON what came: shapes, spreads, masks, options.

    {"x": {"normal": [2, 3, 5], "mean": 1.0, "std": 2.0}, "bias": null, "eps": 1e-05,
     "ids": {"integers": [[4, 0], [0, 2]]}, "key": {"key": [2024, 1, 5, 0]},
     "mask": {"mask": {"causal": true, "window": 3, "key_lengths": null, "array": {"true": [0, 7], "shape": [5, 7]}}}}

    normal       mean + std · z, z = numpy.random.default_rng([seed, 0, crc32(name)]).normal(size=shape), in float64
    gap          moved away from zero by so much, on its own side: x + copysign(gap, x); ReLU's inputs
    minus_inf    then set to −inf at these places of the flattened array
    integers     the numbers themselves. true: where the flattened boolean array is true
    draw         seed, stream, offset and head of random.RandomKey

The name of a mask's array is "mask". Numbers drawn from a recipe are not those of its case, but of its kind.
"""

from functools import partial
from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.ops.attention import Mask
from compyute_transformer.random import RandomKey
from compyute_transformer.verify.record import Arguments, Case
from compyute_transformer.verify.slopes import INPUT, draw

__all__ = ["Recipe", "case_of", "describe", "prepare"]

Recipe = dict[str, Any]


def describe(arguments: Arguments) -> Recipe:
    """Return the recipe of arguments."""
    return {name: _describe(name, value) for name, value in arguments.items()}


def prepare(recipe: Recipe, seed: int) -> Arguments:
    """Return arguments by a recipe, in float64."""
    return {name: _prepare(name, value, seed) for name, value in recipe.items()}


def case_of(case: Case, seed: int) -> tuple[Recipe, Case]:
    """Return the recipe of a case, and the case that draws by it."""
    recipe = describe(case.arguments(seed))
    return recipe, Case(case.name, partial(_drawn, recipe, seed))


def _drawn(recipe: Recipe, seed: int, rng: object) -> Arguments:
    return prepare(recipe, seed)  # a recipe has generators of its own


def _describe(name: str, value: Any) -> Any:
    if isinstance(value, Mask):
        return {"mask": {name: _describe("", each) for name, each in value._asdict().items()}}
    if isinstance(value, RandomKey):
        return {"key": list(value)}
    return _describe_array(name, value) if isinstance(value, np.ndarray) else value


def _describe_array(name: str, array: Array) -> Recipe:
    if array.dtype.kind == "b":
        return {"true": np.flatnonzero(array).tolist(), "shape": list(array.shape)}
    if array.dtype.kind in "iu":
        return {"integers": array.tolist()}
    finite = array[np.isfinite(array)]
    recipe: Recipe = {"normal": list(array.shape)}
    recipe |= {"mean": _short(float(finite.mean())), "std": _short(float(finite.std())) or 1.0}
    if np.abs(finite).min() >= 0.5 and finite.min() < 0.0 < finite.max():
        recipe |= {"mean": 0.0, "gap": 0.5}  # by chance only in an array of few numbers, where it does no harm
    hidden = np.flatnonzero(np.isneginf(array))
    return recipe | ({"minus_inf": hidden.tolist()} if hidden.size else {})


def _short(number: float) -> float:
    return float(f"{number:.2g}")


def _prepare(name: str, value: Any, seed: int) -> Any:
    if not isinstance(value, dict):
        return value
    if "mask" in value:
        return Mask(**{name: _prepare("mask", each, seed) for name, each in value["mask"].items()})
    if "key" in value:
        return RandomKey(*value["key"])
    if "integers" in value:
        return np.array(value["integers"])
    if "true" in value:
        seen = np.zeros(value["shape"], dtype=bool)
        seen.reshape(-1)[value["true"]] = True
        return seen
    x = value["mean"] + value["std"] * draw(seed, INPUT, name, tuple(value["normal"]))
    x = x + np.copysign(value.get("gap", 0.0), x)
    x.reshape(-1)[value.get("minus_inf", [])] = -np.inf
    return x
