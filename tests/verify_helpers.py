"""What the tests of the checks share: ops whose gradients are made wrong by hand, and passed off as right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import pytest

from compyute_transformer.dispatch import Dispatched
from compyute_transformer.verify.registry import REGISTRY

__all__ = ["annotations_off", "damage"]


def damage(monkeypatch: pytest.MonkeyPatch, op: str, argument: str, how: Callable[[Any], Any]) -> None:
    """Let the readable backward of an op return `how(gradient)` for one argument, wherever it is called."""
    backward: Any = REGISTRY[op].backward
    assert isinstance(backward, Dispatched)
    index, right = REGISTRY[op].differentiable.index(argument), backward.reference

    def wrong(dy: Any, saved: Any) -> Any:
        gradients = right(dy, saved)
        if not isinstance(gradients, tuple):
            return how(gradients)
        given = gradients[index]
        return (*gradients[:index], None if given is None else how(given), *gradients[index + 1 :])

    monkeypatch.setattr(backward, "reference", wrong)


@contextmanager
def annotations_off() -> Iterator[None]:
    """As the fixture `validation_only`, for longer than a test: the annotations of an op allow no complex step."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
