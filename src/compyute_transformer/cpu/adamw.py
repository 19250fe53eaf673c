"""AdamW on a CPU: one sweep over weight, gradient and both moments, seven streams, bound by memory.

1. NumPy: fourteen passes over the flat buffers, six of them with temporaries. 2. One sweep.
"""

import numpy as np
from numba import prange

from ..backend import Array
from ._kernel import is_ready, parallel_kernel, serves

__all__ = ["adamw_update"]

ONE = np.float32(1.0)
CHUNK = 1 << 14


@parallel_kernel
def _update(weight, gradient, first, second, rate, size_scale, beta1, rest1, beta2, rest2, eps, shrink, num_decayed):
    for chunk in prange((weight.size + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(weight.size, (chunk + 1) * CHUNK)
        for i in range(start, stop):
            g = gradient[i]
            m = beta1 * first[i] + rest1 * g
            v = beta2 * second[i] + rest2 * g * g
            first[i], second[i] = m, v
            w = weight[i] * (shrink if i < num_decayed else ONE)
            weight[i] = w - rate * m / (np.sqrt(v) * size_scale + eps)


def _serves(weight: Array, gradient: Array, first_moment: Array, second_moment: Array, *_: object) -> bool:
    return is_ready(weight, gradient, first_moment, second_moment)


@serves(_serves)
def adamw_update(
    weight: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    num_decayed: int,
) -> None:
    beta1, beta2 = betas
    _update(
        weight,
        gradient,
        first_moment,
        second_moment,
        np.float32(learning_rate / (1.0 - beta1**step)),
        np.float32(1.0 / (1.0 - beta2**step) ** 0.5),
        np.float32(beta1),
        np.float32(1.0 - beta1),  # not 1 − float32(β): the rounding of β₂ = 0.999 is 1e-5 of what is left of one
        np.float32(beta2),
        np.float32(1.0 - beta2),
        np.float32(eps),
        np.float32(1.0 - learning_rate * weight_decay),
        num_decayed,
    )
