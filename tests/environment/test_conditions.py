"""The environment: the machine in few words, and a warning for what makes a benchmark unreliable."""

import re
from dataclasses import replace

import numpy as np
import pytest

from compyute_transformer.environment import conditions as environment
from compyute_transformer.environment.machine import Blas, Machine, examine
from compyute_transformer.environment.processor import architecture


@pytest.fixture(scope="module")
def here() -> Machine:
    return examine()


def test_every_field_says_something(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "examine", lambda: here)
    found, _ = environment.survey()
    assert found.threads == here.numba_threads
    assert f"numpy {np.__version__}" in found.versions
    assert found.cpu == f"{here.processor} ({architecture()})"
    assert "numpy: " in found.blas
    assert len(found.date) == 10


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            {"environment": {"OPENBLAS_CORETYPE": "Haswell"}},
            "OPENBLAS_CORETYPE=Haswell makes .* Unset OPENBLAS_CORETYPE",
        ),
        ({"environment": {"OMP_WAIT_POLICY": "passive"}}, "OMP_WAIT_POLICY=passive is set and changes .* PyTorch"),
        ({"load": 7.0, "all_cores": 8}, "The machine is busy: a load of 7.0 on 8 cores"),
    ],
)
def test_what_spoils_a_run_is_a_warning(
    here: Machine, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], warning: str
) -> None:
    quiet = replace(here, environment={}, load=0.0, cores=2, numba_threads=2, blas=(Blas("numpy", "openblas", "X", 2),))
    monkeypatch.setattr(environment, "examine", lambda: quiet)
    assert environment.survey()[1] == []
    monkeypatch.setattr(environment, "examine", lambda: replace(quiet, **change))
    (said,) = environment.survey()[1]
    assert re.match(warning, said)


def test_torch_gets_as_many_threads_as_we_have(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(environment, "examine", lambda: replace(here, numba_threads=before + 1))
    try:
        environment.use_threads_of(environment.survey()[0])
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
