"""The tests of this folder are of the readable bodies; tests/verify/test_twins.py holds the fast twins to them."""

from collections.abc import Iterator

import pytest

from compyute_transformer.backend import use


@pytest.fixture(autouse=True)
def reference() -> Iterator[None]:
    with use("reference"):
        yield
