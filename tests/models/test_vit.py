"""ViT: its kernel in PyTorch, one row of logits an image, its class token, its start, and its refusals."""

from dataclasses import replace
from math import log
from typing import Any, get_args

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit
from torch_checks import broken, torch_errors, training_errors

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, DtypeError, ShapeError
from compyute_transformer.models import ViT, ViTConfig
from compyute_transformer.nn import LayerNorm, MultiHeadAttention
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.models import STEP
from compyute_transformer.verify.torch.modules import TorchDropout, torch_weights
from compyute_transformer.verify.torch.vit import logits as torch_vit

SMALL = ViTConfig(4, 6, 3, 5, patch_size=2, embed_dim=12, num_heads=3, num_layers=2)


def model(config: ViTConfig = SMALL, dtype: Any = np.float64, seed: int = 0) -> ViT:
    made = ViT(config, seed).to(dtype=dtype)
    randomize(made, seed)
    return made


def draw_images(config: ViTConfig = SMALL, number: int = 3, seed: int = 0) -> Array:
    shape = number, config.image_height, config.image_width, config.channels
    return np.random.default_rng([seed, 5]).normal(size=shape)


LABELS = np.array([1, 4, 0])

# --- beside PyTorch and differences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"activation": "relu"},
        {"channels": 1, "num_classes": 2},
        {"image_height": 2, "image_width": 10},
        {"image_height": 3, "image_width": 2, "patch_size": 1},
        {"image_height": 6, "image_width": 6, "patch_size": 6, "mlp_dim": 7},
        {"dropout": 0.3},
        {"dropout": 0.5, "bias": False, "activation": "gelu_tanh", "num_heads": 6, "channels": 1},
    ],
    ids=str,
)
def test_logits_loss_and_every_gradient_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    config = replace(SMALL, **options)
    errors = torch_errors(config, dtype)
    assert set(errors) == {"logits", "loss", "dimages"} | {f"d{path}" for path, _ in ViT(config).named_parameters()}
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_every_attention_implementation_matches_torch_with_dropout(implementation: Implementation) -> None:
    errors = torch_errors(replace(SMALL, dropout=0.3, attn_implementation=implementation), np.float64, seed=1)
    assert not broken(errors, limit("torch", np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_training_losses_are_those_of_torch(dtype: type) -> None:
    errors = training_errors(replace(SMALL, dropout=0.2), dtype)
    if dtype is np.float32:  # where AdamW makes a whole step of a gradient that is zero but for rounding
        errors = {name: error for name, error in errors.items() if name.startswith("loss")}
    assert len(errors) >= 10
    assert not broken(errors, 1e-5 if dtype is np.float32 else limit("training", dtype))


def test_the_gradient_of_the_images_is_that_of_torch() -> None:
    made, images = model(replace(SMALL, dropout=0.3)), draw_images()
    weights, drop = torch_weights(made), TorchDropout(made.generator, 0.3)
    loss, saved = cross_entropy_forward(made(images), LABELS)
    dimages = made.backward(cross_entropy_backward(1.0, saved))
    leaf = torch.from_numpy(images.copy()).requires_grad_()
    theirs = torch.nn.functional.cross_entropy(torch_vit(weights, made.config, leaf, drop), torch.from_numpy(LABELS))
    theirs.backward()
    assert leaf.grad is not None
    assert relative_error(dimages, leaf.grad.numpy()) <= limit("torch", np.float64)
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "bias": False, "patch_size": 1}], ids=str)
def test_the_gradient_of_weights_and_images_follows_the_differences(options: dict[str, Any]) -> None:
    config = replace(SMALL, **options)
    assert module_error(ViT(config), [draw_images(config)], step=STEP) <= limit("differences", np.float64)


# --- the class token -------------------------------------------------------------------------------------------------


def test_there_is_one_row_of_logits_for_each_image() -> None:
    """Not one for each patch, which labels (B) would be broadcast over wherever B is the number of patches."""
    made, number = model(), 1 + SMALL.num_patches
    logits = made(draw_images(number=number))
    assert logits.shape == (number, 5)
    alone = np.concatenate([made(image[None]) for image in draw_images(number=number)])
    assert relative_error(logits, alone) <= 1e-12


def test_the_gradient_of_the_class_token_is_added_to() -> None:
    """Two half batches give the gradient of one, and a second backward adds to the first."""
    made, images = model(), draw_images(number=4)
    dlogits = np.random.default_rng(0).normal(size=(4, 5))
    made(images)
    made.backward(dlogits)
    whole = made.flat.grad.copy()
    token = made.class_token.weight.grad.copy()
    made.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        made(images[half])
        made.backward(dlogits[half])
    assert relative_error(made.flat.grad, whole) <= 1e-12
    assert relative_error(made.class_token.weight.grad, token) <= 1e-12
    made(images)
    made.backward(dlogits)
    assert relative_error(made.flat.grad, 2 * whole) <= 1e-12


