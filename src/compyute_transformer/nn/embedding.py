"""Embedding: a row of weights for each id, and `ops.embedding`."""

from ..backend import Array
from ..ops.embedding import embedding_backward, embedding_forward
from ..random import Generator, default_generator
from . import init
from .module import Module, Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """y = weight[ids].

    weight: (num_embeddings, embed_dim), drawn by `initialise`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embed_dim: int,
        initialise: init.Initialiser | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        draw = initialise or init.normal()
        self.weight = Parameter(draw((num_embeddings, embed_dim), generator or default_generator()))

    def forward(self, ids: Array) -> Array:
        """Map integers (*rows) to vectors (*rows, embed_dim)."""
        y, saved = embedding_forward(ids, self.weight.data)
        self.save(saved)
        return y

    def backward(self, dy: Array) -> None:
        """Ids have no gradient."""
        self.weight.accumulate(embedding_backward(dy, self.restore()))
