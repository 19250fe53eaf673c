"""Lesson 2: the embedding and the positions."""

import numpy as np


def embedding_forward(ids, weight):
    return weight[ids], (ids, len(weight))


def embedding_backward(dy, saved):
    ids, V = saved
    dweight = np.zeros((V, dy.shape[-1]))
    np.add.at(dweight, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))  # a repeated id gets the sum
    return dweight


def learned_position_forward(x, weight, start):
    return x + weight[start : start + x.shape[1]], (weight.shape, start)


def learned_position_backward(dy, saved):
    shape, start = saved
    dweight = np.zeros(shape)
    dweight[start : start + dy.shape[1]] = dy.sum(0)  # all elements of the batch read the same rows
    return dy, dweight


def sinusoidal_position_forward(x, start):
    _, T, C = x.shape
    omega = 10_000.0 ** (-np.arange(0, C, 2) / C)  # one for the sine and the cosine of a pair
    angles = np.arange(start, start + T)[:, None] * omega
    table = np.empty((T, C))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : C // 2])
    return x + table
