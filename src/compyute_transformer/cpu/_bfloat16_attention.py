"""Attention's kernels in bfloat16 on the squares of `_products`: two products forward, five backward.

A square is 32 queries by 32 keys. Each operand is rounded while it is packed, as the product that reads it wants it:

    rows       (32 · rows, depth) bfloat16                       the left operand: q, dy, weights, gradients of scores
    panels     (columns / 32, depth / 2, 32) pairs of bfloat16   the right one: pairs of two numbers along the depth

Forward: the scores of 32 queries and all keys that one of them sees, in float32, 128 bytes a key, so that they stay in
the second-level cache; then the softmax of each row, which is rounded as it is written, since the sum over all keys is
known by then; then the product with v.

Backward: for 256 keys the queries, 128 at a time. The scores and the gradients of weights of 32 queries are made, and
from them the weights and the gradients of scores, in float32. dq adds rows of these. dk and dv sum over queries, so as
transposed products, dvᵀ = dyᵀ P and dkᵀ = qᵀ dS, they read P and dS as panels, whose pairs are those of two rows beside
each other; as left operands, Pᵀ and dSᵀ, they would have to be transposed number by number. The sums over 128 queries
are added to dkᵀ and dvᵀ at once, which are read and written that much less often.

Squares in which no query sees a key are left out of all products. The squares of an operand that ends within one are
filled up with zeros. A task is a head, in the backward a key/value head: the number of threads changes no bit.

Where a processor has no such instructions, the tests run every one by a handler for illegal ones. Timed on a Zen 4, not
yet on tiles.
"""

import numpy as np
from numba import carray, prange

from ._blas import pointer, prefetch
from ._halves import LANES, halves, pairs, transpose
from ._kernel import compile_parallel, compile_part
from ._packing import AHEAD, PAIRS, ROW, SQUARE, pack_strip, squares_of
from ._products import add_square, begin, end
from ._tiles import LINE, LOWEST, ONE, ZERO, change_scores, gradient_rows, visible
from ._vector import difference, exp, highest, random_row, rounded

__all__ = ["KEYS", "QUERIES", "backward", "forward"]

QUERIES, KEYS = 128, 256  # of a tile in the backward


# --- operands --------------------------------------------------------------------------------------------------------


@compile_part
def _whole(length):
    """Return the length in whole squares."""
    return squares_of(length) * SQUARE


@compile_part
def _pack(matrix, strip, turned, is_rows, packed, depth):
    """Pack 32 rows of a matrix: the address, floats from row to row, rows, columns.

    depth: how many numbers a row or panel of the operand has.
    """
    at, ld, rows, columns = matrix
    pack_strip(at, 4 * ld, rows, columns, strip, turned, is_rows, packed.ctypes.data, depth)


@compile_part
def _write(x, matrix, first, rows):
    """Write rows of a result, those from `first` on; return 0, or NaN where a number is not finite."""
    at, ld, _, columns = matrix
    nothing = ZERO
    for r in range(rows):
        source, target = x[r], carray(pointer(at + 4 * (first + r) * ld), (columns,))
        for c in range(target.size):
            target[c] = source[c]
            nothing += source[c] * ZERO
    return nothing


