"""Right answers of learners: more than twenty variants in plain NumPy, by another algebra, order or style than ours.

RIGHT: a name -> the op, its forward, its backward.
"""

from math import erf, pi, sqrt
from typing import Any

import numpy as np

RIGHT: dict[str, tuple[str, Any, Any]] = {}


def right(op: str, name: str) -> Any:
    def register(functions: Any) -> Any:
        RIGHT[f"{op}: {name}"] = (op, *functions())
        return functions

    return register


@right("linear", "einsum")
def _() -> Any:
    def forward(x, weight, bias):
        return np.einsum("...i,oi->...o", x, weight) + bias, (x, weight)

    def backward(dy, saved):
        x, weight = saved
        axes = tuple(range(dy.ndim - 1))
        rows_dy, rows_x = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
        return np.einsum("...o,oi->...i", dy, weight), np.einsum("ro,ri->oi", rows_dy, rows_x), dy.sum(axes)

    return forward, backward


@right("linear", "tensordot and loops")
def _() -> Any:
    def forward(x, weight, bias):
        y = np.empty((*x.shape[:-1], len(weight)))
        for o in range(len(weight)):
            y[..., o] = (x * weight[o]).sum(-1) + bias[o]
        return y, {"x": x, "W": weight}

    def backward(dy, saved):
        x, weight = saved["x"], saved["W"]
        axes = list(range(dy.ndim - 1))
        return [
            np.tensordot(dy, weight, 1),
            np.tensordot(dy, x, (axes, axes)),
            np.tensordot(dy, np.ones(dy.shape[:-1]), (axes, axes)),
        ]

    return forward, backward


@right("relu", "where")
def _() -> Any:
    return lambda x: (np.where(x > 0, x, 0.0), x), lambda dy, x: np.where(x > 0, dy, 0.0)


@right("relu", "from the output, in place")
def _() -> Any:
    def forward(x):
        y = x.copy()
        y[y < 0] = 0
        return y, y

    def backward(dy, y):
        dx = dy.copy()
        dx[y == 0] = 0
        return dx

    return forward, backward


@right("gelu", "by the derivative of the product")
def _() -> Any:
    def forward(x, approximate):
        if approximate == "tanh":
            t = np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))
            inside = sqrt(2 / pi) * (1 + 0.134145 * x**2)
            return x * (0.5 + 0.5 * t), 0.5 + 0.5 * t + 0.5 * x * (1 - t**2) * inside
        phi = np.array([0.5 * (1 + erf(v / sqrt(2))) for v in x.flat]).reshape(x.shape)
        return x * phi, phi + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)

    return forward, lambda dy, slope: (dy * slope,)


@right("softmax", "Jacobian of every row")
def _() -> Any:
    def forward(x):
        y = np.exp(x - x.max(axis=-1)[..., None])
        y /= y.sum(axis=-1)[..., None]
        return y, y

    def backward(dy, y):
        jacobian = y[..., None] * np.eye(y.shape[-1]) - y[..., None] * y[..., None, :]
        return (jacobian @ dy[..., None])[..., 0]

    return forward, backward


@right("softmax", "logsumexp, in place")
def _() -> Any:
    def forward(x):
        top = x.max(-1, keepdims=True)
        log_y = x - (top + np.log(np.exp(x - top).sum(-1, keepdims=True)))
        return np.exp(log_y), log_y

    def backward(dy, log_y):
        dx = dy * np.exp(log_y)
        dx -= np.exp(log_y) * dx.sum(-1, keepdims=True)
        return dx

    return forward, backward


@right("layer_norm", "through mean and variance, step by step")
def _() -> Any:
    def forward(x, weight, bias, eps):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + eps) * weight + bias, (x, mean, variance, weight, eps)

    def backward(dy, saved):
        x, mean, variance, weight, eps = saved
        C, s = x.shape[-1], np.sqrt(variance + eps)
        dxhat = dy * weight
        dvariance = (dxhat * (x - mean) * -0.5 * s**-3).sum(-1, keepdims=True)
        dmean = (-dxhat / s).sum(-1, keepdims=True)
        dx = dxhat / s + dvariance * 2 * (x - mean) / C + dmean / C
        axes = tuple(range(x.ndim - 1))
        return dx, (dy * (x - mean) / s).sum(axes), dy.sum(axes)

    return forward, backward


@right("layer_norm", "as a projection, einsum")
def _() -> Any:
    def forward(x, weight, bias, eps=1e-5):
        c = x - np.einsum("...c->...", x)[..., None] / x.shape[-1]
        s = np.sqrt(np.einsum("...c,...c->...", c, c) / x.shape[-1] + eps)[..., None]
        return weight * (c / s) + bias, (c / s, s, weight)

    def backward(dy, saved):
        n, s, weight = saved
        C = n.shape[-1]
        P = np.eye(C) - 1 / C - n[..., :, None] * n[..., None, :] / C
        rows_n, rows_dy = n.reshape(-1, C), dy.reshape(-1, C)
        return np.einsum("...ij,...j->...i", P, dy * weight) / s, np.einsum("rc,rc->c", rows_n, rows_dy), rows_dy.sum(0)

    return forward, backward


