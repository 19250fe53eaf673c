"""The module `cupy`, made of the parts beside it, and how a test installs it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import scipy.special

from compyute_transformer import dispatch
from compyute_transformer.arrays import gpu_fault
from cuda_on_cpu.compile import INCLUDE

from . import memory, stream
from .array import allocations_of, computed, ndarray, operand, raw
from .functions import CONSTANTS, FUNCTIONS

ABSENT = dict.fromkeys(("nvmath", "nvmath.bindings", "nvmath.bindings.cublasLt", "cudnn"))
NAME = "Stand-in H100"
TOTAL = 80 << 30  # bytes of memory that the device claims to have


class Device:
    """The one device."""

    def __init__(self, device: int = 0) -> None:
        self.id, self.compute_capability = device, "90"

    def use(self) -> "Device":
        return self

    def synchronize(self) -> None:
        stream.refuse_in_capture("Device.synchronize")

    @property
    def mem_info(self) -> tuple[int, int]:
        return TOTAL - memory.default_pool.used, TOTAL

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class RawModule:
    """CUDA source, compiled for the CPU."""

    def __init__(self, *, code: str, options: Any = (), backend: str = "nvrtc", name_expressions: Any = None, **_: Any):
        self.code, self.options = code, tuple(options)
        self._compiled: Any = None

    def compile(self) -> None:
        from cuda_on_cpu import compile_source

        if self._compiled is None:
            self._compiled = compile_source(self.code, self.options)

    def get_function(self, name: str) -> "RawKernel":
        self.compile()
        kernel = object.__new__(RawKernel)
        kernel.name, kernel._function, kernel.max_dynamic_shared_size_bytes = name, self._compiled.get_function(name), 0
        return kernel


class RawKernel:
    """One kernel; a launch passes arrays as pointers, whatever their strides are."""

    def __init__(self, code: str, name: str, options: Any = (), backend: str = "nvrtc", **_: Any) -> None:
        made = RawModule(code=code, options=options).get_function(name)
        self.name, self._function, self.max_dynamic_shared_size_bytes = name, made._function, 0

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Any = None) -> None:
        plain = raw(tuple(operand(arg) for arg in args))
        options = {"shared_mem": shared_mem} if shared_mem else {}
        _launch(self.name, lambda: self._function(grid, block, plain, **options), allocations_of(args))


_launch = stream.launch


def _module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(contents)
    return made


def erf(x: Any, out: Any = None) -> Any:
    return computed(lambda a: scipy.special.erf(a).astype(a.dtype, copy=False), x)


def _memory_info() -> tuple[int, int]:
    return Device().mem_info


def make() -> dict[str, ModuleType]:
    """Return the modules by name."""
    runtime = _module(
        "cupy.cuda.runtime",
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {"name": NAME.encode(), "totalGlobalMem": TOTAL},
        getDevice=lambda: 0,
        memGetInfo=_memory_info,
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13000,
        deviceSynchronize=lambda: stream.refuse_in_capture("deviceSynchronize"),
        CUDARuntimeError=memory.CUDARuntimeError,
    )
    in_memory = ("MemoryPool", "MemoryPointer", "Memory", "alloc", "using_allocator", "set_allocator", "get_allocator")
    in_stream = ("Stream", "Event", "Graph", "get_current_stream", "get_elapsed_time")
    cuda = _module(
        "cupy.cuda",
        **{name: getattr(memory, name) for name in in_memory},
        **{name: getattr(stream, name) for name in in_stream},
        Device=Device,
        runtime=runtime,
        memory=_module("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError),
        is_available=lambda: True,
    )
    cupy = _module(
        "cupy",
        **FUNCTIONS,
        **{name: getattr(np, name) for name in CONSTANTS},
        ndarray=ndarray,
        cuda=cuda,
        RawModule=RawModule,
        RawKernel=RawKernel,
        get_default_memory_pool=memory.get_default_memory_pool,
        is_available=lambda: True,
        __version__="14.2.0",
    )
    pathfinder = _module("cuda.pathfinder", find_nvidia_header_directory=lambda name: str(INCLUDE))
    special = _module("cupyx.scipy.special", erf=erf)
    scipy_ = _module("cupyx.scipy", special=special)
    cupyx = _module("cupyx", scipy=scipy_)
    found = (cupy, cuda, runtime, cupyx, scipy_, special, _module("cuda", pathfinder=pathfinder), pathfinder)
    return {module.__name__: module for module in found}


@contextmanager
def installed(further: Mapping[str, ModuleType] | None = None) -> Iterator[Any]:
    """Let `import cupy` find the stand-in, within a `with` block, and the library find a GPU. Yields the module.

    further: more modules by name; nvmath is not to be found unless it is among them, and the same is true of cudnn.
    """
    modules: dict[str, Any] = ABSENT | make() | dict(further or {})
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    _forget()
    try:
        yield modules["cupy"]
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
        _forget()


def _forget() -> None:
    """Let the library look for a GPU and its kernels anew."""
    gpu_fault.cache_clear()
    package = "compyute_transformer.gpu."
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]
    for op in dispatch._all:
        op._kernels.pop("cuda", None)
