"""Attention's kernels: tiles of queries by keys, forward and backward, and plain loops for a few queries.

What was tried, and what it gained, heads `attention`, which calls them.
"""

import numpy as np
from numba import carray, prange

from ._blas import AS_IT_IS, TRANSPOSED, pointer, prefetch, sgemm
from ._compiler import part_compiler
from ._kernel import compile_parallel, compile_part
from ._vector import difference, exp, highest, random_row, rounded

__all__ = [
    "KEYS",
    "LINE",
    "LOWEST",
    "ONE",
    "OPTIONS",
    "ZERO",
    "add_bias",
    "backward",
    "few",
    "few_task",
    "forward",
    "gradient_rows",
    "visible",
]

KEYS = 256  # of a tile
PAD = 16  # floats after a row of transposed keys, so that the rows do not share cache lines' places
LINE, AHEAD = 16, 32  # floats in a line of the cache; rows of keys
ZERO, ONE = np.float32(0.0), np.float32(1.0)
LOWEST = np.float32(-np.inf)

# What a kernel must know, as one record: addresses in bytes, and the steps, in floats, from one element of the strided
# q, k and v, and of what a mask adds, to the next along batch, head and time.
INTEGERS = [
    *("address", "q_at", "k_at", "v_at"),
    *("q_batch", "q_head", "q_time", "k_batch", "k_head", "k_time", "v_batch", "v_head", "v_time"),
    *("B", "H", "K", "T", "S", "D"),
    *("causal", "window", "has_bias", "bias_batch", "bias_head", "bias_time"),
    *("threshold", "seed_low", "seed_high", "offset", "stream_head"),
    "queries",  # of a tile
    "rounds",  # whether weights and their gradients are rounded to bfloat16 before a product; q, k, v and dy come so
]
OPTIONS = np.dtype([(name, np.int64) for name in INTEGERS] + [("scale", np.float32), ("keep_scale", np.float32)])


compile_flags = part_compiler()


@compile_flags
def visible(t, T, S, causal, window, length):
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


