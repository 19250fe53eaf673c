"""One table of tolerances, for the library and for its tests."""

import numpy as np
import pytest
import tolerances

from compyute_transformer.errors import ConfigError
from compyute_transformer.verify.tolerances import LIMITS, limit


def test_the_tests_use_the_librarys_table() -> None:
    assert tolerances.LIMITS is LIMITS


def test_the_promised_limits() -> None:
    assert limit("differences", np.float64) == 1.5e-8
    assert limit("torch", np.float64) == 5e-13
    assert limit("torch", np.float32) == 1e-5


def test_a_dtype_that_a_check_does_not_run_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="'differences' runs in float64, got float32"):
        limit("differences", np.float32)
