"""Child: the process that imports a learner's file and grades it; `file.grade_file` starts it.

python -m compyute_transformer.grading.child FILE RESULTS [OP...]

RESULTS gets one JSON object a line as the work goes on, so that the parent knows what ran when the process ends early.
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .exercises import EXERCISES
from .learner import described
from .report import exercises_of, grade_functions

__all__: list[str] = []

MOST_MEMORY = 8 << 30  # bytes of address space


def main(path: str, results: str, *ops: str) -> None:
    """Grade the functions of a file."""
    _limit_memory()
    with open(results, "a", encoding="utf-8", buffering=1) as file:

        def tell(**values: Any) -> None:
            file.write(json.dumps(values) + "\n")

        tell(running="the file itself")
        module = ModuleType("learner")
        module.__file__ = path
        sys.path.append(str(Path(path).parent))  # last: a file named random.py is no module of ours
        try:
            exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)
        except BaseException as error:
            tell(problem=f"{Path(path).name} cannot be imported: {described(error)}.")
            return
        found = {op: pair for op, pair in exercises_of(vars(module)).items() if not ops or op in ops}
        if not found:
            tell(problem=_nothing(path, ops))
        for op, pair in found.items():
            tell(running=f"{op}_forward or {op}_backward")
            tell(grade=grade_functions(op, *pair).to_dict(answer=True) | {"passed": None})
        tell(done=True)


def _nothing(path: str, ops: tuple[str, ...]) -> str:
    wanted = " or ".join(f"{op}_forward" for op in ops) if ops else "OP_forward or OP_backward"
    return f"{Path(path).name} defines no function named {wanted}. OP is one of: {', '.join(EXERCISES)}."


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # threads that the file started do not keep the process
