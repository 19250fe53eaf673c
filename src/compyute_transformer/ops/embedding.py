"""Embedding: token ids or patches of an image become vectors.

A token takes a row of a table, and the gradients of equal ids meet again in that row. A patch is projected: it holds
numbers already. A class token is a vector that stands before all others, the same for every image.
"""

from typing import Any, NamedTuple

from jaxtyping import Float, Integer

from ..arrays import Array, array_module
from ..dispatch import dispatched, output_of
from ..errors import ShapeError
from ._checks import (
    check_array,
    check_bool,
    check_floats,
    check_gradient,
    check_ids,
    check_integer,
    check_saved,
    check_shape,
)
from .linear import LinearSaved, linear_backward, linear_forward
from .quantized import is_quantized

__all__ = [
    "ClassTokenSaved",
    "EmbeddingSaved",
    "PatchEmbeddingSaved",
    "class_token",
    "class_token_backward",
    "class_token_forward",
    "embedding",
    "embedding_backward",
    "embedding_forward",
    "patch_embedding",
    "patch_embedding_backward",
    "patch_embedding_forward",
]

# --- tokens ----------------------------------------------------------------------------------------------------------


class EmbeddingSaved(NamedTuple):
    """ids: which row each position took. num_embeddings: V, the number of rows of the weight."""

    ids: Array
    num_embeddings: int


def check_embedding(ids: Any, weight: Any) -> None:
    if not is_quantized(weight):
        check_floats("embedding", weight=weight)
    check_shape("embedding", "weight", weight, (None, None), "one row for each id")
    check_array("embedding", "ids", ids)
    array_module(ids, weight)
    check_ids("embedding", "ids", ids, weight.shape[0])


@dispatched(validate=check_embedding)
def embedding_forward(
    ids: Integer[Array, "*rows"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "*rows C"], EmbeddingSaved]:
    """Look up one row of the weight for each id.

    y[r] = weight[ids[r]]
    dweight[v] = Σ dy[r] over all r with ids[r] = v

    The rows of a quantized weight are float32.

    Shapes:
        ids (*rows) integers in [0, V); weight (V, C) float; y (*rows, C) like weight.
    Saves:
        ids, no copy.
    Raises:
        DtypeError: ids are not integers. RangeError: an id outside [0, V). ShapeError: weight is not a matrix.
    Source:
        Bengio et al. 2003, "A neural probabilistic language model"; torch.nn.functional.embedding.
    """
    return weight[ids], EmbeddingSaved(ids, weight.shape[0])


def check_embedding_backward(dy: Any, saved: Any) -> None:
    op = "embedding_backward"
    check_saved(op, saved, EmbeddingSaved)
    check_floats(op, dy=dy)
    check_shape(op, "dy", dy, (*saved.ids.shape, None), "the shape of y")
    array_module(dy, saved.ids)
    # again: ids may have been written over since the forward, and a kernel indexes by them
    check_ids(op, "ids", saved.ids, saved.num_embeddings)


@dispatched(validate=check_embedding_backward)
def embedding_backward(dy: Float[Array, "*rows C"], saved: EmbeddingSaved) -> Float[Array, "V C"]:
    """Return the gradient of `embedding_forward`: dweight. Ids have no gradient.

    dweight[v] = Σ dy[r] over all r with ids[r] = v

    Shapes:
        dy (*rows, C) as y; dweight (V, C).
    Raises:
        ShapeError: dy has not the shape of y. RangeError: ids were written over since the forward.
    """
    ids, num_embeddings = saved
    C = dy.shape[-1]
    xp = array_module(dy)
    dweight = xp.zeros((num_embeddings, C), dtype=dy.dtype)
    xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, C))  # unlike dweight[ids] += dy, adds every repeated id
    return dweight


embedding = output_of("embedding", embedding_forward)


# --- patches ---------------------------------------------------------------------------------------------------------


class PatchEmbeddingSaved(NamedTuple):
    """linear: the patches and the weight. shape: of the images. patch_size: the side of a patch."""

    linear: LinearSaved
    shape: tuple[int, ...]
    patch_size: int


def patch_embedding_forward(
    images: Float[Array, "B height width channels"],
    weight: Float[Array, "C pixels"],
    bias: Float[Array, "C"] | None,
    patch_size: int,
) -> tuple[Float[Array, "B N C"], PatchEmbeddingSaved]:
    """Cut images into square patches, and project each: one matrix product over all patches of all images.

    y[b, n] = W patch[b, n] + b, where patch n = i · (width / P) + j holds images[b, iP : iP + P, jP : jP + P, :],
    row by row, the channels of a pixel side by side
    dpatch = dy W; dW = dyᵀ patch over all patches at once; db = Σ dy; dimages is dpatch put back, for patches do not
    overlap

    Shapes:
        images (B, height, width, channels) float, channels last as image files have them; P = patch_size, which divides
        height and width; weight (C, P·P·channels); bias (C) or None; y (B, N, C), N = (height / P) · (width / P).
    Saves:
        the patches, a copy of the images in another order; weight, no copy.
    Raises:
        ShapeError: images that the patches do not fill, or whose channels the weight does not read. DtypeError: dtypes
        differ, or images hold integers. RangeError: a patch size below 1.
    Source:
        Dosovitskiy et al. 2021, "An image is worth 16x16 words", equation 1: W is their E, transposed. Equals a
        convolution whose kernel and stride are P: torch.nn.Conv2d has the same weight as (C, channels, P, P).
    """
    check_patches(images, weight, bias, patch_size)
    y, saved = linear_forward(cut_patches(images, patch_size), weight, bias)
    return y, PatchEmbeddingSaved(saved, images.shape, patch_size)


