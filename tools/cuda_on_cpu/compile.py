"""Compile: from the text of CUDA kernels to functions that take NumPy arrays."""

import ctypes
import os
import platform
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CompileError", "Kernel", "KernelFault", "Module", "compile_source"]

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
HEADERS = ("cuda_on_cpu.h", "cuda_bf16.h")
# Reported by `runtime.cpp`: an index outside of an array of known length, misaligned access, overflow, division by 0.
CHECKED = "bounds,alignment,signed-integer-overflow,shift,integer-divide-by-zero"
FLAGS = ("-std=c++17", "-fPIC", "-w", "-U_FORTIFY_SOURCE")
FUSED = ("-ffp-contract=fast", *(("-mfma",) if platform.machine() in ("x86_64", "AMD64") else ()))
KERNEL = re.compile(r"\b__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
DYNAMIC = re.compile(r"\bextern\s+__shared__\s+(?:__align__\s*\(\w+\)\s+)?(\w+)\s+(\w+)\s*\[\s*\]\s*;")
ALIGNMENT = 16  # of the loads of vectors; an array keeps its place between multiples of it
PAGE = os.sysconf("SC_PAGE_SIZE")
MOST_THREADS, MOST_SHARED = 1024, 227 * 1024  # of a block, on a Hopper GPU
SECONDS = 20  # after which a kernel is taken for one that does not end

_lock = threading.Lock()


class CompileError(Exception):
    """The text does not compile."""


class KernelFault(Exception):
    """A kernel did what a GPU would not survive, or would do in silence: the message says what, and where."""


# --- libraries -------------------------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    """Return the folder of compiled libraries: this user's own, and nobody else's, since code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"cuda_on_cpu_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid == os.getuid() and (found.st_mode & 0o777) == 0o700 and not folder.is_symlink():
        return folder
    return Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))


@cache
def _environment() -> str:
    """Return a digest of what all libraries depend on: the compiler, the headers and the flags."""
    version = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout
    texts = [(INCLUDE / name).read_text() for name in HEADERS]
    return sha256("\0".join([version, platform.machine(), CHECKED, *FLAGS, *texts]).encode()).hexdigest()


@cache
def _precompiled(flags: tuple[str, ...]) -> Path:
    """Return a folder with the header as the compiler has read it: it takes two thirds of the time of a text."""
    digest = sha256("\0".join([_environment(), "header", *flags]).encode()).hexdigest()[:32]
    folder = _folder() / digest
    if not (path := folder / f"{HEADERS[0]}.gch").exists():
        folder.mkdir(exist_ok=True)
        made = path.with_name(f"{os.getpid()}.{threading.get_ident()}")
        compile_ = ["g++", *FLAGS, *flags, f"-I{INCLUDE}", "-x", "c++-header", str(INCLUDE / HEADERS[0])]
        subprocess.run([*compile_, "-o", str(made)], check=True, capture_output=True)
        made.rename(path)
    return folder


