"""The mutation run: its machinery, on a few mutants. `scripts/mutate` runs all."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proof_helpers import annotations_off

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


@pytest.fixture(scope="module", autouse=True)
def no_annotations() -> Iterator[None]:
    with annotations_off():
        yield


@pytest.fixture(scope="module")
def mutants() -> list[Mutant]:
    return [mutant for target in TARGETS.values() for mutant in make_mutants(target)]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Of layer norm and of dropout alone."""
    prepared = Judge()
    assert prepared.prepare(list(TARGETS.values()), only=("layer_norm", "dropout")) == []
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
    modules = ("Linear", "LayerNorm", "MultiHeadAttention", "FeedForward", "PreNormBlock", "Dropout", "GPT")
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
    assert not [m for m in mutants if "check_" in m.before.replace("check_multi_head", "computes D and K")]
    assert not [m for m in mutants if re.fullmatch(r"raise.*|array_module\([^()]*\)", m.before)]


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
    body = broken(target)
    with pytest.raises(RuntimeError, match="in between"), planted(target, body):
        raise RuntimeError("in between" if target.function.__code__ is body.code else "not planted")
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
    call = "_keep_and_scale({}, {}, saved.draw)"
    before, after = call.format("dy", "saved.probability"), call.format("saved.probability", "dy")
    verdict = judge.judge(find(mutants, "dropout_backward", before, after))
    assert (verdict.word, verdict.raised) == ("killed", True)


def test_a_mutant_that_changes_nothing_is_equivalent(mutants: list[Mutant], judge: Judge) -> None:
    verdict = judge.judge(find(mutants, "_keep_and_scale", "if probability == 0.0:", "if False:"))
    assert verdict.word == "equivalent"
    assert "probes that evaluate this place" in verdict.why


def test_without_proofs_a_bad_mutant_survives_and_without_probes_none_is_equivalent(
    mutants: list[Mutant], judge: Judge
) -> None:
    bad = find(mutants, "layer_norm_backward", "dxhat - dxhat.mean(-1, keepdims=True)", "dxhat")
    verdict = Judge(probes=judge.probes).judge(bad)
    assert (verdict.word, verdict.why.rpartition(" ")[0]) == ("survived", "other results in the probe layer_norm")
    same = find(mutants, "_keep_and_scale", "if probability == 0.0:", "if False:")
    assert Judge().judge(same) == Verdict("survived", "", "no probe evaluates this place")


def test_a_place_that_no_probe_evaluates_is_not_called_equivalent(mutants: list[Mutant], judge: Judge) -> None:
    mutant = find(mutants, "layer_norm_backward", "dy.sum(rows) if has_bias else None", "dy.sum(rows)")
    with_bias = [triple for triple in judge.probes if triple[0].name in ("layer_norm 1", "layer_norm 2")]
    assert Judge(probes=with_bias).judge(mutant).word == "equivalent", "where the condition always holds"
    unused = next(m for m in mutants if m.target.name == "layer_norm_forward" and m.before == "1e-05")
    with_eps = [triple for triple in judge.probes if triple[0].name in ("layer_norm 1", "layer_norm 3")]
    assert Judge(probes=with_eps).judge(unused).why == "no probe evaluates this place"


def test_a_proof_that_fails_without_a_mutant_judges_nothing(mutants: list[Mutant]) -> None:
    target = TARGETS["relu_backward"]
    with planted(target, broken(target)):
        prepared = Judge()
        faults = prepared.prepare(list(TARGETS.values()), only=("relu [vector]",))
    assert any(fault.startswith("differences: relu [vector]") for fault in faults)
    assert not [proof for proof, _ in prepared.proofs if proof.kind == "differences"]


# --- probes and promises ---------------------------------------------------------------------------------------------


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


def test_every_promise_holds() -> None:
    with use("reference"):
        checks = [check for _, call in (*op_promises(), *module_promises()) for check in call()]
    assert len(checks) >= 500
    assert [str(check) for check in checks if not check.passed] == []


# --- rewrites --------------------------------------------------------------------------------------------------------


def test_rewrites_are_other_code_and_are_accepted(judge: Judge) -> None:
    rewrites = list(make_rewrites(list(TARGETS.values())))
    assert len(rewrites) >= 100
    assert {name for name in REWRITES if name in TARGETS} == set(REWRITES)
    assert all(rewrite.body.code != rewrite.target.function.__code__ for rewrite in rewrites)
    chosen = [r for r in rewrites if r.target.name in ("layer_norm_forward", "layer_norm_backward", "_keep_and_scale")]
    assert len(chosen) == 3 + 3 + 2
    assert [str(r) for r in chosen if judge.killer(r.target, r.body, r.target.lines) is not None] == []


def test_a_rewrite_of_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWRITES, "relu_forward", {"nothing": (("no such thing", "x"),)})
    with pytest.raises(ValueError, match="relu_forward: a rewrite replaces 'no such thing', found 0 times"):
        list(make_rewrites([TARGETS["relu_forward"]]))


# --- the command -----------------------------------------------------------------------------------------------------


def outcome(mutants: list[Mutant], killed: int, survived: int, **others: Any) -> Outcome:
    words = ["killed"] * killed + ["survived"] * survived + ["equivalent"]
    verdicts = [(mutant, Verdict(word, "torch: linear", "why")) for mutant, word in zip(mutants, words, strict=False)]
    return Outcome(verdicts, **{"rewrites": 1, "refusals": [], "faults": []} | others)


def test_the_exit_status_is_the_verdict(
    mutants: list[Mutant], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rewrite = Rewrite("another way", mutants[0].target, mutants[0].body)
    for found, status in (
        (outcome(mutants, 99, 1), 0),
        (outcome(mutants, 98, 2), 1),
        (outcome(mutants, 100, 0, refusals=[(rewrite, "torch")]), 1),
        (outcome(mutants, 100, 0, faults=["torch: linear"]), 1),
    ):
        monkeypatch.setattr(command, "run", lambda *arguments, found=found: found)
        assert command.main(["--csv", str(tmp_path / "mutants.csv"), "--seed", "3"]) == status
        rate = f"{found.count('killed')} killed, {found.kill_rate:.2%}"
        assert rate in capsys.readouterr().out
    with (tmp_path / "mutants.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["verdict"] for row in rows) == {"killed": 100, "equivalent": 1}
    assert {row["seed"] for row in rows} == {"3"}


def test_reasons_are_about_functions_that_exist() -> None:
    assert {name for keys in REASONS.values() for name, _, _ in keys} <= set(TARGETS)
