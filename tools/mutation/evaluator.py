"""The status of a mutant: killed, equivalent, or survived."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .attention_properties import attention_probes
from .make import Mutant
from .model_properties import model_probes
from .module_probes import module_probes
from .probes import Probe, op_probes
from .rotary_properties import rotary_probes
from .sources import Code, Target, planted
from .suite import Check, Fault, Lines, lines_run, make_suite

__all__ = ["Evaluator", "Status"]


@dataclass(frozen=True)
class Status:
    """word: "killed", "equivalent" or "survived". by: the check that killed. why: what it said, or what probes say.

    raised: it was killed by an error, rather than by a number.
    """

    word: str
    by: str
    why: str
    raised: bool = False


@dataclass
class Evaluator:
    """Checks and probes with what they run and give without any mutant.

    A check that never runs a mutated line cannot tell it, so only those that do are run: the smallest first, and
    properties last, so that one sees what the checks of gradients miss.
    """

    seed: int = 0
    checks: list[tuple[Check, Lines]] = field(default_factory=list)
    probes: list[tuple[Probe, Lines, list[Any]]] = field(default_factory=list)

    def prepare(self, targets: list[Target], only: tuple[str, ...] = ("",)) -> list[str]:
        """Run all checks and probes once, or those whose names begin so.

        Returns the faults of checks that fail with no mutant about. They decide nothing.
        """
        files = frozenset(target.function.__code__.co_filename for target in targets)
        caches = list({target.clear for target in targets if target.clear is not None})
        faults = []
        for check in (check for check in make_suite() if check.name.startswith(only)):
            if (fault := check.fault()) is not None:
                faults.append(f"{check.kind}: {check.name}: {fault.text}")
            else:
                self.checks.append((check, _lines_run(check.fault, files, caches)))
        self.checks.sort(key=lambda pair: (pair[0].kind == "property", len(pair[1])))
        kinds = (op_probes, rotary_probes, attention_probes, module_probes, model_probes)
        for probe in (probe for probes in kinds for probe in probes(self.seed)):
            if probe.name.startswith(only):
                self.probes.append((probe, _lines_run(probe.run, files, caches), probe.run()))
        return faults

    def evaluate(self, mutant: Mutant) -> Status:
        """Plant it, and see who notices."""
        if (killer := self.killer(mutant.target, mutant.code, mutant.lines)) is not None:
            check, fault = killer
            return Status("killed", f"{check.kind}: {check.name}", fault.text, fault.raised)
        return self.compare(mutant)

    def killer(self, target: Target, code: Code, lines: range) -> tuple[Check, Fault] | None:
        """The first check that does not hold with this code, and what it says; None when all hold."""
        reached = _reached(target, lines)
        with planted(target, code):
            for check, run in self.checks:
                if not run.isdisjoint(reached) and (fault := check.fault()) is not None:
                    return check, fault
        return None

    def compare(self, mutant: Mutant) -> Status:
        """Equivalent only if it gives what the original gives in every probe, and some probe evaluates the place."""
        reached = _reached(mutant.target, mutant.lines)
        chosen = [(probe, wanted) for probe, run, wanted in self.probes if not run.isdisjoint(reached)]
        with planted(mutant.target, mutant.code):
            different = next((probe.name for probe, wanted in chosen if not probe.agrees(wanted)), None)
        if different is not None:
            return Status("survived", "", f"other results in the probe {different}")
        with planted(mutant.target, mutant.trap):
            evaluated = sum(not probe.agrees(wanted) for probe, wanted in chosen)
        if not evaluated:
            return Status("survived", "", "no probe evaluates this place")
        return Status("equivalent", "", f"the same results in {evaluated} probes that evaluate this place")


def _reached(target: Target, lines: range) -> Lines:
    return frozenset((target.function.__code__.co_filename, line) for line in lines)


def _lines_run(call: Callable[[], Any], files: frozenset[str], caches: list[Callable[[], None]]) -> Lines:
    """The lines a call runs when no cache remembers what it computed before."""
    for clear in caches:
        clear()
    return lines_run(call, files)
