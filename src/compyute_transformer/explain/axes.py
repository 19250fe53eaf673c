"""Axes: the letter of each axis of an array (B T C H ...), from the signature of its op and the sizes of the model."""

import typing
from typing import Any

import numpy as np

from .sources import plain_function
from .trace import Trace

__all__ = ["Sizes", "letters", "sizes_of", "spec_of"]

Sizes = dict[str, int]
LEADING: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("B",),
    2: ("B", "T"),
    3: ("B", "H", "T"),
    4: ("B", "H", "T", "S"),
}


def sizes_of(traced: Trace) -> Sizes:
    """Return the sizes of a model and its input, by the letters of `docs/notation.md`."""
    config = getattr(traced.model, "config", None)
    found = {"B": traced.logits.shape[0], "V": traced.logits.shape[-1]}
    if traced.logits.ndim == 3:
        found["T"] = traced.logits.shape[1]
    if "source" in traced.inputs:
        found["S"] = traced.inputs["source"].shape[1]
    width = getattr(config, "embed_dim", None)
    if width and config is not None:
        heads = config.num_heads
        keys = getattr(config, "num_kv_heads", None) or heads
        found |= {"C": width, "H": heads, "K": keys, "D": width // heads}
        found["F"] = getattr(config, "mlp_dim", None) or 4 * width
        found["(H+2K)D"] = (heads + 2 * keys) * found["D"]
    return found


def spec_of(op: Any, name: str) -> str:
    """Return how the signature of an op writes the axes of an argument, or of "y"; "" where it does not."""
    try:
        hints = typing.get_type_hints(plain_function(op))
    except (NameError, TypeError):
        return ""
    hint = hints.get("return" if name == "y" else name)
    for part in (hint, *typing.get_args(hint)):
        spec = getattr(part, "dim_str", None)
        if isinstance(spec, str):
            return spec
    return ""


def letters(array: np.ndarray, spec: str, sizes: Sizes, encoder: bool = False) -> list[str]:
    """Return a letter for each axis. encoder: whether the positions are those of the source, S."""
    names: list[str] = []
    given = ["*rows", "I"] if spec in ("*shape", "") and array.ndim and array.dtype.kind == "f" else spec.split()
    for place, token in enumerate(given):
        if token.startswith(("*", "...")):
            extra = array.ndim - (len(given) - 1)
            names += [*LEADING.get(extra, tuple(f"axis{i}" for i in range(max(extra, 0))))][: max(extra, 0)]
        elif place < len(given):
            names.append(token)
    if len(names) != array.ndim:
        names = list(LEADING.get(array.ndim, tuple(f"axis{i}" for i in range(array.ndim))))
    found = [_resolve(name, n, sizes) for name, n in zip(names, array.shape, strict=True)]
    return ["S" if encoder and name == "T" else name for name in found]


def _resolve(name: str, size: int, sizes: Sizes) -> str:
    """Return a letter whose size is known and right, for one that only counts inputs and outputs of an op."""
    if name not in ("I", "O", "W", "HD", "C"):
        return name
    return next((letter for letter in ("C", "F", "V", "(H+2K)D") if sizes.get(letter) == size), name)
