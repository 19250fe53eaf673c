"""Attention's kernels: tiles of queries by keys, forward and backward, and plain loops for a few queries.

What was tried, and what it gained, heads `attention`, which calls them.
"""

import numpy as np
from numba import carray, prange

from ._blas import AS_IT_IS, TRANSPOSED, pointer, prefetch, sgemm
from ._compiler import part_compiler
from ._float32 import add_packed_product, add_product, columns_of_panels, pack, scratch_of
from ._kernel import compile_parallel, compile_part, hold
from ._vector import difference, exp, highest, random_row, rounded, tanh

__all__ = [
    "LINE",
    "LOWEST",
    "ONE",
    "OPTIONS",
    "ZERO",
    "backward",
    "change_scores",
    "few",
    "few_task",
    "forward",
    "gradient_rows",
    "visible",
]

PAD = 16  # floats after a row of a tile, so that the rows do not share cache lines' places
LINE, AHEAD = 16, 32  # floats in a line of the cache; rows of keys
ZERO, ONE = np.float32(0.0), np.float32(1.0)
LOWEST = np.float32(-np.inf)

# What a kernel must know, as one record: addresses in bytes, and the steps, in floats, from one element of the strided
# q, k and v, and of what a mask adds, to the next along batch, head and time.
INTEGERS = [
    *("address", "q_at", "k_at", "v_at"),
    *("q_batch", "q_head", "q_time", "k_batch", "k_head", "k_time", "v_batch", "v_head", "v_time"),
    *("B", "H", "K", "T", "S", "D"),
    *("causal", "window"),
    "changes",  # whether scores are capped, fall with the distance, or get a bias
    "slopes_from",  # where the slopes of the heads begin, behind the bias; −1 where there are none
    *("has_bias", "bias_batch", "bias_head", "bias_time"),
    *("threshold", "seed_low", "seed_high", "offset", "stream_head"),
    *("queries", "keys"),  # of a tile
    "ours",  # whether products are those of `_float32`, not the BLAS's
    "rounds",  # whether weights and their gradients are rounded to bfloat16 before a product; q, k, v and dy come so
]
FLOATS = ["scale", "keep_scale", "cap"]  # cap: 0 where scores are not capped
OPTIONS = np.dtype([(name, np.int64) for name in INTEGERS] + [(name, np.float32) for name in FLOATS])


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
def _columns(block, keys, start, rows, T, S, causal, window, length):
    """Of a block of keys, what some of a tile's queries see: the first, and how many, 0 where there are none."""
    first, _ = visible(start, T, S, causal, window, length)
    _, last = visible(start + rows - 1, T, S, causal, window, length)
    first = max(block, first // 4 * 4)  # four random numbers come at a time
    return first, max(0, min(block + keys, last) - first)


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
def _keep(o, at, ld, rows, columns, own, own_rows):
    """Copy rows of numbers at an address, which lie ld floats apart, as the second factor of `_multiply_kept`."""
    if o.ours:
        pack(at, 4 * ld, rows, columns, own.ctypes.data, own_rows)
    else:
        matrix, copy = carray(pointer(at), (rows, ld)), carray(pointer(own.ctypes.data), (rows, columns))
        for r in range(rows):
            source, target = matrix[r], copy[r]
            for c in range(target.size):
                target[c] = source[c]


@compile_part
def _multiply_kept(o, a, a_ld, is_turned, own, own_rows, first, rows, columns, depth, c, c_ld, scratch):
    """C += A B, of rows of B that `_keep` has copied, from the row `first` on."""
    if o.ours:
        a_row, a_k = (np.int64(4), 4 * a_ld) if is_turned else (4 * a_ld, np.int64(4))
        add_packed_product(
            a, a_row, a_k, own.ctypes.data, own_rows, first, rows, columns, depth, c, 4 * c_ld, c, 4 * c_ld, scratch
        )
    else:
        op = TRANSPOSED if is_turned else AS_IT_IS
        b = own.ctypes.data + 4 * columns * first
        sgemm(o.address, AS_IT_IS, op, columns, rows, depth, ONE, b, columns, a, a_ld, ONE, c, c_ld)


@compile_part
def _multiply(o, a, a_ld, b, b_ld, rows, columns, depth, c, c_ld, zeros, scratch):
    """C = A B, of matrices at addresses whose rows lie ld floats apart. zeros: as many as C has columns."""
    if o.ours:
        s, four = zeros.ctypes.data, np.int64(4)
        add_product(a, 4 * a_ld, four, b, 4 * b_ld, rows, columns, depth, s, np.int64(0), c, 4 * c_ld, scratch)
    else:
        sgemm(o.address, AS_IT_IS, AS_IT_IS, columns, rows, depth, ONE, b, b_ld, a, a_ld, ZERO, c, c_ld)


@compile_part
def change_scores(options, bias, b, h, t, key, seen):
    """Do what the mask says to the scores of query t and the keys from `key` on: cap, slope, array.

    −inf in the array hides what is NaN too.
    """
    o = options[0]
    if o.cap > ZERO:
        cap = o.cap
        for c in range(seen.size):
            seen[c] = cap * tanh(seen[c] / cap)
    if o.slopes_from >= 0:
        slope, distance = bias[o.slopes_from + h], o.S - o.T + t - key
        for c in range(seen.size):
            seen[c] -= slope * np.float32(abs(distance - c))
    if o.has_bias:
        at = b * o.bias_batch + h * o.bias_head + t * o.bias_time + key
        added = bias[at : at + seen.size]
        for c in range(seen.size):
            seen[c] = LOWEST if added[c] == LOWEST else seen[c] + added[c]


@compile_part
def _forward_task(task, options, lengths, bias, y, highest_score, sums, wild):
    o = options[0]
    H, K, T, S, D, scale, keep_scale, keys = o.H, o.K, o.T, o.S, o.D, o.scale, o.keep_scale, o.keys
    causal, window, changes, threshold = o.causal, o.window, o.changes, o.threshold
    seed_low, seed_high, offset, stream_head = o.seed_low, o.seed_high, o.offset, o.stream_head
    q_ld, k_ld, v_ld = o.q_time, o.k_time, o.v_time
    group, row_step, rounds, queries = H // K, y.shape[2] * D, o.rounds, o.queries
    b, h = task // H, task % H
    length = lengths[b]
    ld = keys + PAD
    scores, k_turned = np.empty((queries, ld), np.float32), np.empty((D, ld), np.float32)
    v_own = np.empty(keys * columns_of_panels(D), np.float32)
    tops, total, zeros = np.empty(T, np.float32), np.empty(T, np.float32), np.zeros(max(keys, D), np.float32)
    bits, scratch = np.empty(keys, np.uint32), scratch_of(max(keys, D))
    scores_at, k_turned_at, y_at = scores.ctypes.data, k_turned.ctypes.data, y.ctypes.data + 4 * D * (b * T * H + h)
    q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
    k_head = o.k_at + 4 * (b * o.k_batch + h // group * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + h // group * o.v_head)
    for t in range(T):
        tops[t], total[t] = LOWEST, ZERO
        y[b, t, h] = ZERO
    # weights are rounded once they are known, that is the maximum and the sum over all keys: a first pass finds these
    for is_last in range(0 if rounds else 1, 2):
        for block in range(0, S, keys):
            _transpose(k_head + 4 * block * k_ld, min(keys, S - block), k_ld, D, k_turned)
            _keep(o, v_head + 4 * block * v_ld, v_ld, min(keys, S - block), D, v_own, keys)
            for start in range(0, T, queries):
                rows = min(queries, T - start)
                key, columns = _columns(block, keys, start, rows, T, S, causal, window, length)
                if columns == 0:
                    continue
                _multiply(
                    o, q_head + 4 * start * q_ld, q_ld, k_turned_at + 4 * (key - block), ld,
                    rows, columns, D, scores_at, ld, zeros, scratch,
                )  # fmt: skip
                for r in range(rows):
                    t = start + r
                    lo, hi = visible(t, T, S, causal, window, length)
                    lo, hi = max(lo - key, 0), min(hi - key, columns)
                    hi = max(lo, hi)
                    seen = scores[r, lo:hi]
                    for c in range(seen.size):
                        seen[c] *= scale
                    if changes:
                        change_scores(options, bias, b, h, t, key + lo, seen)
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
                    _multiply_kept(
                        o, scores_at, ld, False, v_own, keys, key - block,
                        rows, D, columns, y_at + 4 * start * row_step, row_step, scratch,
                    )  # fmt: skip
    nothing = ZERO
    for t in range(T):
        highest_score[b, h, t], sums[b, h, t] = ZERO if tops[t] == LOWEST else tops[t], total[t]
        if total[t] != ZERO:  # else a query that sees no key
            part, inverse = y[b, t, h], ONE if rounds else ONE / total[t]
            for d in range(part.size):
                part[d] *= inverse
                nothing += part[d] * ZERO
        else:
            y[b, t, h] = ZERO  # it met values all the same, where a tile has no key that any of its queries sees
    wild[task] = nothing != ZERO
    hold(scores, k_turned)


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
            if o.rounds:
                for d in range(query.size):
                    score += rounded(query[d]) * rounded(key[d])
            else:
                for d in range(query.size):
                    score += query[d] * key[d]
            seen[s] = score * scale
        if o.changes:
            change_scores(options, bias, b, h, t, lo, seen)
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
                        out[d] += weight * rounded(value[d])
            elif weight != ZERO:
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
    T, S, causal, window, changes, rounds, scale = o.T, o.S, o.causal, o.window, o.changes, o.rounds, o.scale
    cap, steep = o.cap, np.empty(columns if o.cap > ZERO else 0, np.float32)  # steep: the slope of the cap
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
        if cap > ZERO:
            for c in range(seen.size):
                capped = tanh(seen[c] / cap)
                steep[c] = ONE - capped * capped
        if changes:
            change_scores(options, bias, b, h, t, key + lo, seen)
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
        if cap > ZERO:
            for c in range(seen.size):
                dseen[c] *= steep[c]
        if rounds:
            for c in range(seen.size):
                seen[c], dseen[c] = rounded(seen[c]), rounded(dseen[c])


@compile_part
def _backward_task(task, options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild):
    o = options[0]
    H, K, T, S, D, scale, causal, window = o.H, o.K, o.T, o.S, o.D, o.scale, o.causal, o.window
    q_ld, k_ld, v_ld, group, queries, keys = o.q_time, o.k_time, o.v_time, H // K, o.queries, o.keys
    q_row, dy_row = dq.shape[2], H * D
    b, g = task // K, task % K
    length, ld = lengths[b], keys + PAD
    scores, dscores = np.empty((queries, ld), np.float32), np.empty((queries, ld), np.float32)
    k_turned, v_turned = np.empty((D, ld), np.float32), np.empty((D, ld), np.float32)
    across = columns_of_panels(D)
    k_own, dy_own = np.empty(keys * across, np.float32), np.empty(queries * across, np.float32)
    q_own = np.empty(queries * across, np.float32)
    dk_own, dv_own = np.empty((keys, D), np.float32), np.empty((keys, D), np.float32)
    delta, bits = np.empty((group, T), np.float32), np.empty(keys, np.uint32)
    zeros, scratch = np.zeros(max(keys, D), np.float32), scratch_of(max(keys, queries, D))
    scores_at, dscores_at = scores.ctypes.data, dscores.ctypes.data
    k_turned_at, v_turned_at = k_turned.ctypes.data, v_turned.ctypes.data
    k_head = o.k_at + 4 * (b * o.k_batch + g * o.k_head)
    v_head = o.v_at + 4 * (b * o.v_batch + g * o.v_head)
    q_from, k_from, v_from = starts[0], starts[1] + g * D, starts[2] + g * D
    for member in range(group):
        h = g * group + member
        for t in range(T):
            product, dy_part, y_part = ZERO, dy[b, t, h], y[b, t, h]
            for d in range(D):
                product += dy_part[d] * y_part[d]
            delta[member, t] = product
            dq[b, t, q_from + h * D : q_from + (h + 1) * D] = ZERO
    for block in range(0, S, keys):
        height = min(keys, S - block)
        _transpose(k_head + 4 * block * k_ld, height, k_ld, D, k_turned)
        _transpose(v_head + 4 * block * v_ld, height, v_ld, D, v_turned)
        _keep(o, k_head + 4 * block * k_ld, k_ld, height, D, k_own, keys)
        dk_own[:], dv_own[:] = ZERO, ZERO
        for member in range(group):
            h = g * group + member
            q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
            dq_head = dq.ctypes.data + 4 * (b * T * q_row + q_from + h * D)
            dy_head = dy.ctypes.data + 4 * D * (b * T * H + h)
            for tile in range((T + queries - 1) // queries):
                start = queries * tile
                rows = min(queries, T - start)
                key, columns = _columns(block, keys, start, rows, T, S, causal, window, length)
                if columns == 0:
                    continue
                at, q_tile, dy_tile = key - block, q_head + 4 * start * q_ld, dy_head + 4 * start * dy_row
                _keep(o, q_tile, q_ld, rows, D, q_own, queries)
                _keep(o, dy_tile, dy_row, rows, D, dy_own, queries)
                _multiply(
                    o, q_tile, q_ld, k_turned_at + 4 * at, ld, rows, columns, D, scores_at, ld, zeros, scratch
                )  # fmt: skip
                _multiply(
                    o, dy_tile, dy_row, v_turned_at + 4 * at, ld, rows, columns, D, dscores_at, ld, zeros, scratch
                )  # fmt: skip
                for r in range(rows):
                    row = scores[r, :columns]
                    for c in range(row.size):
                        row[c] *= scale
                gradient_rows(
                    options, bias, b, h, start, rows, key, columns, length,
                    highest_score[b, h], sums[b, h], delta[member], bits, scores, dscores,
                )  # fmt: skip
                _multiply_kept(
                    o, scores_at, ld, True, dy_own, queries, np.int64(0),
                    columns, D, rows, dv_own.ctypes.data + 4 * at * D, D, scratch,
                )  # fmt: skip
                _multiply_kept(
                    o, dscores_at, ld, True, q_own, queries, np.int64(0),
                    columns, D, rows, dk_own.ctypes.data + 4 * at * D, D, scratch,
                )  # fmt: skip
                _multiply_kept(
                    o, dscores_at, ld, False, k_own, keys, at,
                    rows, D, columns, dq_head + 4 * start * q_row, q_row, scratch,
                )  # fmt: skip
        for s in range(height):
            dk[b, block + s, k_from : k_from + D] = dk_own[s]
            dv[b, block + s, v_from : v_from + D] = dv_own[s]

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
    hold(scores, dscores, k_turned, v_turned, dk_own, dv_own)


@compile_parallel
def backward(options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild):
    """Write dq, dk, dv from column starts[0], [1], [2] on; wild: which heads of them hold infinities or NaN."""
    for task in prange(options[0].B * options[0].K):
        _backward_task(np.int64(task), options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild)
