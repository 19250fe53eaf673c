"""The status of a few mutants."""

from mutation_helpers import TARGETS, broken, find

from mutation.evaluator import Evaluator, Status
from mutation.make import Mutant
from mutation.sources import planted


def test_bad_mutants_of_layer_norm_are_killed(mutants: list[Mutant], evaluator: Evaluator) -> None:
    chosen = [m for m in mutants if m.target.name == "layer_norm_backward"][::3]
    assert len(chosen) >= 15
    assert [str(m) for m in chosen if evaluator.evaluate(m).word != "killed"] == []
    classic = find(mutants, "layer_norm_backward", "dxhat - dxhat.mean(-1, keepdims=True)", "dxhat")
    status = evaluator.evaluate(classic)
    assert (status.word, status.raised) == ("killed", False)
    assert "EXCEEDS tolerance" in status.why


def test_a_mutant_that_raises_is_killed_by_its_error(mutants: list[Mutant], evaluator: Evaluator) -> None:
    call = "_keep_and_scale({}, {}, saved.key)"
    before, after = call.format("dy", "saved.probability"), call.format("saved.probability", "dy")
    status = evaluator.evaluate(find(mutants, "dropout_backward", before, after))
    assert (status.word, status.raised) == ("killed", True)


def test_a_mutant_that_changes_nothing_is_equivalent(mutants: list[Mutant], evaluator: Evaluator) -> None:
    status = evaluator.evaluate(find(mutants, "_keep_and_scale", "if probability == 0.0:", "if False:"))
    assert status.word == "equivalent"
    assert "probes that evaluate this place" in status.why


def test_without_checks_a_bad_mutant_survives_and_without_probes_none_is_equivalent(
    mutants: list[Mutant], evaluator: Evaluator
) -> None:
    bad = find(mutants, "layer_norm_backward", "dxhat - dxhat.mean(-1, keepdims=True)", "dxhat")
    status = Evaluator(probes=evaluator.probes).evaluate(bad)
    assert (status.word, status.why.rpartition(" ")[0]) == ("survived", "other results in the probe layer_norm")
    same = find(mutants, "_keep_and_scale", "if probability == 0.0:", "if False:")
    assert Evaluator().evaluate(same) == Status("survived", "", "no probe evaluates this place")


def test_a_place_that_no_probe_evaluates_is_not_called_equivalent(mutants: list[Mutant], evaluator: Evaluator) -> None:
    mutant = find(
        mutants, "layer_norm_backward", "sum_of_rows(dy) if needs_bias and has_bias else None", "sum_of_rows(dy)"
    )
    with_bias = [triple for triple in evaluator.probes if triple[0].name in ("layer_norm 1", "layer_norm 2")]
    assert Evaluator(probes=with_bias).evaluate(mutant).word == "equivalent", "where the condition always holds"
    unused = next(m for m in mutants if m.target.name == "layer_norm_forward" and m.before == "1e-05")
    with_eps = [triple for triple in evaluator.probes if triple[0].name in ("layer_norm 1", "layer_norm 3")]
    assert Evaluator(probes=with_eps).evaluate(unused).why == "no probe evaluates this place"


def test_a_check_that_fails_without_a_mutant_compares_nothing(mutants: list[Mutant]) -> None:
    target = TARGETS["relu_backward"]
    with planted(target, broken(target)):
        prepared = Evaluator()
        faults = prepared.prepare(list(TARGETS.values()), only=("relu [vector]",))
    assert any(fault.startswith("differences: relu [vector]") for fault in faults)
    assert not [check for check, _ in prepared.checks if check.kind == "differences"]
