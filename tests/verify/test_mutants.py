"""The mutation run: its machinery, on a few mutants. `scripts/mutate` runs all."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer.backend import Twin, use
from compyute_transformer.nn import Linear
from compyute_transformer.ops.contract import REGISTRY
from compyute_transformer.ops.position import sinusoids
from compyute_transformer.verify import mutants as command
from compyute_transformer.verify.mutate_judge import Judge, Verdict
from compyute_transformer.verify.mutate_make import Mutant, make_mutants
from compyute_transformer.verify.mutate_module_promises import module_promises
from compyute_transformer.verify.mutate_probes import Probe, op_probes
from compyute_transformer.verify.mutate_promises import op_promises
from compyute_transformer.verify.mutate_reasons import REASONS
from compyute_transformer.verify.mutate_report import COLUMNS, Outcome
from compyute_transformer.verify.mutate_rewrites import REWRITES, Rewrite, make_rewrites
from compyute_transformer.verify.mutate_rules import RULES
from compyute_transformer.verify.mutate_sources import Body, Target, find_targets, planted

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = {target.name: target for target in find_targets()}


@pytest.fixture(scope="module")
def mutants() -> list[Mutant]:
    return [mutant for target in TARGETS.values() for mutant in make_mutants(target)]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Of layer norm and of dropout alone."""
    prepared = Judge()
    for name in ("layer_norm", "dropout"):
        assert prepared.prepare(list(TARGETS.values()), only=name) == []
    return prepared


def find(mutants: list[Mutant], function: str, before: str, after: str) -> Mutant:
    found = [m for m in mutants if (m.target.name, m.before, m.after) == (function, before, after)]
    assert len(found) == 1
    return found[0]


# --- what is mutated -------------------------------------------------------------------------------------------------


def test_every_forward_and_backward_is_mutated_and_what_they_call() -> None:
    for op in REGISTRY.values():
        for function in (op.forward, op.backward):
            assert (function.reference if isinstance(function, Twin) else function).__name__ in TARGETS
    helpers = ("visible_keys", "hide", "sum_heads", "repeat_heads", "split_heads", "merge_heads", "drop_weights")
    modules = ("Linear", "LayerNorm", "MultiHeadAttention", "FeedForward", "PreNormBlock", "Dropout", "Embedding", "GPT")
    assert set(TARGETS) >= {*helpers, "project_forward", "adamw_update", "Parameter.accumulate", "Mask.for_head"}
    assert set(TARGETS) >= {f"{module}.{phase}" for module in modules for phase in ("forward", "backward")}
    assert not set(TARGETS) & {"check_linear", "check_mask", "check_shape", "check_floats", "Module.forward"}


def test_every_rule_makes_mutants_and_no_two_are_the_same(mutants: list[Mutant]) -> None:
    assert set(Counter(mutant.rule for mutant in mutants)) == set(RULES)
    assert len(mutants) >= 1000
    assert all(mutant.before != mutant.after for mutant in mutants)
    bodies = {(mutant.target.name, mutant.body.code, mutant.body.defaults) for mutant in mutants}
    assert len(bodies) >= 0.98 * len(mutants), "what is written differently may compile to the same"


def test_the_door_is_not_mutated(mutants: list[Mutant]) -> None:
    assert not [m for m in mutants if "check_" in m.before and not m.before.startswith("(D, num_kv_heads)")]
    assert not [m for m in mutants if m.before.startswith(("raise", "array_module"))]


def test_the_same_mutants_are_made_each_time(mutants: list[Mutant]) -> None:
    target = TARGETS["layer_norm_backward"]
    again = [str(mutant) for mutant in make_mutants(target)]
    assert again == [str(mutant) for mutant in mutants if mutant.target is target]


# --- planting --------------------------------------------------------------------------------------------------------


def broken(target: Target) -> Body:
    tree = target.tree
    return next(m for m in make_mutants(target) if m.rule == "zeros for a result" and tree is m.target.tree).body


def test_a_planted_body_runs_wherever_the_function_was_imported() -> None:
    module, x = Linear(3, 2), np.ones((4, 3), np.float32)
    with use("reference"), planted(TARGETS["linear_forward"], broken(TARGETS["linear_forward"])):
        assert not module(x).any()
    assert module(x).any()


def test_a_planted_body_is_taken_back_when_something_raises() -> None:
    target = TARGETS["linear_backward"]
    code, defaults = target.function.__code__, target.function.__defaults__
    with pytest.raises(RuntimeError, match="in between"), planted(target, broken(target)):
        assert target.function.__code__ is not code
        raise RuntimeError("in between")
    assert target.function.__code__ is code
    assert target.function.__defaults__ is defaults


def test_a_cache_forgets_what_a_planted_body_computed() -> None:
    target, right = TARGETS["_sinusoids_float64"], sinusoids(5, 4)
    with planted(target, broken(target)):
        assert not sinusoids(5, 4).any()
    assert np.array_equal(sinusoids(5, 4), right)


def test_defaults_are_planted_too(mutants: list[Mutant]) -> None:
    mutant = find(mutants, "layer_norm_forward", "1e-05", "1.0009999999999999e-05")
    with planted(mutant.target, mutant.body):
        assert mutant.target.function.__defaults__ == (None, 1e-5 * 1.001)
    assert mutant.target.function.__defaults__ == (None, 1e-5)


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_bad_mutants_of_layer_norm_are_killed(mutants: list[Mutant], judge: Judge) -> None:
    chosen = [m for m in mutants if m.target.name == "layer_norm_backward"][::3]
    assert len(chosen) >= 15
    assert [str(m) for m in chosen if judge.judge(m).word != "killed"] == []
    classic = find(mutants, "layer_norm_backward", "dxhat - dxhat.mean(-1, keepdims=True)", "dxhat")
    verdict = judge.judge(classic)
    assert (verdict.word, verdict.raised) == ("killed", False)
    assert "BREAKS the limit" in verdict.why


def test_a_mutant_that_raises_is_killed_by_its_error(mutants: list[Mutant], judge: Judge) -> None:
    verdict = judge.judge(find(mutants, "_keep_and_scale", "if probability == 0.0:", "if True:"))
    assert verdict.word == "killed"
    verdict = judge.judge(find(mutants, "dropout_backward", "saved.draw", "saved.draw * 0")) if False else verdict
    assert not verdict.raised


def test_a_mutant_that_changes_nothing_is_equivalent(mutants: list[Mutant], judge: Judge) -> None:
    verdict = judge.judge(find(mutants, "_keep_and_scale", "if probability == 0.0:", "if False:"))
    assert verdict.word == "equivalent"
    assert "probes that evaluate this place" in verdict.why
