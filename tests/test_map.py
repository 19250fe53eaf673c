"""The map of the README is what `tools/map.py` draws from the module docstrings, and every file says what it does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "compyute_transformer"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.fixture(scope="module")
def map_() -> ModuleType:
    spec = importlib.util.spec_from_file_location("map_tool", ROOT / "tools" / "map.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_map_as_it_is_drawn(map_: ModuleType) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## The map\n")[1]
    assert section.split("```\n")[1] == map_.draw(), "run: python tools/map.py --write"


def test_map_names_every_file(map_: ModuleType) -> None:
    drawn = [line.split()[0] for line in map_.draw().splitlines()]
    assert sorted(name for name in drawn if name.endswith(".py")) == sorted(
        path.name for path in FILES if path.name != "__init__.py"
    )
    folders = [path.parent.name + "/" for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]
    assert sorted(name for name in drawn[1:] if name.endswith("/")) == sorted(folders)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_says_what_it_does(path: Path, map_: ModuleType) -> None:
    said = map_.describe(path)
    assert len(said) >= 15, f"{path}: the first line of the docstring says {said!r}"
