"""Print the functions and the signatures that are too long, and exit with 1 if there are any.

    python tools/sizes.py [FOLDER]

A function has at most 60 lines, its decorators and its docstring included, and a signature at most 8 parameters besides
`self` and `cls`. The kernels of `cpu/` and `gpu/` are exempt. The fields of a dataclass are not a signature: its
`__init__` is generated.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "compyute_transformer"
EXEMPT = ("cpu", "gpu")
MOST_LINES = 60
MOST_PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield every function with its qualified name, also those inside classes and other functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        named = isinstance(node, Function | ast.ClassDef)
        yield from functions_of(node, f"{prefix}{node.name}." if named else prefix)


def count_lines(function: Function) -> int:
    """Return the number of lines, from the first decorator to the last statement."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or function.lineno) - first + 1


def count_parameters(function: Function) -> int:
    """Return the number of parameters besides `self` and `cls`."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    collected = [parameter for parameter in (given.vararg, given.kwarg) if parameter is not None]
    return len([parameter for parameter in named if parameter.arg not in ("self", "cls")]) + len(collected)


def faults_of(path: Path, name: str) -> Iterator[str]:
    """Yield one line for each limit that a function of the file exceeds."""
    for qualified, function in functions_of(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{name}:{function.lineno}: {qualified}"
        if (lines := count_lines(function)) > MOST_LINES:
            yield f"{where} has {lines} lines, the limit is {MOST_LINES}"
        if (parameters := count_parameters(function)) > MOST_PARAMETERS:
            yield f"{where} has {parameters} parameters, the limit is {MOST_PARAMETERS}"


def main(folder: Path) -> int:
    """Print all faults and return the exit code."""
    paths = [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).parts[0] not in EXEMPT]
    faults = [fault for path in paths for fault in faults_of(path, path.relative_to(folder).as_posix())]
    print("\n".join(faults) or f"{len(paths)} files: no function and no signature is too long.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE))
