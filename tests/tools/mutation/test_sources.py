"""What is mutated, and how another reference takes its place."""

import inspect

import numpy as np
import pytest
from mutation_helpers import TARGETS, broken, find, kinds_of

from compyute_transformer import models, nn
from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.nn import Linear, RotaryPosition
from compyute_transformer.ops.position import sinusoids
from compyute_transformer.verify.registry import REGISTRY
from mutation.make import Mutant
from mutation.sources import planted


def test_every_forward_and_backward_is_mutated_and_what_they_call() -> None:
    for op in REGISTRY.values():
        for function in (op.forward, op.backward):
            assert (function.reference if isinstance(function, Dispatched) else function).__name__ in TARGETS
    helpers = ("visible_keys", "apply_mask", "sum_heads", "repeat_heads", "split_heads", "merge_heads", "drop_weights")
    assert set(TARGETS) >= {*helpers, "project_forward", "adamw_update", "Parameter.accumulate", "Mask.for_head"}
    assert not set(TARGETS) & {"check_linear", "check_mask", "check_shape", "check_floats", "Module.forward"}
    assert not set(TARGETS) & {"blocks_step", "run_blocks"}  # which tests hold to the modules they stand in for


def test_every_module_and_model_is_mutated() -> None:
    mutated = {id(target.function) for target in TARGETS.values()}
    kinds = [kind for package in (nn, models) for kind in kinds_of(package)]
    assert {kind.__name__ for kind in kinds} >= {"Linear", "MultiHeadAttention", "PreNormBlock", "GPT"}
    for kind in kinds:  # an inherited method is mutated where it stands
        for phase in ("forward", "backward"):
            assert id(inspect.unwrap(getattr(kind, phase))) in mutated, f"{kind.__name__}.{phase} is not mutated"


# --- planting ---


def test_a_planted_reference_runs_wherever_the_function_was_imported() -> None:
    module, x = Linear(3, 2), np.ones((4, 3), np.float32)
    target = TARGETS["linear_forward"]
    with use_kernels("reference"), planted(target, broken(target, -1)):  # the first returns are of quantized weights
        assert not module(x).any()
    assert module(x).any()


def test_a_planted_reference_is_taken_back_when_something_raises() -> None:
    target = TARGETS["linear_backward"]
    code, defaults = target.function.__code__, target.function.__defaults__
    reference = broken(target)
    with pytest.raises(RuntimeError, match="in between"), planted(target, reference):
        raise RuntimeError("in between" if target.function.__code__ is reference.code else "not planted")
    assert target.function.__code__ is code
    assert target.function.__defaults__ is defaults


def test_a_cache_forgets_what_a_planted_reference_computed() -> None:
    target, right = TARGETS["_sinusoids_float64"], sinusoids(5, 4)
    with planted(target, broken(target)):
        assert not sinusoids(5, 4).any()
    assert np.array_equal(sinusoids(5, 4), right)


def test_a_cache_around_another_function_that_calls_it_forgets_too() -> None:
    target, module, x = TARGETS["rotary_frequencies"], RotaryPosition(4).eval(), np.ones((1, 1, 3, 4), np.float32)
    with use_kernels("reference"):
        right = module(x)
        with planted(target, broken(target)):
            assert np.array_equal(module(x), x), "with frequencies of zero nothing is turned"
        assert np.array_equal(module(x), right)


def test_defaults_are_planted_too(mutants: list[Mutant]) -> None:
    mutant = find(mutants, "layer_norm_forward", "1e-05", "1.0009999999999999e-05")
    with planted(mutant.target, mutant.code):
        assert mutant.target.function.__defaults__ == (None, 1e-5 * 1.001)
    assert mutant.target.function.__defaults__ == (None, 1e-5)
