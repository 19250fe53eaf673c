"""Quantize: the matrices of a model in int8 or bfloat16, for inference.

    quantize_weights(model, "int8")    # the embedding of tokens, the projections of attention, all Linear layers

A matrix that two modules share is quantized once. Norms, biases and learned positions are few numbers and stay as they
are, and so do, in int8, matrices whose rows are no groups of 32 numbers. See `ops.quantized`.
"""

from collections.abc import Iterator
from math import prod
from mmap import mmap
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import DtypeError
from ..ops.quantized import GROUP, QuantizedWeight, Weights, check_weights, is_quantized, quantize
from .attention import MultiHeadAttention
from .embedding import Embedding
from .linear import Linear
from .module import Module
from .parameter import Parameter

__all__ = ["lay_together", "matrices_of", "quantize_weights"]

LINE, LARGE_PAGE = 64, 1 << 21  # bytes


def matrices_of(model: Module) -> Iterator[Parameter]:
    """Yield the parameters that may be quantized, each once."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            own = [module.in_weight, module.out_weight]
        else:
            own = [module.weight] if isinstance(module, Linear | Embedding) else []
        for parameter in own:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter


def quantize_weights(model: Module, weights: Weights) -> None:
    """Hold the matrices of a model in int8 or bfloat16, and put the model into `eval()`. What was float32 is freed.

    Raises:
        RangeError: an unknown kind of weights. DtypeError: the model is not float32 on a CPU.
    """
    check_weights("quantize_weights", weights)
    if not is_plain(model):
        raise DtypeError(
            "quantize_weights: a model in float32 on the CPU is quantized, got another. Call model.to('cpu', "
            "numpy.float32) first."
        )
    model.eval()
    matrices = {id(parameter) for parameter in matrices_of(model)}
    matrices -= {id(parameter) for parameter in model.parameters() if is_quantized(parameter.data)}
    memory = _Memory(sum(_bytes(p.shape, weights) for p in model.parameters() if id(p) in matrices))
    for parameter in model.parameters():
        if id(parameter) in matrices:
            replace_data(parameter, memory.hold(quantize(parameter.data, weights)))
        if parameter.place is not None:  # the others leave the buffer, whose memory is freed with the last of them
            replace_data(parameter, np.array(parameter.data))
    for module in model.modules():
        module._flat = None


def lay_together(model: Module) -> None:
    """Move the quantized matrices of a model into one piece of memory; those that lie in a file stay there."""
    own = {id(p.data): p.data for p in model.parameters() if is_quantized(p.data) and not _is_mapped(p.data.values)}
    memory = _Memory(sum(_bytes(weight.shape, weight.kind) for weight in own.values()))
    moved = {key: memory.hold(weight) for key, weight in own.items()}
    for parameter in model.parameters():
        parameter.data = moved.get(id(parameter.data), parameter.data)


class _Memory:
    """One piece of memory for several quantized matrices.

    The system gives large pages to a piece of some size only, and a matrix in few bits is smaller: reading it, the
    processor has to look up where each 4 KB lie. A token of GPT-2's shape in bfloat16 and int8 took 9.3 and 5.7 ms, and
    takes 8.2 and 5.1 (2 cores of a Zen 4, 2026-11-29).
    """

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + LARGE_PAGE if size else 0, np.uint8)
        self.at = -self.memory.ctypes.data % LARGE_PAGE

    def hold(self, weight: Any) -> Any:
        """Return a quantized weight that lies here, with the numbers of the one given; another one as it is."""
        if not is_quantized(weight):
            return weight
        values, scales = weight.values, weight.scales
        return QuantizedWeight(self._copy(values), None if scales is None else self._copy(scales))

    def _copy(self, array: Array) -> Array:
        place: Array = self.memory[self.at : self.at + array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        self.at += _room(array.nbytes)
        return place


def _bytes(shape: tuple[int, ...], weights: Weights) -> int:
    """Return how many bytes a matrix takes in few bits, in whole lines of the cache."""
    size = prod(shape)
    return _room(2 * size) if weights == "bfloat16" else _room(size) + _room(4 * (size // GROUP))


def _room(nbytes: int) -> int:
    return -(-nbytes // LINE) * LINE


def _is_mapped(array: Any) -> bool:
    """Return whether an array lies in a file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return isinstance(array, mmap)


def is_plain(model: Module) -> bool:
    """Return whether all parameters are float32 on the CPU."""
    return model.device == "cpu" and all(parameter.dtype == np.float32 for parameter in model.parameters())


def replace_data(parameter: Parameter, data: object) -> None:
    """Give a parameter other data, outside any buffer; quantized ones are frozen."""
    parameter.data, parameter.grad, parameter.place = data, None, None  # type: ignore[assignment]
    if is_quantized(data):
        parameter.requires_grad = False
