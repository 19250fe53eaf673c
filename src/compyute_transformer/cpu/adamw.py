"""AdamW on a CPU: one sweep over weight, gradient and both moments, seven streams, bound by memory.

Optimization history:

1. NumPy: fourteen passes over the flat buffers, six of them with temporaries. 2. One sweep: 26 ms for 10.8 million
weights on one core. 3. Decay in a loop of its own over what is in cache, so that the other has no condition and
vectorizes, over slices: 7.6 ms, 40 GB/s (one core of a Zen 4, 2026-11-24). 4. Compiled without contraction, so that a
weight has the same bits in any slice of the buffer, as where processes update a slice each: as fast, bound by memory.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..optim.adamw import AdamWOptions, adamw_update
from ._kernel import compile_exact, is_ready, pool_for

__all__ = ["adamw_update_kernel"]

CHUNK = 1 << 12  # elements a task: four streams of 16 kB, so that the second loop finds its weights in cache


@compile_exact
def _update(weight, gradient, first, second, rate, size_scale, beta1, rest1, beta2, rest2, eps, shrink):
    for chunk in prange((weight.size + CHUNK - 1) // CHUNK):
        start, stop = chunk * CHUNK, min(weight.size, (chunk + 1) * CHUNK)
        w, g, m, v = weight[start:stop], gradient[start:stop], first[start:stop], second[start:stop]
        for i in range(w.size):
            w[i] *= shrink
        for i in range(w.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            w[i] -= rate * m[i] / (np.sqrt(v[i]) * size_scale + eps)


def _supports(weight: Array, gradient: Array, first_moment: Array, second_moment: Array, *_: object) -> bool:
    alike = weight.shape == gradient.shape == first_moment.shape == second_moment.shape
    return weight.ndim == 1 and alike and is_ready(weight, gradient, first_moment, second_moment)


@kernel_for(adamw_update, supports=_supports)
def adamw_update_kernel(
    weight: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    options: AdamWOptions,
) -> None:
    lr, (beta1, beta2), eps, weight_decay = options
    with pool_for(weight.size):
        _update(
            weight,
            gradient,
            first_moment,
            second_moment,
            np.float32(lr / (1.0 - beta1**step)),
            np.float32(1.0 / (1.0 - beta2**step) ** 0.5),
            np.float32(beta1),
            np.float32(1.0 - beta1),  # not 1 − float32(β): the rounding of β₂ = 0.999 is 1e-5 of what is left of one
            np.float32(beta2),
            np.float32(1.0 - beta2),
            np.float32(eps),
            np.float32(1.0 - lr * weight_decay),
        )