def seen(T, S, causal):
    return np.tril(np.ones((T, S), bool), S - T) if causal else np.ones((T, S), bool)


@right("attention", "einsum, a large negative number for the mask")
def _() -> Any:
    def forward(q, k, v, causal):
        z = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[-1])
        z = np.where(seen(*z.shape[-2:], causal), z, -1e30)
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return np.einsum("bhts,bhsd->bhtd", p, v), (q, k, v, p)

    def backward(dy, saved):
        q, k, v, p = saved
        dp = np.einsum("bhtd,bhsd->bhts", dy, v)
        dz = p * (dp - np.einsum("bhts,bhts->bht", dp, p)[..., None]) / np.sqrt(q.shape[-1])
        return (
            np.einsum("bhts,bhsd->bhtd", dz, k),
            np.einsum("bhts,bhtd->bhsd", dz, q),
            np.einsum("bhts,bhtd->bhsd", p, dy),
        )

    return forward, backward


@right("attention", "delta from y; the scale on the queries")
def _() -> Any:
    def forward(q, k, v, causal):
        scale = q.shape[-1] ** -0.5
        e = np.exp((q * scale) @ np.swapaxes(k, -1, -2)) * seen(q.shape[2], k.shape[2], causal)
        p = e / e.sum(-1, keepdims=True)
        return p @ v, (q, k, v, p, p @ v)

    def backward(dy, saved):
        q, k, v, p, y = saved
        delta = (dy * y).sum(-1, keepdims=True)
        dz = p * (dy @ v.transpose(0, 1, 3, 2) - delta)
        scale = q.shape[-1] ** -0.5
        return scale * (dz @ k), dz.transpose(0, 1, 3, 2) @ (q * scale), p.transpose(0, 1, 3, 2) @ dy

    return forward, backward


@right("attention", "tiles of two keys with a running softmax")
def _() -> Any:
    def forward(q, k, v, causal):
        (T, D), S = q.shape[2:], k.shape[2]
        m, s, y = np.full(q.shape[:3], -np.inf), np.zeros(q.shape[:3]), np.zeros(q.shape)
        for start in range(0, S, 2):
            z = q @ k[:, :, start : start + 2].swapaxes(2, 3) / sqrt(D)
            z = np.where(seen(T, S, causal)[:, start : start + 2], z, -np.inf)
            m_new = np.maximum(m, z.max(-1))
            safe = np.where(np.isinf(m_new), 0, m_new)
            e, old = np.exp(z - safe[..., None]), np.exp(m - safe)
            s, y, m = s * old + e.sum(-1), y * old[..., None] + e @ v[:, :, start : start + 2], m_new
        y /= s[..., None]
        return y, (q, k, v, y, m, s, causal)

    def backward(dy, saved):
        q, k, v, y, m, s, causal = saved
        (T, D), S = q.shape[2:], k.shape[2]
        dq, dk, dv, delta = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), (dy * y).sum(-1)
        for start in range(0, S, 2):
            tile = slice(start, start + 2)
            z = np.where(seen(T, S, causal)[:, tile], q @ k[:, :, tile].swapaxes(2, 3) / sqrt(D), -np.inf)
            p = np.exp(z - m[..., None]) / s[..., None]
            dv[:, :, tile] = p.swapaxes(2, 3) @ dy
            dz = p * (dy @ v[:, :, tile].swapaxes(2, 3) - delta[..., None]) / sqrt(D)
            dq += dz @ k[:, :, tile]
            dk[:, :, tile] = dz.swapaxes(2, 3) @ q
        return dq, dk, dv

    return forward, backward


@right("multi_head", "a loop over heads")
def _() -> Any:
    _, attention_forward, attention_backward = RIGHT["attention: delta from y; the scale on the queries"]

    def forward(x, in_weight, in_bias, out_weight, out_bias, num_heads, causal):
        C = x.shape[-1]
        D = C // num_heads
        qkv = x @ in_weight.T + in_bias
        heads, saved = [], []
        for h in range(num_heads):
            parts = [qkv[..., i * C + h * D : i * C + (h + 1) * D][:, None] for i in range(3)]
            y, s = attention_forward(*parts, causal)
            heads.append(y[:, 0])
            saved.append(s)
        merged = np.concatenate(heads, -1)
        return merged @ out_weight.T + out_bias, (x, in_weight, out_weight, merged, saved)

    def backward(dy, saved):
        x, in_weight, out_weight, merged, heads = saved
        C, D = x.shape[-1], x.shape[-1] // len(heads)
        dmerged, dqkv = dy @ out_weight, np.zeros((*x.shape[:2], 3 * C))
        for h, s in enumerate(heads):
            for i, d in enumerate(attention_backward(dmerged[:, None, :, h * D : (h + 1) * D], s)):
                dqkv[..., i * C + h * D : i * C + (h + 1) * D] = d[:, 0]
        rows = (0, 1)
        dW, dU = np.tensordot(dqkv, x, (rows, rows)), np.tensordot(dy, merged, (rows, rows))
        return dqkv @ in_weight, dW, dqkv.sum(rows), dU, dy.sum(rows)

    return forward, backward