def test_the_class_token_sees_every_patch() -> None:
    made, images = model(replace(SMALL, num_layers=1)).eval(), draw_images(number=1)
    logits = made(images)
    for row, column in np.ndindex(4, 6):
        changed = images.copy()
        changed[0, row, column, 1] += 1.0
        assert (made(changed) != logits).any(), (row, column)


def test_patches_in_another_order_are_another_image() -> None:
    made = ViT(SMALL).to(dtype=np.float64)
    images = draw_images()
    assert np.abs(made(images) - made(images[:, :, ::-1])).max() > 1e-3
    made.position.weight.data[...] = 0.0
    swapped = np.concatenate([images[:, 2:], images[:, :2]], axis=1)  # whole patches: without positions, the same
    assert relative_error(made(swapped), made(images)) <= 1e-12


# --- weights and modes -----------------------------------------------------------------------------------------------


def test_an_untrained_model_finds_all_classes_alike() -> None:
    config = ViTConfig(8, 8, 1, 10, 2, embed_dim=64, num_heads=4, num_layers=3)
    images = draw_images(config, 50).astype(np.float32)
    loss, _ = cross_entropy_forward(ViT(config)(images), np.arange(50) % 10)
    assert abs(float(loss) - log(10)) <= 0.1


def test_the_same_seed_gives_the_same_weights_and_the_same_dropout() -> None:
    config, images = replace(SMALL, dropout=0.3), draw_images().astype(np.float32)
    first, second, other = ViT(config, 7), ViT(config, 7), ViT(config, 8)
    assert np.array_equal(first.flat.data, second.flat.data)
    assert np.array_equal(first(images), second(images))
    assert not np.array_equal(first.flat.data, other.flat.data)


def test_eval_drops_nothing_draws_nothing_and_keeps_nothing() -> None:
    made, plain, images = model(replace(SMALL, dropout=0.5)), model(), draw_images()
    assert np.array_equal(made.eval()(images), plain(images))
    assert made.generator.offset == 0
    assert not any(module._saved for _, module in made.named_modules())
    made.train()(images)
    assert made.generator.offset == 1 + 3 * 2, "one draw for the embedding, three for each block"


def test_attention_is_switched_in_place() -> None:
    made, images = model(), draw_images()
    logits = {}
    for name in get_args(Implementation):
        made.use_attention(name)
        found = [m.implementation for _, m in made.named_modules() if isinstance(m, MultiHeadAttention)]
        assert found == [name] * 2
        logits[name] = made(images)
    assert all(relative_error(other, logits["parallel"]) <= 1e-12 for other in logits.values())


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 6, 1), (3, 6, 4, 3), (3, 2, 6, 3), (4, 6, 3), (3, 3, 4, 6)], ids=str)
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """One channel, sides exchanged, fewer patches, no batch, channels first: each would compute something."""
    with pytest.raises(ShapeError, match=r"ViT: images have shape \(B, 4, 6, 3\), .* got \(.*\)\. Resize"):
        model()(np.zeros(shape))


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(ShapeError, match="got list"):
        model()([[1.0]])


@pytest.mark.usefixtures("validation_only")
def test_bytes_are_refused() -> None:
    with pytest.raises(DtypeError, match="images: uint8"):
        model()(np.zeros((1, 4, 6, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is a whole number of at least 1, got 0"),
        ({"num_classes": -1}, "num_classes is a whole number of at least 1"),
        ({"patch_size": 4}, "images of 4 × 6 pixels and a patch_size of 4"),
        ({"image_height": 5}, "images of 5 × 6 pixels and a patch_size of 2"),
        ({"num_heads": 5}, "num_heads must divide embed_dim"),
        ({"mlp_dim": 0}, "mlp_dim is a whole number of at least 1, or None"),
        ({"dropout": 1.0}, r"dropout lies in \[0, 1\)"),
        ({"activation": "swish"}, "activation is one of"),
        ({"attn_implementation": "flash"}, "attn_implementation is one of"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_hold_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^ViTConfig: .*{message}"):
        replace(SMALL, **options)


def test_the_epsilon_of_the_norms_is_the_configured_one() -> None:
    made = ViT(replace(SMALL, norm_eps=1e-3))
    norms = [module for module in made.modules() if isinstance(module, LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-3] * (2 * SMALL.num_layers + 1)
