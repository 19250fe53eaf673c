"""Lesson 6: a linear layer, the loss, and a weight with two uses."""

import numpy as np


def linear_forward(x, weight, bias):
    return x @ weight.T + bias, (x, weight)


def linear_backward(dy, saved):
    x, weight = saved
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return dy @ weight, dy_rows.T @ x_rows, dy_rows.sum(0)


def cross_entropy_forward(logits, targets):
    scored = targets != -100
    z = logits - logits.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    wanted = np.where(scored, targets, 0)[..., None]
    nll = -np.take_along_axis(log_p, wanted, -1)[..., 0]
    return nll[scored].mean(), (np.exp(log_p), wanted, scored)


def cross_entropy_backward(dy, saved):
    p, wanted, scored = saved
    onehot = np.zeros_like(p)
    np.put_along_axis(onehot, wanted, 1.0, -1)
    return dy / scored.sum() * (p - onehot) * scored[..., None]


def tied_embedding_forward(ids, weight):
    x = weight[ids]
    return x @ weight.T, (ids, x, weight)


def tied_embedding_backward(dy, saved):
    ids, x, weight = saved
    dx, dweight, _ = linear_backward(dy, (x, weight))  # the head
    np.add.at(dweight, ids.reshape(-1), dx.reshape(-1, dx.shape[-1]))  # and the embedding
    return dweight
