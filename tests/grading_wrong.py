"""Wrong answers of learners in plain NumPy, each with one classic mistake, and what the grading must name.

They share no code with the zoo. WRONG: a name -> the op, its forward, its backward, and a part of the term to be named.
"""

from math import erf, pi, sqrt
from typing import Any

import numpy as np

WRONG: dict[str, tuple[str, Any, Any, str]] = {}


def wrong(op: str, name: str, term: str) -> Any:
    def register(functions: Any) -> Any:
        WRONG[f"{op}: {name}"] = (op, *functions(), term)
        return functions

    return register


# --- linear ---


def over_rows(dy: Any, x: Any) -> Any:
    axes = list(range(dy.ndim - 1))
    return np.tensordot(dy, x, (axes, axes))


def linear(dweight: Any = None, dbias: Any = None, bias: float = 1.0) -> Any:
    def backward(dy, saved):
        x, weight = saved
        axes = tuple(range(dy.ndim - 1))
        dw = dweight(dy, x) if dweight else over_rows(dy, x)
        return dy @ weight, dw, dbias(dy) if dbias else dy.sum(axes)

    return lambda x, weight, b: (x @ weight.T + bias * b, (x, weight)), backward


@wrong("linear", "weight gradient transposed", "transposed")
def _() -> Any:
    return linear(dweight=lambda dy, x: over_rows(x, dy))


@wrong("linear", "only the last batch element", "sum over the batch")
def _() -> Any:
    return linear(dweight=lambda dy, x: np.einsum("to,ti->oi", np.atleast_2d(dy[-1]), np.atleast_2d(x[-1])))


@wrong("linear", "no sum over the batch, shape (B, O, I)", "sum over the rows, or over the batch, is missing")
def _() -> Any:
    return linear(dweight=lambda dy, x: np.stack([over_rows(d, a) for d, a in zip(dy, x, strict=True)]))


@wrong("linear", "gradient of the bias not summed", "sum over the rows, or over the batch, is missing")
def _() -> Any:
    return linear(dbias=lambda dy: dy.copy())


@wrong("linear", "gradient of the bias averaged", "divided by the number of rows")
def _() -> Any:
    return linear(dbias=lambda dy: dy.reshape(-1, dy.shape[-1]).mean(0))


@wrong("linear", "bias subtracted", "the bias b has the wrong sign")
def _() -> Any:
    return linear(bias=-1.0)


@wrong("linear", "only the first batch element in the weight", "batch element 1 in Σ_b dy_bᵀ x_b is missing")
def _() -> Any:
    return linear(dweight=lambda dy, x: np.einsum("to,ti->oi", np.atleast_2d(dy[0]), np.atleast_2d(x[0])))


# --- activation ---


@wrong("relu", "sign of the gradient", "x > 0")
def _() -> Any:
    return lambda x: (np.maximum(x, 0), x), lambda dy, x: np.where(dy > 0, dy, 0.0)


def exact(x: Any) -> Any:
    return 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))


def by_tanh(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


def slope(function: Any, x: Any) -> Any:
    h = 1e-3
    return sum(c * (function(x + k * h) - function(x - k * h)) for k, c in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))) / h


def gelu_forward(x, approximate):
    return x * (by_tanh(x) if approximate == "tanh" else exact(x)), (x, approximate)


@wrong("gelu", "tanh and erf mixed", "mixed")
def _() -> Any:
    def backward(dy, saved):
        x, form = saved
        other = exact if form == "tanh" else by_tanh
        return dy * slope(lambda v: v * other(v), x)

    return gelu_forward, backward


@wrong("gelu", "the derivative of the probability is missing", "x φ(x)")
def _() -> Any:
    return gelu_forward, lambda dy, saved: dy * (by_tanh if saved[1] == "tanh" else exact)(saved[0])


def softmax(axis: int = -1, sums: float = 1.0, shift: bool = True) -> Any:
    def forward(x):
        e = np.exp(x - x.max(axis, keepdims=True) if shift else x)
        y = e / e.sum(axis, keepdims=True)
        return y, y

    return forward, lambda dy, y: y * dy - sums * y * np.einsum("...i,...i->...", dy, y)[..., None]


