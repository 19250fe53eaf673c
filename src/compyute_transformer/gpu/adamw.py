"""AdamW on a GPU: one sweep over weight, gradient and both moments; a step whose numbers stay on the device as well.

Optimization history:

1. CuPy: fourteen kernels over the flat buffers. 2. One kernel, 16 bytes a load, bound by memory. 3. `DeviceAdamW`:
clipping and decay by segments in the same sweep. 4. A step that is not finite is not taken. No time was measured yet,
since the first GPU is still to come.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..optim.adamw import AdamWOptions, adamw_update
from ._kernel import NULL, THREADS, address_of, blocks_for, is_contiguous, kernel, of_one_shape

__all__ = ["DeviceAdamW", "adamw_update_kernel"]

PER_THREAD = 4  # numbers of float32, 16 bytes
NORM_BLOCKS = 1024  # partial sums of squares


def _vector(*arrays: Array) -> np.int32:
    return np.int32(all(address_of(array) % (PER_THREAD * array.dtype.itemsize) == 0 for array in arrays))


def _grid(size: int, vector: Any) -> tuple[int]:
    return blocks_for(-(-size // (PER_THREAD if vector else 1)))


def _decays(betas: tuple[float, float]) -> tuple[np.float32, ...]:
    """Return β₁, 1 − β₁, β₂, 1 − β₂. Not 1 − float32(β): the rounding of β₂ = 0.999 is 1e-5 of what is left of one."""
    return tuple(np.float32(number) for beta in betas for number in (beta, 1.0 - beta))


def _supports(weight: Array, gradient: Array, first_moment: Array, second_moment: Array, *_: object) -> bool:
    arrays = weight, gradient, first_moment, second_moment
    return weight.ndim == 1 and weight.size > 0 and of_one_shape(*arrays) and is_contiguous(np.float32, *arrays)


@kernel_for(adamw_update, supports=_supports, device="cuda")
def adamw_update_kernel(
    weight: Array, gradient: Array, first_moment: Array, second_moment: Array, step: int, options: AdamWOptions
) -> None:
    lr, (beta1, beta2), eps, weight_decay = options
    arrays = weight, gradient, first_moment, second_moment
    vector = _vector(*arrays)
    kernel("adamw", "adamw_update", np.float32)(
        _grid(weight.size, vector),
        (THREADS,),
        (
            *(*arrays, np.int64(weight.size), np.float32(lr / (1.0 - beta1**step))),
            *(np.float32(1.0 / (1.0 - beta2**step) ** 0.5), *_decays((beta1, beta2)), np.float32(eps)),
            *(np.float32(1.0 - lr * weight_decay), vector),
        ),
    )


class DeviceAdamW:
    """AdamW with clipping over one flat buffer, all of whose numbers are on the device: a CUDA graph can hold `step()`.

    weight, gradient: the buffer, float32. segments: (end, weight decay) of each part of it, in order; the last ends at
    its size. max_norm: 0 clips nothing.

    Arrays that may be read and written between steps: `learning_rate` (float32), `count` (int32, the steps so far),
    `norm` (float64, that of the last gradient before clipping), `first_moment`, `second_moment`.
    """

    def __init__(
        self,
        weight: Array,
        gradient: Array,
        segments: Sequence[tuple[int, float]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_norm: float = 0.0,
    ) -> None:
        xp = array_module(weight)
        self.weight, self.gradient = weight, gradient
        self.betas, self.eps, self.max_norm = betas, eps, max_norm
        self.first_moment, self.second_moment = xp.zeros_like(weight), xp.zeros_like(weight)
        self.learning_rate, self.norm = xp.zeros((), np.float32), xp.zeros((), np.float64)
        self.count = xp.zeros((), np.int32)
        self._ends = xp.asarray([end for end, _ in segments], np.int64)
        self._decays = xp.asarray([decay for _, decay in segments], np.float32)
        self._squares, self._now = xp.zeros(NORM_BLOCKS, np.float64), xp.zeros(5, np.float32)

    def step(self, loss: Array | None = None) -> None:
        """Count the step, clip, and update weights and moments. Nothing waits for the CPU.

        Where the gradient, or the loss (one float32 on the device), is not finite, nothing but `norm` changes.
        """
        size = self.weight.size
        blocks = min(NORM_BLOCKS, blocks_for(size)[0])
        kernel("adamw", "squares_of_parts", np.float32)(
            (blocks,), (THREADS,), (self.gradient, np.int64(size), self._squares)
        )
        kernel("adamw", "prepare_step", np.float32)(
            (1,),
            (THREADS,),
            (
                *(self._squares, np.int32(blocks), np.float32(self.max_norm), self.learning_rate),
                *(np.float64(beta) for beta in self.betas),
                *(NULL if loss is None else loss, self.count, self.norm, self._now),
            ),
        )
        arrays = self.weight, self.gradient, self.first_moment, self.second_moment
        vector = _vector(*arrays)
        kernel("adamw", "adamw_step", np.float32)(
            _grid(size, vector),
            (THREADS,),
            (
                *(*arrays, self._ends, self._decays, np.int32(self._ends.size), np.int64(size), self._now),
                *(*_decays(self.betas), np.float32(self.eps), vector),
            ),
        )
