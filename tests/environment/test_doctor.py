"""The doctor: each thing that holds speed back is found, and nothing is found where there is nothing."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from compyute_transformer.environment.doctor import PURPOSES, Recommendation, recommend, show, to_dict
from compyute_transformer.environment.machine import CORE, OPTIONAL, Blas, Gpu, Machine, Package

CUPY_MISSING = "CuPy is not installed: pip install 'compyute-transformer[gpu]'"
HEALTHY = Machine(
    version="0.1.0",
    python="CPython 3.13.0",
    executable="/usr/bin/python3",
    system="Linux 6.12 x86_64",
    processor="A processor",
    cores=8,
    all_cores=8,
    load=0.4,
    memory_bytes=16 * 2**30,
    packages=(*(Package(name, "1.0") for name in CORE), *(Package(name, None) for name in OPTIONAL)),
    blas=(Blas("numpy", "scipy-openblas 0.3.31", "SkylakeX", 8), Blas("scipy", "scipy-openblas 0.3.30", "SkylakeX", 8)),
    numba_threads=8,
    environment={},
    gpu=Gpu(None, CUPY_MISSING),
)


def only(machine: Machine) -> Recommendation:
    (advice,) = recommend(machine)
    return advice


def with_package(name: str, version: str | None, fault: str | None = None) -> Machine:
    packages = tuple(Package(name, version, fault) if p.name == name else p for p in HEALTHY.packages)
    return replace(HEALTHY, packages=packages)


def with_threads(threads: int, environment: dict[str, str]) -> Machine:
    return replace(HEALTHY, blas=(replace(HEALTHY.blas[0], threads=threads),), environment=environment)


def test_a_healthy_machine_needs_nothing() -> None:
    assert recommend(HEALTHY) == []


def test_every_package_has_a_purpose() -> None:
    assert set(PURPOSES) == {*CORE, *OPTIONAL}


def test_a_coretype_that_is_set_is_slow() -> None:
    advice = only(replace(HEALTHY, environment={"OPENBLAS_CORETYPE": "Haswell"}))
    assert advice.kind == "slow"
    assert "OPENBLAS_CORETYPE=Haswell" in advice.problem
    assert advice.remedy == "Unset OPENBLAS_CORETYPE"


def test_fewer_threads_than_cores_are_slow() -> None:
    assert only(with_threads(1, {})) == Recommendation(
        "slow", "NumPy's BLAS runs 1 thread on 8 cores", "Set OPENBLAS_NUM_THREADS=8"
    )
    assert only(with_threads(2, {"OMP_NUM_THREADS": "2"})).remedy == "Unset OMP_NUM_THREADS, or set it to 8"
    assert only(with_threads(2, {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"})).remedy.startswith(
        "Unset OPENBLAS_NUM_THREADS"
    )
    assert "Numba runs 4 threads on 8 cores" in only(replace(HEALTHY, numba_threads=4)).problem


def test_more_threads_than_cores_are_slow() -> None:
    advice = only(replace(HEALTHY, blas=(replace(HEALTHY.blas[0], threads=16),)))
    assert (advice.kind, advice.remedy) == ("slow", "Set OPENBLAS_NUM_THREADS=8")
    assert "16 threads on 8 cores, which is more than there are" in advice.problem


def test_openblas_at_its_limit_is_not_blamed() -> None:
    blas = (replace(HEALTHY.blas[0], threads=64),)
    assert recommend(replace(HEALTHY, cores=128, all_cores=128, blas=blas, numba_threads=128)) == []


def test_threads_that_cannot_be_asked_are_not_guessed() -> None:
    assert recommend(replace(HEALTHY, blas=(Blas("numpy", "accelerate"),))) == []


def test_an_unknown_blas_is_slow() -> None:
    advice = only(replace(HEALTHY, blas=(Blas("numpy", "blas 3.12.0"),)))
    assert advice.kind == "slow"
    assert "numpy uses the BLAS blas 3.12.0" in advice.problem


@pytest.mark.parametrize(("load", "found"), [(None, 0), (3.9, 0), (4.1, 1)])
def test_a_busy_machine_is_slow(load: float | None, found: int) -> None:
    advice = recommend(replace(HEALTHY, load=load))
    assert len(advice) == found
    assert all(f"a load of {load} on 8 cores" in a.problem for a in advice)


def test_a_missing_numba_is_slow_and_a_broken_one_broken() -> None:
    missing = only(replace(with_package("numba", None), numba_threads=None))
    assert (missing.kind, missing.remedy) == ("slow", "pip install numba")
    broken = only(replace(with_package("numba", "0.60", "ImportError: needs NumPy 2.0"), numba_threads=None))
    assert broken.kind == "broken"
    assert "cannot be imported: ImportError: needs NumPy 2.0" in broken.problem


def test_a_missing_core_package_is_broken_and_an_extra_is_not() -> None:
    assert only(with_package("tokenizers", None)).kind == "broken"
    assert recommend(with_package("torch", None)) == []


def test_a_disabled_compiler_is_slow() -> None:
    assert only(replace(HEALTHY, environment={"NUMBA_DISABLE_JIT": "1"})).remedy == "Unset NUMBA_DISABLE_JIT"
    assert recommend(replace(HEALTHY, environment={"NUMBA_DISABLE_JIT": "0"})) == []


def test_a_threading_layer_without_effect_is_named() -> None:
    environment = {"NUMBA_THREADING_LAYER": "tbb"}
    assert recommend(replace(HEALTHY, environment=environment)) == []
    advice = only(replace(HEALTHY, environment=environment, kernels_fault="the layer cannot be used"))
    assert "the layer cannot be used" in advice.problem
    assert advice.remedy == "Unset NUMBA_THREADING_LAYER"


def test_a_gpu_that_lies_idle_is_named_with_what_to_install() -> None:
    advice = only(replace(HEALTHY, gpu=Gpu("580.65", CUPY_MISSING)))
    assert (advice.kind, advice.remedy) == ("unused", "pip install 'compyute-transformer[gpu]'")
    broken = replace(with_package("cupy", "14.1"), gpu=Gpu("580.65", "CuPy is installed but finds no usable GPU"))
    assert only(broken).kind == "broken"
    advice = only(replace(broken, gpu=Gpu(None, "CuPy is installed but finds no usable GPU")))
    assert "no NVIDIA driver is" in advice.problem
    assert advice.remedy.endswith("install driver 580 or newer")
    bare = replace(HEALTHY, gpu=Gpu("580.65", None, ("NVIDIA H100",)))
    assert [found.problem.split(" ")[0] for found in recommend(bare)] == ["ml_dtypes", "nvmath", "cudnn"]
    assert {found.remedy for found in recommend(bare)} == {"pip install 'compyute-transformer[gpu]'"}
    whole = tuple(replace(package, version=package.version or "1.0") for package in bare.packages)
    assert recommend(replace(bare, packages=whole)) == []


def test_the_worst_comes_first() -> None:
    idle = replace(HEALTHY, environment={"OPENBLAS_CORETYPE": "Zen"}, gpu=Gpu("580.65", CUPY_MISSING))
    assert [advice.kind for advice in recommend(idle)] == ["slow", "unused"]
    no_numba = with_package("numba", None).packages
    packages = tuple(Package("cupy", "14.1") if package.name == "cupy" else package for package in no_numba)
    broken = replace(idle, packages=packages, numba_threads=None)
    assert [advice.kind for advice in recommend(broken)] == ["broken", "slow", "slow"]


def test_the_dictionary_is_json() -> None:
    report = json.loads(json.dumps(to_dict(with_threads(1, {}))))
    assert report["machine"]["cores"] == 8
    assert report["recommendations"][0]["kind"] == "slow"


def printed(machine: Machine) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(machine, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_says_all_of_it() -> None:
    text = printed(replace(HEALTHY, environment={"OMP_NUM_THREADS": "8"}))
    for fact in (
        "CPython 3.13.0",
        "A processor, 8 cores, 16.0 GiB",
        "kernel SkylakeX, 8 threads",
        "OMP_NUM_THREADS=8",
        "none usable. CuPy is not installed",
        "not installed. verification against PyTorch: pip install 'compyute-transformer[verify]'",
        "Nothing found that breaks a run or slows it.",
    ):
        assert fact in text
    assert "\x1b" not in text


def test_advice_stands_below_the_table() -> None:
    text = printed(with_threads(1, {"OMP_NUM_THREADS": "1"}))
    assert text.rstrip().endswith("→ Unset OMP_NUM_THREADS, or set it to 8")
    assert "Nothing found" not in text
