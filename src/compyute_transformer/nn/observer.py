"""Observer: sees every forward and backward of a module and of everything below it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from ..precision import precision, use_precision

if TYPE_CHECKING:
    from .module import Module

__all__ = ["Observer", "Phase", "observe", "observed"]

Phase = Literal["forward", "backward"]


class Observer:
    """Sees every module's forward and backward. Override what you need: a trace, a profiler, a check.

    `path` names the module as the state dict does ("blocks.0.attention"; "" for the observed module itself). `inputs`
    are the positional arguments and `keywords` those given by name.
    """

    def before(
        self, path: str, module: "Module", phase: Phase, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        """Called before a module's forward or backward runs."""

    def after(
        self,
        path: str,
        module: "Module",
        phase: Phase,
        inputs: tuple[Any, ...],
        output: Any,
        keywords: dict[str, Any],
    ) -> None:
        """Called with the result of a module's forward or backward."""


@contextmanager
def observe(module: "Module", observer: Observer) -> Iterator[None]:
    """Let the observer see a module and everything below it, within a `with` block."""
    watched = [(inner, (path, observer)) for path, inner in module.named_modules()]
    for inner, entry in watched:
        inner._observers = (*inner._observers, entry)
    try:
        yield
    finally:
        for inner, entry in watched:
            inner._observers = tuple(other for other in inner._observers if other is not entry)


def observed(function: Callable[..., Any], phase: Phase) -> Callable[..., Any]:
    """Return a forward or backward that tells the observers of its module."""

    @functools.wraps(function)
    def wrapped(self: "Module", *args: Any, **kwargs: Any) -> Any:
        if self._parent is None:  # the outermost module counts the forwards whose backward is due
            if phase == "forward" and self._modules and self.training:
                self._count_forward()
            elif phase == "backward" and self._waiting:
                self._waiting -= 1
        if self._precision is None and not self._observers:  # the usual case costs two attributes
            return function(self, *args, **kwargs)
        chosen = self._precision if phase == "forward" else None  # a backward has the one of its forward
        with nullcontext() if chosen in (None, precision()) else use_precision(chosen):
            return _run(function, phase, self, args, kwargs)

    return wrapped


def _run(
    function: Callable[..., Any], phase: Phase, module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a forward or backward, and tell the observers before and after it."""
    observers = module._observers
    for path, observer in observers:
        observer.before(path, module, phase, args, kwargs)
    output = function(module, *args, **kwargs)
    for path, observer in observers:
        observer.after(path, module, phase, args, output, kwargs)
    return output
