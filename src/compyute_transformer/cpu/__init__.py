"""Numba kernels for the ops and optimizers, by topic: same arguments and saved types, aware of cores and caches.

Nobody imports this package. `dispatch` imports the file of an op's topic when the op is first called, and the kernels
in it register themselves with `kernel_for`.
"""
