"""Masked tokens: of a text some tokens are hidden, and a model that sees both sides of each is to predict them.

    ids       t₀ t₁ t₂ t₃ t₄ t₅ t₆ t₇
    inputs    t₀ t₁ M  t₃ t₄ t₅ r  t₇       M the mask token, r a random one
    targets   -  -  t₂ -  t₄ -  t₆ -        t₄ is a target too, though it is in its place

A seventh of the positions are targets, at least one in each row. Of these 80% hold the mask token, 10% a random one,
and 10% their own, so that the model must know every token, not those under a mask alone.

Source: Devlin et al. 2019, section 3.1.
"""

from collections.abc import Iterator

import numpy as np

from ...random import BATCHES, CORPUS, RandomKey, integers, uniform
from .batches import IGNORE_INDEX, TokenBatches, chosen_windows

__all__ = ["MaskedBatches", "hide_tokens", "masked_windows"]

FRACTION, UNDER_MASK, RANDOM = 0.15, 0.8, 0.1
CHOOSE, KIND, TOKEN = 1, 2, 3  # of the random numbers of a batch, beside those of its windows


def hide_tokens(
    ids: np.ndarray, lengths: np.ndarray, mask_id: int, key: RandomKey, num_tokens: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (B, T) with some tokens hidden, and targets (B, T), IGNORE_INDEX where nothing is asked for.

    lengths: (B), how many tokens of each row are no padding, at least one. mask_id: the mask token. num_tokens: ids
    below it are tokens, of which one is put in the place of some; None for mask_id.
    """
    draw = uniform(key._replace(head=CHOOSE), ids.shape, np.float64)
    draw = np.where(np.arange(ids.shape[1]) < lengths[:, None], draw, 2.0)
    chosen = draw <= np.maximum(FRACTION, draw.min(axis=1, keepdims=True))
    kind = uniform(key._replace(head=KIND), ids.shape, np.float64)
    others = integers(key._replace(head=TOKEN), ids.shape, num_tokens or mask_id).astype(ids.dtype)
    hidden = np.where(kind < UNDER_MASK, ids.dtype.type(mask_id), np.where(kind < UNDER_MASK + RANDOM, others, ids))
    return np.where(chosen, hidden, ids), np.where(chosen, ids, ids.dtype.type(IGNORE_INDEX))


class MaskedBatches(TokenBatches):
    """Random windows of a token array with tokens hidden: (inputs, targets), each (B, T); see `TokenBatches`."""

    def __init__(
        self,
        tokens: np.ndarray,
        batch_size: int,
        context_length: int,
        mask_id: int,
        seed: int = 0,
        num_tokens: int | None = None,
    ) -> None:
        super().__init__(tokens, batch_size, context_length, seed)
        self.mask_id, self.num_tokens = mask_id, num_tokens

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch of an index, a function of seed and index alone."""
        ids, _ = super().batch(index)
        lengths = np.full(len(ids), ids.shape[1])
        return hide_tokens(ids, lengths, self.mask_id, RandomKey(self.seed, BATCHES, index), self.num_tokens)


def masked_windows(
    tokens: np.ndarray,
    context_length: int,
    batch_size: int,
    mask_id: int,
    most: int,
    seed: int = 0,
    num_tokens: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (inputs, lengths, targets) of windows that do not overlap, always with the same tokens hidden.

    most: see `chosen_windows`. lengths: (B), fewer than the context in the last window of a text.
    """
    for index, (ids, following) in enumerate(chosen_windows(tokens, context_length, batch_size, most, seed)):
        lengths = (following != IGNORE_INDEX).sum(axis=1)
        inputs, targets = hide_tokens(ids, lengths, mask_id, RandomKey(seed, CORPUS, index), num_tokens)
        yield inputs, lengths, targets
