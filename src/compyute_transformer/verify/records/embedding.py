"""Records of embedding: of ids, of patches of images, and the class token. The ops and the modules."""

from typing import Any

import numpy as np

from ...nn import ClassToken, Embedding, PatchEmbedding
from ...ops.embedding import (
    class_token_backward,
    class_token_forward,
    embedding_backward,
    embedding_forward,
    patch_embedding_backward,
    patch_embedding_forward,
)
from ..record import Arguments, B, Benchmark, C, ModuleCase, Op, Oracle, Rng, Tensor, beside, case
from ..torch.base import functional, import_torch
from .linear import torch_linear

__all__ = ["MODULES", "OPS", "embedding_arguments", "torch_class_token", "torch_embedding", "torch_patch_embedding"]

IDS = np.array([[1, 4, 1, 0, 2], [4, 4, 3, 1, 0]])  # repeated, so that gradients must be added


def embedding_arguments(rng: Rng, rows: tuple[int, ...], V: int = 6, C: int = 4) -> Arguments:
    """Draw more positions than rows of the weight, so that ids repeat and their gradients must be added."""
    return {"ids": rng.integers(0, V - 1, rows), "weight": rng.normal(size=(V, C))}


def patch_embedding_arguments(
    rng: Rng,
    grid: tuple[int, int] = (2, 3),
    P: int = 3,
    channels: int = 2,
    C: int = 5,
    B: int = 2,
    bias: bool = True,
) -> Arguments:
    """Draw images that are not square: `grid` patches high and wide, of P × P pixels."""
    pixels = P * P * channels
    return {
        "images": rng.normal(size=(B, grid[0] * P, grid[1] * P, channels)),
        "weight": rng.normal(size=(C, pixels)) * pixels**-0.5,
        "bias": rng.normal(size=C) if bias else None,
        "patch_size": P,
    }


def class_token_arguments(rng: Rng, B: int = 2, N: int = 3, C: int = 5) -> Arguments:
    """Draw more images than one, so that the gradients of the vector must be added."""
    return {"x": rng.normal(size=(B, N, C)), "weight": rng.normal(size=C)}


def torch_embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Call torch.nn.functional.embedding."""
    return functional().embedding(ids, weight)


def torch_patch_embedding(images: Tensor, weight: Tensor, bias: Tensor | None, patch_size: int) -> Tensor:
    """Call torch.nn.functional.conv2d, with a stride as long as its kernel; it wants channels first."""
    kernel = weight.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2)
    maps = functional().conv2d(images.permute(0, 3, 1, 2), kernel, bias, stride=patch_size)
    return maps.flatten(2).transpose(1, 2)


def torch_unfolded_patches(images: Tensor, weight: Tensor, bias: Tensor | None, patch_size: int) -> Tensor:
    """Call Tensor.unfold along both sides, then a linear layer."""
    patches = images.unfold(1, patch_size, patch_size).unfold(2, patch_size, patch_size)  # (B, i, j, channels, P, P)
    return torch_linear(patches.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2), weight, bias)


def torch_class_token(x: Tensor, weight: Tensor) -> Tensor:
    """Call torch.cat."""
    return import_torch().cat([weight.expand(len(x), 1, -1), x], dim=1)


def patch_embedding_roundings(a: Arguments) -> int:
    """Count y; dimages; dweight and dbias, sums over the patches of all images; the bias."""
    C, pixels = a["weight"].shape
    return pixels + C + a["images"].size // pixels + 1


OPS = (
    Op(
        "embedding",
        embedding_forward,
        embedding_backward,
        ("weight",),
        (
            case("repeated_ids", embedding_arguments, rows=(3, 7)),
            case("one_axis", embedding_arguments, rows=(9,)),
            case("large", embedding_arguments, rows=(3, 131), V=67, C=33),
        ),
        oracles=(Oracle("functional.embedding", torch_embedding),),
        by_element=("y",),
        roundings=lambda a: a["ids"].size,
        benchmark=Benchmark(
            lambda rng, s: embedding_arguments(rng, (s.B, s.T), s.V, s.C), lambda s: f"({s.N}), V {s.V}, C {s.C}"
        ),
    ),
    Op(
        "patch_embedding",
        patch_embedding_forward,
        patch_embedding_backward,
        ("images", "weight", "bias"),
        (
            case("wide", patch_embedding_arguments),
            case("high_no_bias", patch_embedding_arguments, grid=(4, 1), bias=False),
            case("one_channel", patch_embedding_arguments, P=2, channels=1, B=3),
            case("one_pixel", patch_embedding_arguments, grid=(5, 4), P=1, channels=3),
            case("one_patch", patch_embedding_arguments, grid=(1, 1), P=4, channels=3, B=1),
            case("large", patch_embedding_arguments, grid=(5, 9), P=5, channels=3, C=33, B=3),
        ),
        oracles=(
            Oracle("functional.conv2d", torch_patch_embedding),
            Oracle("Tensor.unfold", torch_unfolded_patches),
        ),
        roundings=patch_embedding_roundings,
    ),
    Op(
        "class_token",
        class_token_forward,
        class_token_backward,
        ("x", "weight"),
        (
            case("batch", class_token_arguments),
            case("one_image", class_token_arguments, B=1, N=4),
            case("large", class_token_arguments, B=5, N=65, C=33),
        ),
        oracles=(Oracle("cat", torch_class_token),),
        by_element=("y", "dx"),
        roundings=lambda a: len(a["x"]),
    ),
)


def patch_embedding_module(case: str, **options: Any) -> ModuleCase:
    return ModuleCase(
        "PatchEmbedding",
        case,
        lambda weights, drops: PatchEmbedding(2, 3, C, generator=weights, **options),
        lambda w, x, drop: torch_patch_embedding(x[0], w["weight"], w.get("bias"), 2),
        {"images": (B, 4, 6, 3)},
    )


MODULES = (
    ModuleCase(
        "Embedding",
        "repeated_ids",
        lambda weights, drops: Embedding(6, C, generator=weights),
        lambda w, x, drop: torch_embedding(import_torch().from_numpy(IDS), w["weight"]),
        {},
        lambda module: module(beside(IDS, module)),
    ),
    patch_embedding_module("bias"),
    patch_embedding_module("no_bias", bias=False),
    ModuleCase(
        "ClassToken",
        "before_all",
        lambda weights, drops: ClassToken(C, generator=weights),
        lambda w, x, drop: torch_class_token(x[0], w["weight"]),
    ),
)
