"""Reasons are about functions that are mutated."""

from mutation_helpers import TARGETS

from mutation.reasons import REASONS


def test_reasons_are_about_functions_that_exist() -> None:
    assert {name for keys in REASONS.values() for name, _, _ in keys} <= set(TARGETS)
