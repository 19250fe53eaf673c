"""Attention on a CPU: tiles of 32 queries by 256 keys that stay in the second-level cache, and no (T, S) matrix.

1. NumPy: batched products over whole (T, S) matrices, masked, exponentiated and normalised in seven passes over them.
2. One (batch, head) a task, in the backward one (batch, key/value head), and for each tile of queries only the keys
   that some of them see: causal masks leave half the work. The tile's products are single-threaded BLAS calls on q, k
   and v as they lie in the packed projection (k and v until 6.). A running maximum and sum make the softmax (Milakov,
   Gimelshein 2018), the exponential vectorises, and dropout draws its bits a row at a time.
3. The backward rebuilds each tile from the kept logsumexp: five products instead of two, and no memory.
4. Every loop over a row of a tile over a slice (see `_kernel`): for 96 causal heads of (256, 64), one core of a Zen 4,
   2026-11-24, forward 24.1 -> 17.6 ms (with dropout 34.9 -> 20.2), backward 45.3 -> 35.9 (49.0 -> 37.3).
5. dq, dk and dv written into one array where there are as many keys as queries: see `multi_head`.
6. The keys, and in the backward the values, of a block transposed once: the BLAS has a kernel for small products, up to
   a million multiplications, which gives 113 GFLOP/s where the left matrix lies as it is, and 77 where it is asked to
   transpose it. Blocks of keys outside, tiles of queries inside, so that one transposed block serves all queries, and
   what the backward adds to dk and dv stays in cache. A maximum that vectorises (see `_vector`): 0.43 -> 0.05 ns a
   score. Forward and backward of 16 heads of (1024, 64) on one core: 33.0 -> 28.5 and 76.1 -> 66.7 ms.
7. Rows of keys lie pages apart in the packed projection, and no processor foresees that: asking for them ahead of their
   use takes the transposition of 96 heads from 1.6 to 0.8 ms. Asking for queries and values gained nothing.
8. 32 queries instead of 48: less of a tile lies above the diagonal; 3% at T = 256, nothing at T = 4096. With 64, the
   products are too large for the small kernel: 20% slower.
9. For a few queries, as in generation, plain loops over keys and values: the time is that of reading them.

The 96 heads of 4. then take 14.3 and 30.7 ms, and with dropout 18.7 and 36.4 (2026-11-24).
"""

from math import sqrt

import numpy as np
from numba import carray, njit, prange

from ..backend import Array
from ..ops.attention import NO_MASK, FusedAttentionSaved, Mask, check_attention
from ..ops.door import check_gradient
from ..random import Draw, dropout_threshold
from ._blas import AS_IT_IS, TRANSPOSED, pointer, prefetch, sgemm, sgemm_address, single_threaded
from ._buffers import empty
from ._kernel import kernel, parallel_kernel, pool_for, serves
from ._vector import exp, highest, random_row

__all__ = ["fused_attention_backward", "fused_attention_forward"]

QUERIES, KEYS = 32, 256  # a tile of scores is 32 kB
PAD = 16  # floats after a row of transposed keys, so that the rows do not share cache lines' places
LINE, AHEAD = 16, 32  # floats in a line of the cache; rows of keys
FEW = 8  # queries, as in generation: plain loops, no tiles
PRODUCTS = 8  # of q, k and D, in the time of one element of a sweep
ZERO, ONE = np.float32(0.0), np.float32(1.0)
LOWEST, INFINITE = np.float32(-np.inf), np.float32(np.inf)

# What a kernel must know, as one record: addresses in bytes, and the steps, in floats, from one element of the strided
# q, k and v, and of what a mask adds, to the next along batch, head and time.
INTEGERS = [
    *("address", "q_at", "k_at", "v_at"),
    *("q_batch", "q_head", "q_time", "k_batch", "k_head", "k_time", "v_batch", "v_head", "v_time"),
    *("B", "H", "K", "T", "S", "D"),
    *("causal", "window", "has_bias", "bias_batch", "bias_head", "bias_time"),
    *("threshold", "seed_low", "seed_high", "offset", "stream_head"),
]
OPTIONS = np.dtype([(name, np.int64) for name in INTEGERS] + [("scale", np.float32), ("keep_scale", np.float32)])


@njit(cache=True)
def _visible(t, T, S, causal, window, length):
    """The keys [first, last) that query t sees, by the flags."""
    position = S - T + t
    first, last = 0, length
    if causal:
        last = min(last, position + 1)
    if window > 0:
        first = max(first, position - window + 1)
        if not causal:
            last = min(last, position + window)
    return first, max(first, last)


