"""What a package says it exports is what it exports, sorted, and importing it is quick."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import compyute_transformer

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(compyute_transformer.__path__, "compyute_transformer.")
    if "numba" not in module.name
)


def public(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", []))


@pytest.mark.parametrize("name", ["compyute_transformer", *MODULES])
def test_all_names_exist_and_are_sorted(name: str) -> None:
    module = importlib.import_module(name)
    names = public(module)
    assert len(set(names)) == len(names)
    assert all(hasattr(module, exported) for exported in names)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert name.endswith((".gpu",)) or (module.__doc__ or "").strip(), f"{name} has no docstring"


def test_import_is_quick_and_light() -> None:
    # the best of several: what the machine does besides is not the library's
    code = (
        "import sys, time; start = time.perf_counter(); import compyute_transformer;"
        "print(time.perf_counter() - start);"
        "print([m for m in ('numba', 'scipy', 'torch', 'rich', 'typer', 'tokenizers', 'pooch') if m in sys.modules])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(7)]
    assert all(run.stdout.splitlines()[1] == "[]" for run in runs), runs[0].stdout
    assert min(float(run.stdout.splitlines()[0]) for run in runs) <= 0.3


def test_no_pickle_anywhere() -> None:
    from pathlib import Path

    package = Path(compyute_transformer.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
