"""Fast twins in Numba: names, signatures and saved types of `ops/` and `optim/`, and knowledge of cores and caches.

Nobody imports this floor. `backend.fast` finds a twin by the word of its file and its own name, asks whether it serves
the arguments at hand, and runs it.
"""
