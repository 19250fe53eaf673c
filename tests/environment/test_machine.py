"""The machine: facts that can be checked another way, and None where there is none."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from compyute_transformer import __version__
from compyute_transformer.environment import machine
from compyute_transformer.environment.machine import CORE, OPTIONAL, Machine, examine


@pytest.fixture(scope="module")
def here() -> Machine:
    return examine()


def test_it_can_be_written_as_json(here: Machine) -> None:
    assert json.loads(json.dumps(here.to_dict()))["version"] == __version__


def test_python_and_system_are_this_one(here: Machine) -> None:
    assert here.python.split()[1] == ".".join(map(str, sys.version_info[:3]))
    assert here.executable == sys.executable
    assert here.processor
    assert 1 <= here.cores <= here.all_cores == os.cpu_count()
    assert here.memory_bytes is None or here.memory_bytes > 2**28


def test_packages_are_those_of_the_distribution(here: Machine) -> None:
    """What `pyproject.toml` requires and what is examined is the same list."""
    required = {
        line.split(";")[0].strip().rstrip(">=<!~.,0123456789 ")
        for line in metadata.requires("compyute-transformer") or []
        if "extra ==" not in line
    }
    assert set(CORE) == required
    assert [package.name for package in here.packages] == [*CORE, *OPTIONAL]
    versions = {package.name: package.version for package in here.packages}
    assert versions["numpy"] == np.__version__
    assert all(package.usable for package in here.packages if package.name in CORE)


def test_openblas_says_its_kernel_and_threads() -> None:
    """A process of its own, since both are read when the library loads."""
    script = (
        "import json; from compyute_transformer.environment.machine import examine; "
        "print(json.dumps(examine().to_dict()))"
    )
    asked = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name not in machine.VARIABLES} | asked
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["environment"] == asked
    assert facts["numba_threads"] == 1
    assert {blas["package"] for blas in facts["blas"]} == {"numpy", "scipy"}
    for blas in facts["blas"]:
        if "openblas" in blas["library"]:
            assert blas["threads"] == 1
            assert blas["kernel"] == "Haswell" or (blas["kernel"] and platform.machine() not in ("x86_64", "AMD64"))


def test_a_package_that_is_not_there_has_no_version() -> None:
    package = machine._package("compyute_no_such", ("compyute-no-such",), imported=True)
    assert package.version is None
    assert not package.usable


def test_a_package_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('needs NumPy 2.2 or less')")
    monkeypatch.syspath_prepend(tmp_path)
    package = machine._package("broken_package", ("numpy",), imported=True)
    assert package.fault == "ImportError: needs NumPy 2.2 or less"
    assert not package.usable


def test_a_library_that_is_no_openblas_is_named_without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_openblas_files", lambda package: iter([Path("no such library")]))
    blas = machine.blas_of("numpy")
    assert blas.library == machine.blas_of("numpy").library != ""
    assert (blas.kernel, blas.threads) == (None, None)


def test_commands_that_are_missing_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine._driver() is None


def test_the_driver_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        program = tmp_path / "nvidia-smi.bat"
        program.write_text("@echo 580.65.06\n")
    else:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._driver() == "580.65.06"
