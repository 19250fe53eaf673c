"""Exercises: the ops of the course, one record each, with the cases that a learner's code is compared on."""

from typing import Any

import numpy as np

from ..arrays import Array
from ..ops.activation import gelu_backward, gelu_forward, relu_backward, relu_forward, softmax_backward, softmax_forward
from ..ops.attention import Mask, attention_backward, attention_forward
from ..ops.dropout import dropout_backward, dropout_forward
from ..ops.embedding import embedding_backward, embedding_forward
from ..ops.linear import linear_backward, linear_forward
from ..ops.loss import cross_entropy_backward, cross_entropy_forward
from ..ops.multi_head import MultiHeadOptions, parallel_multi_head_backward, parallel_multi_head_forward
from ..ops.norm import layer_norm_backward, layer_norm_forward
from ..ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
)
from ..random import DROPOUT, RandomKey, keep_mask
from . import composites, terms
from .exercise import Case, Exercise

__all__ = ["EXERCISES"]

KEY = RandomKey(5, DROPOUT, 0)


def linear_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for name, rows in (("rows (3, 4)", (3, 4)), ("rows (2)", (2,))):
        inputs = {"x": rng.normal(size=(*rows, 5)), "weight": rng.normal(size=(7, 5)), "bias": rng.normal(size=7)}
        cases.append(Case(name, inputs, rng.normal(size=(*rows, 7))))
    return cases


def elementwise_cases(rng: np.random.Generator) -> list[Case]:
    """Return inputs away from 0, where ReLU has no derivative."""

    def drawn(*shape: int) -> Array:
        x = rng.normal(size=shape)
        return x + 0.1 * np.sign(x)

    return [Case(f"shape {shape}", {"x": drawn(*shape)}, rng.normal(size=shape)) for shape in ((3, 5), (2, 3, 4))]


def gelu_cases(rng: np.random.Generator) -> list[Case]:
    forms = ("none", "tanh")
    return [
        Case(f'approximate="{form}"', {"x": rng.normal(size=(3, 5)), "approximate": form}, rng.normal(size=(3, 5)))
        for form in forms
    ]


def softmax_cases(rng: np.random.Generator) -> list[Case]:
    drawn = {"two axes": rng.normal(size=(3, 5)), "four axes": rng.normal(size=(2, 3, 4, 6))}
    drawn["scores of a thousand"] = 1000.0 + rng.normal(size=(4, 7))
    return [Case(name, {"x": x}, rng.normal(size=x.shape)) for name, x in drawn.items()]


def norm_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for name, shape, size in (("rows (2, 3)", (2, 3, 5), 1.0), ("a variance as small as eps", (4, 7), 3e-3)):
        x = size * (rng.normal(size=shape) + 0.5)
        weight, bias = rng.normal(size=(2, shape[-1]))
        cases.append(Case(name, {"x": x, "weight": weight, "bias": bias, "eps": 1e-5}, rng.normal(size=shape)))
    return cases


def attention_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for name, T, S, causal in (
        ("no mask", 4, 5, False),
        ("causal", 5, 5, True),
        ("causal, two queries behind a cache of four", 2, 6, True),
    ):
        q, dy = rng.normal(size=(2, 2, 3, T, 7))
        k, v = rng.normal(size=(2, 2, 3, S, 7))
        cases.append(Case(name, {"q": q, "k": k, "v": v, "causal": causal}, dy))
    return cases


def attention_right(q: Array, k: Array, v: Array, causal: bool) -> tuple[Array, Any]:
    return attention_forward(q, k, v, Mask(causal=causal))


def multi_head_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for name, T, heads, causal in (("two heads, no mask", 5, 2, False), ("three heads, causal", 4, 3, True)):
        C = 4 * heads
        inputs = {"x": rng.normal(size=(2, T, C)), "in_weight": rng.normal(size=(3 * C, C)) / np.sqrt(C)}
        inputs |= {"in_bias": rng.normal(size=3 * C), "out_weight": rng.normal(size=(C, C)) / np.sqrt(C)}
        inputs |= {"out_bias": rng.normal(size=C)}
        cases.append(Case(name, {**inputs, "num_heads": heads, "causal": causal}, rng.normal(size=(2, T, C))))
    return cases


