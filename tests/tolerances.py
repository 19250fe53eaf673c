"""The tolerances of the tests: the one table of `compyute_transformer.verify.tolerances`, and how it is applied."""

from collections.abc import Sequence

from compyute_transformer.verify.result import Result, relative_error
from compyute_transformer.verify.tolerances import LIMITS, limit

__all__ = ["LIMITS", "assert_passed", "limit", "relative_error"]


def assert_passed(checks: Sequence[Result]) -> None:
    """Every check kept its limit, and there was at least one."""
    assert checks, "nothing was compared"
    broken = [str(check) for check in checks if not check.passed]
    assert not broken, "\n".join(broken)
