"""Pre-norm block on a CPU in bfloat16: a whole block in training at once.

    stream = x + dropout(attention(norm(x)));   y = stream + dropout(feed_forward(norm(stream)))

It is no op: `PreNormBlock` calls it in training, where products are in bfloat16 and a kernel of `_products` computes
them. What products alone read is written as they read it, and what a sweep would do to a result is done while it is in
cache. Against the lines of the block, one op after the other:

    norm             writes what the next product reads, rounded and in its order; the float32 numbers stay in cache
    output, down     128 rows of the result pass dropout and are added to the stream before they leave the cache
    backward         the gradient passes dropout while it is packed, and a norm adds its gradient to the stream's

Kept for the backward: the stream before each norm, queries, keys, values and heads in float32; and rounded, once, what
the projections and the feed-forward network multiply.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..ops._checks import check_gradient
from ..ops.activation import Activation
from ..ops.attention import FusedAttentionSaved, fused_attention_backward, fused_attention_forward
from ..ops.block import BlockWeights, each_shape, each_weight
from ..ops.dropout import DropoutSaved
from ..ops.multi_head import MultiHeadOptions, merge_heads, split_heads
from ..ops.norm import LayerNormSaved
from ._buffers import empty
from ._kernel import is_ready, sum_of_partials
from ._packing import pack_gradient, pack_panels, pack_rows, panels_of_rows
from ._products import Kernel, Onto, multiply
from .feed_forward import feed_forward_backward, feed_forward_of_rows, gradient_of_weight
from .feed_forward import supports as supports_feed_forward
from .linear import packed_kernel
from .multi_head import side_by_side
from .norm import layer_norm_backward_onto, layer_norm_packed

__all__ = ["block_backward", "block_forward", "supports"]

Dropouts = tuple[DropoutSaved | None, DropoutSaved | None]


class AttendedSaved(NamedTuple):
    """norm, attention: what they saved. normed: rows of A. in_weight, out_weight: as given.

    dropout: of the output. kernel: of the products.
    """

    norm: LayerNormSaved
    normed: Array
    in_weight: Array
    out_weight: Array
    attention: FusedAttentionSaved
    dropout: DropoutSaved | None
    kernel: Kernel


class FedSaved(NamedTuple):
    """norm, feed_forward: what they saved. dropout: of the output."""

    norm: LayerNormSaved
    feed_forward: Any
    dropout: DropoutSaved | None


def supports(x: Array, weights: BlockWeights, options: MultiHeadOptions, activation: Activation) -> bool:
    """Return whether the block is computed as here: float32 in one piece, of shapes that fit."""
    arrays = each_weight(weights)
    if x.ndim != 3 or not is_ready(x, *arrays) or not supports_feed_forward(
        x, weights.up_weight, weights.down_weight, activation
    ):  # fmt: skip
        return False
    H, K = options.num_heads, options.kv_heads
    D, rest = divmod(len(weights.in_weight), H + 2 * K)
    shapes = each_shape(x.shape[2], H, K, D, len(weights.up_weight))
    fits = (array is None or array.shape == shape for array, shape in zip(arrays, shapes, strict=True))
    return rest == 0 and all(fits)


def block_forward(
    x: Array, weights: BlockWeights, options: MultiHeadOptions, activation: Activation, dropouts: Dropouts
) -> tuple[Array, list[Any]]:
    """Return y (B, T, C) and what the backward needs. dropouts: of the two branches; None: nothing is dropped."""
    stream, attended = _attend(x, weights, options, dropouts[0])
    w, rows = weights, stream.reshape(-1, x.shape[2])
    normed, norm = layer_norm_packed(rows, *w.feed_forward_norm)
    y, saved = feed_forward_of_rows(
        x.shape, normed, w.up_weight, w.up_bias, w.down_weight, w.down_bias, activation, Onto(rows, dropouts[1])
    )
    return y, [attended, FedSaved(norm, saved, dropouts[1])]


def _attend(
    x: Array, w: BlockWeights, options: MultiHeadOptions, dropout: DropoutSaved | None
) -> tuple[Array, AttendedSaved]:
    """Return x + dropout(attention(norm(x)))."""
    (B, T, C), H, K = x.shape, options.num_heads, options.kv_heads
    rows, W = x.reshape(-1, C), len(w.in_weight)
    D = W // (H + 2 * K)
    kernel = packed_kernel("bfloat16", len(rows))
    assert kernel is not None, "supports said so"
    normed, norm = layer_norm_packed(rows, *w.attention_norm)
    qkv = empty((B, T, W))
    multiply(kernel, normed, pack_panels(w.in_weight), qkv.reshape(-1, W), w.in_bias)
    keys = H * D, (H + K) * D
    q, k, v = (split_heads(part, D) for part in np.split(qkv, keys, axis=2))
    heads, attention = fused_attention_forward(q, k, v, options.mask, options.dropout, options.key)
    merged = np.ascontiguousarray(merge_heads(heads)).reshape(-1, H * D)
    stream = empty(x.shape)
    onto = Onto(rows, dropout)
    multiply(kernel, pack_rows(merged), pack_panels(w.out_weight), stream.reshape(-1, C), w.out_bias, onto)
    return stream, AttendedSaved(norm, normed, w.in_weight, w.out_weight, attention, dropout, kernel)


def block_backward(dy: Array, saved: list[Any], needs: Sequence[bool]) -> tuple[Array, list[Array | None]]:
    """Return the gradient of x, and those of the weights in the order of `each_weight`; None where none is needed.

    saved: what the forward returned, which is emptied, so that its memory serves what follows. needs: of which weights;
    of none that is not there.
    """
    x = saved[0].norm.x
    shape = (*saved[0].attention.y.shape[::2], x.shape[1])
    check_gradient("PreNormBlock", dy, x, shape)
    dy = np.ascontiguousarray(dy)
    dstream, fed = _fed_backward(dy, saved.pop(), needs[6:])
    dx, attended = _attended_backward(dstream, saved.pop(), needs[:6])
    return dx, attended + fed


def _fed_backward(dy: Array, saved: FedSaved, needs: Sequence[bool]) -> tuple[Array, list[Array | None]]:
    C = dy.shape[2]
    dnormed, *gradients = feed_forward_backward(dy, saved.feed_forward, needs[2:], saved.dropout)
    dstream, *norm = layer_norm_backward_onto(dy.reshape(-1, C), dnormed.reshape(-1, C), saved.norm, *needs[:2])
    return dstream.reshape(dy.shape), [*norm, *gradients]


def _attended_backward(dy: Array, saved: AttendedSaved, needs: Sequence[bool]) -> tuple[Array, list[Array | None]]:
    norm, normed, in_weight, out_weight, attention, dropout, kernel = saved
    (B, T, C), D, W = dy.shape, attention.y.shape[3], len(in_weight)
    rows, turned, sums = pack_gradient(dy.reshape(-1, C), dropout)
    dmerged = empty((B, T, out_weight.shape[1]))
    multiply(kernel, rows, pack_panels(out_weight, turned=True), dmerged.reshape(B * T, -1))
    dout_weight = dout_bias = din_weight = din_bias = None
    if needs[4]:
        merged = np.ascontiguousarray(merge_heads(attention.y)).reshape(B * T, -1)
        dout_weight = gradient_of_weight(kernel, turned, pack_panels(merged, turned=True), out_weight)
    if needs[5]:
        dout_bias = sum_of_partials(sums)
    parts = fused_attention_backward(split_heads(dmerged, D), attention)
    dqkv = side_by_side(*parts)
    if dqkv is None:
        dqkv = np.ascontiguousarray(np.concatenate([merge_heads(part) for part in parts], axis=-1))
    rows, turned, sums = pack_gradient(dqkv.reshape(-1, W))
    dnormed = empty((B * T, C))
    multiply(kernel, rows, pack_panels(in_weight, turned=True), dnormed)
    if needs[2]:
        din_weight = gradient_of_weight(kernel, turned, panels_of_rows(normed, C), in_weight)
    if needs[3]:
        din_bias = sum_of_partials(sums)
    dx, *of_norm = layer_norm_backward_onto(dy.reshape(-1, C), dnormed, norm, *needs[:2])
    return dx.reshape(dy.shape), [*of_norm, din_weight, din_bias, dout_weight, dout_bias]
