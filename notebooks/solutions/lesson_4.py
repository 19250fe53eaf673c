"""Lesson 4: multi-head attention, all heads at once."""

import numpy as np
from lesson_3 import attention_backward as one_backward
from lesson_3 import attention_forward as one_forward


def cut(x, H):
    B, T, C = x.shape
    return x.reshape(B, T, H, C // H).swapaxes(1, 2)


def join(x):
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


def multi_head_forward(x, in_weight, in_bias, out_weight, out_bias, num_heads, causal):
    q, k, v = (cut(part, num_heads) for part in np.split(x @ in_weight.T + in_bias, 3, axis=-1))
    heads, saved = one_forward(q, k, v, causal)
    merged = join(heads)
    return merged @ out_weight.T + out_bias, (x, in_weight, out_weight, merged, saved, num_heads)


def multi_head_backward(dy, saved):
    x, in_weight, out_weight, merged, attention, num_heads = saved
    dheads = cut(dy @ out_weight, num_heads)
    dqkv = np.concatenate([join(d) for d in one_backward(dheads, attention)], axis=-1)
    rows = (0, 1)  # batch and time
    dout_weight, din_weight = np.tensordot(dy, merged, (rows, rows)), np.tensordot(dqkv, x, (rows, rows))
    return dqkv @ in_weight, din_weight, dqkv.sum(rows), dout_weight, dy.sum(rows)
