"""Probes: what agrees, and that every op and every module has some."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.verify.registry import MODULES, REGISTRY
from mutation.attention_properties import attention_probes
from mutation.model_properties import model_probes
from mutation.module_probes import module_probes
from mutation.probes import DRAWS, PROBES, Probe, op_probes
from mutation.rotary_properties import rotary_probes


def result(*arrays: Any) -> Probe:
    return Probe("given", lambda: arrays)


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        (np.ones(3), np.ones(3) + 1e-14, True),
        (np.ones(3), np.ones(3) + 1e-12, False),
        (np.ones(3), np.ones(3, np.float32), False),
        (np.ones(3), np.ones((3, 1)), False),
        (np.array([np.nan, -np.inf]), np.array([np.nan, -np.inf]), True),
        (np.array([np.nan, 1.0]), np.array([0.0, 1.0]), False),
        (np.array([1, 2]), np.array([1, 3]), False),
    ],
)
def test_results_agree_to_rounding_in_shape_and_dtype(ours: Any, theirs: Any, agree: bool) -> None:
    assert result(ours).agrees(result(theirs).run()) is agree
    assert not result(ours).agrees([])
    assert not result(ours).agrees(["ValueError"])


def test_probes_are_not_the_cases_of_the_registry_and_none_raises() -> None:
    probes = list(op_probes(seed=0))
    assert {probe.name.rpartition(" ")[0] for probe in probes} == set(REGISTRY)
    assert not [probe.name for probe in probes if any(isinstance(found, str) for found in probe.run())]


def test_an_op_without_a_draw_of_its_own_is_probed_on_its_cases_with_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(DRAWS, "layer_norm")
    found = [probe for probe in op_probes(seed=0) if probe.name.startswith("layer_norm ")]
    again = [probe for probe in op_probes(seed=1) if probe.name.startswith("layer_norm ")]
    assert len(found) == len(again) == PROBES
    assert all(probe.agrees(probe.run()) for probe in found[:5])
    assert not any(probe.agrees(other.run()) for probe, other in zip(found, again, strict=True))


def test_every_module_is_probed_and_no_probe_raises() -> None:
    probes = list(module_probes(seed=0))
    assert {case.name for case in MODULES} <= {probe.name.partition(" ")[0] for probe in probes}
    assert not [probe.name for probe in probes if any(isinstance(found, str) for found in probe.run())]


def test_probes_of_single_functions_and_of_outputs_give_the_same_again() -> None:
    probes = [probe for kind in (rotary_probes, attention_probes, model_probes) for probe in kind(seed=0)]
    assert len(probes) >= 30
    for probe in probes:
        found = probe.run()
        assert not any(isinstance(result, str) for result in found), f"{probe.name}: {found}"
        assert probe.agrees(found), probe.name
