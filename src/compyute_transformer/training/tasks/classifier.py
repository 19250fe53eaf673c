"""A language model or a BERT whose head was replaced by one that says what a text is.

    ids (B, T) -> blocks -> a score for each label at each position (B, T, N) -> one row for each text (B, N)

A decoder has read the whole text at its last token, so the scores there count. An encoder has read it at every
position: the mean over the tokens counts, which is the score of their mean vector.
"""

from dataclasses import replace
from typing import Any

from ...arrays import Array, array_module, is_captured
from ...errors import RangeError, ShapeError
from ...models.bert import Bert
from ...nn.linear import Linear
from ...nn.module import Module
from ...random import INITIALIZATION, Generator

__all__ = ["TextClassifier", "without_head"]


def without_head(config: Any) -> Any:
    """Return the configuration of a trunk: that of a BERT without the head that predicts hidden tokens."""
    return replace(config, masked_head=False) if hasattr(config, "masked_head") else config


class TextClassifier(Module):
    """Logits (B, num_labels) of texts, from ids (B, T) padded at the end, and their lengths (B).

    trunk: a language model, or a `Bert` without a masked head. Its head, if it has one, is replaced; the new one begins
    with random weights.

    Raises ShapeError for lengths of another shape than (B), RangeError for one outside [1, T].
    """

    def __init__(self, trunk: Any, num_labels: int, seed: int = 0) -> None:
        super().__init__()
        self.config, self.generator = trunk.config, trunk.generator
        self.takes_mean = isinstance(trunk, Bert)
        C = trunk.config.embed_dim
        # without a bias behind a decoder, as in Transformers, so that its files hold the model
        head = Linear(C, num_labels, bias=self.takes_mean, generator=Generator(seed, INITIALIZATION))
        head.to(trunk.device, trunk.dtype)
        self.trunk = trunk
        if self.takes_mean:
            self.head = head
        else:
            trunk.head = head

    def forward(self, ids: Array, lengths: Array) -> Array:
        """Return the logits (B, num_labels)."""
        xp, (B, T) = array_module(ids), ids.shape
        if lengths.shape != (B,):
            raise ShapeError(f"TextClassifier: lengths have shape ({B},), one for each text, got {lengths.shape}.")
        if not is_captured(lengths) and (lengths.min() < 1 or lengths.max() > T):
            raise RangeError(f"TextClassifier: lengths lie in [1, {T}], the width of the ids, got {lengths}.")
        if self.takes_mean:
            scores = self.head(self.trunk(ids, lengths))
            shares = (xp.arange(T) < lengths[:, None]) / lengths[:, None]
        else:
            scores = self.trunk(ids)
            shares = xp.arange(T) == lengths[:, None] - 1
        shares = shares.astype(scores.dtype)[:, :, None]  # of each position in the logits of its text
        self.save_for_backward(shares)
        return (scores * shares).sum(axis=1)

    def backward(self, dlogits: Array) -> Array:
        """Add to the gradients of all parameters. Return the gradient (B, T, C) of the embedded tokens."""
        dscores = dlogits[:, None, :] * self.pop_saved()
        dx: Array = self.trunk.backward(self.head.backward(dscores) if self.takes_mean else dscores)
        return dx
