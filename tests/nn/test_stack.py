"""Blocks one after the other: as one op where that is the same, and part by part where it would not be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compyute_transformer.arrays import Array
from module_checks import block, post_norm_block

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import ConfigError
from compyute_transformer.nn import FeedForward, LayerNorm, Linear, Module, ModuleList, Observer, observe
from compyute_transformer.nn.module import Phase
from compyute_transformer.nn.stack import run_blocks
from compyute_transformer.ops import Mask
from compyute_transformer.verify.torch_models import randomize

CAUSAL = Mask(causal=True)
C, D, LENGTH = 6, 3, 9


class Room:
    """A cache with room for nine positions of two rows, which counts how it is used."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.k, self.v = np.full((2, 2, 2, LENGTH, D), np.nan, dtype)
        self.length = self.appended = self.extended = 0

    def extend(self, count: int) -> tuple[Array, Array]:
        self.extended += 1
        end = self.length + count
        return self.k[:, :, :end], self.v[:, :, :end]

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        self.appended += 1
        keys, values = self.extend(k.shape[2])
        keys[:, :, self.length :], values[:, :, self.length :] = k, v
        return keys, values


def tower(build: Callable[..., Module] = block) -> ModuleList:
    blocks = ModuleList(build(seed=seed) for seed in range(3))
    randomize(blocks)
    return blocks.eval()


def draw(T: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(2, T, C)).astype(np.float32)


def read(blocks: ModuleList, x: Array, mask: Mask = CAUSAL, sizes: tuple[int, ...] = (4, 1, 2)) -> tuple[Array, bool]:
    """x in parts, each behind what was read; and whether all blocks ran as one op each time."""
    caches, outputs, start = [Room(x.dtype) for _ in blocks], [], 0
    for size in sizes:
        end = start + size
        part = mask if mask.array is None else mask._replace(array=mask.array[..., start:end, :end])
        outputs.append(run_blocks(blocks, x[:, start:end], part, caches))
        start = end
        for cache in caches:
            cache.length = end
    return np.concatenate(outputs, axis=1), not any(cache.appended for cache in caches)


@pytest.mark.parametrize("build", [block, post_norm_block])
@pytest.mark.parametrize("mask", [CAUSAL, Mask(causal=True, array=np.random.default_rng(1).random((2, 1, 7, 7)) < 0.8)])
def test_as_one_op_they_are_what_they_are_one_by_one(build: Callable[..., Module], mask: Mask) -> None:
    blocks, x = tower(build), draw(7)
    together = x
    for module in blocks:
        together = module(together, mask)
    np.testing.assert_allclose(run_blocks(blocks, x, mask), together, rtol=1e-5, atol=1e-6)
    y, as_one = read(blocks, x, mask)
    assert as_one
    np.testing.assert_allclose(y, together, rtol=1e-4, atol=1e-5)
    with use_kernels("reference"):
        y, as_one = read(blocks, x, mask)
    assert not as_one
    np.testing.assert_allclose(y, together, rtol=1e-4, atol=1e-5)


class Shifted(LayerNorm):
    """A part that somebody made their own."""

    def forward(self, x: Array) -> Array:
        """What a norm gives, and one more."""
        return super().forward(x) + 1


class Twice(FeedForward):
    """Another."""

    def forward(self, x: Array) -> Array:
        """Twice what a feed-forward gives."""
        return 2 * super().forward(x)


class Negative(Linear):
    """And a third."""

    def forward(self, x: Array) -> Array:
        """The opposite of what a linear map gives."""
        return -super().forward(x)


def replaced(name: str, part: Module) -> Callable[[ModuleList], None]:
    def change(blocks: ModuleList) -> None:
        owner = blocks[1] if name != "down" else blocks[1].feed_forward
        setattr(owner, name, part.eval())

    return change


def slower(blocks: ModuleList) -> None:
    blocks[2].attention.implementation = "sequential"


