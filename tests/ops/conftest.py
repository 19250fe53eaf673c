"""The tests of this folder are of the references; tests/verify/test_kernels.py holds the kernels to them."""

from collections.abc import Iterator

import pytest

from compyute_transformer.dispatch import use_kernels


@pytest.fixture(autouse=True)
def reference() -> Iterator[None]:
    with use_kernels("reference"):
        yield
