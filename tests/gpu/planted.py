"""Mistakes that are planted in CUDA kernels, one at a time, by replacing a piece of a text.

Each stands under the topic whose tests must notice it, with what is wrong, the right piece and the wrong one. A piece
occurs in the text at least once; its first occurrence is replaced. None of them is another way to write the same.
"""

from typing import NamedTuple

__all__ = ["MISTAKES", "Mistake", "planted"]


class Mistake(NamedTuple):
    """topic: the text. what: the kind of mistake. right, wrong: the piece of the text before and after."""

    topic: str
    what: str
    right: str
    wrong: str


def planted(mistake: Mistake, source: str) -> str:
    """Return the text with the mistake in it.

    Raises:
        ValueError: the text has no such piece any more.
    """
    if mistake.right not in source:
        raise ValueError(f"{mistake.topic}: the text has no piece {mistake.right!r}")
    return source.replace(mistake.right, mistake.wrong, 1)


def of_topic(topic: str, *mistakes: tuple[str, str, str]) -> list[Mistake]:
    return [Mistake(topic, *mistake) for mistake in mistakes]


MISTAKES = [
    *of_topic(
        "norm",
        ("no barrier", "parts[turn][warp] = own;\n    __syncthreads();", "parts[turn][warp] = own;"),
        ("rows share their parts", "turn = 1 - turn;", ""),
        ("squares around zero", "(a[i] - m) * (a[i] - m)", "a[i] * a[i]"),
        ("variance of a sample", "warp_sum(squares) / C", "warp_sum(squares) / (C - 1)"),
        ("a row too many", "row >= rows", "row > rows"),
        ("stride of a warp", "c < C; c += 32 * N) {\n      float a[N];", "c < C; c += 16 * N) {\n      float a[N];"),
        (
            "stride of a row",
            "start = (long long)row * C;\n  float total",
            "start = (long long)row * (C - 1);\n  float total",
        ),
        ("no eps", "/ C + eps)", "/ C)"),
        ("the sum is not what is normalized", "x = sum;", ""),
        ("no bias", "a[i] += b[i];\n    }\n    store<N>(y", ";\n    }\n    store<N>(y"),
        ("mean of dx̂ missing", "db[i] * w[i] - mean_dxhat -", "db[i] * w[i] -"),
        ("x̂ without scale", "(a[i] - m) * r * mean_product", "(a[i] - m) * mean_product"),
        ("sums not set to zero", "sums[c + i] = sums[C + c + i] = 0.0f;", ";"),
        ("dweight of x", "sums[c + i] += db[i] * xhat", "sums[c + i] += db[i] * a[i]"),
        ("a row is left out", "row += gridDim.x", "row += gridDim.x + 1"),
        (
            "past the norm subtracted",
            "a[i] += db[i];\n      }\n      store<N>(dx",
            "a[i] -= db[i];\n      }\n      store<N>(dx",
        ),
        ("dbias is dweight", "= sums[C + c + i];", "= sums[c + i];"),
        ("partial sums left out", "row += 8", "row += 9"),
        ("a warp left out", "i < 8; i++", "i < 7; i++"),
        ("lanes left out", "int lanes = 16", "int lanes = 8"),
        (
            "rounded without bias",
            "normalize<1, true>(x, none, weight, bias, (float*)",
            "normalize<1, true>(x, none, weight, none, (float*)",
        ),
        (
            "rounded by vectors without bias",
            "normalize<PER_FLOATS, true>(x, none, weight, bias,",
            "normalize<PER_FLOATS, true>(x, none, weight, none,",
        ),
        (
            "statistics of the rounded change places",
            "(float*)nullptr, y, mean, rstd, rows",
            "(float*)nullptr, y, rstd, mean, rows",
        ),
        (
            "the last rounded row left out",
            "(float*)nullptr, y, nullptr, rrms, rows, C",
            "(float*)nullptr, y, nullptr, rrms, rows - 1, C",
        ),
        (
            "sums of the rounded change places",
            "norm_gradient<PER_FLOATS, true>(dy, skip, x, weight, mean, rstd, dx, dweights, dbiases",
            "norm_gradient<PER_FLOATS, true>(dy, skip, x, weight, mean, rstd, dx, dbiases, dweights",
        ),
        (
            "the last row of a rounded gradient left out",
            "norm_gradient<PER_FLOATS, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows,",
            "norm_gradient<PER_FLOATS, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows - 1,",
        ),
    ),
    *of_topic(
        "loss",
        (
            "no barrier",
            "if (lane == 0) parts[warp] = x;\n  __syncthreads();\n  Online",
            "if (lane == 0) parts[warp] = x;\n  Online",
        ),
        ("sum of an older highest", "online.total * expf(online.top - shift)", "online.total"),
        ("-inf from -inf", "return top == MINUS_INFINITY ? 0.0f : top;", "return top;"),
        ("a warp too many", "warp_merged(lane < blockDim.x / 32", "warp_merged(lane <= blockDim.x / 32"),
        ("target not smoothed", "log_sum - (1.0f - smoothing) *", "log_sum -"),
        ("smoothing from the base", "(base - online.top)", "-online.top"),
        ("smoothing not divided", "smooth = smoothing / V", "smooth = smoothing"),
        ("the next class", "v + i == target", "v + i == target + 1"),
        ("the first of a vector", "v + i == target", "v == target"),
        ("no scale", ": 0.0f)) * scale;", ": 0.0f));"),
        (
            "stride of a row",
            "drow = dlogits + (long long)blockIdx.x * V",
            "drow = dlogits + (long long)blockIdx.x * (V + 1)",
        ),
        ("ignored rows scored", "if (target == ignore_index)", "if (target == -1)"),
        ("not divided by the rows scored", "num_scored ? factor / max(*num_scored, 1) : factor", "factor"),
        ("ignored rows counted", "count += targets[row] != ignore_index", "count += 1"),
        ("no row to score", "max(count, 1)", "count"),
        ("highest not kept", "highest[blockIdx.x] = online.top;", ""),
        (
            "stride of a block",
            "v < V; v += blockDim.x * N) {\n    float z[N];",
            "v < V; v += blockDim.x) {\n    float z[N];",
        ),
    ),
    *of_topic(
        "activation",
        ("a digit of a constant", "0.044715f", "0.044751f"),
        ("slope of the cube", "3.0f * CUBIC", "2.0f * CUBIC"),
        ("the other tail", "return x * 0.5f * erfcf(-x", "return x * 0.5f * erfcf(x"),
        ("density without x", "+ x * expf(-0.5f", "+ expf(-0.5f"),
        ("0 times infinity", "below > 0.0f && above > 0.0f ? x * below * above * du : 0.0f", "x * below * above * du"),
        ("gate without up", "db[i] *= b[i];\n", "\n"),
        ("up without activation", "db[i] * activated(a[i], kind)", "db[i] * a[i]"),
        ("beyond the end", "if (start + N <= size) {\n    store", "if (start < size) {\n    store"),
        ("size of a step", "blockDim.x + threadIdx.x) * N;", "blockDim.x + threadIdx.x) * 4;"),
        ("ReLU without its threshold", "a[i] = a[i] <= 0.0f ? 0.0f : a[i]", "a[i] = a[i]"),
        ("ReLU with a slope at zero", "above[i] = a[i] > 0.0f ?", "above[i] = a[i] >= 0.0f ?"),
        ("gradient where ReLU was zero", "da[i] *= above[i];", ""),
        ("not measured from the highest", "expf(a[i] - shift) * scale", "expf(a[i]) * scale"),
        ("gradient without the mean", "a[i] *= da[i] - total", "a[i] *= da[i]"),
        (
            "no barrier",
            "if (lane == 0) parts[warp] = x;\n  __syncthreads();\n  return",
            "if (lane == 0) parts[warp] = x;\n  return",
        ),
    ),
    *of_topic(
        "dropout",
        ("nine rounds", "round < 10", "round < 9"),
        ("words change places", "{{c0, c1, c2, c3}}", "{{c0, c3, c2, c1}}"),
        ("step of the key", "k1 += 0xBB67AE85u", "k1 += 0x9E3779B9u"),
        ("head of the first rows", "(unsigned)(n / per_head % heads)", "(unsigned)(n % heads)"),
        ("rows of a head", "/ ((long long)heads * per_head) * per_head +", "/ ((long long)heads * per_head) +"),
        ("no scale", "? a[i] * scale :", "? a[i] :"),
        ("kept and dropped", "bits.of[i] >= threshold", "bits.of[i] < threshold"),
        ("columns past the end", "min(4, C - 4 * quad)", "4"),
        ("a counter that stands still", "offset += *advance", "offset = *advance"),
    ),
    *of_topic(
        "embedding",
        (
            "no barrier after the counts",
            "counts[warp] = __popc(votes);\n    __syncthreads();",
            "counts[warp] = __popc(votes);",
        ),
        (
            "no barrier after the list",
            "rows[place] = (int)row;\n    }\n    __syncthreads();",
            "rows[place] = (int)row;\n    }",
        ),
        ("a place too far", "(1u << lane) - 1u", "(2u << lane) - 1u"),
        ("warps in one place", "if (w < warp) place", "if (w < 0) place"),
        ("an id too many", "row < num_ids", "row <= num_ids"),
        ("past the last id", "min(ids_per_block, V - first)", "ids_per_block"),
        ("sums not set to zero", "sums[i * THREADS + threadIdx.x] = 0.0f", ""),
        ("a column of another", "* C + c]);", "* C + threadIdx.x]);"),
    ),
    *of_topic(
        "rotary",
        ("turned the other way", "a * c[j] - sign * b * s[j]", "a * c[j] + sign * b * s[j]"),
        ("never turned back", "b * c[j] + sign * a * s[j]", "b * c[j] + a * s[j]"),
        ("the other half", "i + N : P + i", "i + N : P + i + 1"),
        ("time of another head", "(int)(row % T)", "(int)(row % H)"),
        ("columns that stay", "rest = D - 2 * P", "rest = 0"),
    ),
    *of_topic(
        "adamw",
        ("decay of the moment", "rates.beta2 * v[i]", "rates.beta1 * v[i]"),
        ("no correction", "* rates.size_scale +", "+"),
        ("decay added", "1.0f - now[LEARNING_RATE]", "1.0f + now[LEARNING_RATE]"),
        ("the segment before", "start + i >= ends[segment]", "start + i > ends[segment]"),
        ("halving stops early", "segment = middle + 1", "segment = middle + 2"),
        ("no clip", "g[i] *= clip;", ""),
        ("clipped when short", "length > max_norm ?", "length < max_norm ?"),
        ("a step that is not finite is taken", "|| now[IS_TAKEN] == 0.0f", ""),
        ("the loss is not looked at", "&& (!loss || *loss - *loss == 0.0f)", ""),
        ("the gradient is not looked at", "length - length == 0.0 &&", ""),
        ("a step that is not finite is counted", "if (!finite) return;", ""),
        ("a step late", "int t = *step + 1;", "int t = *step;"),
        ("squares in float32", "(double)gradient[i] * gradient[i]", "gradient[i] * gradient[i]"),
    ),
    *of_topic(
        "cached_attention",
        ("no barrier before the scores", "__syncthreads();\n\n  int first", "\n  int first"),
        ("no barrier before the merge", "__syncthreads();\n\n  // the token", "\n  // the token"),
        ("the own position twice", "end = min(start + each, position);", "end = min(start + each, position + 1);"),
        ("a position left out", "each = (position - first + parts - 1) / parts", "each = (position - first) / parts"),
        ("a window too narrow", "position + 1 - window", "position + 2 - window"),
        ("padding is read", "int first = padding[b];", "int first = 0;"),
        ("the head of another group", "shared_head = h / group", "shared_head = h % K"),
        ("keys of another row", "keys += ((long long)b * K + shared_head)", "keys += ((long long)shared_head)"),
        ("not added to the cache", "bool appends = part == 0 && h % group == 0;", "bool appends = false;"),
        ("added a position too late", "put(keys + (long long)position * D", "put(keys + (long long)(position + 1) * D"),
        ("angles of the first position", "cos += (long long)position * P;", ""),
        ("columns past 2P turned", "if (c >= 2 * P) return a;", "if (P == 0) return a;"),
        ("sums of an older highest", "reading.sum[i] *= before;", ";"),
        ("no scale", "sin, P, c) * scale;", "sin, P, c);"),
        (
            "every part has the token",
            "score = part == 0 ? warp_sum(score) : MINUS_INFINITY;",
            "score = warp_sum(score);",
        ),
        ("a part left out", "part < parts; part++) {\n      sum", "part < parts - 1; part++) {\n      sum"),
        ("values of another row", "values += ((long long)b * K + shared_head)", "values += ((long long)shared_head)"),
        ("the query of another head", "turned(packed + h * D, cos", "turned(packed + shared_head * D, cos"),
        ("the key of another head", "packed + (H + shared_head) * D", "packed + (H + h) * D"),
        ("a key as a value", "packed[(H + K + shared_head) * D + c]", "packed[(H + shared_head) * D + c]"),
        ("turned the other way", "- to_float(x[c + P]) * to_float(sin[c])", "+ to_float(x[c + P]) * to_float(sin[c])"),
        ("turned with itself", "to_float(x[c - P]) * to_float(sin[c - P])", "to_float(x[c]) * to_float(sin[c - P])"),
        ("the total of an older highest", "reading.total *= before;", ""),
        ("warps take the same positions", "s += WARPS * STEP) take", "s += WARPS) take"),
        ("a position past the end scored", "s + j < end ? warp_sum", "s + j <= end ? warp_sum"),
        ("a position past the end read", "if (reads && s + j < end)", "if (reads && s + j <= end)"),
        (
            "the total of a warp left out",
            "for (int w = 0; w < WARPS; w++) total +=",
            "for (int w = 1; w < WARPS; w++) total +=",
        ),
        (
            "totals of parts from their own highest",
            "+ D + 1] * expf(partials[part * (D + 2) + D] - shift);",
            "+ D + 1];",
        ),
        ("parts in one place", "((long long)b * H + h) * parts + part;", "((long long)b * H + h) * parts;"),
        ("the value of the token left out", "float sum = weight * shared.own[1][c];", "float sum = 0.0f;"),
        ("stride of a packed row", "packed += (long long)b * (H + 2 * K) * D", "packed += (long long)b * (H + K) * D"),
        ("capacity of a row", "shared_head) * capacity * D;\n  values", "shared_head) * (capacity - 1) * D;\n  values"),
    ),
]
