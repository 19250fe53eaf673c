"""Compile every CUDA kernel of the library for real GPUs, with NVIDIA's compiler NVRTC, on a machine that has none.

    pip install nvidia-cuda-nvrtc nvidia-cuda-runtime
    PYTHONPATH=src:tools python -m cuda_on_cpu.nvrtc

The two packages take 92 MB to download, so that they are not among the tools of development. The test of the kernels
does the same where they are installed.
"""

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ARCHITECTURES", "compile_for", "library", "main", "texts"]

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")  # A100; H100 and H200; the RTX 50 series
TOOLKIT = Path("/usr/local/cuda")


def _folders() -> Iterator[Path]:
    """Yield the folders that may have `lib` and `include` of CUDA: NVIDIA's packages, then a toolkit."""
    spec = find_spec("nvidia")
    for place in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        yield from sorted(Path(place).glob("cu[0-9]*"), reverse=True)
        yield from (Path(place) / "cuda_nvrtc", Path(place) / "cuda_runtime")
    yield TOOLKIT


@cache
def library() -> ctypes.CDLL | None:
    """Return NVRTC, or None where it is not installed."""
    for folder in _folders():
        for name in ("lib", "lib64"):
            for path in sorted((folder / name).glob("libnvrtc.so*"), reverse=True):
                for part in sorted((folder / name).glob("libnvrtc-builtins.so*"), reverse=True)[:1]:
                    ctypes.CDLL(str(part))  # which NVRTC finds only where the system looks for libraries, or loaded
                return ctypes.CDLL(str(path))
    return None


@cache
def _headers() -> Path:
    for folder in _folders():
        if (folder / "include" / "cuda_bf16.h").exists():
            return folder / "include"
    raise FileNotFoundError("cuda_bf16.h is not here: pip install nvidia-cuda-runtime")


def texts() -> Iterator[tuple[str, str]]:
    """Yield each topic of `gpu/` with the whole text of its kernels."""
    from compyute_transformer.gpu._kernel import FOLDER, source_of

    for path in sorted(FOLDER.glob("*.cu")):
        yield path.stem, source_of(path.stem)


def compile_for(architecture: str, source: str, bfloat16: bool) -> int:
    """Return the size of the machine code of a text, in bytes.

    Raises:
        RuntimeError: NVRTC is not installed. ValueError: the text does not compile; the message is NVRTC's.
    """
    nvrtc = library()
    if nvrtc is None:
        raise RuntimeError("NVRTC is not here: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
    options = [f"--gpu-architecture={architecture}", "-std=c++17"]
    options += ["-DBFLOAT16", f"-I{_headers()}"] if bfloat16 else []
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise ValueError(log.value.decode(errors="replace"))
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        return size.value
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def main() -> int:
    """Compile everything, print a line each, and return the exit code."""
    failed = 0
    for topic, source in texts():
        for architecture in ARCHITECTURES:
            for bfloat16 in (False, True):
                what = f"{topic:12} {architecture:7} {'bfloat16' if bfloat16 else 'float32':9}"
                try:
                    print(f"{what} {compile_for(architecture, source, bfloat16):8} bytes")
                except ValueError as error:
                    failed += 1
                    print(f"{what} does not compile:\n{error}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
