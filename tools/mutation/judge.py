"""The verdict on a mutant: killed, equivalent, or survived."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .make import Mutant
from .module_probes import module_probes
from .probes import Probe, op_probes
from .sources import Code, Target, planted
from .suite import Fault, Lines, Proof, lines_run, make_suite

__all__ = ["Judge", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """word: "killed", "equivalent" or "survived". by: the proof that killed. why: what it said, or what probes say.

    raised: it was killed by an error, rather than by a number.
    """

    word: str
    by: str
    why: str
    raised: bool = False


@dataclass
class Judge:
    """Proofs and probes with what they run and give without any mutant.

    A proof that never runs a mutated line cannot tell it, so only those that do are run: the smallest first, and
    promises last, so that one sees what the proofs of gradients miss.
    """

    seed: int = 0
    proofs: list[tuple[Proof, Lines]] = field(default_factory=list)
    probes: list[tuple[Probe, Lines, list[Any]]] = field(default_factory=list)

    def prepare(self, targets: list[Target], only: tuple[str, ...] = ("",)) -> list[str]:
        """Run all proofs and probes once, or those whose names begin so.

        Returns the faults of proofs that fail with no mutant about. They judge nothing.
        """
        files = frozenset(target.function.__code__.co_filename for target in targets)
        caches = [target.clear for target in targets if target.clear is not None]
        faults = []
        for proof in (proof for proof in make_suite() if proof.name.startswith(only)):
            if (fault := proof.fault()) is not None:
                faults.append(f"{proof.kind}: {proof.name}: {fault.text}")
            else:
                self.proofs.append((proof, _lines_run(proof.fault, files, caches)))
        self.proofs.sort(key=lambda pair: (pair[0].kind == "promise", len(pair[1])))
        for probe in (*op_probes(self.seed), *module_probes(self.seed)):
            if probe.name.startswith(only):
                self.probes.append((probe, _lines_run(probe.run, files, caches), probe.run()))
        return faults

    def judge(self, mutant: Mutant) -> Verdict:
        """Plant it, and see who notices."""
        if (killer := self.killer(mutant.target, mutant.code, mutant.lines)) is not None:
            proof, fault = killer
            return Verdict("killed", f"{proof.kind}: {proof.name}", fault.text, fault.raised)
        return self.compare(mutant)

    def killer(self, target: Target, code: Code, lines: range) -> tuple[Proof, Fault] | None:
        """The first proof that does not hold with this code, and what it says; None when all hold."""
        reached = _reached(target, lines)
        with planted(target, code):
            for proof, run in self.proofs:
                if not run.isdisjoint(reached) and (fault := proof.fault()) is not None:
                    return proof, fault
        return None

    def compare(self, mutant: Mutant) -> Verdict:
        """Equivalent only if it gives what the original gives in every probe, and some probe evaluates the place."""
        reached = _reached(mutant.target, mutant.lines)
        chosen = [(probe, wanted) for probe, run, wanted in self.probes if not run.isdisjoint(reached)]
        with planted(mutant.target, mutant.code):
            different = next((probe.name for probe, wanted in chosen if not probe.agrees(wanted)), None)
        if different is not None:
            return Verdict("survived", "", f"other results in the probe {different}")
        with planted(mutant.target, mutant.trap):
            evaluated = sum(not probe.agrees(wanted) for probe, wanted in chosen)
        if not evaluated:
            return Verdict("survived", "", "no probe evaluates this place")
        return Verdict("equivalent", "", f"the same results in {evaluated} probes that evaluate this place")


def _reached(target: Target, lines: range) -> Lines:
    return frozenset((target.function.__code__.co_filename, line) for line in lines)


def _lines_run(call: Callable[[], Any], files: frozenset[str], caches: list[Callable[[], None]]) -> Lines:
    """The lines a call runs when no cache remembers what it computed before."""
    for clear in caches:
        clear()
    return lines_run(call, files)
