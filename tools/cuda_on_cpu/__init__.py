"""CUDA on a CPU: compile the text of CUDA kernels with g++ and run it, block by block, thread by thread.

    module = compile_source(source, options=("-DBFLOAT16",))
    kernel = module.get_function("layer_norm_forward")
    kernel(grid, block, (x, weight, y, numpy.int32(384)), shared_mem=0)

The kernels are called like those of `cupy.RawModule`, with NumPy arrays in place of CuPy's. See docs/cuda.md.

compile        from a text to a library, and the call of a kernel
runtime.cpp    the scheduler: barriers, exchanges within a warp, and what it reports
include/       what a text sees: `cuda_on_cpu.h`, and `cuda_bf16.h` in place of NVIDIA's
"""

from .compile import CompileError, Kernel, KernelFault, Module, compile_source

__all__ = ["CompileError", "Kernel", "KernelFault", "Module", "compile_source"]