@wrong("softmax", "no sum", "sum over j of dy y")
def _() -> Any:
    return softmax(sums=0.0)


@wrong("softmax", "sum added", "the sum over j of dy y has the wrong sign")
def _() -> Any:
    return softmax(sums=-1.0)


@wrong("softmax", "wrong axis", "wrong axis")
def _() -> Any:
    return softmax(axis=-2)


@wrong("softmax", "overflow", "shift by max x")
def _() -> Any:
    return softmax(shift=False)


# --- norm ---


def norm(mean: bool = True, variance: bool = True, inside: bool = True, of_x: bool = False, how: str = "") -> Any:
    def forward(x, weight, bias, eps):
        m = x.mean(-1, keepdims=True)
        if how == "eps outside":
            s = np.sqrt(((x - m) ** 2).mean(-1, keepdims=True)) + eps
        else:
            s = np.sqrt(x.var(-1, keepdims=True, ddof=int(how == "unbiased")) + eps)
        return (x - m) / s * weight + bias, (x, m, s, weight)

    def backward(dy, saved):
        x, m, s, weight = saved
        n, d = (x - m) / s, dy * weight if inside else dy
        dx = d / s
        dx -= (d.mean(-1, keepdims=True) / s) * mean
        dx -= n * np.einsum("...c,...c->...", d, n)[..., None] / x.shape[-1] / s * variance
        axes = tuple(range(x.ndim - 1))
        return dx if inside else dx * weight, (dy * (x if of_x else n)).sum(axes), dy.sum(axes)

    return forward, backward


for _name, _options, _term in (
    ("no mean term", {"mean": False}, "mean(dx̂)"),
    ("no variance term", {"variance": False}, "x̂ · mean(dx̂ · x̂)"),
    ("neither mean term", {"mean": False, "variance": False}, "through the variance is missing"),
    ("weight outside the means", {"inside": False}, "weight stands outside the means"),
    ("weight gradient of x", {"of_x": True}, "x in place of x̂"),
    ("eps outside the root", {"how": "eps outside"}, "eps stands outside the root"),
    ("unbiased variance", {"how": "unbiased"}, "C − 1"),
):
    WRONG[f"layer_norm: {_name}"] = ("layer_norm", *norm(**_options), _term)  # type: ignore[arg-type]


# --- attention ---


def attention(
    scale: Any = lambda D: sqrt(D),
    back: Any = None,
    after: bool = False,
    diagonal: Any = lambda T, S: S - T,
    sums: float = 1.0,
    transposed: bool = True,
) -> Any:
    def forward(q, k, v, causal):
        z = np.einsum("bhtd,bhsd->bhts", q, k) / scale(q.shape[-1])
        T, S = z.shape[-2:]
        see = np.tril(np.ones((T, S), bool), diagonal(T, S)) if causal else np.ones((T, S), bool)
        e = np.exp(z) * (1 if after else see)
        p = e / np.maximum(e.sum(-1, keepdims=True), 1e-300) * see
        return p @ v, (q, k, v, p)

    def backward(dy, saved):
        q, k, v, p = saved
        dp = dy @ v.swapaxes(2, 3)
        dz = p * (dp - sums * np.einsum("bhts,bhts->bht", dp, p)[..., None]) / (back or scale)(q.shape[-1])
        dv = p.swapaxes(2, 3) @ dy if transposed or p.shape[2] != p.shape[3] else p @ dy
        return dz @ k, dz.swapaxes(2, 3) @ q, dv

    return forward, backward


for _name, _options, _term in (
    ("scale missing", {"scale": lambda D: 1.0}, "1/√D in the scores q kᵀ/√D is missing"),
    ("scale by the width", {"scale": lambda D: D}, "1/D"),
    ("scale missing in the backward", {"back": lambda D: 1.0}, "1/√D in dq"),
    ("mask after softmax", {"after": True}, "mask stands outside softmax"),
    ("sum missing", {"sums": 0.0}, "the sum over the keys of dP P"),
    ("sum twice", {"sums": 2.0}, "is there 2 times"),
    ("sees the next key", {"diagonal": lambda T, S: S - T + 1}, "s ≤ t + 1"),
    ("hides its own key", {"diagonal": lambda T, S: S - T - 1}, "s < t"),
    ("no offset behind a cache", {"diagonal": lambda T, S: 0}, "S − T + t"),
    ("value gradient not transposed", {"transposed": False}, "P is not transposed"),
):
    WRONG[f"attention: {_name}"] = ("attention", *attention(**_options), _term)


