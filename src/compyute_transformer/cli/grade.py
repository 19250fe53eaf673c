"""`compyute grade`: grade a learner's forward and backward, and name the term that is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from . import terminal
from .options import Json

__all__ = ["grade"]


def grade(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A Python file with functions named OP_forward and OP_backward.")
    ],
    op: Annotated[
        list[str] | None, typer.Option(metavar="<name>", help="Grade this op only. May be given several times.")
    ] = None,
    answer: Annotated[bool, typer.Option("--answer", help="Also print the right lines.")] = False,
    seconds: Annotated[float, typer.Option(metavar="<number>", help="Time after which the file is ended.")] = 60.0,
    json: Json = False,
) -> None:
    """Grade a forward and a backward that you wrote in plain NumPy.

    Compares values and gradients with the library and with finite differences, names the term that is wrong, and gives
    a hint; --answer gives the right line. Exits with 1 if something is wrong.
    """
    with terminal.loading():
        from ..grading import grade_file
        from ..grading.report import written

    found = grade_file(file, tuple(op or ()), seconds)
    if json:
        grades = [grade.to_dict(answer) for grade in found.grades]
        facts = {"file": str(file), "passed": found.passed, "problem": found.problem, "printed": found.printed}
        terminal.print_json(facts | {"grades": grades})
    else:
        for each in found.grades:
            terminal.show(f"{written(each, answer)}\n")
        if found.problem:
            terminal.show(f"wrong   {found.problem}\n")
        if found.printed:
            terminal.note(f"The file printed:\n{found.printed.rstrip()}")
        if not answer and any(finding.answer for each in found.grades for finding in each.findings):
            terminal.note("The right lines: add --answer.")
    if not found.passed:
        raise typer.Exit(1)