@njit(cache=True)
def _columns(block, start, rows, T, S, causal, window, length):
    """Of a block of keys, what some of a tile's queries see: the first, and how many, 0 where there are none."""
    first, _ = _visible(start, T, S, causal, window, length)
    _, last = _visible(start + rows - 1, T, S, causal, window, length)
    first = max(block, first // 4 * 4)  # four random numbers come at a time
    return first, max(0, min(block + KEYS, last) - first)


@kernel
def _transpose(at, rows, ld, columns, turned):
    """turned[c, r] = the float32 at row r, column c of a matrix at an address, whose rows lie ld floats apart."""
    matrix = carray(pointer(at), (rows, ld))
    for r in range(rows):
        for line in range((columns + LINE - 1) // LINE):
            prefetch(at + 4 * ((r + AHEAD) * ld + line * LINE))
        row = matrix[r]
        for c in range(columns):
            turned[c, r] = row[c]


@kernel
def _forward_task(task, options, lengths, bias, y, logsumexp):
    o = options[0]
    address, H, K, T, S, D, scale, keep_scale = o.address, o.H, o.K, o.T, o.S, o.D, o.scale, o.keep_scale
    causal, window, has_bias, threshold = o.causal, o.window, o.has_bias, o.threshold
    seed_low, seed_high, offset, stream_head = o.seed_low, o.seed_high, o.offset, o.stream_head
    q_ld, k_ld, v_ld = o.q_time, o.k_time, o.v_time
    group, row_step = H // K, y.shape[2] * D
    b, h = task // H, task % H
    length = lengths[b]
    scores, k_turned = np.empty((QUERIES, KEYS), np.float32), np.empty((D, KEYS + PAD), np.float32)
    tops, total = np.empty(T, np.float32), np.empty(T, np.float32)
    bits = np.empty(KEYS, np.uint32)
    scores_at, k_turned_at, y_at = scores.ctypes.data, k_turned.ctypes.data, y.ctypes.data + 4 * D * (b * T * H + h)
    q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
    k_head = o.k_at + 4 * (b * o.k_batch + h // group * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + h // group * o.v_head)
    for t in range(T):
        tops[t], total[t] = LOWEST, ZERO
        y[b, t, h] = ZERO
    for block in range(0, S, KEYS):
        _transpose(k_head + 4 * block * k_ld, min(KEYS, S - block), k_ld, D, k_turned)
        for start in range(0, T, QUERIES):
            rows = min(QUERIES, T - start)
            key, columns = _columns(block, start, rows, T, S, causal, window, length)
            if columns == 0:
                continue
            sgemm(
                address, AS_IT_IS, AS_IT_IS, columns, rows, D,
                scale, k_turned_at + 4 * (key - block), KEYS + PAD, q_head + 4 * start * q_ld, q_ld,
                ZERO, scores_at, KEYS,
            )  # fmt: skip
            for r in range(rows):
                t = start + r
                lo, hi = _visible(t, T, S, causal, window, length)
                lo, hi = max(lo - key, 0), min(hi - key, columns)
                hi = max(lo, hi)
                seen = scores[r, lo:hi]
                if has_bias:
                    at = b * o.bias_batch + h * o.bias_head + t * o.bias_time + key + lo
                    added = bias[at : at + seen.size]
                    for c in range(seen.size):
                        seen[c] += added[c]
                top = highest(seen, tops[t])
                scores[r, : min(lo, columns)] = ZERO
                scores[r, hi:columns] = ZERO
                shift = ZERO if top == LOWEST else top  # where all is −inf, so that it comes out as 0
                weight = ZERO
                for c in range(seen.size):
                    e = exp(seen[c] - shift)
                    seen[c] = e
                    weight += e
                if top > tops[t]:
                    shrink = exp(tops[t] - top)
                    total[t] *= shrink
                    part = y[b, t, h]
                    for d in range(part.size):
                        part[d] *= shrink
                tops[t] = top
                total[t] += weight
                if threshold > 0:
                    random_row(
                        bits, key // 4, (columns + 3) // 4, b * T + t, seed_low, seed_high, offset, stream_head + h
                    )
                    drawn = bits[lo:hi]
                    for c in range(seen.size):
                        seen[c] = seen[c] * keep_scale if drawn[c] >= threshold else ZERO
            sgemm(
                address, AS_IT_IS, AS_IT_IS, D, rows, columns,
                ONE, v_head + 4 * key * v_ld, v_ld, scores_at, KEYS,
                ONE, y_at + 4 * start * row_step, row_step,
            )  # fmt: skip
    for t in range(T):
        if total[t] == ZERO:  # a query that sees no key
            logsumexp[b, h, t] = INFINITE
        else:
            logsumexp[b, h, t] = tops[t] + np.log(total[t])
            part, share = y[b, t, h], ONE / total[t]
            for d in range(part.size):
                part[d] *= share


@parallel_kernel
def _forward(options, lengths, bias, y, logsumexp):
    for task in prange(options[0].B * options[0].H):
        _forward_task(np.int64(task), options, lengths, bias, y, logsumexp)  # else compiled for unsigned as well


@kernel
def _few_task(task, options, lengths, bias, y, logsumexp):
    o = options[0]
    H, K, T, S, D, scale = o.H, o.K, o.T, o.S, o.D, o.scale
    b, h = task // H, task % H
    k_head = o.k_at + 4 * (b * o.k_batch + h // (H // K) * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + h // (H // K) * o.v_head)
    scores = np.empty(S, np.float32)
    for t in range(T):
        lo, hi = _visible(t, T, S, o.causal, o.window, lengths[b])
        seen, out = scores[lo:hi], y[b, t, h]
        query = carray(pointer(o.q_at + 4 * (b * o.q_batch + h * o.q_head + t * o.q_time)), (D,))
        for s in range(seen.size):
            key, score = carray(pointer(k_head + 4 * (lo + s) * o.k_time), (D,)), ZERO
            for d in range(query.size):
                score += query[d] * key[d]
            seen[s] = score * scale
        if o.has_bias:
            at = b * o.bias_batch + h * o.bias_head + t * o.bias_time + lo
            added = bias[at : at + seen.size]
            for s in range(seen.size):
                seen[s] += added[s]
        top = highest(seen, LOWEST)
        shift, total = ZERO if top == LOWEST else top, ZERO
        for s in range(seen.size):
            e = exp(seen[s] - shift)
            seen[s] = e
            total += e
        logsumexp[b, h, t] = INFINITE if total == ZERO else top + np.log(total)  # infinite: it sees no key
        out[:] = ZERO
        share = ONE / total if total != ZERO else ZERO
        for s in range(seen.size):
            value, weight = carray(pointer(v_head + 4 * (lo + s) * o.v_time), (D,)), seen[s] * share
            for d in range(out.size):
                out[d] += weight * value[d]


@parallel_kernel
def _few(options, lengths, bias, y, logsumexp):
    for task in prange(options[0].B * options[0].H):
        _few_task(np.int64(task), options, lengths, bias, y, logsumexp)


@kernel
def _backward_task(task, options, lengths, bias, y, logsumexp, dy, dq, dk, dv, q_from, k_from, v_from):
    o = options[0]
    address, H, K, T, S, D, scale, keep_scale = o.address, o.H, o.K, o.T, o.S, o.D, o.scale, o.keep_scale
    causal, window, has_bias, threshold = o.causal, o.window, o.has_bias, o.threshold
    seed_low, seed_high, offset, stream_head = o.seed_low, o.seed_high, o.offset, o.stream_head
    q_ld, k_ld, v_ld = o.q_time, o.k_time, o.v_time
    group = H // K
    q_row, k_row, v_row, dy_row = dq.shape[2], dk.shape[2], dv.shape[2], H * D
    b, g = task // K, task % K
    length, turned_ld = lengths[b], KEYS + PAD
    scores, dscores = np.empty((QUERIES, KEYS), np.float32), np.empty((QUERIES, KEYS), np.float32)
    k_turned, v_turned = np.empty((D, turned_ld), np.float32), np.empty((D, turned_ld), np.float32)
    delta, bits = np.empty((group, T), np.float32), np.empty(KEYS, np.uint32)
    scores_at, dscores_at = scores.ctypes.data, dscores.ctypes.data
    k_turned_at, v_turned_at = k_turned.ctypes.data, v_turned.ctypes.data
    k_head = o.k_at + 4 * (b * o.k_batch + g * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + g * o.v_head)
    k_from, v_from = k_from + g * D, v_from + g * D
    dk_head, dv_head = dk.ctypes.data + 4 * (b * S * k_row + k_from), dv.ctypes.data + 4 * (b * S * v_row + v_from)
    for s in range(S):
        dk[b, s, k_from : k_from + D] = ZERO
        dv[b, s, v_from : v_from + D] = ZERO
    for member in range(group):
        h = g * group + member
        for t in range(T):
            product, dy_part, y_part = ZERO, dy[b, t, h], y[b, t, h]
            for d in range(D):
                product += dy_part[d] * y_part[d]
            delta[member, t] = product
            dq[b, t, q_from + h * D : q_from + (h + 1) * D] = ZERO
    for block in range(0, S, KEYS):
        _transpose(k_head + 4 * block * k_ld, min(KEYS, S - block), k_ld, D, k_turned)
        _transpose(v_head + 4 * block * v_ld, min(KEYS, S - block), v_ld, D, v_turned)
        for member in range(group):
            h = g * group + member
            q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
            dq_head = dq.ctypes.data + 4 * (b * T * q_row + q_from + h * D)
            dy_head = dy.ctypes.data + 4 * D * (b * T * H + h)
            for start in range(0, T, QUERIES):
                rows = min(QUERIES, T - start)
                key, columns = _columns(block, start, rows, T, S, causal, window, length)
                if columns == 0:
                    continue
                q_tile, dy_tile = q_head + 4 * start * q_ld, dy_head + 4 * start * dy_row
                sgemm(
                    address, AS_IT_IS, AS_IT_IS, columns, rows, D,
                    scale, k_turned_at + 4 * (key - block), turned_ld, q_tile, q_ld, ZERO, scores_at, KEYS,
                )  # fmt: skip
                sgemm(
                    address, AS_IT_IS, AS_IT_IS, columns, rows, D,
                    ONE, v_turned_at + 4 * (key - block), turned_ld, dy_tile, dy_row, ZERO, dscores_at, KEYS,
                )  # fmt: skip
                for r in range(rows):
                    t = start + r
                    lo, hi = _visible(t, T, S, causal, window, length)
                    lo, hi = max(lo - key, 0), min(hi - key, columns)
                    hi = max(lo, hi)
                    seen, dseen = scores[r, lo:hi], dscores[r, lo:hi]
                    scores[r, : min(lo, columns)] = ZERO
                    dscores[r, : min(lo, columns)] = ZERO
                    scores[r, hi:columns] = ZERO
                    dscores[r, hi:columns] = ZERO
                    if has_bias:
                        at = b * o.bias_batch + h * o.bias_head + t * o.bias_time + key + lo
                        added = bias[at : at + seen.size]
                        for c in range(seen.size):
                            seen[c] += added[c]
                    ell, mean = logsumexp[b, h, t], delta[member, t]
                    if threshold > 0:
                        random_row(
                            bits, key // 4, (columns + 3) // 4, b * T + t, seed_low, seed_high, offset,
                            stream_head + h,
                        )  # fmt: skip
                        drawn = bits[lo:hi]
                        for c in range(seen.size):
                            p = exp(seen[c] - ell)
                            keep = keep_scale if drawn[c] >= threshold else ZERO
                            seen[c] = p * keep
                            dseen[c] = p * (dseen[c] * keep - mean) * scale
                    else:
                        for c in range(seen.size):
                            p = exp(seen[c] - ell)
                            seen[c] = p
                            dseen[c] = p * (dseen[c] - mean) * scale
                sgemm(
                    address, AS_IT_IS, TRANSPOSED, D, columns, rows,
                    ONE, dy_tile, dy_row, scores_at, KEYS, ONE, dv_head + 4 * key * v_row, v_row,
                )  # fmt: skip
                sgemm(
                    address, AS_IT_IS, TRANSPOSED, D, columns, rows,
                    ONE, q_tile, q_ld, dscores_at, KEYS, ONE, dk_head + 4 * key * k_row, k_row,
                )  # fmt: skip
                sgemm(
                    address, AS_IT_IS, AS_IT_IS, D, rows, columns,
                    ONE, k_head + 4 * key * k_ld, k_ld, dscores_at, KEYS, ONE, dq_head + 4 * start * q_row, q_row,
                )  # fmt: skip


@parallel_kernel
def _backward(options, lengths, bias, y, logsumexp, dy, dq, dk, dv, q_from, k_from, v_from):
    for task in prange(options[0].B * options[0].K):
        _backward_task(np.int64(task), options, lengths, bias, y, logsumexp, dy, dq, dk, dv, q_from, k_from, v_from)


def _is_ready(x: Array) -> bool:
    # rows of floats one after the other, at any distance: the BLAS takes them as they lie
    return (
        x.dtype == np.float32
        and x.size > 0
        and x.strides[3] == 4
        and all(s % 4 == 0 for s in x.strides[:3])
        and (x.strides[2] >= 4 * x.shape[3])
    )


def _arguments(
    q: Array, k: Array, v: Array, mask: Mask, dropout: float, draw: Draw | None
) -> tuple[Array, Array, Array]:
    B, H, T, D = q.shape
    K, S = k.shape[1:3]
    lengths = np.full(B, S) if mask.key_lengths is None else np.array(mask.key_lengths, np.int64)
    bias, bias_steps = np.zeros(1, np.float32), [0, 0, 0]
    if mask.array is not None:  # laid out as one row of floats, so that the kernel is compiled for nothing else
        bias = mask.array if mask.array.dtype.kind == "f" else np.where(mask.array, ZERO, LOWEST)
        bias = bias if bias.ndim == 4 else bias[None, None]
        bias = np.ascontiguousarray(np.broadcast_to(bias, (*bias.shape[:3], S)), np.float32)
        bias_steps = [s // 4 if n > 1 else 0 for n, s in zip(bias.shape[:3], bias.strides[:3], strict=True)]
    draw = draw or Draw(0, 0, 0)
    options = np.zeros(1, OPTIONS)
    options[0] = (
        sgemm_address(),
        *(x.ctypes.data for x in (q, k, v)),
        *(stride // 4 for x in (q, k, v) for stride in x.strides[:3]),
        *(B, H, K, T, S, D),
        *(mask.causal, mask.window or 0, mask.array is not None, *bias_steps),
        *(dropout_threshold(dropout), draw.seed & 0xFFFFFFFF, draw.seed >> 32, draw.offset),
        (draw.stream << 16) + draw.head,
        1.0 / sqrt(D),
        1.0 / (1.0 - dropout),
    )
    bias = bias.reshape(-1)
    bias.flags.writeable = False  # as a view of the caller's may be: it is part of what a kernel is compiled for
    return options, lengths, bias


def _forward_serves(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, draw: Draw | None = None
) -> bool:
    return all(x.ndim == 4 and _is_ready(x) for x in (q, k, v))


@serves(_forward_serves)
def fused_attention_forward(
    q: Array, k: Array, v: Array, mask: Mask = NO_MASK, dropout: float = 0.0, draw: Draw | None = None
) -> tuple[Array, FusedAttentionSaved]:
    check_attention(q, k, v, mask, dropout, draw)
    B, H, T, D = q.shape
    y, logsumexp = empty((B, T, H, D)), np.empty((B, H, T), np.float32)
    given = (*_arguments(q, k, v, mask, dropout, draw), y, logsumexp)
    if T <= FEW and dropout == 0.0:
        with pool_for(2 * B * H * T * k.shape[2] * D):
            _few(*given)
    else:
        with single_threaded, pool_for(B * H * T * k.shape[2] * D // PRODUCTS):
            _forward(*given)
    y = y.swapaxes(1, 2)  # as the output projection wants to read it: merging the heads is a view
    return y, FusedAttentionSaved(q, k, v, y, logsumexp, mask, dropout, draw)


@serves(lambda dy, saved: _forward_serves(saved.q, saved.k, saved.v) and _is_ready(dy) and _is_ready(saved.y))
def fused_attention_backward(dy: Array, saved: FusedAttentionSaved) -> tuple[Array, Array, Array]:
    q, k, v, y, logsumexp, mask, dropout, draw = saved
    check_gradient("fused_attention_backward", dy, q, q.shape)
    B, H, T, D = q.shape
    K, S = k.shape[1:3]
    # side by side in one array where the lengths let them, as the backward of the projection wants to read them
    widths = (H * D, K * D, K * D)
    starts = (0, H * D, H * D + K * D) if S == T else (0, 0, 0)
    whole = empty((B, T, sum(widths))) if S == T else None
    lengths = (T, S, S)
    dq, dk, dv = (empty((B, n, w)) if whole is None else whole for n, w in zip(lengths, widths, strict=True))
    by_time = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (y, dy)]
    with single_threaded, pool_for(B * H * T * S * D // PRODUCTS):
        _backward(
            *_arguments(q, k, v, mask, dropout, draw),
            by_time[0],
            np.ascontiguousarray(logsumexp),
            by_time[1],
            dq,
            dk,
            dv,
            *starts,
        )
    dq, dk, dv = (
        x[..., start : start + width].reshape(B, -1, width // D, D).swapaxes(1, 2)
        for x, start, width in zip((dq, dk, dv), starts, widths, strict=True)
    )
    return dq, dk, dv
