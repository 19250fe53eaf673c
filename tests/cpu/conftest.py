"""What tests of kernels share: instructions that this processor may not have are executed by a handler."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compyute_transformer import use_kernels
from compyute_transformer.cpu import _products
from compyute_transformer.precision import use_precision

SOURCE = Path(__file__).parent / "emulator" / "instructions.c"


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Execute AMX and AVX-512 on any x86-64. `count("tiles")`: how many instructions of a kernel it has executed."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("emulator") / "instructions.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(path), "-lm"], check=True)
    library = ctypes.CDLL(str(path))
    library.executed.argtypes, library.executed.restype = [ctypes.c_int], ctypes.c_uint64
    library.start()
    yield library
    library.stop()


@pytest.fixture(params=list(_products.KERNELS))
def packed(request: pytest.FixtureRequest, emulator: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Compute products in bfloat16 by each of the kernels of `_products`, and expect that it was used."""
    kernel = _products.KERNELS[request.param]
    monkeypatch.setattr(_products, "chosen", lambda times=1: kernel)
    before = emulator.executed(kernel.number)
    with use_kernels("cpu"), use_precision("bfloat16"):
        yield kernel
    assert emulator.executed(kernel.number) > before or kernel.fault() is None
