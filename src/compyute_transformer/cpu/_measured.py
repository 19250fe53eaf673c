"""Shared: the times of kernels that compute the same, measured once on a machine.

That a processor has an instruction does not say that a kernel which uses it is the fastest. So each of them computes
one product, on one thread, and the times are kept beside the compiled kernels: every later process chooses the same,
and the last bits of its results, which depend on the choice, are the same.
"""

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

from llvmlite import binding

from .._io import read_json, replace_text
from ._amx import features
from ._blas import single_threaded
from ._kernel import digest_of_kernels, pool_for

__all__ = ["BUDGET", "TRIALS", "file_beside", "kept", "seconds_of", "time_of"]

TRIALS, BUDGET = 5, 0.02  # products, and seconds for each kernel


def seconds_of(file: Path | None, products: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the seconds that each product took: as a file keeps them, or measured now, and kept in it."""
    found = kept(file, list(products))
    if found is None:
        found = {name: time_of(product) for name, product in products.items()}
        if file is not None:
            with suppress(OSError):
                replace_text(file, json.dumps({"machine": _machine(), "seconds": found}))
    return found


def time_of(product: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of a few products on one thread, so that threads do not change the choice."""
    times: list[float] = []
    start = perf_counter()
    with single_threaded, pool_for(0):
        while len(times) < 2 or (len(times) < TRIALS and perf_counter() - start < BUDGET):
            before = perf_counter()
            product()
            times.append(perf_counter() - before)
    return min(times)


def kept(file: Path | None, names: list[str]) -> dict[str, float] | None:
    """Return the times that an earlier process measured on this machine; None where one is missing or damaged."""
    if file is None:
        return None
    try:
        found = read_json(file)
        seconds = {name: found["seconds"][name] for name in names}
        is_ours = found["machine"] == _machine()
        are_times = all(type(time) is float and isfinite(time) and time > 0 for time in seconds.values())
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return seconds if is_ours and are_times else None


@cache
def _machine() -> str:
    """Return what the times depend on: the processor, its abilities, and the kernels."""
    model = ""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    enabled = ",".join(sorted(name for name, has in features().items() if has))
    return f"{model} {platform.machine()} {binding.get_host_cpu_name()} {enabled} {digest_of_kernels()}"


def file_beside(kernel: Any, name: str) -> Path | None:
    """Return where times of this machine are kept: beside a compiled kernel, or None where it is not kept on disk."""
    folder = kernel.kernel._cache.cache_path
    return Path(folder) / f"{name}-{sha256(_machine().encode()).hexdigest()[:16]}.json" if folder else None
