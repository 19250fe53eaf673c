"""Ids and patches become vectors; the gradients of equal ids meet again."""

import sys
from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.embedding import (
    class_token_backward,
    class_token_forward,
    cut_patches,
    embedding,
    embedding_backward,
    embedding_forward,
    join_patches,
    patch_embedding,
    patch_embedding_backward,
    patch_embedding_forward,
)
from compyute_transformer.ops.linear import LinearSaved, linear_backward

embedding_module = sys.modules[patch_embedding_backward.__module__]
WEIGHT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_each_id_takes_its_row() -> None:
    y = embedding(np.array([[4, 0], [4, 2]]), WEIGHT)
    assert np.array_equal(y, np.stack([WEIGHT[[4, 0]], WEIGHT[[4, 2]]]))


def test_gradients_of_a_repeated_id_are_added() -> None:
    _, saved = embedding_forward(np.array([[4, 0, 4], [4, 2, 0]]), WEIGHT)
    dweight = embedding_backward(np.ones((2, 3, 3), np.float32), saved)
    assert np.array_equal(dweight[:, 0], [2, 0, 1, 0, 3])


def test_no_ids_give_no_vectors_and_no_gradient() -> None:
    y, saved = embedding_forward(np.zeros((0, 2), np.int64), WEIGHT)
    assert y.shape == (0, 2, 3)
    assert not embedding_backward(y, saved).any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64])
def test_ids_of_any_integer_dtype_serve(dtype: type) -> None:
    assert np.array_equal(embedding(np.array([4, 1], dtype), WEIGHT), WEIGHT[[4, 1]])


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("token", [-1, 5], ids=["negative", "vocabulary"])
def test_token_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    """−1 would count from the end in silence, and V would be a bare IndexError."""
    with pytest.raises(RangeError, match=rf"embedding: ids lie in \[0, 5\), got {token} at \(1,\)"):
        embedding(np.array([0, token]), WEIGHT)


@pytest.mark.usefixtures("validation_only")
def test_ids_and_weights_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(DtypeError, match="embedding: ids are integers, got float64"):
        embedding(np.zeros(2), WEIGHT)
    with pytest.raises(DtypeError, match=r"embedding: .* got weight: int64"):
        embedding(np.zeros(2, np.int64), np.zeros((5, 3), np.int64))
    with pytest.raises(ShapeError, match=r"embedding: weight must have shape \(any, any\)"):
        embedding(np.zeros(2, np.int64), WEIGHT[0])
    _, saved = embedding_forward(np.zeros(2, np.int64), WEIGHT)
    with pytest.raises(ShapeError, match=r"embedding_backward: dy must have shape \(2, any\)"):
        embedding_backward(np.zeros((4, 3), np.float32), saved)


# --- patches ---------------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(1).normal(size=(2, 4, 6, 3))
KERNEL, SHIFT = np.random.default_rng(2).normal(size=(5, 2 * 2 * 3)), np.random.default_rng(3).normal(size=5)