@right("embedding", "one-hot product")
def _() -> Any:
    def forward(ids, weight):
        onehot = np.eye(len(weight))[ids]
        return onehot @ weight, onehot

    return forward, lambda dy, onehot: np.tensordot(onehot, dy, ((0, 1), (0, 1)))


@right("embedding", "a loop over ids")
def _() -> Any:
    def backward(dy, saved):
        ids, V = saved
        dweight = np.zeros((V, dy.shape[-1]))
        for i, row in zip(ids.ravel(), dy.reshape(-1, dy.shape[-1]), strict=True):
            dweight[i] += row
        return dweight

    return lambda ids, weight: (weight.take(ids, axis=0), (ids, len(weight))), backward


@right("learned_position", "a loop over the batch")
def _() -> Any:
    def backward(dy, saved):
        weight, start = saved
        dweight = np.zeros_like(weight)
        for row in dy:
            dweight[start : start + len(row)] += row
        return dy.copy(), dweight

    return lambda x, w, start: (x + w[np.arange(start, start + x.shape[1])], (w, start)), backward


@right("sinusoidal_position", "element by element")
def _() -> Any:
    def forward(x, start):
        y = x.copy()
        for t in range(x.shape[1]):
            for c in range(x.shape[2]):
                angle = (start + t) / 10000 ** (2 * (c // 2) / x.shape[2])
                y[:, t, c] += np.sin(angle) if c % 2 == 0 else np.cos(angle)
        return y, None

    return forward, lambda dy, _: dy


@right("dropout", "indexing")
def _() -> Any:
    def forward(x, keep, probability):
        y = np.zeros_like(x)
        y[keep] = x[keep] / (1 - probability)
        return y, (keep, probability)

    return forward, lambda dy, saved: np.where(saved[0], dy, 0) * (1 / (1 - saved[1]))


@right("cross_entropy", "log-probabilities of the scored rows")
def _() -> Any:
    def forward(logits, targets):
        V = logits.shape[-1]
        flat, wanted = logits.reshape(-1, V), targets.reshape(-1)
        rows = np.flatnonzero(wanted != -100)
        z = flat[rows] - flat[rows].max(1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        loss = -log_p[np.arange(len(rows)), wanted[rows]].mean()
        return loss, (logits.shape, rows, wanted[rows], np.exp(log_p))

    def backward(dy, saved):
        shape, rows, wanted, p = saved
        dlogits = np.zeros((int(np.prod(shape[:-1])), shape[-1]))
        dlogits[rows] = p * dy / len(rows)
        dlogits[rows, wanted] -= dy / len(rows)
        return dlogits.reshape(shape)

    return forward, backward


@right("next_token", "a loop over positions")
def _() -> Any:
    def forward(logits, ids):
        B, T, _ = logits.shape
        total, p = 0.0, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        for b in range(B):
            for t in range(T - 1):
                total -= np.log(p[b, t, ids[b, t + 1]])
        return total / (B * (T - 1)), (p, ids)

    def backward(dy, saved):
        p, ids = saved
        B, T, V = p.shape
        d = p - np.eye(V)[np.roll(ids, -1, axis=1)]
        d[:, -1] = 0
        return d * dy / (B * (T - 1))

    return forward, backward


@right("residual", "in place on its own array")
def _() -> Any:
    def forward(x, weight):
        n = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        y = n @ weight.T
        y += x
        return y, (n, np.sqrt(x.var(-1, keepdims=True) + 1e-5), weight)

    def backward(dy, saved):
        n, s, weight = saved
        d = dy @ weight
        dx = (d - d.mean(-1, keepdims=True) - n * (d * n).mean(-1, keepdims=True)) / s
        dx += dy
        return dx, np.einsum("bto,bti->oi", dy, n)

    return forward, backward


@right("tied_embedding", "both uses by one-hot")
def _() -> Any:
    def forward(ids, E):
        onehot = np.eye(len(E))[ids]
        return onehot @ E @ E.T, (onehot, E)

    def backward(dy, saved):
        onehot, E = saved
        return np.einsum("btv,btc->vc", onehot, dy @ E) + np.einsum("btv,btc->vc", dy, onehot @ E)

    return forward, backward


@right("softmax", "the forward alone, as an array")
def _() -> Any:
    def forward(x):
        return 1 / np.exp(x[..., None, :] - x[..., None]).sum(-1)

    return forward, None
