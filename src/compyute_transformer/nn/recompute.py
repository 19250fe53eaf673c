"""Recompute: a block that keeps its input alone, and runs its forward again in its backward.

    without    each block saves what its backward needs:        memory of all blocks at once
    with       each block saves its input (B, T, C):             memory of one block, and a third more work

The second forward draws the same random numbers, so the gradients have the same bits.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost"; PyTorch calls it checkpointing.
"""

from typing import Any, NamedTuple

from ..errors import BackwardError, ConfigError
from ..precision import Precision, precision, use_precision
from .module import Module

__all__ = ["Block", "recompute_blocks"]


class Again(NamedTuple):
    """inputs, options: of the forward. offsets: of the generators of dropout. precision: of its products."""

    inputs: tuple[Any, ...]
    options: dict[str, Any]
    offsets: list[tuple[Any, int]]
    precision: Precision


class Block(Module):
    """The base of the blocks. recompute: keep the input alone, and run the forward again in the backward."""

    recompute: bool = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run `forward`; with recompute, what the parts save for their backwards is dropped."""
        if not (self.recompute and self.training):
            return super().__call__(*inputs, **options)
        parts = list(self.modules())
        depths = [len(part._saved) for part in parts]
        offsets = self._offsets()
        y = super().__call__(*inputs, **options)
        for part, depth in zip(parts, depths, strict=True):
            del part._saved[depth:]
        self.save_for_backward(Again(inputs, options, offsets, precision()))
        return y

    def run_again(self) -> None:
        """With recompute, run the forward once more, so that all parts have what their backwards need."""
        if not self.recompute:
            return
        if self._saved and not isinstance(self._saved[-1], Again):
            raise BackwardError(
                f"{self.path or type(self).__name__}: recompute was set after the forward whose backward this is. "
                "Set it before the forward: recompute_blocks(model)."
            )
        inputs, options, offsets, chosen = self.pop_saved()
        after = [(generator, generator.offset) for generator, _ in offsets]
        self._set_offsets(offsets)
        forward: Any = type(self).forward
        with use_precision(chosen):
            forward.__wrapped__(self, *inputs, **options)  # observers have seen this forward
        self._set_offsets(after)

    def _offsets(self) -> list[tuple[Any, int]]:
        """Return the generators of dropout, each with its next random numbers."""
        found = (getattr(part, "generator", None) for part in self.modules())
        return [(generator, generator.offset) for generator in {id(g): g for g in found if g is not None}.values()]

    def _set_offsets(self, offsets: list[tuple[Any, int]]) -> None:
        for generator, offset in offsets:
            generator.offset = offset


def recompute_blocks(model: Module, recompute: bool = True) -> None:
    """Let all blocks of a model run their forward again in their backward, or no longer.

    Raises:
        ConfigError: the model has no block.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if recompute and not blocks:
        raise ConfigError(
            f"recompute_blocks: a model has blocks of this library, and {type(model).__name__} has none. "
            "Derive its blocks from nn.Block, and call self.run_again() first in their backward."
        )
    for block in blocks:
        block.recompute = recompute
