"""What the tests of the mutation run share: what is mutated, one mutant by what it changes, a wrong body."""

from types import ModuleType

from compyute_transformer.nn import Module
from mutation.make import Mutant, make_mutants
from mutation.sources import Code, Target, find_targets

__all__ = ["TARGETS", "broken", "find", "kinds_of"]

TARGETS = {target.name: target for target in find_targets()}


def find(mutants: list[Mutant], function: str, before: str, after: str) -> Mutant:
    found = [m for m in mutants if (m.target.name, m.before, m.after) == (function, before, after)]
    assert len(found) == 1
    return found[0]


def broken(target: Target, which: int = 0) -> Code:
    """One whose first return, or another, gives zeros."""
    zeros = [m for m in make_mutants(target) if m.rule == "zeros for a result" and target.tree is m.target.tree]
    return zeros[which].code


def kinds_of(package: ModuleType) -> list[type[Module]]:
    """Every public module or model that computes something: not what only holds others, nor a base of others."""
    named = [getattr(package, name) for name in package.__all__]
    modules = [kind for kind in named if isinstance(kind, type) and issubclass(kind, Module)]
    return [kind for kind in modules if kind.forward is not Module.forward]