@compile_flags
def _columns(block, start, rows, T, S, causal, window, length):
    """Of a block of keys, what some of a tile's queries see: the first, and how many, 0 where there are none."""
    first, _ = visible(start, T, S, causal, window, length)
    _, last = visible(start + rows - 1, T, S, causal, window, length)
    first = max(block, first // 4 * 4)  # four random numbers come at a time
    return first, max(0, min(block + KEYS, last) - first)


@compile_part
def _transpose(at, rows, ld, columns, turned):
    """turned[c, r] = the float32 at row r, column c of a matrix at an address, whose rows lie ld floats apart."""
    matrix = carray(pointer(at), (rows, ld))
    for r in range(rows):
        for line in range((columns + LINE - 1) // LINE):
            prefetch(at + 4 * ((r + AHEAD) * ld + line * LINE))
        row = matrix[r]
        for c in range(columns):
            turned[c, r] = row[c]


@compile_part
def add_bias(options, bias, b, h, t, key, seen):
    """Add the mask's array to the scores of query t and the keys from `key` on. −inf hides what is NaN too."""
    o = options[0]
    at = b * o.bias_batch + h * o.bias_head + t * o.bias_time + key
    added = bias[at : at + seen.size]
    for c in range(seen.size):
        seen[c] = LOWEST if added[c] == LOWEST else seen[c] + added[c]


@compile_part
def _forward_task(task, options, lengths, bias, y, highest_score, sums, wild):
    o = options[0]
    address, H, K, T, S, D, scale, keep_scale = o.address, o.H, o.K, o.T, o.S, o.D, o.scale, o.keep_scale
    causal, window, has_bias, threshold = o.causal, o.window, o.has_bias, o.threshold
    seed_low, seed_high, offset, stream_head = o.seed_low, o.seed_high, o.offset, o.stream_head
    q_ld, k_ld, v_ld = o.q_time, o.k_time, o.v_time
    group, row_step, rounds, queries = H // K, y.shape[2] * D, o.rounds, o.queries
    b, h = task // H, task % H
    length = lengths[b]
    scores, k_turned = np.empty((o.queries, KEYS), np.float32), np.empty((D, KEYS + PAD), np.float32)
    tops, total = np.empty(T, np.float32), np.empty(T, np.float32)
    bits = np.empty(KEYS, np.uint32)
    scores_at, k_turned_at, y_at = scores.ctypes.data, k_turned.ctypes.data, y.ctypes.data + 4 * D * (b * T * H + h)
    q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
    k_head = o.k_at + 4 * (b * o.k_batch + h // group * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + h // group * o.v_head)
    for t in range(T):
        tops[t], total[t] = LOWEST, ZERO
        y[b, t, h] = ZERO
    # weights are rounded once they are known, that is the maximum and the sum over all keys: a first pass finds these
    for is_last in range(0 if rounds else 1, 2):
        for block in range(0, S, KEYS):
            _transpose(k_head + 4 * block * k_ld, min(KEYS, S - block), k_ld, D, k_turned)
            for start in range(0, T, queries):
                rows = min(queries, T - start)
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
                    lo, hi = visible(t, T, S, causal, window, length)
                    lo, hi = max(lo - key, 0), min(hi - key, columns)
                    hi = max(lo, hi)
                    seen = scores[r, lo:hi]
                    if has_bias:
                        add_bias(options, bias, b, h, t, key + lo, seen)
                    top = highest(seen, tops[t])
                    scores[r, : min(lo, columns)] = ZERO
                    scores[r, hi:columns] = ZERO
                    shift = ZERO if top == LOWEST else top  # where all is −inf, so that it comes out as 0
                    weight = ZERO
                    for c in range(seen.size):
                        e = exp(difference(seen[c], shift))
                        seen[c] = e
                        weight += e
                    if top > tops[t]:
                        shrink = exp(tops[t] - top)
                        total[t] *= shrink
                        part = y[b, t, h]
                        for d in range(part.size):
                            part[d] *= shrink
                    tops[t] = top
                    if rounds and is_last:
                        for c in range(seen.size):
                            seen[c] = seen[c] / total[t] if total[t] != ZERO else ZERO
                    else:
                        total[t] += weight
                    if threshold > 0 and is_last:
                        random_row(
                            bits, key // 4, (columns + 3) // 4, b * T + t, seed_low, seed_high, offset, stream_head + h
                        )
                        drawn = bits[lo:hi]
                        for c in range(seen.size):
                            seen[c] = seen[c] * keep_scale if drawn[c] >= threshold else ZERO
                    if rounds and is_last:
                        for c in range(seen.size):
                            seen[c] = rounded(seen[c])
                if is_last:
                    sgemm(
                        address, AS_IT_IS, AS_IT_IS, D, rows, columns,
                        ONE, v_head + 4 * key * v_ld, v_ld, scores_at, KEYS,
                        ONE, y_at + 4 * start * row_step, row_step,
                    )  # fmt: skip
    nothing = ZERO
    for t in range(T):
        highest_score[b, h, t], sums[b, h, t] = ZERO if tops[t] == LOWEST else tops[t], total[t]
        if total[t] != ZERO:  # else a query that sees no key
            part, inverse = y[b, t, h], ONE if rounds else ONE / total[t]
            for d in range(part.size):
                part[d] *= inverse
                nothing += part[d] * ZERO
    wild[task] = nothing != ZERO


@compile_parallel
def forward(options, lengths, bias, y, highest_score, sums, wild):
    """Write y and each query's statistics; wild: which heads of y hold infinities or NaN."""
    for task in prange(options[0].B * options[0].H):
        # as int64, else compiled for unsigned as well
        _forward_task(np.int64(task), options, lengths, bias, y, highest_score, sums, wild)


@compile_part
def few_task(task, options, lengths, bias, y, highest_score, sums):
    o = options[0]
    H, K, T, S, D, scale = o.H, o.K, o.T, o.S, o.D, o.scale
    b, h = task // H, task % H
    k_head = o.k_at + 4 * (b * o.k_batch + h // (H // K) * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + h // (H // K) * o.v_head)
    scores = np.empty(S, np.float32)
    for t in range(T):
        lo, hi = visible(t, T, S, o.causal, o.window, lengths[b])
        seen, out = scores[lo:hi], y[b, t, h]
        query = carray(pointer(o.q_at + 4 * (b * o.q_batch + h * o.q_head + t * o.q_time)), (D,))
        for s in range(seen.size):
            key, score = carray(pointer(k_head + 4 * (lo + s) * o.k_time), (D,)), ZERO
            for d in range(query.size):
                score += query[d] * key[d]
            seen[s] = score * scale
        if o.has_bias:
            add_bias(options, bias, b, h, t, lo, seen)
        top = highest(seen, LOWEST)
        shift, total = ZERO if top == LOWEST else top, ZERO
        for s in range(seen.size):
            e = exp(difference(seen[s], shift))
            seen[s] = e
            total += e
        highest_score[b, h, t], sums[b, h, t] = shift, total
        out[:] = ZERO
        inverse = ONE / total if total != ZERO else ZERO
        for s in range(seen.size):
            value, weight = carray(pointer(v_head + 4 * (lo + s) * o.v_time), (D,)), seen[s] * inverse
            if o.rounds:
                weight = rounded(weight)
            if weight != ZERO:
                for d in range(out.size):
                    out[d] += weight * value[d]


@compile_parallel
def few(options, lengths, bias, y, highest_score, sums):
    for task in prange(options[0].B * options[0].H):
        few_task(np.int64(task), options, lengths, bias, y, highest_score, sums)


@compile_part
def gradient_rows(
    options, bias, b, h, start, rows, key, columns, length, highest_score, sums, delta, bits, scores, dscores
):
    """Replace the scores of a tile by weights after dropout, and the gradients of those by the gradients of scores.

    The tile is that of the queries from `start` on and the keys from `key` on; what a query does not see becomes 0.
    """
    o = options[0]
    T, S, causal, window, has_bias, rounds, scale = o.T, o.S, o.causal, o.window, o.has_bias, o.rounds, o.scale
    threshold, keep_scale, seed_low, seed_high = o.threshold, o.keep_scale, o.seed_low, o.seed_high
    offset, stream = o.offset, o.stream_head + h
    for r in range(rows):
        t = start + r
        lo, hi = visible(t, T, S, causal, window, length)
        lo, hi = max(lo - key, 0), min(hi - key, columns)
        hi = max(lo, hi)
        seen, dseen = scores[r, lo:hi], dscores[r, lo:hi]
        scores[r, : min(lo, columns)] = ZERO
        dscores[r, : min(lo, columns)] = ZERO
        scores[r, hi:columns] = ZERO
        dscores[r, hi:columns] = ZERO
        if has_bias:
            add_bias(options, bias, b, h, t, key + lo, seen)
        top, mean = highest_score[t], delta[t]
        inverse = ONE / sums[t] if sums[t] != ZERO else ZERO
        if threshold > 0:
            random_row(bits, key // 4, (columns + 3) // 4, b * T + t, seed_low, seed_high, offset, stream)
            drawn = bits[lo:hi]
            for c in range(seen.size):
                p = exp(difference(seen[c], top)) * inverse
                keep = keep_scale if drawn[c] >= threshold else ZERO
                seen[c] = p * keep
                dseen[c] = p * (dseen[c] * keep - mean) * scale
        else:
            for c in range(seen.size):
                p = exp(difference(seen[c], top)) * inverse
                seen[c] = p
                dseen[c] = p * (dseen[c] - mean) * scale
        if rounds:
            for c in range(seen.size):
                seen[c], dseen[c] = rounded(seen[c]), rounded(dseen[c])


@compile_part
def _backward_task(task, options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild):
    o = options[0]
    address, H, K, T, S, D, scale, causal, window = o.address, o.H, o.K, o.T, o.S, o.D, o.scale, o.causal, o.window
    q_ld, k_ld, v_ld, group, queries = o.q_time, o.k_time, o.v_time, H // K, o.queries
    q_row, k_row, v_row, dy_row = dq.shape[2], dk.shape[2], dv.shape[2], H * D
    b, g = task // K, task % K
    length, turned_ld = lengths[b], KEYS + PAD
    scores, dscores = np.empty((queries, KEYS), np.float32), np.empty((queries, KEYS), np.float32)
    k_turned, v_turned = np.empty((D, turned_ld), np.float32), np.empty((D, turned_ld), np.float32)
    delta, bits = np.empty((group, T), np.float32), np.empty(KEYS, np.uint32)
    scores_at, dscores_at = scores.ctypes.data, dscores.ctypes.data
    k_turned_at, v_turned_at = k_turned.ctypes.data, v_turned.ctypes.data
    k_head = o.k_at + 4 * (b * o.k_batch + g * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + g * o.v_head)
    q_from, k_from, v_from = starts[0], starts[1] + g * D, starts[2] + g * D
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
            for tile in range((T + queries - 1) // queries):
                start = queries * tile
                rows = min(queries, T - start)
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
                gradient_rows(
                    options, bias, b, h, start, rows, key, columns, length,
                    highest_score[b, h], sums[b, h], delta[member], bits, scores, dscores,
                )  # fmt: skip
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

    nothing = ZERO
    for s in range(S):
        dk_part, dv_part = dk[b, s, k_from : k_from + D], dv[b, s, v_from : v_from + D]
        for d in range(dk_part.size):
            nothing += dk_part[d] * ZERO + dv_part[d] * ZERO
    for t in range(T):
        dq_part = dq[b, t, q_from + g * group * D : q_from + (g + 1) * group * D]
        for d in range(dq_part.size):
            nothing += dq_part[d] * ZERO
    wild[task] = nothing != ZERO


@compile_parallel
def backward(options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild):
    """Write dq, dk, dv from column starts[0], [1], [2] on; wild: which heads of them hold infinities or NaN."""
    for task in prange(options[0].B * options[0].K):
        _backward_task(np.int64(task), options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild)
