"""Inputs as data: what is described can be drawn again, and is as hard to pass as what it describes."""

import json

import numpy as np
import pytest

from certificate.recipes import case_of, describe, prepare
from compyute_transformer.ops.attention import Mask
from compyute_transformer.verify.record import Case, Op, map_arrays
from compyute_transformer.verify.registry import REGISTRY


def arrays_of(value: object) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    map_arrays(found.append, value)
    return found


def test_a_recipe_is_json_and_gives_arguments_of_the_same_kind(op: Op, case: Case) -> None:
    recipe, drawn = case_of(case, seed=0)
    recipe = json.loads(json.dumps(recipe, allow_nan=False))
    given, made = case.arguments(0), drawn.arguments(0)
    assert list(made) == list(given)
    pairs = list(zip(arrays_of(given), arrays_of(made), strict=True))
    for original, copy in pairs:
        assert (original.shape, original.dtype.kind) == (copy.shape, copy.dtype.kind)
        assert np.array_equal(np.isneginf(original), np.isneginf(copy))
        if original.dtype.kind != "f":
            assert np.array_equal(original, copy)
    again = prepare(recipe, seed=0)
    for copy, other in zip(arrays_of(made), arrays_of(again), strict=True):
        assert np.array_equal(copy, other)
    op.forward(*drawn.arguments(0, np.float32).values())


def test_another_seed_draws_other_numbers() -> None:
    recipe = describe(REGISTRY["linear"].cases[1].arguments())
    assert not np.any(prepare(recipe, 0)["weight"] == prepare(recipe, 1)["weight"])
    assert not np.any(prepare(recipe, 0)["x"][0, :4] == prepare(recipe, 0)["bias"])


def test_numbers_keep_their_distance_from_a_kink() -> None:
    recipe = describe(REGISTRY["relu"].cases[2].arguments())
    x = prepare(recipe, 5)["x"]
    assert recipe["x"]["gap"] == 0.5
    assert np.abs(x).min() >= 0.5
    assert 0.4 < np.mean(x > 0) < 0.6


def test_spread_and_mean_are_those_of_the_case() -> None:
    for mean, std in ((7.0, 30.0), (1000.0, 2.0)):
        recipe = describe({"x": np.random.default_rng(0).normal(size=10_000) * std + mean})
        assert recipe["x"]["mean"] == pytest.approx(mean, abs=0.5)
        assert recipe["x"]["std"] == pytest.approx(std, rel=0.1)
        assert "gap" not in recipe["x"]


def test_masks_are_told_in_full() -> None:
    seen = np.array([[True, False, True]])
    mask = Mask(causal=True, window=3, key_lengths=np.array([2, 3]), array=seen)
    recipe = json.loads(json.dumps(describe({"mask": mask})))
    made = prepare(recipe, 0)["mask"]
    assert (made.causal, made.window, made.key_lengths.tolist()) == (True, 3, [2, 3])
    assert np.array_equal(made.array, seen)