def _library(text: str, flags: Sequence[str], mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """Return the library of a text, compiled when it was not compiled before."""
    digest = sha256("\0".join([_environment(), text, *flags]).encode()).hexdigest()[:32]
    path = _folder() / f"{digest}.so"
    if not path.exists():
        made = path.with_name(f"{digest}.{os.getpid()}.{threading.get_ident()}")
        include = (f"-I{_precompiled(tuple(flags))}",) if HEADERS[0] in text else ()
        compile_ = ["g++", *FLAGS, *flags, *include, f"-I{INCLUDE}", "-x", "c++", "-c", "-", "-o", f"{made}.o"]
        done = subprocess.run(compile_, input=text, capture_output=True, text=True)
        if done.returncode:
            raise CompileError(done.stderr)
        # linked apart: with -fsanitize the linker would take the handlers of the compiler's own library
        subprocess.run(["g++", "-shared", f"{made}.o", "-o", f"{made}.so"], check=True, capture_output=True)
        Path(f"{made}.o").unlink()
        Path(f"{made}.so").rename(path)
    return ctypes.CDLL(str(path), mode=mode)


@cache
def _runtime() -> Any:
    """Return the scheduler, whose names the libraries of kernels find."""
    runtime = _library((HERE / "runtime.cpp").read_text(), ("-O2",), ctypes.RTLD_GLOBAL)
    runtime.cuda_map.restype = ctypes.c_void_p
    return runtime


class _Launch(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_void_p),
        ("shared_stop", ctypes.c_void_p),
        ("dynamic", ctypes.c_void_p),
        ("dynamic_bytes", ctypes.c_size_t),
        ("regions", ctypes.c_void_p),
        ("num_regions", ctypes.c_int),
        ("seconds", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("message", ctypes.c_char * 600),
    )


class _Region(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("stop", ctypes.c_void_p), ("argument", ctypes.c_int))


class _Parameter(ctypes.Structure):
    _fields_ = (("is_pointer", ctypes.c_char), ("kind", ctypes.c_char), ("size", ctypes.c_short))


# --- texts -----------------------------------------------------------------------------------------------------------


def compile_source(
    source: str, options: Sequence[str] = (), *, fused: bool = True, optimize: bool = True, seed: int = 0
) -> "Module":
    """Compile a text of CUDA C++ whose kernels are `extern "C"`, and return an object with `get_function(name)`.

    options: as NVRTC takes them; definitions (-DNAME=VALUE) count, and --fmad=false turns contraction off.
    fused: whether a * b + c is rounded once, as NVIDIA's compiler does it; it is not without `optimize`, which
    compiles in half the time what runs once. seed: of the order in which threads run.

    Raises:
        CompileError: the text does not compile, or has no kernel.
    """
    names = KERNEL.findall(source)
    if not names:
        raise CompileError('compile_source: the text has no kernel: extern "C" __global__ void name(...)')
    for option in options:
        if option in ("--fmad=false", "-fmad=false"):
            fused = False
    definitions = [option for option in options if option.startswith("-D")]
    text = DYNAMIC.sub(r"\1* \2 = (\1*)cuda_dynamic_shared();", source)
    calls = "\n".join(f"CUDA_KERNEL({name})" for name in dict.fromkeys(names))
    whole = f'#include "cuda_on_cpu.h"\n#line 1 "kernels.cu"\n{text}\n{calls}\n'
    flags = (
        *(("-O1", "-fexpensive-optimizations") if optimize else ("-O0",)),
        f"-fsanitize={CHECKED}",
        *(FUSED if fused else ("-ffp-contract=off",)),
        *definitions,
    )
    _runtime()
    return Module(_library(whole, flags), names, seed)


class Module:
    """The kernels of one text."""

    def __init__(self, library: ctypes.CDLL, names: Sequence[str], seed: int) -> None:
        self.library, self.names, self.seed = library, tuple(names), seed

    def get_function(self, name: str) -> "Kernel":
        """Return a kernel by its name."""
        if name not in self.names:
            raise KeyError(f"get_function: the text has the kernels {', '.join(self.names)}, got {name!r}.")
        return Kernel(self, name)


class Span(NamedTuple):
    """The memory of arguments that overlap: its first byte, the one behind its last, and the first of the arguments."""

    start: int
    stop: int
    argument: int
    writeable: bool


class Kernel:
    """A kernel of a text, called like one of `cupy.RawModule`: `kernel(grid, block, args, shared_mem=0)`."""

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name
        library = module.library
        self._call = ctypes.cast(library[f"cuda_call_{name}"], ctypes.c_void_p).value
        found = (_Parameter * 64)()
        count = library[f"cuda_describe_{name}"](found)
        self.parameters = [(bool(ord(p.is_pointer)), p.kind.decode(), p.size) for p in found[:count]]
        bounds = library.cuda_shared_start, library.cuda_shared_stop
        for function in bounds:
            function.restype = ctypes.c_void_p
        self._shared = tuple(function() for function in bounds)

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0, **_: Any
    ) -> None:
        """Run all blocks of a grid, and return when the last has ended.

        args: C-contiguous NumPy arrays for pointers, numpy.uintp(0) for a null pointer, NumPy scalars for the others.

        Raises:
            TypeError: an argument does not fit the kernel's parameter.
            KernelFault: an access outside of an array, a barrier that some threads miss, a kernel that does not end.
        """
        grid, block = (tuple(int(n) for n in (*shape, 1, 1)[:3]) for shape in (grid, block))
        threads = block[0] * block[1] * block[2]
        if not 0 < threads <= MOST_THREADS or min(grid) < 1 or max(grid[1:]) > 65535 or shared_mem > MOST_SHARED:
            raise KernelFault(
                f"{self.name}: a grid has at least one block in each direction, a block 1 to {MOST_THREADS} threads "
                f"and at most {MOST_SHARED} bytes of shared memory, got grid {grid}, block {block}, {shared_mem} bytes."
            )
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: takes {len(self.parameters)} arguments, got {len(args)}.")
        for number, (value, parameter) in enumerate(zip(args, self.parameters, strict=True)):
            self._check(number, value, *parameter)
        with _lock:
            self._run(grid, block, args, shared_mem)

    def _check(self, number: int, value: Any, is_pointer: bool, kind: str, size: int) -> None:
        """Raise a TypeError unless a value fits a parameter."""
        which = f"{self.name}: argument {number}"
        if is_pointer:
            if isinstance(value, np.uintp) and value == 0:
                return
            if not isinstance(value, np.ndarray):
                raise TypeError(f"{which} is an array, got {type(value).__name__}.")
            if not value.flags.c_contiguous:
                raise TypeError(f"{which} is C-contiguous: a kernel sees no strides. Got strides {value.strides}.")
            if kind != "s" and (_kind(value.dtype) != kind or value.dtype.itemsize != size):
                raise TypeError(f"{which} points to {size} bytes of kind {kind!r}, got an array of {value.dtype}.")
            return
        if not isinstance(value, np.generic):
            raise TypeError(f"{which} is a NumPy scalar of {size} bytes, got {type(value).__name__}.")
        if _kind(value.dtype) != kind or value.dtype.itemsize != size:
            raise TypeError(f"{which} has {size} bytes of kind {kind!r}, got {value.dtype}.")

    def _run(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int) -> None:
        arrays = {number: value for number, value in enumerate(args) if isinstance(value, np.ndarray)}
        spans = _spans(arrays)
        rooms = [_Room(span.stop - span.start, span.start % ALIGNMENT) for span in spans]
        dynamic = _Room(shared_mem, 0)
        try:
            for span, room in zip(spans, rooms, strict=True):
                ctypes.memmove(room.start, span.start, room.size)
            launch = self._launch(grid, block, args, arrays, spans, rooms, dynamic)
            fault = _runtime().cuda_launch(ctypes.byref(launch))
            if fault:
                raise KernelFault(f"{self.name}: {launch.message.decode(errors='replace')}")
            if not dynamic.is_clean():
                raise KernelFault(f"{self.name}: writes right behind the dynamic shared memory of {shared_mem} bytes")
            for span, room in zip(spans, rooms, strict=True):
                if not room.is_clean():
                    raise KernelFault(f"{self.name}: writes right before or behind argument {span.argument}")
                if span.writeable:
                    ctypes.memmove(span.start, room.start, room.size)
                elif ctypes.string_at(span.start, room.size) != ctypes.string_at(room.start, room.size):
                    raise KernelFault(f"{self.name}: writes to argument {span.argument}, which may only be read")
        finally:
            for room in (*rooms, dynamic):
                room.give_back()

    def _launch(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        arrays: dict[int, np.ndarray],
        spans: list[Span],
        rooms: list["_Room"],
        dynamic: "_Room",
    ) -> _Launch:
        values: list[Any] = []
        for number, value in enumerate(args):
            if number in arrays:
                address = value.ctypes.data
                span, room = [pair for pair in zip(spans, rooms, strict=True) if pair[0].start <= address][-1]
                values.append(ctypes.c_void_p(room.start + address - span.start))
            else:
                values.append(ctypes.create_string_buffer(value.tobytes(), value.nbytes))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        named = [(room, span.argument) for room, span in zip(rooms, spans, strict=True)] + [(dynamic, -1)]
        regions = (_Region * len(named))(*((room.start, room.start + room.size, number) for room, number in named))
        launch = _Launch(
            call=self._call,
            args=ctypes.addressof(pointers),
            grid=(ctypes.c_uint * 3)(*grid),
            block=(ctypes.c_uint * 3)(*block),
            shared=self._shared[0],
            shared_stop=self._shared[1],
            dynamic=dynamic.start,
            dynamic_bytes=dynamic.size,
            regions=ctypes.addressof(regions),
            num_regions=len(named),
            seconds=SECONDS,
            seed=self.module.seed,
        )
        launch.kept = values, pointers, regions  # as long as the launch lives
        return launch


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.name == "bfloat16":
        return "b"
    return {"f": "f", "i": "i", "u": "i", "b": "i"}.get(dtype.kind, "?")


