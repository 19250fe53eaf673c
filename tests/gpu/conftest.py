"""One fixture chooses the GPU of a test: the machine's, where there is one, else the stand-in.

Tests that use it have the marker `device`. `scripts/gpu` runs them on a GPU, with those that need one (`gpu`).
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from gpu.stand_in import cublaslt, cudnn, installed

from compyute_transformer.arrays import gpu_fault

FAULT = gpu_fault()  # before any stand-in is installed


@pytest.fixture
def stand_in() -> Iterator[Any]:
    """CuPy, cuBLASLt and cuDNN on NumPy's memory; what a test asks of it that a GPU does not tell."""
    with installed(cublaslt.make()[1] | cudnn.make()) as module:
        yield module


@pytest.fixture
def any_gpu(request: pytest.FixtureRequest) -> Any:
    """CuPy, on a GPU or on the stand-in."""
    return request.getfixturevalue("stand_in") if FAULT else import_module("cupy")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "any_gpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.device)