def patch_embedding_backward(
    dy: Float[Array, "B N C"], saved: PatchEmbeddingSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Float[Array, "B height width channels"], Float[Array, "C pixels"] | None, Float[Array, "C"] | None]:
    """Return the gradients of `patch_embedding_forward`: dimages, dweight, dbias.

    dpatch = dy W, put back where the patch was cut; dW = dyᵀ patch over all patches at once; db = Σ dy

    needs_weight, needs_bias: False leaves dweight or dbias out, which is None then; so is dbias without a bias.

    Shapes:
        dy (B, N, C) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape of y or the dtype of images. InputError: saved is of another op.
    """
    check_saved("patch_embedding_backward", saved, PatchEmbeddingSaved)
    patches = saved.linear.x
    check_gradient("patch_embedding_backward", dy, patches, (*patches.shape[:2], saved.linear.weight.shape[0]))
    dpatches, dweight, dbias = linear_backward(dy, saved.linear, needs_weight, needs_bias)
    return join_patches(dpatches, saved.shape, saved.patch_size), dweight, dbias


patch_embedding = output_of("patch_embedding", patch_embedding_forward)


def cut_patches(images: Array, P: int) -> Array:
    """Patches (B, N, P·P·channels) of images: each side in two, then what is within a patch behind what counts them."""
    B, height, width, channels = images.shape
    split = images.reshape(B, height // P, P, width // P, P, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(B, (height // P) * (width // P), P * P * channels)


def join_patches(patches: Array, shape: tuple[int, ...], P: int) -> Array:
    """Images of a shape from their patches: `cut_patches` turned around."""
    B, height, width, channels = shape
    split = patches.reshape(B, height // P, width // P, P, P, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def check_patches(images: Any, weight: Any, bias: Any, patch_size: int) -> None:
    """Refuse what `patch_embedding_forward` cannot cut and project."""
    op = "patch_embedding"
    check_floats(op, {"bias": bias}, images=images, weight=weight)
    if images.ndim != 4:
        raise ShapeError(
            f"{op}: images have shape (B, height, width, channels), got {tuple(images.shape)}. "
            "Gray images have one channel: images[..., None]."
        )
    check_integer(op, "patch_size", patch_size, 1)
    _, height, width, channels = images.shape
    if height == 0 or width == 0 or height % patch_size or width % patch_size:
        raise ShapeError(
            f"{op}: patch_size divides the height and the width of images, got images of {height} × {width} pixels and "
            f"patches of {patch_size} × {patch_size}. Resize or crop the images, or choose another patch_size."
        )
    read, rest = divmod(weight.shape[-1] if weight.ndim else 0, patch_size**2)
    if weight.ndim == 2 and read != channels and not rest:
        raise ShapeError(
            f"{op}: images have the channels that the weight reads, {read}, got {channels} channels. "
            "Convert the images (a gray one to color: images.repeat(3, axis=-1)), or build the model for them."
        )
    check_shape(op, "weight", weight, (None, patch_size**2 * channels), "width by the numbers of a patch")
    if bias is not None:
        check_shape(op, "bias", bias, (weight.shape[0],), "one number for each column of y")


# --- the class token -------------------------------------------------------------------------------------------------


class ClassTokenSaved(NamedTuple):
    """shape: of y. The gradient is cut where the vector was put in."""

    shape: tuple[int, ...]


def check_class_token(x: Any, weight: Any) -> None:
    check_floats("class_token", x=x, weight=weight)
    check_shape("class_token", "x", x, (None, None, None), "batch, patches, width")
    check_shape("class_token", "weight", weight, (x.shape[2],), "the width of x")


@dispatched(validate=check_class_token)
def class_token_forward(
    x: Float[Array, "B N C"], weight: Float[Array, "C"]
) -> tuple[Float[Array, "B M C"], ClassTokenSaved]:
    """Put one learned vector before the vectors of each image, to gather what the head will read.

    y[b, 0] = weight; y[b, 1 + n] = x[b, n]
    dx[b, n] = dy[b, 1 + n]; dweight = Σ_b dy[b, 0]

    Shapes:
        x (B, N, C) float; weight (C) like x; y (B, M, C), M = N + 1.
    Saves:
        nothing.
    Raises:
        ShapeError: widths differ. DtypeError: dtypes differ.
    Source:
        Dosovitskiy et al. 2021, equation 1: x_class; BERT's [CLS] (Devlin et al. 2019).
    """
    xp = array_module(x)
    first = xp.broadcast_to(weight, (x.shape[0], 1, x.shape[2]))
    y = xp.concatenate([first, x], axis=1)
    return y, ClassTokenSaved(y.shape)


def check_class_token_backward(dy: Any, saved: Any, needs_weight: Any = True) -> None:
    check_saved("class_token_backward", saved, ClassTokenSaved)
    check_gradient("class_token_backward", dy, None, saved.shape)
    check_bool("class_token_backward", "needs_weight", needs_weight)


@dispatched(validate=check_class_token_backward)
def class_token_backward(
    dy: Float[Array, "B M C"], saved: ClassTokenSaved, needs_weight: bool = True
) -> tuple[Float[Array, "B N C"], Float[Array, "C"] | None]:
    """Return the gradients of `class_token_forward`: dx, dweight.

    dx[b, n] = dy[b, 1 + n]; dweight = Σ_b dy[b, 0]

    needs_weight: False leaves dweight out, which is None then.

    Shapes:
        dy (B, M, C) as y; each gradient as its argument.
    Raises:
        ShapeError: dy has not the shape of y. InputError: saved is of another op.
    """
    return dy[:, 1:], dy[:, 0].sum(0) if needs_weight else None


class_token = output_of("class_token", class_token_forward)
