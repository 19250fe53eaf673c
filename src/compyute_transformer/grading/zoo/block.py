"""Block and model: mistakes in how gradients of several uses come together."""

from ...arrays import Array
from ...nn.block import PostNormBlock, PreNormBlock
from ...nn.parameter import Parameter
from ...ops.norm import layer_norm_backward
from .. import composites
from .record import mistaken

__all__: list[str] = []

right_tied_backward = composites.tied_embedding_backward


def _pre_norm_backward(self: PreNormBlock, dx: Array) -> Array:
    dbranch = self.feed_forward.backward(self.feed_forward_dropout.backward(dx))
    dx = self.feed_forward_norm.backward(dbranch)
    dbranch, _ = self.attention.backward(self.attention_dropout.backward(dx))
    return self.attention_norm.backward(dbranch)


def _post_norm_backward(self: PostNormBlock, dx: Array) -> Array:
    dx = self.feed_forward_norm.backward(dx)
    dx = self.feed_forward.backward(self.feed_forward_dropout.backward(dx))
    dx = self.attention_norm.backward(dx)
    return self.attention.backward(self.attention_dropout.backward(dx))[0]


@mistaken(
    "residual-gradient-missing",
    "residual",
    (composites, "residual_backward"),
    (PreNormBlock, "backward", _pre_norm_backward),
    (PostNormBlock, "backward", _post_norm_backward),
    wrong="The gradient goes through the branch only, and shrinks from block to block.",
    term="the term dy of the residual connection in dx = dy + dbranch is missing",
    hint="y = x + branch(x) has x in both terms. The gradient of a sum goes to both of its terms.",
    answer="dx = dy + dbranch",
)
def residual_gradient_missing(dy: Array, saved: composites.ResidualSaved) -> tuple[Array, Array]:
    norm_saved, xhat, weight = saved
    dx, _, _ = layer_norm_backward(dy @ weight, norm_saved)
    return dx, dy.reshape(-1, dy.shape[-1]).T @ xhat.reshape(-1, xhat.shape[-1])


def _overwrite(self: Parameter, gradient: Array | None) -> None:
    if self.requires_grad and gradient is not None:
        self.grad = gradient.astype(self.data.dtype, copy=True)


@mistaken(
    "tied-gradient-counted-once",
    "tied_embedding",
    (composites, "tied_embedding_backward"),
    (Parameter, "accumulate", _overwrite),
    wrong="The gradient of the second use of a weight overwrites that of the first: the head's part is lost.",
    term="the term of the head, Σ_rows dlogitsᵀ x, in dweight is missing: the tied weight is counted once",
    hint="The matrix is read twice, as the embedding and as the head. The gradient of a weight sums over its uses.",
    answer="dweight = dhead + dembedding: accumulate with +=",
)
def tied_gradient_counted_once(dy: Array, saved: composites.TiedSaved) -> Array:
    return composites.gradient_of_lookup(dy, saved)
