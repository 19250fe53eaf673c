"""Rewrites that preserve behavior are other code, and accepted."""

import numpy as np
import pytest
from mutation_helpers import TARGETS

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.nn import MultiHeadAttention, RotaryPosition
from mutation.evaluator import Evaluator
from mutation.rewrites import REWRITES, make_rewrites
from mutation.sources import planted


def test_rewrites_are_other_code_and_are_accepted(evaluator: Evaluator) -> None:
    rewrites = list(make_rewrites(list(TARGETS.values())))
    assert len(rewrites) >= 100
    assert {name for name in REWRITES if name in TARGETS} == set(REWRITES)
    assert all(rewrite.code.code != rewrite.target.function.__code__ for rewrite in rewrites)
    chosen = [r for r in rewrites if r.target.name in ("layer_norm_forward", "layer_norm_backward", "_keep_and_scale")]
    assert len(chosen) == 3 + 3 + 2
    assert [str(r) for r in chosen if evaluator.killer(r.target, r.code, r.target.lines) is not None] == []


def test_a_rewrite_of_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWRITES, "relu_forward", {"nothing": (("no such thing", "x"),)})
    with pytest.raises(ValueError, match="relu_forward: a rewrite replaces 'no such thing', found 0 times"):
        list(make_rewrites([TARGETS["relu_forward"]]))


def test_a_rewrite_renames_variables_in_a_function_within_too() -> None:
    target = TARGETS["MultiHeadAttention._attend_backward"]
    module, x = MultiHeadAttention(8, 2, rotary=RotaryPosition(4)), np.ones((1, 3, 8), np.float32)
    with use_kernels("reference"):
        module(x)
        right, _ = module.backward(x)
        for rewrite in make_rewrites([target]):
            module(x)
            with planted(target, rewrite.code):
                assert np.array_equal(module.backward(x)[0], right), rewrite.what
