"""Cache of keys and values, so that a further token costs one position instead of all of them.

    keys, values    (layer, B, K, capacity, D), allocated once; the first `length` positions are filled
    append          a forward writes the positions from `length` on in every block, then the model advances `length`
    truncate        removes the last positions, such as drafted tokens that were rejected
    select          keeps other rows, in another order, some of them twice: the hypotheses that a beam keeps

Nothing is copied but the new position. With a sliding window a block gets only the positions that the window reaches.
`length` advances once all blocks have run, so that an interrupted step can be repeated, and every block of one forward
reads the same `length`.

In a decoder with a memory each block also caches its projection of the memory.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from ..arrays import Array, array_module
from ..errors import DtypeError, RangeError, ShapeError
from ..models.language import LanguageModel
from ..models.transformer import Transformer
from ..nn.attention import ProjectedMemory

__all__ = ["BlockCache", "KeyValueCache"]

Decoder: TypeAlias = LanguageModel | Transformer


class KeyValueCache:
    """The keys and values of all blocks of a model, with room for `capacity` positions of B rows.

    length: how many positions are filled. padding: (B) integers, how many positions at the start of each row hold no
    token (prompts of different lengths are padded on the left), or None for none. blocks: one `BlockCache` a block.
    """

    def __init__(self, model: Decoder, batch_size: int = 1, capacity: int | None = None) -> None:
        config = model.config
        capacity = config.context_length if capacity is None else capacity
        if batch_size < 1 or not 1 <= capacity <= config.context_length:
            raise RangeError(
                "KeyValueCache: at least one row, and a capacity from 1 to the context length "
                f"{config.context_length}, got {batch_size} rows and capacity {capacity}."
            )
        weight = model.token_embedding.weight.data
        num_kv_heads = config.num_kv_heads or config.num_heads
        D = getattr(config, "head_dim", None) or config.embed_dim // config.num_heads
        shape = (config.num_layers, batch_size, num_kv_heads, capacity, D)
        self._keys, self._values = array_module(weight).empty((2, *shape), dtype=weight.dtype)
        self.batch_size, self.capacity = batch_size, capacity
        self.length = 0
        self.padding: Array | None = None
        self.blocks = [BlockCache(self, k, v, model.mask.window) for k, v in zip(self._keys, self._values, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: keys and values of its own, of which its blocks hold views."""
        state = {name: value for name, value in self.__dict__.items() if name != "blocks"}
        blocks = [(block._window, block.memory) for block in self.blocks]
        return state | {"_keys": self._keys.copy(), "_values": self._values.copy(), "blocks": blocks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.blocks = []
        for k, v, (window, memory) in zip(self._keys, self._values, state["blocks"], strict=True):
            block = BlockCache(self, k, v, window)
            block.memory = memory
            self.blocks.append(block)

    @property
    def buffers(self) -> tuple[Array, Array]:
        """Keys and values, (layer, B, K, capacity, D) each: the arrays themselves, until rows are selected."""
        return self._keys, self._values

    def clear(self, padding: Array | None = None) -> None:
        """Remove all positions. padding: that of the rows that will be read."""
        self.length, self.padding = 0, padding
        for block in self.blocks:
            block.memory = None

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions. Raises RangeError for more than there are."""
        if not 0 <= length <= self.length:
            raise RangeError(
                f"KeyValueCache.truncate: length lies in [0, {self.length}], the positions that are filled, got "
                f"{length}."
            )
        self.length = length

    def advance(self, count: int) -> None:
        """Count positions that every block has appended."""
        self.length += count

    def select(self, given: Sequence[int] | Array) -> None:
        """Keep the given rows, in this order; a row may occur twice, and is then copied.

        given: integers in [0, batch_size), at least one; their number is the new batch_size.

        Raises ShapeError for no rows, RangeError for a row that does not exist.
        """
        xp, filled = array_module(self._keys), self.length
        rows: Array = xp.asarray(given)
        if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu":
            raise ShapeError(
                "KeyValueCache.select: rows are a sequence of at least one integer, got an array of shape "
                f"{rows.shape} and {rows.dtype}."
            )
        if rows.min() < 0 or rows.max() >= self.batch_size:
            raise RangeError(f"KeyValueCache.select: rows lie in [0, {self.batch_size}), got {rows}.")
        old = self._keys[:, rows, :, :filled], self._values[:, rows, :, :filled]  # copies, so that none is overwritten
        if rows.size != self.batch_size:
            layers, _, *rest = self._keys.shape
            self._keys, self._values = (xp.empty((layers, rows.size, *rest), self._keys.dtype) for _ in range(2))
            self.batch_size = int(rows.size)
        for now, before in zip((self._keys, self._values), old, strict=True):
            now[..., :filled, :] = before
        self.padding = None if self.padding is None else self.padding[rows]
        for block, keys, values in zip(self.blocks, self._keys, self._values, strict=True):
            block.select(rows, keys, values)


class BlockCache:
    """The part of a `KeyValueCache` that belongs to one block: keys and values, (B, K, capacity, D) each.

    memory: the block's projection of a memory; None before its first forward, and in a block without a memory.
    """

    def __init__(self, whole: KeyValueCache, keys: Array, values: Array, window: int | None) -> None:
        self._whole, self._keys, self._values, self._window = whole, keys, values, window
        self.memory: ProjectedMemory | None = None

    @property
    def length(self) -> int:
        """How many positions were read before the current forward: the position of its first query."""
        return self._whole.length

    def select(self, rows: Array, keys: Array, values: Array) -> None:
        """Keep the given rows, whose keys and values are given; see `KeyValueCache.select`."""
        self._keys, self._values = keys, values
        if self.memory is not None:
            self.memory = ProjectedMemory(self.memory.k[rows], self.memory.v[rows])

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append k and v (B, K, T, D). Return views (B, K, S, D) of the keys and values that their queries attend to.

        S is length + T, or the window − 1 + T that a sliding window reaches, if fewer.

        Raises ShapeError for another batch, other heads or another width, DtypeError for another dtype, RangeError for
        more positions than there is room for.
        """
        self._check(k, v)
        keys, values = self.extend(k.shape[2])
        own = slice(keys.shape[2] - k.shape[2], None)
        keys[:, :, own], values[:, :, own] = k, v
        return keys, values

    def extend(self, count: int) -> tuple[Array, Array]:
        """Return views as those of `append`, whose last `count` positions the caller writes.

        Raises RangeError for more positions than there is room for.
        """
        start, capacity = self._whole.length, self._keys.shape[2]
        end = start + count
        if end > capacity:
            raise RangeError(
                f"BlockCache: the cache has room for {capacity} positions, got {count} after {start}. "
                "Clear it and read the end of the text again, from `window_start` on."
            )
        first = 0 if self._window is None else max(0, end - (self._window - 1 + count))
        return self._keys[:, :, first:end], self._values[:, :, first:end]

    def _check(self, *given: Any) -> None:
        B, K, _, D = self._keys.shape
        for array in given:
            if (*array.shape[:2], *array.shape[3:]) != (B, K, D) or array.shape != given[0].shape:
                raise ShapeError(
                    f"BlockCache: keys and values have shape ({B}, {K}, T, {D}), got {tuple(array.shape)}. "
                    "Make a cache for this model and batch: KeyValueCache(model, batch_size)."
                )
            if array.dtype != self._keys.dtype:
                raise DtypeError(f"BlockCache: keys and values are {self._keys.dtype}, got {array.dtype}.")
