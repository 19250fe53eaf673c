"""Examples of every module of `nn`: how it is built, what it is shown, and the same in PyTorch.

Weights are drawn anew, so that no scale is 1 and no bias 0. Dropout is on, and drops the same each time. A module that
has an example here is verified by every method of `modules`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array
from ..nn import (
    ClassToken,
    CrossBlock,
    Dropout,
    Embedding,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    LearnedPosition,
    Linear,
    Module,
    MultiHeadAttention,
    PatchEmbedding,
    PostNormBlock,
    PreNormBlock,
    RMSNorm,
    RotaryPosition,
    SinusoidalPosition,
)
from ..nn.feed_forward import Activation, Gate
from ..ops.attention import NO_MASK, Mask
from ..ops.multi_head import IMPLEMENTATIONS
from ..random import DROPOUT, Generator
from . import torch_ops
from .function import Function, of_module
from .result import Label
from .slopes import INPUT, draw
from .tolerances import Method
from .torch.llama import torch_gated_feed_forward, torch_rms_norm, torch_rotary
from .torch.transformer import torch_cross_block, torch_post_norm_block
from .torch_models import randomize
from .torch_modules import Tensor, Weights, torch_block, torch_feed_forward, torch_multi_head
from .torch_ops import dense_mask, import_torch

__all__ = ["EXAMPLES", "SLOPES", "Example"]

Drop = Callable[[Tensor], Tensor]
Build = Callable[[Generator, Generator], Module]
SLOPES: tuple[Method, ...] = ("differences", "complex step", "adjoint")

B, T, S, C = 2, 5, 7, 12
LENGTHS = np.array([5, 3])
IDS = np.array([[1, 4, 1, 0, 2], [4, 4, 3, 1, 0]])  # repeated, so that gradients must be added


@dataclass(frozen=True)
class Example:
    """A module to verify.

    build: from a generator of weights and one of dropout. inputs: shapes, by name. call: runs the module. kernel: the
    same in PyTorch, from the weights by path, the inputs and what drops as the module will.
    """

    name: str
    case: str
    build: Build
    inputs: Mapping[str, tuple[int, ...]]
    kernel: Callable[[Weights, list[Tensor], Drop], Tensor]
    call: Callable[..., Array] = lambda module, *inputs: module(*inputs)
    slopes: tuple[Method, ...] = SLOPES

    @property
    def label(self) -> Label:
        """What its results are called."""
        return Label(f"nn.{self.name}", self.case)

    def function(self, dtype: Any, seed: int) -> tuple[Module, Function]:
        """The module with weights of its own, and as the checks see it."""
        module = self.build(Generator(seed), Generator(seed, DROPOUT)).to(dtype=dtype)
        randomize(module, seed)
        inputs = {name: draw(seed, INPUT, name, shape).astype(dtype) for name, shape in self.inputs.items()}
        return module, of_module(module, inputs, partial(self.call, module))


# --- the examples ----------------------------------------------------------------------------------------------------


def linear(case: str, **options: Any) -> Example:
    return Example(
        "Linear",
        case,
        lambda weights, drops: Linear(C, 7, generator=weights, **options),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_ops.linear(x[0], w["weight"], w.get("bias")),
    )


def patch_embedding(case: str, **options: Any) -> Example:
    return Example(
        "PatchEmbedding",
        case,
        lambda weights, drops: PatchEmbedding(2, 3, C, generator=weights, **options),
        {"images": (B, 4, 6, 3)},
        lambda w, x, drop: torch_ops.patch_embedding(x[0], w["weight"], w.get("bias"), 2),
    )


def layer_norm(case: str, **options: Any) -> Example:
    return Example(
        "LayerNorm",
        case,
        lambda weights, drops: LayerNorm(C, **options),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_ops.layer_norm(x[0], w["weight"], w.get("bias"), options.get("eps", 1e-5)),
    )


def feed_forward(case: str, activation: Activation, bias: bool = True) -> Example:
    return Example(
        "FeedForward",
        case,
        lambda weights, drops: FeedForward(C, 17, bias=bias, activation=activation, generator=weights),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_feed_forward(w, x[0], activation),
        # a difference would step over the kink of some hidden unit; a complex step stays where it is
        slopes=("complex step", "adjoint") if activation == "relu" else SLOPES,
    )


def rms_norm(case: str, **options: Any) -> Example:
    return Example(
        "RMSNorm",
        case,
        lambda weights, drops: RMSNorm(C, **options),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_rms_norm(w, x[0], options.get("eps", 1e-6)),
    )


def gated_feed_forward(case: str, activation: Gate, bias: bool = False) -> Example:
    return Example(
        "GatedFeedForward",
        case,
        lambda weights, drops: GatedFeedForward(C, 17, bias=bias, activation=activation, generator=weights),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_gated_feed_forward(w, x[0], activation),
    )


def turned(positions: range, dim: int, theta: float, dtype: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, dim) of positions, each column twice."""
    torch = import_torch()
    frequencies = [theta ** (-2 * (i % (dim // 2)) / dim) for i in range(dim)]
    angles = torch.outer(torch.tensor(positions, dtype=torch.float64), torch.tensor(frequencies, dtype=torch.float64))
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_position(case: str, start: int, interleaved: bool) -> Example:
    def kernel(w: Weights, inputs: list[Tensor], drop: Drop) -> Tensor:
        cos, sin = (table[:, :2] for table in turned(range(start, start + T), 4, 100.0, inputs[0].dtype))
        return torch_ops.rotary_position(inputs[0], cos, sin, interleaved)

    return Example(
        "RotaryPosition",
        case,
        lambda weights, drops: RotaryPosition(4, theta=100.0, interleaved=interleaved),
        {"x": (B, 3, T, 6)},
        kernel,
        lambda module, x: module(x, start),
    )


def rotary_attention(case: str, mask: Mask, H: int, K: int, norms: bool, **options: Any) -> Example:
    """Heads that are 6 wide, which is not C / H."""

    def build(weights: Generator, drops: Generator) -> Module:
        q_norm, k_norm = (RMSNorm(6, 0.1) if norms else None for _ in range(2))
        rotary = RotaryPosition(6, theta=100.0)
        kinds: dict[str, Any] = {"head_dim": 6, "rotary": rotary, "q_norm": q_norm, "k_norm": k_norm}
        return MultiHeadAttention(C, H, K, **kinds, generator=weights, dropout_generator=drops, **options)

    def kernel(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        turn = turned(range(T), 6, 100.0, x[0].dtype)
        return torch_rotary(w, x[0], (H, K), dense_mask(mask, T, T, x[0].dtype), drop, turn, 0.1)

    return Example("MultiHeadAttention", case, build, {"x": (B, T, C)}, kernel, lambda module, x: module(x, None, mask))


def attention(case: str, mask: Mask = NO_MASK, memory: bool = False, H: int = 3, K: int = 3, **options: Any) -> Example:
    def kernel(w: Weights, inputs: list[Tensor], drop: Drop) -> Tensor:
        x, m = inputs[0], inputs[-1]
        return torch_multi_head(w, x, m, (H, K), dense_mask(mask, T, m.shape[1], x.dtype), drop)[0]

    return Example(
        "MultiHeadAttention",
        case,
        lambda weights, drops: MultiHeadAttention(C, H, K, generator=weights, dropout_generator=drops, **options),
        {"x": (B, T, C)} | ({"memory": (B, S, C)} if memory else {}),
        kernel,
        lambda module, x, memory=None: module(x, memory, mask),
    )


def sublayers(weights: Generator, drops: Generator, dropout: float, attentions: int) -> list[Module]:
    """Attentions, then a feed-forward, each with its dropout and its norm: what a post-norm block is made of."""
    heads = [
        MultiHeadAttention(C, 3, dropout=dropout, generator=weights, dropout_generator=drops) for _ in range(attentions)
    ]
    return [
        part
        for layer in (*heads, FeedForward(C, 17, generator=weights))
        for part in (layer, Dropout(dropout, generator=drops), LayerNorm(C))
    ]


def block(case: str, mask: Mask, dropout: float) -> Example:
    def build(weights: Generator, drops: Generator) -> Module:
        attention, drop, norm, feed_forward, last_drop, last_norm = sublayers(weights, drops, dropout, 1)
        return PreNormBlock(norm, attention, drop, last_norm, feed_forward, last_drop)  # type: ignore[arg-type]

    return Example(
        "PreNormBlock",
        case,
        build,
        {"x": (B, T, C)},
        lambda w, x, drop: torch_block(w, x[0], (3, 3), dense_mask(mask, T, T, x[0].dtype), drop, "gelu_tanh"),
        lambda module, x: module(x, mask),
    )


def post_norm_block(case: str, mask: Mask, dropout: float) -> Example:
    def kernel(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        return torch_post_norm_block(w, x[0], (3, 3), dense_mask(mask, T, T, x[0].dtype), drop, "gelu_tanh")

    return Example(
        "PostNormBlock",
        case,
        lambda weights, drops: PostNormBlock(*sublayers(weights, drops, dropout, 1)),  # type: ignore[arg-type]
        {"x": (B, T, C)},
        kernel,
        lambda module, x: module(x, mask),
    )


def cross_block(case: str, mask: Mask, memory_mask: Mask, dropout: float) -> Example:
    def kernel(w: Weights, inputs: list[Tensor], drop: Drop) -> Tensor:
        x, memory = inputs
        added = dense_mask(mask, T, T, x.dtype), dense_mask(memory_mask, T, S, x.dtype)
        return torch_cross_block(w, x, memory, (3, 3), added, drop, "gelu_tanh")

    return Example(
        "CrossBlock",
        case,
        lambda weights, drops: CrossBlock(*sublayers(weights, drops, dropout, 2)),  # type: ignore[arg-type]
        {"x": (B, T, C), "memory": (B, S, C)},
        kernel,
        lambda module, x, memory: module(x, memory, mask, memory_mask),
    )


EXAMPLES: tuple[Example, ...] = (
    Example(
        "Embedding",
        "repeated_ids",
        lambda weights, drops: Embedding(6, C, generator=weights),
        {},
        lambda w, x, drop: torch_ops.embedding(import_torch().from_numpy(IDS), w["weight"]),
        lambda module: module(IDS),
    ),
    patch_embedding("bias"),
    patch_embedding("no_bias", bias=False),
    Example(
        "ClassToken",
        "before_all",
        lambda weights, drops: ClassToken(C, generator=weights),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_ops.class_token(x[0], w["weight"]),
    ),
    Example(
        "LearnedPosition",
        "from_2",
        lambda weights, drops: LearnedPosition(9, C, generator=weights),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_ops.learned_position(x[0], w["weight"], 2),
        lambda module, x: module(x, 2),
    ),
    Example(
        "SinusoidalPosition",
        "from_0",
        lambda weights, drops: SinusoidalPosition(),
        {"x": (B, T, C)},
        lambda w, x, drop: torch_ops.sinusoidal_position(x[0], 0),
    ),
    linear("bias"),
    linear("no_bias", bias=False),
    layer_norm("bias"),
    layer_norm("no_bias", bias=False, eps=0.1),
    rms_norm("rows"),
    rms_norm("large_eps", eps=0.1),
    rotary_position("halves_from_2", 2, False),
    rotary_position("interleaved_from_0", 0, True),
    Example(
        "Dropout",
        "rows",
        lambda weights, drops: Dropout(0.3, generator=drops),
        {"x": (B, T, C)},
        lambda w, x, drop: drop(x[0]),
    ),
    feed_forward("gelu_tanh", "gelu_tanh"),
    feed_forward("gelu", "gelu", bias=False),
    feed_forward("relu", "relu"),
    gated_feed_forward("silu", "silu"),
    gated_feed_forward("gelu_bias", "gelu", bias=True),
    gated_feed_forward("gelu_tanh", "gelu_tanh"),
    *(
        example
        for name in ("auto", *IMPLEMENTATIONS)
        for example in (
            attention(f"{name}_causal_dropout", Mask(causal=True), implementation=name, dropout=0.3),
            attention(
                f"{name}_cross_grouped_no_bias",
                Mask(window=4, key_lengths=np.array([7, 5])),
                memory=True,
                H=6,
                K=2,
                implementation=name,
                bias=False,
            ),
            rotary_attention(
                f"{name}_rotary_dropout",
                Mask(causal=True),
                3,
                3,
                norms=False,
                implementation=name,
                dropout=0.3,
            ),
            rotary_attention(
                f"{name}_rotary_norms_grouped",
                Mask(causal=True, window=3, key_lengths=LENGTHS),
                6,
                2,
                norms=True,
                implementation=name,
                out_bias=False,
            ),
        )
    ),
    block("causal_window_dropout", Mask(causal=True, window=3), 0.3),
    block("causal", Mask(causal=True), 0.0),
    post_norm_block("causal_window_dropout", Mask(causal=True, window=3), 0.3),
    post_norm_block("key_lengths", Mask(key_lengths=LENGTHS), 0.0),
    cross_block("causal", Mask(causal=True), NO_MASK, 0.0),
    cross_block("key_lengths_dropout", Mask(causal=True, key_lengths=LENGTHS), Mask(key_lengths=np.array([4, 7])), 0.3),
)
