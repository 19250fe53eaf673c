"""Mutants are made once for all tests, and a small evaluator is prepared once."""

from collections.abc import Iterator

import pytest
from mutation_helpers import TARGETS
from verify_helpers import annotations_off

from mutation.evaluator import Evaluator
from mutation.make import Mutant, make_mutants


@pytest.fixture(scope="module", autouse=True)
def no_annotations() -> Iterator[None]:
    with annotations_off():
        yield


@pytest.fixture(scope="session")
def mutants() -> list[Mutant]:
    return [mutant for target in TARGETS.values() for mutant in make_mutants(target)]


@pytest.fixture(scope="session")
def evaluator() -> Evaluator:
    """Of layer norm and of dropout alone."""
    prepared = Evaluator()
    with annotations_off():
        assert prepared.prepare(list(TARGETS.values()), only=("layer_norm", "dropout", "left out layer_norm")) == []
    return prepared
