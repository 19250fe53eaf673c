"""Every test of this folder runs twice: on the references, and with the kernels where they support the arguments."""

from collections.abc import Iterator

import pytest

from compyute_transformer.dispatch import use_kernels


@pytest.fixture(autouse=True, params=["reference", "auto"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which of the two a test runs on."""
    with use_kernels(request.param):
        yield request.param
