"""Lesson 5: layer norm, and a branch with a residual connection."""

import numpy as np


def layer_norm_forward(x, weight, bias, eps):
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    xhat = (x - x.mean(-1, keepdims=True)) * rstd
    return xhat * weight + bias, (xhat, rstd, weight)


def layer_norm_backward(dy, saved):
    xhat, rstd, weight = saved
    dxhat = dy * weight  # the weight belongs inside the means
    dx = rstd * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    rows = tuple(range(dy.ndim - 1))
    return dx, (dy * xhat).sum(rows), dy.sum(rows)


def residual_forward(x, weight):
    C = x.shape[-1]
    xhat, saved = layer_norm_forward(x, np.ones(C), np.zeros(C), 1e-5)
    return x + xhat @ weight.T, (xhat, saved, weight)


def residual_backward(dy, saved):
    xhat, norm, weight = saved
    dbranch, _, _ = layer_norm_backward(dy @ weight, norm)
    return dy + dbranch, np.tensordot(dy, xhat, ((0, 1), (0, 1)))
