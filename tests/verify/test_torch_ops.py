"""PyTorch beside every op: tests/ops/test_contract.py tests that they agree; here, that disagreement would be found."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tolerances import assert_passed

from compyute_transformer.errors import MissingExtraError
from compyute_transformer.ops.attention import Mask
from compyute_transformer.verify.ops import compare
from compyute_transformer.verify.registry import REGISTRY, Case, Op
from compyute_transformer.verify.torch.base import dense_mask, import_torch


def case_of(op: str, name: str) -> Case:
    return next(case for case in REGISTRY[op].cases if case.name == name)


def test_every_op_has_an_oracle() -> None:
    assert all(op.oracles for op in REGISTRY.values())


def test_the_oracle_is_the_pinned_version() -> None:
    assert import_torch().__version__.split("+")[0] == "2.13.0"


def test_one_oracle_at_least_serves_each_case(op: Op, case: Case) -> None:
    assert any(oracle.supports(case.arguments()) for oracle in op.oracles)


def test_what_runs_by_default_gives_what_pytorch_gives(op: Op, case: Case) -> None:
    """The kernels, where they serve; tests/ops/test_contract.py compares the references."""
    assert_passed(compare(op, case, np.float32))


def test_y_and_every_gradient_are_compared_with_every_oracle() -> None:
    checks = compare(REGISTRY["attention"], case_of("attention", "causal"), np.float64)
    names = ["composition", "functional.scaled_dot_product_attention"]
    assert [f"{check.argument} of {check.note}" for check in checks] == [
        f"{what} of {name}" for name in names for what in ("y", "dq", "dk", "dv")
    ]


@pytest.mark.parametrize(
    ("op", "oracle"),
    [
        ("attention", "functional.scaled_dot_product_attention"),
        ("fused_attention", "functional.scaled_dot_product_attention"),
        ("sequential_multi_head", "torch.nn.MultiheadAttention"),
        ("semiparallel_multi_head", "torch.nn.MultiheadAttention"),
        ("parallel_multi_head", "torch.nn.MultiheadAttention"),
        ("fused_multi_head", "torch.nn.MultiheadAttention"),
    ],
)
def test_pytorchs_own_attention_compares_most_cases(op: str, oracle: str) -> None:
    supports = next(known.supports for known in REGISTRY[op].oracles if known.name == oracle)
    compared = [case.name for case in REGISTRY[op].cases if supports(case.arguments())]
    assert len(compared) >= 8
    assert not any("dropout" in name for name in compared)


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
@pytest.mark.parametrize("which", ["y", "gradients"])
@pytest.mark.parametrize("how", [lambda a: -a, lambda a: a * (1 + 1e-4), lambda a: a * np.nan], ids=["-", "*", "nan"])
def test_a_wrong_op_is_found(op: Op, which: str, how: Any) -> None:
    def forward(*arguments: Any) -> Any:
        y, saved = op.forward(*arguments)
        return how(y), saved

    def backward(dy: Any, saved: Any) -> Any:
        gradients = op.backward(dy, saved)
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        return tuple(None if g is None else how(g) for g in several)

    wrong = replace(op, forward=forward) if which == "y" else replace(op, backward=backward)
    for check in compare(wrong, op.cases[0], np.float32):
        assert check.passed == (check.argument.startswith("y") != (which == "y"))


def test_a_missing_gradient_is_found() -> None:
    op = REGISTRY["linear"]
    without = replace(op, backward=lambda dy, saved: (*op.backward(dy, saved)[:2], None))
    broken = [
        f"{check.argument} of {check.note}"
        for check in compare(without, case_of("linear", "rows"), np.float64)
        if not check.passed
    ]
    assert broken == ["dbias of functional.linear"]


def test_a_dense_mask_is_what_the_flags_say() -> None:
    mask = Mask(causal=True, key_lengths=np.array([2, 3]), array=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -np.inf]]))
    dense = dense_mask(mask, 2, 3, import_torch().float64)
    inf = np.inf
    assert dense.tolist() == [[[[1.0, 2.0, -inf], [4.0, 5.0, -inf]]], [[[1.0, 2.0, -inf], [4.0, 5.0, -inf]]]]


def test_without_pytorch_the_check_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[verify\]'"):
        compare(REGISTRY["linear"], case_of("linear", "rows"), np.float64)
