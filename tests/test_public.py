"""Every package exports the names it lists, and importing the library is quick and loads nothing heavy."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import compyute_transformer

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(compyute_transformer.__path__, "compyute_transformer.")
    if "numba" not in module.name
)


HEAVY = ("numpy", "numba", "scipy", "torch", "rich", "typer", "tokenizers", "pooch", "jaxtyping")


def public(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", []))


@pytest.mark.parametrize("name", ["compyute_transformer", *MODULES])
def test_all_names_exist_and_are_listed_once(name: str) -> None:
    module = importlib.import_module(name)
    names = public(module)
    assert len(set(names)) == len(names)
    assert all(hasattr(module, exported) for exported in names)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert name.endswith((".gpu",)) or (module.__doc__ or "").strip(), f"{name} has no docstring"


def test_the_package_names_what_a_user_needs() -> None:
    assert {"data", "generation", "training", "verify", "generate", "load_run"} <= set(public(compyute_transformer))
    assert callable(compyute_transformer.generate)
    assert callable(compyute_transformer.load_run)
    with pytest.raises(AttributeError, match="has no attribute 'GTP'"):
        compyute_transformer.GTP  # noqa: B018


def test_dir_and_type_checkers_see_the_names_that_are_loaded_on_first_use() -> None:
    code = "import compyute_transformer; print(*dir(compyute_transformer))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(public(compyute_transformer)) <= set(listed)
    tree = ast.parse(Path(compyute_transformer.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: "" if line.module is None else line.module
        for line in checked.body
        if isinstance(line, ast.ImportFrom) and line.level
        for alias in line.names
    }
    assert {name: home for name, home in imported.items() if home} == compyute_transformer._DEFINED_IN
    assert set(imported) == set(public(compyute_transformer))


def test_import_is_quick_and_light() -> None:
    def seconds() -> tuple[float, str]:
        code = (
            "import sys, time; start = time.perf_counter(); import compyute_transformer;"
            "print(time.perf_counter() - start);"
            f"print([name for name in {HEAVY} if name in sys.modules])"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken, loaded = run.stdout.splitlines()
        return float(taken), loaded

    runs = [seconds() for _ in range(3)]
    assert all(loaded == "[]" for _, loaded in runs), runs[0]
    assert min(taken for taken, _ in runs) <= 0.25


def test_import_changes_nothing_in_the_process() -> None:
    code = (
        "import os; before = dict(os.environ); import compyute_transformer as c; c.GPT; c.generate;"
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_pickle_anywhere() -> None:
    package = Path(compyute_transformer.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