def bent(blocks: ModuleList) -> None:
    blocks[1].feed_forward.activation = "relu"


def mixed(blocks: ModuleList) -> None:
    setattr(blocks, "1", post_norm_block().eval())


@pytest.mark.parametrize(
    "change",
    [
        replaced("feed_forward_norm", Shifted(C)),
        replaced("feed_forward", Twice(C, 24)),
        replaced("down", Negative(12, C)),
        slower,
        bent,
        mixed,
    ],
    ids=["a norm", "a feed-forward", "a linear map", "an algorithm", "an activation", "a kind of block"],
)
def test_what_is_not_the_op_runs_as_it_is(change: Callable[[ModuleList], None]) -> None:
    blocks, x = tower(), draw(7)
    assert read(blocks, x)[1]
    change(blocks)
    together = x
    for module in blocks:
        together = module(together, CAUSAL)
    y, as_one = read(blocks, x)
    assert not as_one
    np.testing.assert_allclose(y, together, rtol=1e-4, atol=1e-5)


class Seen(Observer):
    """Which modules ran."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def before(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...]) -> None:
        self.paths.append(path)


@pytest.mark.parametrize("path", ["1", "1.attention", "2.feed_forward.down", "0.attention_dropout", ""])
def test_whoever_is_watched_runs(path: str) -> None:
    blocks, watch = tower(), Seen()
    with observe(dict(blocks.named_modules())[path], watch):
        _, as_one = read(blocks, draw(7))
    assert not as_one
    assert len(watch.paths) >= 3
    assert read(blocks, draw(7))[1]


def test_many_positions_and_other_dtypes_run_one_by_one() -> None:
    blocks = tower()
    assert not read(blocks, draw(9), sizes=(9,))[1]  # 18 rows
    assert read(blocks, draw(8), sizes=(8,))[1]
    y, as_one = read(blocks.to(dtype=np.float64), draw(7).astype(np.float64))
    assert y.dtype == np.float64
    assert not as_one


@pytest.mark.parametrize("path", ["attention", "attention_dropout", "feed_forward.up"])
def test_a_part_in_training_runs_as_it_does_in_training(path: str) -> None:
    blocks, x = tower(), draw(7)
    dict(blocks[1].named_modules())[path].training = True
    if path == "attention":
        with pytest.raises(ConfigError, match=r"a cache serves self-attention in eval\(\) only"):
            read(blocks, x)
    else:
        assert not read(blocks, x)[1]


def test_a_forward_put_in_place_of_a_part_s_own_runs() -> None:
    blocks = tower()
    own = blocks[1].feed_forward.forward
    blocks[1].feed_forward.forward = lambda x: 2 * own(x)
    together = x = draw(7)
    for module in blocks:
        together = module(together, CAUSAL)
    y, as_one = read(blocks, x)
    assert not as_one
    np.testing.assert_allclose(y, together, rtol=1e-4, atol=1e-5)


def test_a_cache_that_only_appends_supports() -> None:
    class Appending(Room):
        extend = None  # type: ignore[assignment]

        def append(self, k: Array, v: Array) -> tuple[Array, Array]:
            self.k[:, :, : k.shape[2]], self.v[:, :, : k.shape[2]] = k, v
            return self.k[:, :, : k.shape[2]], self.v[:, :, : k.shape[2]]

    blocks, x = tower(), draw(4)
    y = run_blocks(blocks, x, CAUSAL, [Appending() for _ in blocks])
    np.testing.assert_allclose(y, read(blocks, x, sizes=(4,))[0], rtol=1e-5, atol=1e-6)


def test_in_training_a_cache_is_refused_as_ever() -> None:
    blocks = tower()
    blocks[2].train()
    with pytest.raises(ConfigError, match=r"a cache serves self-attention in eval\(\) only"):
        read(blocks, draw(7))


def test_blocks_and_caches_are_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        run_blocks(tower(), draw(1), CAUSAL, [Room(), Room()])
