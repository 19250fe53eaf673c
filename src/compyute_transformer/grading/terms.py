"""Terms: each output of an exercise as the sum that its formula writes, so that a missing term can be named.

A term is computed here from the inputs alone, in plain NumPy; the tests check that the terms add up to what the library
computes.
"""

from math import erf, pi, sqrt
from typing import Any

import numpy as np

from .exercise import Case, Term, Terms

__all__: list[str] = []


def linear_terms(case: Case) -> Terms:
    x, weight, bias = case.inputs.values()
    dy = case.dy
    lead = (len(dy), -1)  # rows of each batch element
    elements = list(zip(dy.reshape(*lead, dy.shape[-1]), x.reshape(*lead, x.shape[-1]), strict=True))
    return {
        "y": [Term("x Wᵀ", x @ weight.T), Term("the bias b", np.broadcast_to(bias, dy.shape))],
        "dweight": [
            Term(f"the part of batch element {b} in Σ_b dy_bᵀ x_b", d.T @ a) for b, (d, a) in enumerate(elements)
        ],
        "dbias": [Term(f"the part of batch element {b} in Σ_b dy_b", d.sum(0)) for b, (d, _) in enumerate(elements)],
    }


def gelu_terms(case: Case) -> Terms:
    x, form = case.inputs.values()
    if form == "tanh":
        inner = sqrt(2 / pi) * (x + 0.044715 * x**3)
        slope = sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2)
        first, second = 0.5 * (1 + np.tanh(inner)), 0.5 * x * (1 - np.tanh(inner) ** 2) * slope
    else:
        first = 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))
        second = x * np.exp(-0.5 * x * x) / sqrt(2 * pi)
    return {"dx": [Term("dy Φ(x)", case.dy * first), Term("dy x φ(x), from the derivative of Φ", case.dy * second)]}


def softmax_of(x: Any) -> Any:
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def softmax_terms(case: Case) -> Terms:
    y, dy = softmax_of(case.inputs["x"]), case.dy
    total = (dy * y).sum(-1, keepdims=True)
    return {"dx": [Term("y dy", y * dy), Term("−y · Σ_j dy_j y_j, the sum over j of dy y", -y * total)]}


def norm_terms(case: Case) -> Terms:
    x, weight, bias, eps = case.inputs.values()
    dy, C = case.dy, case.inputs["x"].shape[-1]
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    xhat, dxhat = (x - x.mean(-1, keepdims=True)) * rstd, dy * weight
    mean, along = dxhat.mean(-1, keepdims=True), (dxhat * xhat).mean(-1, keepdims=True)
    return {
        "y": [Term("x̂ · weight", xhat * weight), Term("the bias", np.broadcast_to(bias, x.shape))],
        "dx": [
            Term("rstd · dx̂", rstd * dxhat),
            Term("−rstd · mean(dx̂), through the mean", np.broadcast_to(-rstd * mean, x.shape)),
            Term("−rstd · x̂ · mean(dx̂ · x̂), through the variance", -rstd * xhat * along),
        ],
        "dweight": [Term("Σ_rows dy · x̂", (dy * xhat).reshape(-1, C).sum(0))],
        "dbias": [Term("Σ_rows dy", dy.reshape(-1, C).sum(0))],
    }


