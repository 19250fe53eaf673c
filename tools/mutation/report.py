"""What a mutation run found, in tables for people and in rows for machines."""

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from compyute_transformer._version import __version__
from compyute_transformer.environment.machine import examine

from .evaluator import Status
from .make import Mutant
from .reasons import reason
from .rewrites import Rewrite

__all__ = ["ENOUGH", "Outcome", "print_report", "write_csv"]

ENOUGH = 0.99
WORDS = ("killed", "survived", "equivalent")
COLUMNS = (
    "rule", "file", "function", "line", "before", "after", "status", "killer", "why",
    "version", "machine", "date", "seed", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run found. refusals: rewrites that a check refused. faults: checks that fail with no mutant about."""

    statuses: list[tuple[Mutant, Status]]
    rewrites: int
    refusals: list[tuple[Rewrite, str]]
    faults: list[str]

    def count(self, word: str) -> int:
        """How many mutants have this status."""
        return sum(status.word == word for _, status in self.statuses)

    @property
    def kill_rate(self) -> float:
        """Killed / (killed + survived)."""
        changing = self.count("killed") + self.count("survived")
        return self.count("killed") / changing if changing else 1.0

    @property
    def passed(self) -> bool:
        """Whether the checks are good enough."""
        return self.kill_rate >= ENOUGH and not self.refusals and not self.faults


def print_report(outcome: Outcome, seconds: float) -> None:
    """Tables by rule, by file and by check; every survivor and every equivalent mutant with its reason; the rate."""
    _print_table("rule", outcome, lambda mutant: mutant.rule)
    _print_table("file", outcome, lambda mutant: mutant.target.file)
    killers = Counter(status.by.partition(":")[0] for _, status in outcome.statuses if status.word == "killed")
    raised = sum(status.raised for _, status in outcome.statuses)
    print("killed first by  " + ", ".join(f"{kind} {count}" for kind, count in killers.most_common()))
    print(f"{raised} of these mutants raised an error; the others computed something else\n")
    for word in ("equivalent", "survived"):
        for mutant, status in outcome.statuses:
            if status.word == word:
                print(f"{word}: {mutant}\n    {_why(mutant, status)}")
    for rewrite, why in outcome.refusals:
        print(f"REFUSED: {rewrite}\n    {why}")
    for fault in outcome.faults:
        print(f"RED WITHOUT A MUTANT: {fault}")
    changing = outcome.count("killed") + outcome.count("survived")
    quiet = changing - raised
    print(
        f"\n{len(outcome.statuses)} mutants, {outcome.count('equivalent')} equivalent, {changing} change behavior: "
        f"{outcome.count('killed')} killed, {outcome.kill_rate:.2%} (at least {ENOUGH:.0%} asked for)\n"
        f"of those that raise nothing: {quiet - outcome.count('survived')} of {quiet} killed\n"
        f"{outcome.rewrites} rewrites that preserve behavior, {outcome.rewrites - len(outcome.refusals)} accepted\n"
        f"{seconds:.0f} seconds, {'passed' if outcome.passed else 'FAILED'}"
    )


def _print_table(title: str, outcome: Outcome, key: Callable[[Mutant], str]) -> None:
    counts: dict[str, Counter[str]] = {}
    for mutant, status in outcome.statuses:
        counts.setdefault(key(mutant), Counter())[status.word] += 1
    counts["all"] = sum(counts.values(), Counter())
    print(f"{title:24}{'made':>8}" + "".join(f"{word:>12}" for word in WORDS))
    for name, count in counts.items():
        print(f"{name:24}{count.total():8}" + "".join(f"{count[word]:12}" for word in WORDS))
    print()


def _why(mutant: Mutant, status: Status) -> str:
    """What the check or the probes said; of a mutant that no check killed why, where somebody has put it in words."""
    words = None if status.word == "killed" else reason(mutant)
    return status.why if words is None else f"{words}; {status.why}"


def write_csv(path: Path, outcome: Outcome, seed: int, seconds: float) -> None:
    """One row a mutant; rows of files that were not mutated stay. seconds: how long the whole run took."""
    machine = examine()
    where = (
        __version__,
        f"{machine.processor}, {machine.cores} cores, {machine.python}",
        date.today().isoformat(),
        seed,
        round(seconds),
    )
    files = {mutant.target.file for mutant, _ in outcome.statuses}
    rows = [row for row in _rows(path) if row["file"] not in files]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in rows)
        for mutant, status in outcome.statuses:
            place = mutant.target.file, mutant.target.name, mutant.lines.start
            said = status.word, status.by, _why(mutant, status)
            writer.writerow((mutant.rule, *place, mutant.before, mutant.after, *said, *where))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