def multi_head(transposes: bool = True, parts: str = "qkv") -> Any:
    attend, attend_backward = attention()

    def forward(x, in_weight, in_bias, out_weight, out_bias, H, causal):
        B, T, C = x.shape
        cut = (
            (lambda a: a.reshape(B, T, H, C // H).swapaxes(1, 2))
            if transposes
            else (lambda a: a.reshape(B, H, T, C // H))
        )
        q, k, v = (cut(x @ w.T + b) for w, b in zip(np.split(in_weight, 3), np.split(in_bias, 3), strict=True))
        y, saved = attend(q, k, v, causal)
        merged = y.swapaxes(1, 2).reshape(B, T, C)
        return merged @ out_weight.T + out_bias, (x, in_weight, out_weight, merged, saved, H)

    def backward(dy, saved):
        x, in_weight, out_weight, merged, inner, H = saved
        B, T, C = x.shape
        dheads = (dy @ out_weight).reshape(B, T, H, C // H).swapaxes(1, 2)
        gradients = [d.swapaxes(1, 2).reshape(B, T, C) for d in attend_backward(dheads, inner)]
        named = zip("qkv", gradients, np.split(in_weight, 3), strict=True)
        dx = sum(d @ w for name, d, w in named if name in parts)
        dqkv = np.concatenate(gradients, -1)
        dW, dU = np.einsum("bto,bti->oi", dqkv, x), np.einsum("bto,bti->oi", dy, merged)
        return dx, dW, dqkv.sum((0, 1)), dU, dy.sum((0, 1))

    return forward, backward


WRONG["multi_head: heads cut without transposing"] = ("multi_head", *multi_head(transposes=False), "the transposition")
WRONG["multi_head: dx of queries only"] = ("multi_head", *multi_head(parts="q"), "of the keys and of the values")
WRONG["multi_head: dx without values"] = ("multi_head", *multi_head(parts="qk"), "the part of the values")


# --- embedding and position ---


@wrong("embedding", "overwritten", "sum over all positions r")
def _() -> Any:
    def backward(dy, saved):
        ids, V = saved
        dweight = np.zeros((V, dy.shape[-1]))
        dweight[ids] += dy
        return dweight

    return lambda ids, weight: (weight[ids], (ids, len(weight))), backward


def position(offset: bool = True, rows: Any = lambda dy: dy.sum(0)) -> Any:
    def forward(x, weight, start):
        return x + weight[start * offset :][: x.shape[1]], (weight, start)

    def backward(dy, saved):
        weight, start = saved
        dweight = np.zeros_like(weight)
        dweight[start : start + dy.shape[1]] = rows(dy)
        return dy, dweight

    return forward, backward


WRONG["learned_position: not offset"] = ("learned_position", *position(offset=False), "start in weight[start + t]")
WRONG["learned_position: last batch element"] = (
    "learned_position",
    *position(rows=lambda dy: dy[-1]),
    "sum over the batch",
)
WRONG["learned_position: mean over the batch"] = ("learned_position", *position(rows=lambda dy: dy.mean(0)), "1/2")


@wrong("sinusoidal_position", "a frequency for each dimension", "the same for both dimensions")
def _() -> Any:
    def forward(x, start):
        _, T, C = x.shape
        t, c = np.mgrid[start : start + T, 0:C]
        angle = t / 10000.0 ** (c / C)
        return x + np.where(c % 2, np.cos(angle), np.sin(angle)), ()

    return forward, lambda dy, _: dy


# --- dropout and loss ---


def dropout(forward_factor: Any, backward_factor: Any) -> Any:
    return (
        lambda x, keep, p: (forward_factor(keep, p) * x, (keep, p)),
        lambda dy, saved: backward_factor(*saved) * dy,
    )


def right_factor(keep, p):
    return keep / (1 - p)


for _name, _pair, _term in (
    ("scaled twice", (lambda keep, p: keep / (1 - p) ** 2, right_factor), "squared"),
    ("not scaled", (lambda keep, p: keep, right_factor), "1/(1 − p) is missing"),
    ("gradient of what was dropped", (right_factor, lambda keep, p: 1 / (1 - p)), "keep in dx"),
    ("gradient not scaled", (right_factor, lambda keep, p: keep), "times (1 − p)"),
):
    WRONG[f"dropout: {_name}"] = ("dropout", *dropout(*_pair), _term)


def loss(
    divide: Any = None, ignored: bool = False, target: float = 1.0, all_rows: bool = False, shift: bool = True
) -> Any:
    def forward(z, targets):
        scored = targets != -100
        n = targets.size if all_rows else scored.sum()
        top = z.max(-1, keepdims=True) if shift else 0.0
        p = np.exp(z - top) / np.exp(z - top).sum(-1, keepdims=True)
        hit = np.eye(z.shape[-1])[np.where(scored, targets, 0)]
        nll = np.log(np.exp(z - top).sum(-1)) - ((z - top) * hit).sum(-1)
        return (nll * scored).sum() / n, (p, hit, scored, n)

    def backward(dy, saved):
        p, hit, scored, n = saved
        d = p - target * hit * scored[..., None]
        return d * (1.0 if ignored else scored[..., None]) * dy / (divide(scored) if divide else n)

    return forward, backward


for _name, _options, _term in (
    ("gradient not averaged", {"divide": lambda scored: 1.0}, "1/(rows scored) in dz"),
    ("averaged over all rows", {"all_rows": True}, "all rows instead of the rows scored"),
    ("gradient of ignored rows", {"ignored": True}, "dz = 0 in the rows that are ignored"),
    ("no one-hot", {"target": 0.0}, "−onehot(target)"),
    ("one-hot added", {"target": -1.0}, "has the wrong sign"),
    ("overflow", {"shift": False}, "shift by max z"),
):
    WRONG[f"cross_entropy: {_name}"] = ("cross_entropy", *loss(**_options), _term)  # type: ignore[arg-type]


@wrong("next_token", "its own token as target", "not at t + 1")
def _() -> Any:
    def forward(logits, ids):
        z = logits[:, :-1]
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        hit = np.eye(z.shape[-1])[ids[:, :-1]]
        return -(np.log(p) * hit).sum(-1).mean(), (p, hit)

    def backward(dy, saved):
        p, hit = saved
        d = (p - hit) * dy / (p.shape[0] * p.shape[1])
        return np.concatenate([d, np.zeros_like(d[:, :1])], axis=1)

    return forward, backward


# --- between ops ---


def residual(through: float = 1.0) -> Any:
    def forward(x, weight):
        s = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        n = (x - x.mean(-1, keepdims=True)) / s
        return x + n @ weight.T, (n, s, weight)

    def backward(dy, saved):
        n, s, weight = saved
        d = dy @ weight
        dx = (d - d.mean(-1, keepdims=True) - n * (d * n).mean(-1, keepdims=True)) / s
        return through * dy + dx, np.einsum("bto,bti->oi", dy, n)

    return forward, backward


WRONG["residual: no residual gradient"] = ("residual", *residual(0.0), "residual connection in dx")


def tied(lookup: float = 1.0, head: float = 1.0) -> Any:
    def backward(dy, saved):
        ids, E = saved
        onehot = np.eye(len(E))[ids]
        return lookup * np.einsum("btv,btc->vc", onehot, dy @ E) + head * np.einsum("btv,btc->vc", dy, E[ids])

    return lambda ids, E: (E[ids] @ E.T, (ids, E)), backward


WRONG["tied_embedding: the head is lost"] = ("tied_embedding", *tied(head=0.0), "counted once")
WRONG["tied_embedding: the embedding is lost"] = ("tied_embedding", *tied(lookup=0.0), "gradient of the embedding")