def attention_terms(case: Case) -> Terms:
    q, k, v, causal = case.inputs.values()
    (T, D), S = q.shape[2:], k.shape[2]
    scores = q @ k.swapaxes(2, 3) / sqrt(D)
    if causal:
        scores[..., np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    P, dP = softmax_of(scores), case.dy @ v.swapaxes(2, 3)
    first, second = P * dP / sqrt(D), -P * (dP * P).sum(-1, keepdims=True) / sqrt(D)
    total = "−P · Σ_s dP P, the sum over the keys of dP P"
    return {
        "y": [Term("P v", P @ v)],
        "dq": [Term("P dP in dZ, times k/√D", first @ k), Term(f"{total}, in dZ, times k/√D", second @ k)],
        "dk": [
            Term("P dP in dZᵀ, times q/√D", first.swapaxes(2, 3) @ q),
            Term(f"{total}, in dZᵀ, times q/√D", second.swapaxes(2, 3) @ q),
        ],
        "dv": [Term("Pᵀ dy", P.swapaxes(2, 3) @ case.dy)],
    }


def multi_head_terms(case: Case) -> Terms:
    x, in_weight, in_bias, out_weight, out_bias, H, causal = case.inputs.values()
    B, T, C = x.shape

    def heads(a: Any) -> Any:
        return a.reshape(B, T, H, C // H).swapaxes(1, 2)

    def merged(a: Any) -> Any:
        return a.swapaxes(1, 2).reshape(B, T, C)

    q, k, v = (heads(part) for part in np.split(x @ in_weight.T + in_bias, 3, axis=-1))
    inner = Case("", {"q": q, "k": k, "v": v, "causal": causal}, heads(case.dy @ out_weight))
    parts = {name: [term.value for term in found] for name, found in attention_terms(inner).items()}
    (y,) = parts["y"]
    weights = dict(zip(("queries", "keys", "values"), np.split(in_weight, 3), strict=True))
    through = zip(weights.items(), (sum(parts["dq"]), sum(parts["dk"]), parts["dv"][0]), strict=True)
    return {
        "y": [Term("[heads] W_outᵀ", merged(y) @ out_weight.T), Term("the bias", np.broadcast_to(out_bias, x.shape))],
        "dx": [Term(f"the part of the {name} in dq W_q + dk W_k + dv W_v", merged(d) @ w) for (name, w), d in through],
    }


def learned_position_terms(case: Case) -> Terms:
    x, weight, start = case.inputs.values()
    rows = weight[start : start + x.shape[1]]
    parts = []
    for b, dy in enumerate(case.dy):
        part = np.zeros_like(weight)
        part[start : start + x.shape[1]] = dy
        parts.append(Term(f"the part of batch element {b} in Σ_b dy[b, t]", part))
    return {"y": [Term("x", x), Term("weight[start + t]", np.broadcast_to(rows, x.shape))], "dweight": parts}


def sinusoidal_position_terms(case: Case) -> Terms:
    x, start = case.inputs.values()
    C = x.shape[2]
    angles = np.arange(start, start + x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, C, 2) / C)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(-1, C)
    return {"y": [Term("x", x), Term("the sinusoids p[start + t]", np.broadcast_to(table, x.shape))]}


def loss_terms(case: Case) -> Terms:
    logits, targets = case.inputs.values()
    scored = targets != -100
    factor = case.dy * scored[..., None] / scored.sum()
    onehot = np.eye(logits.shape[-1])[np.where(scored, targets, 0)]
    return {
        "dlogits": [
            Term("softmax(z)/rows scored", factor * softmax_of(logits)),
            Term("−onehot(target)/rows scored", -factor * onehot),
        ]
    }


def residual_terms(case: Case) -> Terms:
    x, weight = case.inputs.values()
    one, zero = np.ones(x.shape[-1]), np.zeros(x.shape[-1])
    branch = Case("", {"x": x, "weight": one, "bias": zero, "eps": 1e-5}, case.dy @ weight)
    found = norm_terms(branch)
    xhat = found["y"][0].value
    return {
        "y": [Term("x, the residual connection", x), Term("the branch norm(x) Wᵀ", xhat @ weight.T)],
        "dx": [
            Term("dy, through the residual connection", case.dy),
            *(Term(f"{term.text} (of the norm in the branch)", term.value) for term in found["dx"]),
        ],
    }


def tied_terms(case: Case) -> Terms:
    ids, weight = case.inputs.values()
    onehot = np.eye(len(weight))[ids.reshape(-1)]
    dy = case.dy.reshape(-1, len(weight))
    return {
        "dweight": [
            Term("the gradient of the head, Σ_rows dlogitsᵀ x", dy.T @ weight[ids.reshape(-1)]),
            Term("the gradient of the embedding, Σ of dlogits E over the rows of each id", onehot.T @ (dy @ weight)),
        ]
    }
