"""Embeddings as modules: a row of weights for each id, a projection of each patch, and a class token before them."""

from ..arrays import Array
from ..ops._checks import check_floats
from ..ops.embedding import (
    class_token_backward,
    class_token_forward,
    embedding_backward,
    embedding_forward,
    patch_embedding_backward,
    patch_embedding_forward,
)
from ..random import Generator, default_generator
from . import init
from .module import Module
from .parameter import Parameter, is_trained

__all__ = ["ClassToken", "Embedding", "PatchEmbedding"]


class Embedding(Module):
    """Look up a row for each id: y = weight[ids].

    weight: (num_embeddings, embed_dim), initialized by `weight_init`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embed_dim: int,
        *,
        weight_init: init.Init | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        weight_init = weight_init or init.normal()
        self.weight = Parameter(weight_init((num_embeddings, embed_dim), generator or default_generator()))

    def forward(self, ids: Array) -> Array:
        """Map integers (*rows) to vectors (*rows, embed_dim)."""
        y, saved = embedding_forward(ids, self.weight.data)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> None:
        """Add to the gradient of the weight, unless it is frozen. Ids have no gradient."""
        saved = self.pop_saved()
        if saved is not None and self.weight.requires_grad:
            self.weight.accumulate(embedding_backward(dy, saved))

    def skip(self, vectors: Array) -> Array:
        """Return vectors (*rows, embed_dim) that take the place of embedded ids; `backward` then adds nothing."""
        check_floats("Embedding.skip", vectors=vectors, weight=self.weight.data)
        self.save_for_backward(None)
        return vectors


class PatchEmbedding(Module):
    """Project square patches that do not overlap: y[b, n] = W patch[b, n] + bias.

    weight: (embed_dim, patch_size² · channels), initialized by `weight_init`; by default normal with variance
    1 / columns, so that y is as large as the pixels. bias: (embed_dim), zeros; None without.
    """

    def __init__(
        self,
        patch_size: int,
        channels: int,
        embed_dim: int,
        *,
        bias: bool = True,
        weight_init: init.Init | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        pixels = patch_size**2 * channels
        weight_init = weight_init or init.normal(pixels**-0.5)
        self.weight = Parameter(weight_init((embed_dim, pixels), generator or default_generator()))
        self.bias = Parameter(init.zeros((embed_dim,))) if bias else None

    def forward(self, images: Array) -> Array:
        """Map images (B, height, width, channels) to one vector a patch, (B, N, embed_dim)."""
        bias = self.bias.data if self.bias else None
        y, saved = patch_embedding_forward(images, self.weight.data, bias, self.patch_size)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the images; a frozen parameter costs nothing."""
        needs = is_trained(self.weight), is_trained(self.bias)
        dimages, dweight, dbias = patch_embedding_backward(dy, self.pop_saved(), *needs)
        self.weight.accumulate(dweight)
        if self.bias:
            self.bias.accumulate(dbias)
        return dimages


class ClassToken(Module):
    """Put one learned vector before all others.

    weight: (embed_dim), initialized by `weight_init`.
    """

    def __init__(
        self, embed_dim: int, *, weight_init: init.Init | None = None, generator: Generator | None = None
    ) -> None:
        super().__init__()
        weight_init = weight_init or init.normal()
        self.weight = Parameter(weight_init((embed_dim,), generator or default_generator()))

    def forward(self, x: Array) -> Array:
        """Map (B, N, embed_dim) to (B, N + 1, embed_dim)."""
        y, saved = class_token_forward(x, self.weight.data)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        dx, dweight = class_token_backward(dy, self.pop_saved(), is_trained(self.weight))
        self.weight.accumulate(dweight)
        return dx