@compile_part
def _turn(x, start, turned):
    """Write 32 columns of x, those from `start` on, as rows."""
    x_at, line, turned_at, turned_line = x.ctypes.data + 4 * start, x.strides[0], turned.ctypes.data, turned.strides[0]
    for r in range(0, turned.shape[1], LANES):
        for part in range(SQUARE // LANES):
            c = LANES * part
            transpose(x_at + line * r + 4 * c, line, turned_at + turned_line * c + 4 * r, turned_line)


@compile_part
def _add_product(number, a, b, c):
    """C += A B of rows, panels and float32 numbers, each some rows or columns of an array, all in whole squares."""
    _product(number, a, b, c, c.ctypes.data, c.strides[0], 4 * SQUARE)


@compile_part
def _write_product(number, a, b, zeros, c):
    """C = A B, as above. zeros: as many as a square is wide."""
    if a.shape[1] == 0:
        c[:] = ZERO
    _product(number, a, b, c, zeros.ctypes.data, np.int64(0), 0)


@compile_part
def _product(number, a, b, c, start_at, ldstart, next_square):
    """C = start + A B. next_square: bytes from a square of the start to the one beside it."""
    steps = np.int64(a.shape[1] * a.itemsize // (2 * SQUARE))
    if steps == 0:  # the loop over the steps ends when they are counted down to 0
        return
    lda, ldc = a.strides[0], c.strides[0]
    a_at, b_at, c_at = a.ctypes.data, b.ctypes.data, c.ctypes.data
    for panel in range(b.shape[0]):
        b_panel = b_at + b.strides[0] * panel
        for block in range(a.shape[0] // SQUARE):
            a_rows, square = a_at + lda * SQUARE * block, c_at + ldc * SQUARE * block + 4 * SQUARE * panel
            start = start_at + ldstart * SQUARE * block + next_square * panel
            add_square(number, a_rows, lda, b_panel, steps, start, ldstart, square, ldc)


@compile_part
def _squares(block, most, start, rows, T, S, causal, window, length):
    """Of `most` keys from `block` on, what some of a square's queries see, in whole squares: the first, how many."""
    first, _ = visible(start, T, S, causal, window, length)
    _, last = visible(start + rows - 1, T, S, causal, window, length)
    first = max(block, first // SQUARE * SQUARE)
    return first, max(0, min(block + most, _whole(last)) - first)


# --- forward ---------------------------------------------------------------------------------------------------------


@compile_part
def _weigh(options, bias, b, h, t, key, lo, hi, last, scores, bits, weights):
    """Write query t's rounded weights of the keys [key, last), of which it sees [lo, hi).

    Return the highest score and the sum. All loops run over whole squares, so that no number is left to a loop that is
    not vectorized.
    """
    o = options[0]
    scale, threshold, keep_scale = o.scale, o.threshold, o.keep_scale
    scores[key:lo] = LOWEST
    scores[hi:last] = LOWEST
    if o.changes:
        seen = scores[lo:hi]
        for c in range(seen.size):
            seen[c] *= scale
        change_scores(options, bias, b, h, t, lo, seen)
        scale = ONE
    row = scores[key:last]
    top = scale * highest(row, LOWEST)
    top = ZERO if top == LOWEST else top  # where all is −inf, so that it comes out as 0
    total = ZERO
    for c in range(row.size):
        e = exp(difference(scale * row[c], top))
        row[c] = e
        total += e
    inverse = ONE / total if total != ZERO else ZERO
    if threshold > 0:
        random_row(bits, key // 4, (last - key) // 4, b * o.T + t, o.seed_low, o.seed_high, o.offset, o.stream_head + h)
        for c in range(row.size):
            kept = (row[c] * inverse) * keep_scale
            row[c] = kept if bits[c] >= threshold else ZERO
    else:
        for c in range(row.size):
            row[c] *= inverse
    for square in range(row.size // SQUARE):
        halves(row.ctypes.data + 4 * SQUARE * square, weights.ctypes.data + 2 * key + ROW * square)
    return top, total


@compile_part
def _forward_task(task, number, layout_at, options, lengths, bias, y, highest_score, sums, wild):
    o = options[0]
    H, K, T, S, D, causal, window = o.H, o.K, o.T, o.S, o.D, o.causal, o.window
    b, h = task // H, task % H
    g, length, width, keys = h // (H // K), lengths[b], _whole(D), _whole(S)
    k = np.empty((keys // SQUARE, width // 2, SQUARE), np.uint32)
    v = np.empty((width // SQUARE, keys // 2, SQUARE), np.uint32)
    q, weights = np.empty((SQUARE, width), np.uint16), np.empty((SQUARE, keys + 2 * LINE), np.uint16)
    scores, out = np.empty((SQUARE, keys + LINE), np.float32), np.empty((SQUARE, width), np.float32)
    bits, nothing, zeros = np.empty(keys, np.uint32), ZERO, np.zeros(SQUARE, np.float32)
    q_head = o.q_at + 4 * (b * o.q_batch + h * o.q_head)
    y_matrix = y.ctypes.data + y.strides[0] * b + y.strides[2] * h, y.strides[1] // 4, T, D
    k_matrix = o.k_at + 4 * (b * o.k_batch + g * o.k_head), o.k_time, S, D
    v_matrix = o.v_at + 4 * (b * o.v_batch + g * o.v_head), o.v_time, S, D
    for strip in range(keys // SQUARE):
        _pack(k_matrix, strip, False, False, k, width)
        _pack(v_matrix, strip, True, False, v, keys)
    begin(number, layout_at)
    for start in range(0, T, SQUARE):
        rows = min(SQUARE, T - start)
        key, columns = _squares(0, keys, start, rows, T, S, causal, window, length)
        last = key + columns
        _pack((q_head + 4 * start * o.q_time, o.q_time, rows, D), 0, False, True, q, width)
        _write_product(number, q, k[key // SQUARE : last // SQUARE], zeros, scores[:, key:last])
        for r in range(rows):
            lo, hi = visible(start + r, T, S, causal, window, length)
            lo, hi = min(lo, last), min(hi, last)
            highest_score[b, h, start + r], sums[b, h, start + r] = _weigh(
                options, bias, b, h, start + r, key, lo, hi, last, scores[r], bits, weights[r]
            )
        _write_product(number, weights[:, key:last], v[:, key // 2 : last // 2], zeros, out)
        nothing += _write(out, y_matrix, start, rows)
    end(number)
    wild[task] = nothing != ZERO


@compile_parallel
def forward(number, layout_at, options, lengths, bias, y, highest_score, sums, wild):
    """As `_tiles.forward`, of q, k and v that are not rounded."""
    for task in prange(options[0].B * options[0].H):
        # as int64, else compiled for unsigned as well
        _forward_task(np.int64(task), number, layout_at, options, lengths, bias, y, highest_score, sums, wild)


# --- backward --------------------------------------------------------------------------------------------------------


@compile_part
def _pack_gradients(columns, scores, dscores, strip, panel, gradients, pair_panels, d_pair_panels):
    """Pack a strip of 32 queries: dS as rows; P and dS as panels from `panel` on, at the depth of the strip.

    Rows behind the last query are products of zeros.
    """
    at, d_at, line, squares = scores.ctypes.data, dscores.ctypes.data, scores.strides[0], columns // SQUARE
    for r in range(SQUARE):
        for square in range(squares):
            halves(
                d_at + line * r + 4 * SQUARE * square, gradients.ctypes.data + gradients.strides[0] * r + ROW * square
            )
    for two in range(SQUARE // 2):
        row, target = 2 * line * two, PAIRS * (SQUARE // 2 * strip + two) + pair_panels.strides[0] * panel
        for square in range(squares):
            first, place = row + 4 * SQUARE * square, target + pair_panels.strides[0] * square
            pairs(at + first, at + first + line, pair_panels.ctypes.data + place)
            pairs(d_at + first, d_at + first + line, d_pair_panels.ctypes.data + place)


@compile_part
def _backward_head(
    number, options, bias, b, h, length, y, highest_score, sums, dy, dq, dq_from, k, k_panels, v, dk_turned, dv_turned
):
    """Write head h's columns of dq, from `dq_from` on, and add to the transposed dk and dv of its key/value head."""
    o = options[0]
    T, S, D, causal, window, scale = o.T, o.S, o.D, o.causal, o.window, o.scale
    width, queries, keys = _whole(D), _whole(T), _whole(S)
    q, dy_rows = np.empty((queries, width), np.uint16), np.empty((queries, width), np.uint16)
    q_turned = np.empty((width, queries // 2 + LINE), np.uint32)
    dy_turned = np.empty((width, queries // 2 + LINE), np.uint32)
    delta, zeros, at = np.empty(T, np.float32), np.zeros(SQUARE, np.float32), dy.strides[0] * b + dy.strides[2] * h
    q_matrix = o.q_at + 4 * (b * o.q_batch + h * o.q_head), o.q_time, T, D
    dy_matrix = dy.ctypes.data + at, dy.strides[1] // 4, T, D
    for strip in range(queries // SQUARE):
        _pack(q_matrix, strip, False, True, q, width)
        _pack(q_matrix, strip, True, True, q_turned, 2 * q_turned.shape[1])
        _pack(dy_matrix, strip, False, True, dy_rows, width)
        _pack(dy_matrix, strip, True, True, dy_turned, 2 * dy_turned.shape[1])
        for t in range(SQUARE * strip, min(T, SQUARE * strip + SQUARE)):
            product, dy_part, y_part = ZERO, dy[b, t, h], y[b, t, h]
            for line in range(D // LINE):
                prefetch(y_part.ctypes.data + AHEAD * y.strides[1] + 4 * LINE * line)
            for d in range(D):
                product += rounded(dy_part[d]) * y_part[d]
            delta[t] = product
    dq_rows = np.zeros((queries, width), np.float32)
    scores, dscores = np.empty((SQUARE, KEYS + LINE), np.float32), np.empty((SQUARE, KEYS + LINE), np.float32)
    gradients, bits = np.empty((SQUARE, KEYS + 2 * LINE), np.uint16), np.empty(KEYS, np.uint32)
    pair_panels = np.empty((KEYS // SQUARE, QUERIES // 2, SQUARE), np.uint32)
    d_pair_panels = np.empty((KEYS // SQUARE, QUERIES // 2, SQUARE), np.uint32)
    depths = np.empty((KEYS // SQUARE, 2), np.int64)  # of a panel: which queries of the tile see some of its keys
    for block in range(0, keys, KEYS):
        for tile in range(0, T, QUERIES):
            depths[:] = 0
            for strip in range(squares_of(min(QUERIES, T - tile))):
                start = tile + SQUARE * strip
                rows = min(SQUARE, T - start)
                key, columns = _squares(block, KEYS, start, rows, T, S, causal, window, length)
                if columns == 0:
                    continue
                first, last, panel = key // SQUARE, (key + columns) // SQUARE, (key - block) // SQUARE
                _write_product(number, q[start : start + SQUARE], k[first:last], zeros, scores[:, :columns])
                _write_product(number, dy_rows[start : start + SQUARE], v[first:last], zeros, dscores[:, :columns])
                for r in range(rows):
                    row = scores[r, :columns]
                    for c in range(row.size):
                        row[c] *= scale
                gradient_rows(
                    options, bias, b, h, start, rows, key, columns, length,
                    highest_score[b, h], sums[b, h], delta, bits, scores, dscores,
                )  # fmt: skip
                _pack_gradients(columns, scores, dscores, strip, panel, gradients, pair_panels, d_pair_panels)
                dq_part = dq_rows[start : start + SQUARE]
                _add_product(number, gradients[:, :columns], k_panels[:, key // 2 : (key + columns) // 2], dq_part)
                for p in range(last - first):
                    depth = depths[panel + p]
                    depth[0] = SQUARE * strip if depth[1] == 0 else depth[0]
                    depth[1] = SQUARE * (strip + 1)
            for p in range(KEYS // SQUARE):
                first, last, key = depths[p, 0] // 2, depths[p, 1] // 2, block + SQUARE * p
                if last > 0:
                    start = tile // 2
                    columns_of_dv, columns_of_dk = dv_turned[:, key : key + SQUARE], dk_turned[:, key : key + SQUARE]
                    _add_product(
                        number,
                        dy_turned[:, start + first : start + last],
                        pair_panels[p : p + 1, first:last],
                        columns_of_dv,
                    )
                    _add_product(
                        number,
                        q_turned[:, start + first : start + last],
                        d_pair_panels[p : p + 1, first:last],
                        columns_of_dk,
                    )
    return _write(dq_rows, (dq.ctypes.data + dq.strides[0] * b + 4 * dq_from, dq.strides[1] // 4, T, D), 0, T)


@compile_part
def _backward_task(
    task, number, layout_at, options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild
):
    o = options[0]
    H, K, S, D = o.H, o.K, o.S, o.D
    b, g = task // K, task % K
    group, width, keys, nothing = H // K, _whole(D), _whole(S), ZERO
    k_matrix = o.k_at + 4 * (b * o.k_batch + g * o.k_head), o.k_time, S, D
    v_matrix = o.v_at + 4 * (b * o.v_batch + g * o.v_head), o.v_time, S, D
    k = np.empty((keys // SQUARE, width // 2, SQUARE), np.uint32)
    v = np.empty((keys // SQUARE, width // 2, SQUARE), np.uint32)
    k_panels = np.empty((width // SQUARE, keys // 2, SQUARE), np.uint32)
    dk_turned, dv_turned = np.zeros((width, keys + LINE), np.float32), np.zeros((width, keys + LINE), np.float32)
    for strip in range(keys // SQUARE):
        _pack(k_matrix, strip, False, False, k, width)
        _pack(k_matrix, strip, True, False, k_panels, keys)
        _pack(v_matrix, strip, False, False, v, width)
    begin(number, layout_at)
    for member in range(group):
        h = g * group + member
        nothing += _backward_head(
            number, options, bias, b, h, lengths[b], y, highest_score, sums, dy, dq, starts[0] + h * D,
            k, k_panels, v, dk_turned, dv_turned,
        )  # fmt: skip
    end(number)
    k_from, v_from = starts[1] + g * D, starts[2] + g * D
    dk_rows, dv_rows = np.empty((SQUARE, width), np.float32), np.empty((SQUARE, width), np.float32)
    dk_matrix = dk.ctypes.data + dk.strides[0] * b + 4 * k_from, dk.strides[1] // 4, S, D
    dv_matrix = dv.ctypes.data + dv.strides[0] * b + 4 * v_from, dv.strides[1] // 4, S, D
    for square in range(keys // SQUARE):
        start = SQUARE * square
        rows = min(SQUARE, S - start)
        _turn(dk_turned, start, dk_rows)
        _turn(dv_turned, start, dv_rows)
        nothing += _write(dk_rows, dk_matrix, start, rows)
        nothing += _write(dv_rows, dv_matrix, start, rows)
    wild[task] = nothing != ZERO


@compile_parallel
def backward(number, layout_at, options, lengths, bias, y, highest_score, sums, dy, dq, dk, dv, starts, wild):
    """As `_tiles.backward`, of q, k, v and dy that are not rounded."""
    for task in prange(options[0].B * options[0].K):
        _backward_task(
            np.int64(task),
            number,
            layout_at,
            options,
            lengths,
            bias,
            y,
            highest_score,
            sums,
            dy,
            dq,
            dk,
            dv,
            starts,
            wild,
        )
