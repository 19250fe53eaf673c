"""A GPU for tests on machines that have none: CuPy on NumPy's memory, and cuBLASLt and cuDNN behind their own calls.

memory       allocations, pools, and what is freed
stream       launches, streams, capture and replay
array        CuPy's ndarray: refuses NumPy's arrays, and reads of the host during a capture
functions    the functions of the module `cupy`
module       the module `cupy` itself, and how a test installs it
cublaslt     nvmath.bindings.cublasLt: column-major matrices, leading dimensions, epilogues
cudnn        the graphs of attention of cuDNN's front end, by strides

It is stricter than a GPU in three places: a NumPy array as an index or as the value of an assignment is refused,
memory holds NaN until it is written and after it is freed, and a replayed graph that reads freed memory is refused.
"""

from .module import installed

__all__ = ["installed"]
