"""Write the map of the README from the first lines of the module docstrings, which are its only source.

    python tools/map.py            print the map
    python tools/map.py --write    put it in the README; tests/test_map.py fails while it is out of date

A first line reads "Topic: what the file does." or just says what the file does. A topic that is the name of the file
is left out of the map, where the name stands anyway.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "compyute_transformer"
FLOW = "data ops cpu gpu nn models optim training generation exchange parallel verify bench explain grading"
FLOW += " environment cli"
TOPICS = "embedding position linear norm attention multi_head activation feed_forward dropout block loss"
FENCE = re.compile(r"(?<=\n## The map\n)(.*?```\n)(.*?)(?=```\n)", re.DOTALL)


def describe(path: Path) -> str:
    """Return what the first line of a module's docstring says of it."""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    topic, colon, said = line.partition(": ")
    name = path.parent.name if path.name == "__init__.py" else path.stem
    if colon and re.sub(r"\W+", "_", topic).strip("_").lower() == name.strip("_"):
        line = said[:1].upper() + said[1:] if said[1:2].islower() else said  # but `y = x Wᵀ` stays as it is
    return line.removesuffix(".")


def rank(path: Path) -> tuple[bool, bool, int, str]:
    """Return where a file or folder stands among its neighbors: public before private, then by topic, then by name."""
    order = (FLOW if path.is_dir() else TOPICS).split()  # the flow goes from text to text; what supports it comes last
    name = path.stem
    return path.is_dir(), name.startswith("_"), order.index(name) if name in order else len(order), name


def lines(folder: Path, depth: int = 1) -> Iterator[str]:
    """Yield a line for everything in a folder: files first, each folder with what it holds."""
    for path in sorted(folder.iterdir(), key=rank):
        if path.name == "__init__.py" or (path.is_file() and path.suffix != ".py"):
            continue
        source = path / "__init__.py" if path.is_dir() else path
        if not source.exists():
            continue  # caches, and data files such as pages and styles
        name = "  " * depth + path.name + ("/" if path.is_dir() else "")
        yield f"{name:22} {describe(source)}".rstrip()
        if path.is_dir():
            yield from lines(path, depth + 1)


def draw() -> str:
    """Return the map of the whole package."""
    return "\n".join(["src/compyute_transformer/", *lines(PACKAGE)]) + "\n"


def main(write: bool) -> None:
    if not write:
        print(draw(), end="")
        return
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(FENCE.sub(lambda found: found[1] + draw(), text), encoding="utf-8")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