def _spans(arrays: dict[int, np.ndarray]) -> list[Span]:
    """Return the memory of all arrays. Those that overlap are one: what is written to one is seen in the other."""
    found: list[Span] = []
    for number, array in sorted(arrays.items(), key=lambda item: item[1].ctypes.data):
        start, writeable = array.ctypes.data, array.flags.writeable
        span = Span(start, start + array.nbytes, number, writeable)
        if found and start < found[-1].stop:
            last = found[-1]
            found[-1] = Span(last.start, max(span.stop, last.stop), last.argument, writeable or last.writeable)
        else:
            found.append(span)
    return found


class _Room:
    """Memory between pages that nobody may touch: right behind its end, and not far before its start.

    What is left between the memory and these pages is filled with 0xff, which reads as NaN, and must stay so.
    """

    free: dict[int, list[int]] = {}  # noqa: RUF012

    def __init__(self, size: int, phase: int) -> None:
        self.size = size
        self.pages = max(1, -(-(size + 2 * ALIGNMENT) // PAGE)) * PAGE
        waiting = self.free.setdefault(self.pages, [])
        self.base = waiting.pop() if waiting else _runtime().cuda_map(ctypes.c_size_t(self.pages))
        if not self.base:
            raise MemoryError(f"no {self.pages} bytes for the arguments of a kernel")
        end = self.base + self.pages
        start = end - size
        self.start = start - (start - phase) % ALIGNMENT
        ctypes.memset(self.base, 0xFF, self.start - self.base)
        ctypes.memset(self.start + size, 0xFF, end - self.start - size)

    def is_clean(self) -> bool:
        """Return whether nothing was written around the memory."""
        before = ctypes.string_at(self.base, self.start - self.base)
        behind = self.start + self.size
        after = ctypes.string_at(behind, self.base + self.pages - behind)
        return not before.strip(b"\xff") and not after.strip(b"\xff")

    def give_back(self) -> None:
        """Keep the memory for the next call, or return it where it is large."""
        if self.pages <= 1 << 20:
            self.free[self.pages].append(self.base)
        else:
            _runtime().cuda_unmap(ctypes.c_void_p(self.base), ctypes.c_size_t(self.pages))
