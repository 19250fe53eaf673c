"""The keys and values of what has been read, so that a further token costs one position instead of all of them.

    keys, values    (layer, B, K, capacity, D), allocated once; the first `length` positions are filled
    a step writes position `length` of every block, attends to views of what is filled, and then advances `length`

Nothing is copied but the new position. With a sliding window a block is handed only the positions that the window
reaches. `length` advances once all blocks have been through: a step that was interrupted can be repeated.
"""

from typing import Any

from ..backend import Array, array_module
from ..errors import DtypeError, RangeError, ShapeError
from ..models.gpt import GPT

__all__ = ["BlockCache", "KeyValueCache"]


class KeyValueCache:
    """What a model has read: room for `capacity` positions of B rows.

    length: how many positions are filled. padding: (B) integers, how many positions at the start of each row are no
    text (prompts of different lengths stand flush right), or None for none. blocks: one `BlockCache` a block.
    """

    def __init__(self, model: GPT, batch_size: int = 1, capacity: int | None = None) -> None:
        config = model.config
        capacity = config.context_length if capacity is None else capacity
        if batch_size < 1 or not 1 <= capacity <= config.context_length:
            raise RangeError(
                "KeyValueCache: at least one row, and a capacity from 1 to the context length "
                f"{config.context_length}, got {batch_size} rows and capacity {capacity}."
            )
        weight = model.token_embedding.weight.data
        num_kv_heads, D = config.num_kv_heads or config.num_heads, config.embed_dim // config.num_heads
        shape = (config.num_layers, batch_size, num_kv_heads, capacity, D)
        keys, values = (array_module(weight).empty(shape, dtype=weight.dtype) for _ in range(2))
        self.batch_size, self.capacity = batch_size, capacity
        self.length = 0
        self.padding: Array | None = None
        self.blocks = [BlockCache(self, k, v, config.window) for k, v in zip(keys, values, strict=True)]

    def clear(self, padding: Array | None = None) -> None:
        """Forget what was read. padding: of what will be read."""
        self.length, self.padding = 0, padding

    def advance(self, count: int) -> None:
        """Count positions that every block has been given."""
        self.length += count


class BlockCache:
    """One block's part of a `KeyValueCache`: keys and values, (B, K, capacity, D) each."""

    def __init__(self, whole: KeyValueCache, keys: Array, values: Array, window: int | None) -> None:
        self._whole, self._keys, self._values, self._window = whole, keys, values, window

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Put k and v (B, K, T, D) behind what is there; returns views (B, K, S, D) of all that their queries may see.

        S is the number of positions filled, or the window − 1 + T that the window reaches, if fewer.

        Raises ShapeError for another batch, other heads or another width, DtypeError for another dtype, RangeError for
        more positions than there is room for.
        """
        self._check(k, v)
        start, T = self._whole.length, k.shape[2]
        end = start + T
        self._keys[:, :, start:end] = k
        self._values[:, :, start:end] = v
        first = 0 if self._window is None else max(0, end - (self._window - 1 + T))
        return self._keys[:, :, first:end], self._values[:, :, first:end]

    def _check(self, *given: Any) -> None:
        B, K, capacity, D = self._keys.shape
        start = self._whole.length
        for array in given:
            if (*array.shape[:2], *array.shape[3:]) != (B, K, D) or array.shape != given[0].shape:
                raise ShapeError(
                    f"BlockCache: keys and values have shape ({B}, {K}, T, {D}), got {tuple(array.shape)}. "
                    "Make a cache for this model and batch: KeyValueCache(model, batch_size)."
                )
            if array.dtype != self._keys.dtype:
                raise DtypeError(f"BlockCache: keys and values are {self._keys.dtype}, got {array.dtype}.")
            if start + array.shape[2] > capacity:
                raise RangeError(
                    f"BlockCache: the cache has room for {capacity} positions, got {array.shape[2]} after {start}. "
                    "Clear it and read the last of the text again: `window_start` says from where."
                )