def multi_head_right(
    x: Array, in_weight: Array, in_bias: Array, out_weight: Array, out_bias: Array, num_heads: int, causal: bool
) -> tuple[Array, Any]:
    options = MultiHeadOptions(num_heads, mask=Mask(causal=causal))
    return parallel_multi_head_forward(x, None, in_weight, in_bias, out_weight, out_bias, options)


def multi_head_gradients(dy: Array, saved: Any) -> tuple[Any, ...]:
    dx, _, *dweights = parallel_multi_head_backward(dy, saved)
    return (dx, *dweights)


def ids_cases(rng: np.random.Generator, logits: bool = False) -> list[Case]:
    """Return ids in which some occur several times."""
    cases = []
    for name, ids in {
        "ids that repeat": np.array([[3, 1, 3, 0], [5, 3, 1, 1], [3, 0, 2, 5]]),
        "ids that differ": np.array([[4, 2, 0]]),
    }.items():
        weight = rng.normal(size=(6, 5))
        dy = rng.normal(size=(*ids.shape, 6 if logits else 5))
        cases.append(Case(name, {"ids": ids, "weight": weight}, dy))
    return cases


def tied_cases(rng: np.random.Generator) -> list[Case]:
    return ids_cases(rng, logits=True)


def position_cases(rng: np.random.Generator, learned: bool = True) -> list[Case]:
    cases = []
    for name, start in (("from position 0", 0), ("from position 4, behind a cache", 4)):
        inputs = {"x": rng.normal(size=(2, 3, 6))} | ({"weight": rng.normal(size=(8, 6))} if learned else {})
        cases.append(Case(name, {**inputs, "start": start}, rng.normal(size=(2, 3, 6))))
    return cases


def sinusoid_cases(rng: np.random.Generator) -> list[Case]:
    return position_cases(rng, learned=False)


def dropout_cases(rng: np.random.Generator) -> list[Case]:
    cases = []
    for probability, shape in ((0.3, (4, 5)), (0.6, (2, 3, 7))):
        inputs = {"x": rng.normal(size=shape), "keep": keep_mask(KEY, probability, shape), "probability": probability}
        cases.append(Case(f"probability {probability}", inputs, rng.normal(size=shape)))
    return cases


def dropout_right(x: Array, keep: Array, probability: float) -> tuple[Array, Any]:
    return dropout_forward(x, probability, KEY)


def loss_cases(rng: np.random.Generator) -> list[Case]:
    targets = {
        "all rows scored": (1.0, np.array([[2, 0, 4], [1, 1, 3]])),
        "rows ignored (target -100)": (1.0, np.array([[2, -100, 4], [-100, 1, 3], [0, 2, -100]])),
        "logits of a thousand": (400.0, np.array([[2, 0, 4], [1, 1, 3]])),
    }
    return [
        Case(
            name, {"logits": size * rng.normal(size=(*ids.shape, 5)), "targets": ids}, rng.uniform(0.5, 2), size == 1.0
        )
        for name, (size, ids) in targets.items()
    ]


def next_token_cases(rng: np.random.Generator) -> list[Case]:
    return [
        Case(f"ids {shape}", {"logits": rng.normal(size=(*shape, 6)), "ids": rng.integers(0, 6, shape)}, 1.3)
        for shape in ((2, 5), (3, 4))
    ]


def residual_cases(rng: np.random.Generator) -> list[Case]:
    return [
        Case(f"shape {shape}", {"x": rng.normal(size=shape), "weight": rng.normal(size=(shape[-1],) * 2)}, dy)
        for shape in ((2, 3, 5), (3, 2, 4))
        for dy in [rng.normal(size=shape)]
    ]


