"""Record: a mistake by name, what is wrong with it, and the code that stands in for the right code meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any

from ...dispatch import Dispatched, only_kernels_of
from ...errors import RangeError
from ...nn.module import Module
from ...nn.observer import Phase, observed

__all__ = ["MISTAKES", "Mistake", "mistake", "mistaken"]

Code = Callable[..., Any]
Place = tuple[Any, str, Code]  # an op, a module or a class; the attribute that is replaced; what stands in for it


@dataclass(frozen=True)
class Mistake:
    """A classic mistake of a forward or a backward written by hand.

    name: by which it is switched on. op: the op it belongs to. wrong: what the code does, in one sentence. term: the
    term of the formula that is missing or wrong. hint: a question or a rule that leads to it. answer: the right line.
    replaces: the wrong code, and what it stands in for.
    """

    name: str
    op: str
    wrong: str
    term: str
    hint: str
    answer: str
    replaces: tuple[Place, ...]


MISTAKES: dict[str, Mistake] = {}


def mistaken(
    name: str,
    op: str,
    *places: Dispatched[..., Any] | tuple[Any, str] | Place,
    wrong: str,
    term: str,
    hint: str,
    answer: str,
) -> Callable[[Code], Code]:
    """Register a function as the code of a mistake. It stands in for each place that brings no code of its own."""

    def register(code: Code) -> Code:
        replaces = []
        for place in places:
            owner, attribute, *own = place if isinstance(place, tuple) else (place, "reference")
            replaces.append((owner, attribute, own[0] if own else code))
        MISTAKES[name] = Mistake(name, op, wrong, term, hint, answer, tuple(replaces))
        return code

    return register


@contextmanager
def mistake(name: str) -> Iterator[Mistake]:
    """Make a classic mistake, within a `with` block: the op it belongs to computes the wrong thing.

        with zoo.mistake("missing-scale"):
            logits = model(ids)

    All ops run their references meanwhile, in all threads: a kernel would not make the mistake. Within the block of one
    mistake others can be switched on too.

    Raises:
        RangeError: a name that no mistake has.
    """
    if name not in MISTAKES:
        raise RangeError(f"zoo.mistake: the name is one of {', '.join(sorted(MISTAKES))}, got {name!r}.")
    made = MISTAKES[name]
    with ExitStack() as stack:
        stack.enter_context(only_kernels_of())
        for owner, attribute, code in made.replaces:
            stack.callback(setattr, owner, attribute, getattr(owner, attribute))
            setattr(owner, attribute, _standing_in(code, owner, attribute))
        yield made


def _standing_in(code: Code, owner: Any, attribute: str) -> Code:
    """Return the code as the owner needs it: observers see a module's passes, wrong or not."""
    if isinstance(owner, type) and issubclass(owner, Module) and attribute in Module.PHASES:
        phase: Phase = "forward" if attribute == "forward" else "backward"
        return observed(code, phase)
    names = signature(code).parameters

    @wraps(code)
    def computing_all(*args: Any, **kwargs: Any) -> Any:
        """Leave out what the code does not take: which gradients of parameters are needed. It computes all."""
        return code(*args[: len(names)], **{name: value for name, value in kwargs.items() if name in names})

    return computing_all
