"""Llama in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`."""

from math import ceil, log, pi, sqrt

from ...models.llama import LlamaConfig
from ...ops.attention import Mask
from ..record import Drop, Tensor, Weights
from .base import capped, dense_mask, functional, import_torch
from .modules import part

__all__ = ["Tables", "logits", "rotate_half", "tables", "torch_gated_feed_forward", "torch_rms_norm", "torch_rotary"]

Tables = tuple[Tensor, Tensor]  # cos and sin (T, D), each column twice, as Hugging Face has them


def torch_rms_norm(weights: Weights, x: Tensor, eps: float) -> Tensor:
    """Compute RMS norm."""
    return functional().rms_norm(x, x.shape[-1:], weights["weight"], eps)


def torch_gated_feed_forward(weights: Weights, x: Tensor, activation: str) -> Tensor:
    """Return down(activation(gate(x)) · up(x))."""
    gate, up, down = (part(weights, name) for name in ("gate", "up", "down"))
    hidden = functional().linear(x, gate["weight"], gate.get("bias"))
    if activation == "silu":
        hidden = functional().silu(hidden)
    else:
        hidden = functional().gelu(hidden, approximate="tanh" if activation == "gelu_tanh" else "none")
    hidden = hidden * functional().linear(x, up["weight"], up.get("bias"))
    return functional().linear(hidden, down["weight"], down.get("bias"))


def rotate_half(x: Tensor) -> Tensor:
    """Return each pair (a, b) of columns as (−b, a), where pairs are halves."""
    a, b = x.chunk(2, dim=-1)
    return import_torch().cat((-b, a), dim=-1)


def torch_rotary(
    weights: Weights,
    x: Tensor,
    heads: tuple[int, int],
    added: Tensor,
    drop: Drop,
    turn: Tables | None,
    eps: float = 1e-6,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute multi-head attention of queries and keys that are normalized, where there is a norm, and turned.

    turn: None turns nothing. soft_cap: of the scores.
    """
    torch = import_torch()
    H, K = heads
    D = weights["out_weight"].shape[1] // H
    rows = [H * D, K * D, K * D]
    biases = weights["in_bias"].split(rows) if "in_bias" in weights else (None, None, None)
    q, k, v = (
        functional().linear(x, matrix, bias).unflatten(-1, (-1, D)).transpose(1, 2)
        for matrix, bias in zip(weights["in_weight"].split(rows), biases, strict=True)
    )
    if "q_norm.weight" in weights:
        q, k = (torch_rms_norm(part(weights, f"{name}_norm"), y, eps) for name, y in (("q", q), ("k", k)))
    if turn is not None:
        cos, sin = turn
        q, k = (y * cos + rotate_half(y) * sin for y in (q, k))
    k, v = k.repeat_interleave(H // K, dim=1), v.repeat_interleave(H // K, dim=1)
    scores = capped(torch.einsum("bhtd,bhsd->bhts", q, k) / sqrt(D), soft_cap)
    shares = torch.softmax(scores + added, dim=-1)
    y = torch.einsum("bhts,bhsd->bthd", drop(shares), v).flatten(2)
    return functional().linear(y, weights["out_weight"], weights.get("out_bias"))


def inverse_wavelengths(config: LlamaConfig) -> list[float]:
    """Return the frequencies of a configuration, one after the other, by the formulas of the papers."""
    D, theta = config.head_dim or config.embed_dim // config.num_heads, config.rope_theta
    plain = [theta ** (-2 * i / D) for i in range(D // 2)]
    L, factor = config.rope_original_length or config.context_length, config.rope_factor
    if config.rope_scaling == "linear":
        return [f / factor for f in plain]
    if config.rope_scaling == "llama3":
        low, high = config.rope_low_frequency_factor, config.rope_high_frequency_factor
        smooth = [min(1.0, max(0.0, (L * f / (2 * pi) - low) / (high - low))) for f in plain]
        return [(1 - s) * f / factor + s * f for s, f in zip(smooth, plain, strict=True)]
    if config.rope_scaling == "yarn":
        turns = config.rope_beta_fast, config.rope_beta_slow
        first, last = (D * log(L / (n * 2 * pi)) / (2 * log(theta)) for n in turns)
        if config.rope_truncate:
            first, last = float(first // 1), float(ceil(last))
        first, last = max(first, 0.0), min(last, D - 1.0)
        ramp = [min(1.0, max(0.0, (i - first) / ((last - first) or 0.001))) for i in range(D // 2)]
        return [f / factor * r + f * (1 - r) for f, r in zip(plain, ramp, strict=True)]
    return plain  # "dynamic" too, as texts are no longer than the original length


def tables(config: LlamaConfig, T: int, dtype: object) -> Tables:
    """Return the cosines and sines (T, D) of the first T positions."""
    torch = import_torch()

    angles = torch.outer(*(torch.tensor(x, dtype=torch.float64) for x in (range(T), inverse_wavelengths(config))))
    angles = torch.cat((angles, angles), dim=1)
    scale = 1.0
    if config.rope_scaling == "yarn":
        given = config.rope_attention_factor
        scale = 0.1 * log(config.rope_factor) + 1.0 if given is None else given
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def alibi(num_heads: int, T: int, dtype: object) -> Tensor:
    """Return what ALiBi adds to the causal scores (H, T, T) of its paper: its slopes are a geometric sequence.

    For a number of heads that is no power of two, those of the next lower one come first, then every other one of
    those of the next higher one.
    """
    torch = import_torch()

    def sequence(count: int) -> list[float]:
        first: float = 2 ** (-8 / count)
        return [first ** (head + 1) for head in range(count)]

    lower = 2 ** int(log(num_heads, 2) + 1e-9)
    slopes = torch.tensor((sequence(lower) + sequence(2 * lower)[::2])[:num_heads], dtype=torch.float64)
    keys = torch.arange(T)
    return (slopes[:, None, None] * (keys - keys[:, None])).to(dtype)


def logits(weights: Weights, config: LlamaConfig, ids: Tensor, drop: Drop) -> Tensor:
    """Return the logits (B, T, V) of a Llama."""
    T, eps = ids.shape[1], config.norm_eps
    heads = config.num_heads, config.num_kv_heads or config.num_heads
    x = drop(functional().embedding(ids, weights["token_embedding.weight"]))
    added = dense_mask(Mask(causal=True, window=config.window), T, T, x.dtype)
    if config.positions == "alibi":
        added = added + alibi(config.num_heads, T, x.dtype)
    turn = None if config.positions == "alibi" else tables(config, T, x.dtype)
    for index in range(config.num_layers):
        block = part(weights, f"blocks.{index}")
        normed = torch_rms_norm(part(block, "attention_norm"), x, eps)
        x = x + drop(torch_rotary(part(block, "attention"), normed, heads, added, drop, turn, eps, config.soft_cap))
        normed = torch_rms_norm(part(block, "feed_forward_norm"), x, eps)
        x = x + drop(torch_gated_feed_forward(part(block, "feed_forward"), normed, config.gate_activation))
    head = weights["token_embedding.weight" if config.tie_word_embeddings else "head.weight"]
    return functional().linear(torch_rms_norm(part(weights, "norm"), x, eps), head)