RECORDS = (
    Exercise(
        "linear",
        ("x", "weight", "bias"),
        ("dx", "dweight", "dbias"),
        "y = x Wᵀ + b",
        linear_forward,
        linear_backward,
        linear_cases,
        terms.linear_terms,
    ),
    Exercise(
        "relu",
        ("x",),
        ("dx",),
        "y = max(x, 0)",
        relu_forward,
        relu_backward,
        elementwise_cases,
    ),
    Exercise(
        "gelu",
        ("x", "approximate"),
        ("dx",),
        'y = x Φ(x), or its approximation by tanh where approximate is "tanh"',
        gelu_forward,
        gelu_backward,
        gelu_cases,
        terms.gelu_terms,
    ),
    Exercise(
        "softmax",
        ("x",),
        ("dx",),
        "y = exp(x − max x)/Σ exp(x − max x), over the last axis",
        softmax_forward,
        softmax_backward,
        softmax_cases,
        terms.softmax_terms,
    ),
    Exercise(
        "layer_norm",
        ("x", "weight", "bias", "eps"),
        ("dx", "dweight", "dbias"),
        "y = (x − mean)/√(var + eps) · weight + bias, over the last axis",
        layer_norm_forward,
        layer_norm_backward,
        norm_cases,
        terms.norm_terms,
    ),
    Exercise(
        "attention",
        ("q", "k", "v", "causal"),
        ("dq", "dk", "dv"),
        "y = softmax(q kᵀ/√D + mask) v; causal: query t of T sees keys up to S − T + t",
        attention_right,
        attention_backward,
        attention_cases,
        terms.attention_terms,
    ),
    Exercise(
        "multi_head",
        ("x", "in_weight", "in_bias", "out_weight", "out_bias", "num_heads", "causal"),
        ("dx", "din_weight", "din_bias", "dout_weight", "dout_bias"),
        "y = [head_0, …, head_{H−1}] out_weightᵀ + out_bias; the rows of in_weight are queries, keys, values",
        multi_head_right,
        multi_head_gradients,
        multi_head_cases,
        terms.multi_head_terms,
    ),
    Exercise(
        "embedding",
        ("ids", "weight"),
        ("dweight",),
        "y = weight[ids]",
        embedding_forward,
        embedding_backward,
        ids_cases,
    ),
    Exercise(
        "learned_position",
        ("x", "weight", "start"),
        ("dx", "dweight"),
        "y[b, t] = x[b, t] + weight[start + t]",
        learned_position_forward,
        learned_position_backward,
        position_cases,
        terms.learned_position_terms,
    ),
    Exercise(
        "sinusoidal_position",
        ("x", "start"),
        ("dx",),
        "y[b, t] = x[b, t] + p[start + t], p[t, 2i] = sin(t ω), p[t, 2i + 1] = cos(t ω), ω = 10000^(−2i/C)",
        sinusoidal_position_forward,
        sinusoidal_position_backward,
        sinusoid_cases,
        terms.sinusoidal_position_terms,
    ),
    Exercise(
        "dropout",
        ("x", "keep", "probability"),
        ("dx",),
        "y = keep · x/(1 − probability); keep is a boolean array, True where an element stays",
        dropout_right,
        dropout_backward,
        dropout_cases,
    ),
    Exercise(
        "cross_entropy",
        ("logits", "targets"),
        ("dlogits",),
        "L = mean of log Σ exp(z) − z[target] over the rows whose target is not -100",
        cross_entropy_forward,
        cross_entropy_backward,
        loss_cases,
        terms.loss_terms,
    ),
    Exercise(
        "next_token",
        ("logits", "ids"),
        ("dlogits",),
        "L = mean nll of the token that follows each position; the last position has no target",
        composites.next_token_forward,
        composites.next_token_backward,
        next_token_cases,
    ),
    Exercise(
        "residual",
        ("x", "weight"),
        ("dx", "dweight"),
        "y = x + norm(x) Wᵀ, norm(x) = (x − mean)/√(var + 1e-5)",
        composites.residual_forward,
        lambda dy, saved: composites.residual_backward(dy, saved),  # looked up at the call: a mistake replaces it
        residual_cases,
        terms.residual_terms,
    ),
    Exercise(
        "tied_embedding",
        ("ids", "weight"),
        ("dweight",),
        "logits = E[ids] Eᵀ, E the weight",
        composites.tied_embedding_forward,
        lambda dy, saved: composites.tied_embedding_backward(dy, saved),  # looked up at the call: a mistake replaces it
        tied_cases,
        terms.tied_terms,
    ),
)
EXERCISES: dict[str, Exercise] = {record.name: record for record in RECORDS}
