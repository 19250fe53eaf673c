"""CUDA kernels for the ops and optimizers, by topic: a text `TOPIC.cu` and its launcher `TOPIC.py`, on CuPy's arrays.

Nobody imports this package. `dispatch` imports the file of an op's topic when the op is first called on a GPU, and the
kernels in it register themselves with `kernel_for`. docs/cuda.md reads one kernel line by line.
"""
