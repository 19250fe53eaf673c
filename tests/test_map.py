"""The README's map is the tree: every file has its line, and every line its file."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "compyute_transformer"


def files_on_the_map() -> set[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## The map")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    files: set[str] = set()
    folders: list[str] = []  # the one a line lies in, and those around it
    for line in block[1].splitlines():
        match = re.match(r"( *)(\S+)(?:  +(\S.*))?$", line)
        assert match is not None, line
        indent, name, description = match.groups()
        if indent == "":
            assert name == "src/compyute_transformer/"
            continue
        depth = len(indent) // 2 - 1
        assert depth <= len(folders), f"{line} lies in no folder"
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            assert description, f"{name} has no description"
            path = "".join(folders) + name
            assert path not in files, f"{path} is on the map twice"
            files.add(path)
    return files


def test_map_equals_tree() -> None:
    tree = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    tree = {path for path in tree if not path.endswith("/__init__.py")}
    assert files_on_the_map() == tree


def test_every_package_is_on_the_map() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in PACKAGE.iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"  {folder.name}/ " in readme, folder.name
