"""Lesson 3: softmax and attention."""

from math import sqrt

import numpy as np


def softmax_forward(x):
    y = np.exp(x - x.max(-1, keepdims=True))
    y = y / y.sum(-1, keepdims=True)
    return y, y


def softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def attention_forward(q, k, v, causal):
    (T, D), S = q.shape[-2:], k.shape[-2]
    scores = q @ k.swapaxes(-2, -1) / sqrt(D)
    if causal:
        scores[..., np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    weights, _ = softmax_forward(scores)
    return weights @ v, (q, k, v, weights)


def attention_backward(dy, saved):
    q, k, v, weights = saved
    dv = weights.swapaxes(-2, -1) @ dy
    dscores = softmax_backward(dy @ v.swapaxes(-2, -1), weights) / sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-2, -1) @ q, dv
