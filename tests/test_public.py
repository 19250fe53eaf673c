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


HEAVY = ("numba", "scipy", "torch", "rich", "typer", "tokenizers", "pooch")


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
    # 0.3 s on a machine that is not busy, which is known by how long NumPy's own import takes there
    def seconds(package: str) -> tuple[float, str]:
        code = (
            f"import sys, time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start);"
            f"print([name for name in {HEAVY} if name in sys.modules])"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken, loaded = run.stdout.splitlines()
        return float(taken), loaded

    runs = [(seconds("compyute_transformer"), seconds("numpy")) for _ in range(7)]
    assert all(ours[1] == "[]" for ours, _ in runs), runs[0]
    ours, numpys = min(ours[0] for ours, _ in runs), min(numpy[0] for _, numpy in runs)
    assert ours <= max(0.3, 3 * numpys)


def test_no_pickle_anywhere() -> None:
    from pathlib import Path

    package = Path(compyute_transformer.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