def test_patches_are_read_along_rows_and_each_is_projected() -> None:
    y = patch_embedding(IMAGES, KERNEL, SHIFT, 2)
    assert y.shape == (2, 6, 5)
    for n, (i, j) in enumerate(np.ndindex(2, 3)):
        patch = IMAGES[1, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        assert np.allclose(y[1, n], KERNEL @ patch.reshape(-1) + SHIFT, rtol=1e-13)


def test_joining_undoes_cutting() -> None:
    patches = cut_patches(IMAGES, 2)
    assert patches.shape == (2, 6, 12)
    assert np.array_equal(join_patches(patches, IMAGES.shape, 2), IMAGES)


@pytest.mark.parametrize("shape", [(2, 4, 16, 1), (2, 16, 4, 1), (1, 2, 34, 3)], ids=str)
def test_images_that_are_not_square_are_cut_right(shape: tuple[int, ...]) -> None:
    """Width for both axes, with strides set by hand, would read past the end of an image: of 4 by 16, for one."""
    P, guard = 2, 1e300
    padded = np.full((*shape[:3], 2 * shape[3]), guard)  # what lies between and behind the images' own numbers
    padded[..., : shape[3]] = np.random.default_rng(4).normal(size=shape)
    images = padded[..., : shape[3]]
    weight = np.random.default_rng(5).normal(size=(3, P * P * shape[3]))
    y = patch_embedding(images, weight, None, P)
    assert np.array_equal(y, patch_embedding(images.copy(), weight, None, P))
    height, width = shape[1] // P, shape[2] // P
    assert y.shape == (shape[0], height * width, 3)
    for i, j in np.ndindex(height, width):
        patch = images[:, P * i : P * i + P, P * j : P * j + P].reshape(shape[0], -1)
        assert np.allclose(y[:, i * width + j], patch @ weight.T, rtol=1e-12, atol=1e-14)


def test_the_backward_of_patches_is_two_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches do not overlap: nothing is gathered in a loop over pixels, which took most of a step once."""
    calls: list[tuple[int, ...]] = []

    def counted(dy: np.ndarray, saved: LinearSaved, *needs: bool) -> tuple[np.ndarray, Any, Any]:
        calls.append(dy.shape)
        return linear_backward(dy, saved, *needs)

    monkeypatch.setattr(embedding_module, "linear_backward", counted)
    y, saved = patch_embedding_forward(IMAGES, KERNEL, SHIFT, 2)
    dimages, dweight, _ = patch_embedding_backward(y, saved)
    assert calls == [(2, 6, 5)]
    assert (dimages.shape, dweight.shape) == (IMAGES.shape, KERNEL.shape)


@pytest.mark.usefixtures("validation_only")
def test_an_image_of_other_channels_is_refused() -> None:
    """One channel would broadcast into three where nobody looks."""
    with pytest.raises(ShapeError, match=r"the channels that the weight reads, 3, got 1 channels\. Convert"):
        patch_embedding(IMAGES[..., :1], KERNEL, SHIFT, 2)
    with pytest.raises(ShapeError, match=r"weight must have shape \(any, 12\), .* got \(5, 11\)"):
        patch_embedding(IMAGES, KERNEL[:, :11], SHIFT, 2)


@pytest.mark.usefixtures("validation_only")
def test_what_patches_cannot_be_cut_from_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"images of 4 × 6 pixels and patches of 4 × 4\. Resize or crop"):
        patch_embedding(IMAGES, KERNEL, SHIFT, 4)
    with pytest.raises(ShapeError, match="images of 0 × 6 pixels"):
        patch_embedding(IMAGES[:, :0], KERNEL, SHIFT, 2)
    with pytest.raises(ShapeError, match=r"\(B, height, width, channels\), got \(4, 6, 3\)\. Gray images"):
        patch_embedding(IMAGES[0], KERNEL, SHIFT, 2)
    with pytest.raises(RangeError, match="patch_size is a whole number of at least 1, got 0"):
        patch_embedding(IMAGES, KERNEL, SHIFT, 0)
    with pytest.raises(DtypeError, match=r"patch_embedding: .*images: uint8"):
        patch_embedding(IMAGES.astype(np.uint8), KERNEL, SHIFT, 2)
    with pytest.raises(ShapeError, match=r"bias must have shape \(5,\)"):
        patch_embedding(IMAGES, KERNEL, SHIFT[:1], 2)
    y, saved = patch_embedding_forward(IMAGES, KERNEL, SHIFT, 2)
    with pytest.raises(ShapeError, match=r"patch_embedding_backward: dy must have shape \(2, 6, 5\)"):
        patch_embedding_backward(y[:, :5], saved)


# --- the class token -------------------------------------------------------------------------------------------------


def test_the_class_token_stands_before_all_others_and_sums_its_gradient() -> None:
    x, weight = np.zeros((2, 3, 4)), np.arange(4.0)
    y, saved = class_token_forward(x, weight)
    assert np.array_equal(y[:, 0], [weight, weight])
    assert np.array_equal(y[:, 1:], x)
    dy = np.random.default_rng(0).normal(size=y.shape)
    dx, dweight = class_token_backward(dy, saved)
    assert np.array_equal(dx, dy[:, 1:])
    assert np.array_equal(dweight, dy[0, 0] + dy[1, 0])


@pytest.mark.usefixtures("validation_only")
def test_a_class_token_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"class_token: weight must have shape \(4,\)"):
        class_token_forward(np.zeros((2, 3, 4)), np.zeros(1))  # which would broadcast
    with pytest.raises(ShapeError, match=r"class_token: x must have shape"):
        class_token_forward(np.zeros((3, 4)), np.zeros(4))
