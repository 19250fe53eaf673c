"""CUDA kernels on the CPU, called by their launchers with NumPy arrays: what the tests of `gpu/` share.

Within the fixture `cuda` every op finds the kernels of `gpu/`, whose texts are compiled by `cuda_on_cpu`. Memory that a
launcher allocates is filled with NaN, so that what a kernel does not write shows.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from compyute_transformer import dispatch
from compyute_transformer.verify import kernels
from cuda_on_cpu import Module, compile_source

__all__ = ["TOPICS", "cuda", "kernels_on_cpu"]

TOPICS = ("activation", "adamw", "cached_attention", "dropout", "embedding", "loss", "norm", "rotary")
MODULES = {topic: import_module(f"compyute_transformer.gpu.{topic}") for topic in (*TOPICS, "_kernel")}
KERNELS = {op: op._kernels["cuda"] for op in dispatch._all if op._kernels.get("cuda") is not None}


class Poisoned:
    """NumPy, but for `empty`, whose memory is NaN."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(shape: Any, dtype: Any = np.float64) -> np.ndarray:
        array: np.ndarray = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array


@contextmanager
def kernels_on_cpu(
    fused: bool = True,
    optimize: bool = True,
    text: Callable[[str], str] = lambda source: source,
    only: str | None = None,
) -> Iterator[None]:
    """Let ops find the CUDA kernels within a `with` block.

    fused, optimize: see `compile_source`. text: changes each source, or that of `only` one topic.
    """

    def compile_text(source: str, bfloat16: bool) -> Module:
        changed = text(source) if only is None or source == MODULES["_kernel"].source_of(only) else source
        return compile_source(changed, ("-DBFLOAT16",) if bfloat16 else (), fused=fused, optimize=optimize)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "package_fault", lambda device: None)
        patch.setattr(kernels, "to_device", lambda array, device: array)
        patch.setattr(MODULES["_kernel"], "compile_text", compile_text)
        patch.setattr(MODULES["_kernel"], "_modules", {})
        for topic in TOPICS:
            patch.setattr(MODULES[topic], "array_module", lambda *arrays: Poisoned())
        for module in MODULES.values():  # other tests import them anew
            patch.setitem(sys.modules, module.__name__, module)
        for op, kernel in KERNELS.items():
            patch.setitem(op._kernels, "cuda", kernel)
        yield


@pytest.fixture(params=[True, False], ids=["fused", "separate"], scope="module")
def cuda(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to round a * b + c: a GPU's compiler chooses one or the other for each sum."""
    with kernels_on_cpu(request.param):
        yield
