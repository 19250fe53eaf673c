"""What the mutation run found, from the table it wrote: page and table cannot disagree.

```{mutant-summary}       how many mutants, how many of them killed, where and when
```{mutant-rules}         every rule, with an example and its count
```{mutant-files}         every file, with its count
```{mutant-survivors}     mutants that no check kills and that change behavior
```{mutant-equivalents}   mutants that no check kills and that change nothing, with the reason
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from sphinx.application import Sphinx

from mutation.report import ENOUGH, WORDS
from mutation.rules import RULES

from .markdown import MarkdownDirective, table

TABLE = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results" / "mutants.csv"
LONGEST = 72  # of an example, so that it keeps to a line of code

Row = dict[str, str]


class MutantDirective(MarkdownDirective):
    """A directive that reads the table."""

    def rows(self) -> list[Row]:
        """One a mutant."""
        self.env.note_dependency(str(TABLE))
        with TABLE.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


class Summary(MutantDirective):
    """The sentence with the kill rate."""

    def markdown(self) -> str:
        """One paragraph."""
        rows = self.rows()
        words = count(rows)
        changing, first = words["killed"] + words["survived"], rows[0]
        took = f" It took {int(first['seconds']) / 60:.0f} minutes." if first.get("seconds") else ""
        return (
            f"The committed run planted **{len(rows)}** mutants in {functions(rows)} functions. "
            f"**{changing}** of them change behavior, and the checks reject {words['killed']}: a kill rate of "
            f"**{words['killed'] / changing:.2%}**, where at least {ENOUGH:.0%} is asked for. The other "
            f"{words['equivalent']} are equivalent: they change nothing that anyone could see.\n\n"
            f"It ran on {first['date']} with version {first['version']} on {first['machine']}.{took}"
        )


class Rules(MutantDirective):
    """Every rule."""

    def markdown(self) -> str:
        """One row a rule."""
        rows, lines = self.rows(), []
        for rule, damage in RULES.items():
            of_rule = [row for row in rows if row["rule"] == rule]
            words = (damage.__doc__ or "").split("\n")[0]
            lines.append([f"**{rule}**", f"{words}<br>{example(of_rule)}", *counts(of_rule)])
        return table(["rule", "what goes wrong, for example", "made", *WORDS], [*lines, ["**all**", "", *counts(rows)]])


class Files(MutantDirective):
    """Every file."""

    def markdown(self) -> str:
        """One row a file."""
        rows = self.rows()
        files = grouped(rows, lambda row: row["file"])
        lines = [[f"`{file}`", functions(of_file), *counts(of_file)] for file, of_file in files.items()]
        return table(["file", "functions", "made", *WORDS], [*lines, ["**all**", functions(rows), *counts(rows)]])


class Survivors(MutantDirective):
    """What no check noticed."""

    def markdown(self) -> str:
        """One row a mutant."""
        rows = [row for row in self.rows() if row["status"] == "survived"]
        if not rows:
            return "None survived."
        return table(["mutant", "why"], [[told(row), row["why"]] for row in rows])


class Equivalents(MutantDirective):
    """What changes nothing."""

    def markdown(self) -> str:
        """One row a reason."""
        rows = [row for row in self.rows() if row["status"] == "equivalent"]
        reasons = grouped(rows, lambda row: row["why"].partition("; the same results in")[0])
        lines = [[why, "<br>".join(dict.fromkeys(map(told, of_reason)))] for why, of_reason in reasons.items()]
        return table(["why nothing changes", "mutants"], lines)


def grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows by a key, in the order of its first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def count(rows: Iterable[Row]) -> Counter[str]:
    """How many met with each result."""
    return Counter(row["status"] for row in rows)


def counts(rows: list[Row]) -> list[int]:
    """How many were made, and how many met with each result."""
    words = count(rows)
    return [len(rows), *(words[word] for word in WORDS)]


def functions(rows: list[Row]) -> int:
    """How many functions were mutated."""
    return len({(row["file"], row["function"]) for row in rows})


def told(row: Row) -> str:
    """A mutant, with the function it is in."""
    return f"`{row['function']}`: {change(row)}"


def change(row: Row) -> str:
    """What stood there, and what stands there now."""
    return f"`{row['before']}` → `{row['after']}`"


def example(rows: list[Row]) -> str:
    """A mutant of a rule: one that a number kills rather than an error, in a backward, and long enough to be read."""

    def unfit(row: Row) -> tuple[bool, bool, bool, int]:
        length = len(row["before"]) + len(row["after"])
        raised = "limit" not in row["why"]
        return length > LONGEST, raised, not row["function"].endswith("backward"), -length

    return change(min(rows, key=unfit))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("mutant-summary", Summary)
    app.add_directive("mutant-rules", Rules)
    app.add_directive("mutant-files", Files)
    app.add_directive("mutant-survivors", Survivors)
    app.add_directive("mutant-equivalents", Equivalents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
