"""Summary: parameters, bytes, floating-point operations, and memory kept for the backward, a line for each layer.

    print(model.summary())

A forward of one example is run and observed, so the numbers are those of the model as it is: its attention's algorithm,
its dtype, its dropout. Operations are those of matrix products, two for each multiplication and addition; of
elementwise work there is so little that it is not counted, as in torch.utils.flop_counter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import ConfigError
from ..nn import Linear, Module, ModuleList, MultiHeadAttention, Observer, PatchEmbedding, observe
from .registry import record_of

__all__ = ["Layer", "Summary", "summarize"]


class Layer(NamedTuple):
    """A line of a summary. path: of the module. parameters: those not counted before. nbytes: of these.

    flops: of a forward of one example. saved: bytes that the forward keeps for the backward, shared arrays counted by
    the first layer that keeps them.
    """

    path: str
    kind: str
    parameters: int
    nbytes: int
    flops: int
    saved: int


@dataclass(frozen=True)
class Summary:
    """The layers of a model, in the order of its parts. example: what was read. tokens: how many positions that is."""

    model: str
    layers: tuple[Layer, ...]
    example: str
    tokens: int

    @property
    def total(self) -> Layer:
        """The sum of all lines."""
        columns = [sum(column) for column in zip(*(layer[2:] for layer in self.layers), strict=True)]
        return Layer("total", self.model, *columns)

    @property
    def flops_per_token(self) -> float:
        """The operations of a forward for each position of the example."""
        return self.total.flops / self.tokens

    def __str__(self) -> str:
        head = ("layer", "module", "parameters", "bytes", "FLOPs a token", "kept for backward")
        rows: list[tuple[str, ...]] = [head]
        for layer in (*self.layers, self.total):
            numbers = (layer.parameters, layer.nbytes, round(layer.flops / self.tokens), layer.saved)
            rows.append((layer.path, layer.kind, *(f"{number:,}" for number in numbers)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(_aligned, row, widths, range(len(row)))) for row in rows]
        rule = "-" * len(lines[0])
        lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        note = f"One forward of {self.example}; a step of training takes about three times the operations."
        return "\n".join([*(line.rstrip() for line in lines), note])


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def summarize(model: Any, depth: int = 1) -> Summary:
    """Return the summary of a model of the registry.

    depth: how far the parts of parts have lines of their own: 1 for a line a block, 2 for its attention and
    feed-forward.

    Raises:
        ConfigError: a model that no record names, or a depth below 1.
    """
    if depth < 1:
        raise ConfigError(f"{type(model).__name__}.summary: depth is at least 1, got {depth}. 1 is a line a block.")
    record = record_of(model)
    inputs, _ = record.batch(model.config, np.random.default_rng(0), 1)
    dtype = next(model.parameters()).dtype
    inputs = tuple(x.astype(dtype) if x.dtype.kind == "f" else x.copy() for x in inputs)
    counter = _observed(model, inputs)
    seen: set[int] = set()
    layers = []
    for path, module, is_whole in _lines(model, depth):
        parts = dict(module.named_modules(path)) if is_whole else {path: module}
        of_parts = set() if is_whole else {id(p) for part in module.children() for p in part.parameters()}
        own = [p for p in module.parameters() if id(p) not in seen | of_parts]
        seen |= {id(p) for p in own}
        layer = Layer(
            path or "(itself)",
            type(module).__name__ if is_whole else f"{type(module).__name__}, itself",
            sum(p.size for p in own),
            sum(p.data.nbytes for p in own),
            sum(counter.flops.get(part, 0) for part in parts),
            sum(counter.saved.get(part, 0) for part in parts),
        )
        if is_whole or any(layer[2:]):
            layers.append(layer)
    return Summary(type(model).__name__, tuple(layers), *_example(record.task, inputs, counter.positions))


def _example(task: str, inputs: tuple[Array, ...], positions: int) -> tuple[str, int]:
    """Return what the example is, in words, and its number of positions."""
    if task in ("language", "masked"):
        return f"a text of {inputs[0].shape[1]} tokens", inputs[0].shape[1]
    if task == "translation":
        S, T = inputs[0].shape[1], inputs[1].shape[1]
        return f"a source of {S} and a target of {T} tokens", S + T
    return f"an image of {positions} positions", positions


def _lines(module: Module, depth: int, path: str = "") -> Iterator[tuple[str, Module, bool]]:
    """Yield the modules that may have a line, with their paths, and whether their parts have none of their own.

    A list of modules has no line, but its entries have. What a module itself computes and keeps has one beside those of
    its parts.
    """
    yield path, module, False
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, ModuleList):
            yield from _lines(child, depth, inner)
        elif depth > 1 and list(child.children()):
            yield from _lines(child, depth - 1, inner)
        else:
            yield inner, child, True


# --- the forward that is counted -----------------------------------------------------------------------------------


class _Counter(Observer):
    """Counts operations and bytes kept, by the path of the module that calls for them."""

    def __init__(self, model: Module) -> None:
        self.flops: dict[str, int] = {}
        self.saved: dict[str, int] = {}
        self.positions = 0  # of the residual stream of the first attention
        self._known: dict[int, Any] = {id(_owner(p.data)): _owner(p.data) for p in model.parameters()}
        self._depths: dict[int, int] = {}

    def before(self, path: str, module: Module, phase: Any, inputs: Any, keywords: Any) -> None:
        """Note how much the module keeps already."""
        self._depths[id(module)] = len(module._saved)

    def after(self, path: str, module: Module, phase: Any, inputs: Any, output: Any, keywords: Any) -> None:
        """Count what the module computed and kept."""
        count = next((count for kind, count in FLOPS.items() if isinstance(module, kind)), None)
        if count is not None:
            self.flops[path] = self.flops.get(path, 0) + count(module, *inputs)
        if isinstance(module, MultiHeadAttention) and not self.positions:
            self.positions = inputs[0].shape[1]
        for array in _arrays(module._saved[self._depths[id(module)] :]):
            owner = _owner(array)
            if id(owner) not in self._known:
                self._known[id(owner)] = owner  # the reference keeps the id from being given to another array
                self.saved[path] = self.saved.get(path, 0) + owner.nbytes


def _linear_flops(module: Any, x: Array, *_: Any) -> int:
    rows = x.size // x.shape[-1]
    return 2 * rows * module.weight.size


def _patch_flops(module: Any, images: Array, *_: Any) -> int:
    return 2 * (images.size // module.weight.shape[1]) * module.weight.size


def _attention_flops(module: Any, x: Array, memory: Array | None = None, *_: Any) -> int:
    (B, T, C), H = x.shape, module.num_heads
    D = module.in_weight.shape[0] // (H + 2 * module.num_kv_heads)
    S = T if memory is None else memory.shape[1]
    projections = 2 * B * C * (T * H * D + S * 2 * module.num_kv_heads * D + T * H * D)
    return projections + 2 * (2 * B * H * T * S * D)  # q kᵀ and P v, masked or not


FLOPS: dict[type[Module], Callable[..., int]] = {
    Linear: _linear_flops,
    PatchEmbedding: _patch_flops,
    MultiHeadAttention: _attention_flops,
}


def _observed(model: Any, inputs: tuple[Array, ...]) -> _Counter:
    """Run one forward in training mode under a counter, and leave the model as it was."""
    counter = _Counter(model)
    before = [(module, module._training, len(module._saved)) for module in model.modules()]
    waiting, offset = model._waiting, model.generator.offset
    model.train()
    try:
        with observe(model, counter):
            model.forward(*inputs)
    finally:
        for module, training, kept in before:
            module._training = training
            del module._saved[kept:]
        model._waiting, model.generator.offset = waiting, offset
    return counter


def _owner(array: Any) -> Any:
    """Return the array that owns the memory of a view."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array


def _arrays(value: Any) -> Iterator[Any]:
    """Yield the arrays of nested tuples and lists."""
    if hasattr(value, "nbytes") and hasattr(value, "dtype"):
        yield value
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _arrays(entry)
