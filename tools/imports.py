"""Print which package imports which, and fail at an import that goes up or at files that import each other in a circle.

    python tools/imports.py [FOLDER]

Every import counts, also one inside a function; only those under `if TYPE_CHECKING:` do not. The packages come in the
order of the layers: a package may import those of its own layer and of the layers below, and nothing above it. Where a
package of the same layer is imported, it must not import back.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "compyute_transformer"
LAYERS = (
    ("__main__",),
    ("cli",),
    ("watch",),
    ("explain", "verify", "bench", "grading"),
    ("training", "generation", "exchange"),
    ("parallel",),
    ("models", "data", "plotting"),
    ("nn",),
    ("cpu", "gpu"),
    ("ops", "optim"),
    ("environment",),
    ("dispatch", "_io", "backend"),
    ("arrays", "random", "threads", "precision"),
    ("_arguments",),
    ("_version", "errors", "_earlier_names"),
)
ALONE = ("cpu", "gpu")  # nobody imports them: `dispatch` loads them by name
RANK = {name: len(LAYERS) - depth for depth, names in enumerate(LAYERS) for name in names}

Imports = dict[str, set[str]]  # a file, by its dotted name -> the files it imports


def files_of(package: Path) -> dict[str, Path]:
    """Return every module of the package by its dotted name below the package; the package itself is ''."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that run, wherever they stand."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from statements(ast.Module([other], []))
        else:
            yield from statements(node)


def imports_of(name: str, path: Path, names: dict[str, Path], root: str) -> set[str]:
    """Return the modules of the package that one file imports."""
    base = name.split(".") if name else []
    if path.name != "__init__.py":
        base = base[:-1]
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                found |= {rest} if first == root else set()
            continue
        module = node.module or ""
        if node.level:
            start = ".".join([*base[: len(base) - node.level + 1], *filter(None, [module])])
        elif module.partition(".")[0] == root:
            start = module.partition(".")[2]
        else:
            continue
        for alias in node.names:  # `from .ops import norm` imports a module, `from .ops.norm import layer_norm` a name
            inner = ".".join(filter(None, [start, alias.name]))
            found.add(inner if inner in names else start)
    return found - {name}


def read(package: Path) -> Imports:
    """Return what every file of the package imports."""
    names = files_of(package)
    return {name: imports_of(name, path, names, package.name) for name, path in names.items()}


def top(name: str) -> str:
    """Return the package of the first level that a module belongs to."""
    return name.partition(".")[0]


def upward(imports: Imports) -> list[str]:
    """Return the imports that go up, one line each."""
    faults = []
    for name, targets in sorted(imports.items()):
        for target in sorted(targets):
            here, there = top(name), top(target)
            if here in ("", there):
                continue  # the root gathers the public names; inside a package the check for circles suffices
            if there == "":
                faults.append(f"{name} imports the root of the package")
            elif there not in RANK or here not in RANK:
                faults.append(f"{name} imports {target}: {here if here not in RANK else there} has no layer")
            elif there in ALONE:
                faults.append(f"{name} imports {target}: kernels are loaded by `dispatch` alone")
            elif RANK[there] > RANK[here]:
                faults.append(f"{name} imports {target}: {there} lies above {here}")
    return faults


def circles(imports: Imports) -> list[list[str]]:
    """Return the groups of files that import each other, directly or through others (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(imports.get(name, ())):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return found


def packages(imports: Imports) -> Imports:
    """Return the same by packages of the first level, without the root, which gathers the public names."""
    found: Imports = defaultdict(set)
    for name, targets in imports.items():
        found[top(name)] |= {top(target) for target in targets} - {top(name), ""}
    found.pop("", None)
    return found


def table(imports: Imports) -> str:
    """Return one line a package: what it imports, with the number of files that do."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, targets in imports.items():
        for target in {top(target) for target in targets} - {top(name), ""}:
            counts[top(name)][target] += 1
    present = {top(name) for name in imports} - {""}
    order = [name for names in LAYERS for name in names]
    order += sorted(present - set(order))
    lines = []
    for name in [name for name in order if name in present]:
        reached = sorted(counts[name], key=lambda other: order.index(other) if other in order else -1)
        lines.append(f"{name:12} -> {', '.join(f'{other} {counts[name][other]}' for other in reached) or '(none)'}")
    return "\n".join(lines)


def main(folder: str | None = None) -> int:
    imports = read(Path(folder).resolve() if folder else PACKAGE)
    print(table(imports))
    faults = upward(imports)
    faults += [f"a circle of packages: {', '.join(circle)}" for circle in circles(packages(imports))]
    faults += [f"a circle of files: {', '.join(circle)}" for circle in circles(imports)]
    print(
        "\n" + "\n".join(faults) if faults else "\nEvery import goes down, and no files import each other in a circle."
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
