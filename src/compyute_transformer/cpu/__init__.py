"""Fast kernels in Numba: names, signatures and saved types of `ops/` and `optim/`, and knowledge of cores and caches.

Nobody imports this package. `dispatch.fast` finds a kernel by the word of its file and its own name, asks whether it serves
the arguments at hand, and runs it.
"""
