"""Lesson 8: attention and positions behind a cache, the forwards of lessons 3 and 2."""

from math import sqrt

import numpy as np


def attention_forward(q, k, v, causal):
    (T, D), S = q.shape[-2:], k.shape[-2]
    scores = q @ k.swapaxes(-2, -1) / sqrt(D)
    if causal:
        position = np.arange(S - T, S)[:, None]  # the queries are the last T of S positions
        scores = np.where(np.arange(S) <= position, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def learned_position_forward(x, weight, start):
    return x + weight[start : start + x.shape[1]]
