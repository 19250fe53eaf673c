"""Sampling: what may be drawn, with which probability, and that one draw gives one token."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compyute_transformer.errors import NonFiniteError, RangeError, ShapeError
from compyute_transformer.generation.sampling import Sampling, choose, probabilities, sample
from compyute_transformer.random import SAMPLING, RandomKey

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
TEMPERATURES = st.floats(0.05, 5)
DRAWS = st.builds(RandomKey, st.integers(0, 2**64 - 1), st.just(SAMPLING), st.integers(0, 2**32 - 1), st.just(0))


def softmax(logits: np.ndarray) -> np.ndarray:
    mass = np.exp(logits.astype(np.float64) - logits.max())
    return mass / mass.sum()


def draws(count: int, seed: int = 1) -> list[RandomKey]:
    return [RandomKey(seed, SAMPLING, offset) for offset in range(count)]


@given(LOGITS, TEMPERATURES)
def test_without_cuts_it_is_the_softmax(logits: np.ndarray, temperature: float) -> None:
    expected = softmax(logits.astype(np.float64) / temperature)
    np.testing.assert_allclose(
        probabilities(logits, Sampling(temperature=temperature)), expected, rtol=1e-12, atol=1e-300
    )


@given(LOGITS, TEMPERATURES, st.integers(1, 50))
def test_top_k_keeps_the_k_most_probable(logits: np.ndarray, temperature: float, k: int) -> None:
    mass = probabilities(logits, Sampling(temperature=temperature, top_k=k))
    kept = min(k, logits.size)
    assert np.count_nonzero(mass) <= kept
    assert mass.sum() == pytest.approx(1, rel=1e-12)
    below = logits.max() - logits.astype(np.float64)
    assert set(np.flatnonzero(mass)) <= set(np.argsort(below, kind="stable")[:kept])  # fewer where exp underflows


@given(LOGITS, st.integers(0, 100))
def test_top_k_of_the_vocabulary_or_more_changes_nothing(logits: np.ndarray, more: int) -> None:
    np.testing.assert_array_equal(
        probabilities(logits, Sampling(temperature=1.0, top_k=logits.size + more)),
        probabilities(logits, Sampling(temperature=1.0)),
    )


@given(LOGITS, TEMPERATURES, st.floats(0.001, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: np.ndarray, temperature: float, p: float) -> None:
    full = probabilities(logits, Sampling(temperature=temperature))
    kept = probabilities(logits, Sampling(temperature=temperature, top_p=p)) > 0
    assert kept.any()
    assert full[kept].sum() >= p - 1e-12
    assert full[kept].sum() - full[kept].min() < p + 1e-12  # without its least member the set falls short
    assert full[kept].min() >= full[~kept].max(initial=0)


@given(LOGITS)
def test_top_p_of_one_changes_nothing(logits: np.ndarray) -> None:
    np.testing.assert_array_equal(
        probabilities(logits, Sampling(temperature=1.0, top_p=1.0)), probabilities(logits, Sampling(temperature=1.0))
    )


def test_a_tiny_top_p_keeps_the_most_probable() -> None:
    assert probabilities(np.array([0.0, 2.0, 1.0]), Sampling(temperature=1.0, top_p=1e-09)).tolist() == [0, 1, 0]


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    # Of the two that are left the first has 4/7 of the mass, so it reaches 0.5 alone; of all four it would not.
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, top_k=2, top_p=0.5))).tolist() == [0]
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, top_p=0.5))).tolist() == [0, 1]


@given(LOGITS, TEMPERATURES, st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_at_least_that_part_of_the_most_probable(
    logits: np.ndarray, temperature: float, p: float
) -> None:
    full, mass = (
        probabilities(logits, Sampling(temperature=temperature)),
        probabilities(logits, Sampling(temperature=temperature, min_p=p)),
    )
    kept = full >= p * full.max()
    np.testing.assert_array_equal(mass > 0, kept & (full > 0))
    np.testing.assert_allclose(mass[kept], full[kept] / full[kept].sum(), rtol=1e-12)


def test_min_p_counts_from_what_temperature_left() -> None:
    logits = np.log([0.5, 0.3, 0.2])
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, min_p=0.5))).tolist() == [0, 1]
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=0.5, min_p=0.5))).tolist() == [0]
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=4.0, min_p=0.5))).tolist() == [0, 1, 2]


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    logits = np.array([2.0, -1.0, 3.0, -2.0, 0.0])
    lowered = np.array([1.0, -2.0, 3.0, -2.0, 0.0])
    mass = probabilities(logits, Sampling(temperature=1.0, repetition_penalty=2.0), seen=[1, 0, 0, 4])
    np.testing.assert_allclose(mass, softmax(lowered), rtol=1e-12)
    np.testing.assert_array_equal(logits, [2.0, -1.0, 3.0, -2.0, 0.0])


def test_the_repetition_penalty_comes_before_temperature_and_cuts() -> None:
    logits = np.array([2.0, 1.5, 0.0])
    assert probabilities(logits, Sampling(temperature=0.0, repetition_penalty=2.0), seen=[0]).tolist() == [0, 1, 0]
    assert np.flatnonzero(
        probabilities(logits, Sampling(temperature=1.0, top_k=1, repetition_penalty=2.0), seen=[0])
    ).tolist() == [1]


@given(LOGITS, st.floats(0.1, 10))
def test_without_seen_tokens_or_a_penalty_nothing_changes(logits: np.ndarray, penalty: float) -> None:
    expected = probabilities(logits)
    np.testing.assert_array_equal(
        probabilities(logits, Sampling(temperature=1.0, repetition_penalty=penalty)), expected
    )
    np.testing.assert_array_equal(probabilities(logits, seen=range(logits.size)), expected)


def test_the_log_probability_is_that_of_the_model_whatever_the_options() -> None:
    logits = np.array([2.0, 1.0, -1.0])
    token, log_probability = sample(
        logits, Sampling(temperature=0.0, min_p=0.9, repetition_penalty=10.0), [0], key=draws(1)[0]
    )
    assert token == 1
    assert log_probability == pytest.approx(np.log(softmax(logits)[1]), rel=1e-12)


@pytest.mark.parametrize("seen", [[-1, 0], [0, 3]])
def test_seen_tokens_outside_the_vocabulary_are_refused(seen: list[int]) -> None:
    with pytest.raises(RangeError, match=r"seen tokens lie in \[0, 3\)"):
        probabilities(np.zeros(3), Sampling(temperature=1.0, repetition_penalty=2.0), seen=seen)


def test_temperature_comes_before_the_cuts() -> None:
    logits = np.log([0.5, 0.3, 0.2])
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, top_p=0.75))).tolist() == [0, 1]
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=0.25, top_p=0.75))).tolist() == [0]


def test_of_equals_the_lower_ids_are_kept() -> None:
    logits = np.zeros(5, dtype=np.float32)
    assert probabilities(logits, Sampling(temperature=0.0)).tolist() == [1, 0, 0, 0, 0]
    assert probabilities(logits, Sampling(temperature=1.0, top_k=2)).tolist() == [0.5, 0.5, 0, 0, 0]
    assert np.flatnonzero(probabilities(logits, Sampling(temperature=1.0, top_p=0.5))).tolist() == [0, 1, 2]


@given(LOGITS, DRAWS)
def test_temperature_zero_is_the_argmax(logits: np.ndarray, key: RandomKey) -> None:
    assert sample(logits, Sampling(temperature=0.0), key=key)[0] == logits.argmax()
    assert sample(logits, Sampling(temperature=5e-324), key=key)[0] in np.flatnonzero(logits == logits.max())


@given(LOGITS, TEMPERATURES, st.none() | st.integers(1, 50), st.none() | st.floats(0.01, 1), DRAWS)
def test_what_is_drawn_was_kept(
    logits: np.ndarray, temperature: float, k: int | None, p: float | None, key: RandomKey
) -> None:
    token, log_probability = sample(logits, Sampling(temperature=temperature, top_k=k, top_p=p), key=key)
    assert isinstance(token, int)
    assert probabilities(logits, Sampling(temperature=temperature, top_k=k, top_p=p))[token] > 0
    assert log_probability == pytest.approx(np.log(softmax(logits)[token]), rel=1e-9, abs=1e-12)
    assert sample(logits, Sampling(temperature=temperature, top_k=k, top_p=p), key=key) == (token, log_probability)


@given(LOGITS, st.just(0.0) | TEMPERATURES, st.none() | st.integers(1, 50), st.sampled_from([1.0, 1.3]), DRAWS)
def test_choose_takes_the_token_of_sample(
    logits: np.ndarray, temperature: float, k: int | None, penalty: float, key: RandomKey
) -> None:
    sampling, seen = Sampling(temperature=temperature, top_k=k, repetition_penalty=penalty), [0, int(logits.argmax())]
    before = logits.copy()
    token = choose(logits, sampling, seen, key=key)
    assert isinstance(token, int)
    assert token == sample(logits, sampling, seen, key=key)[0]
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "logits", [np.array([2**53, 2**53 + 1]), np.array([0.5, 2.0, 2.0]), np.array([1.0, 3.0, 2.0], np.float16)]
)
def test_choose_orders_numbers_of_any_dtype_as_sample_does(logits: np.ndarray) -> None:
    greedy, key = Sampling(temperature=0.0), draws(1)[0]
    assert choose(logits, greedy, key=key) == sample(logits, greedy, key=key)[0]


@pytest.mark.parametrize(
    ("temperature", "k", "p"), [(1.0, None, None), (0.7, 4, None), (1.5, None, 0.8), (1.0, 5, 0.9)]
)
def test_frequencies_are_the_probabilities(temperature: float, k: int | None, p: float | None) -> None:
    logits = np.array([1.0, -0.5, 0.3, 2.0, 0.0, -2.0], dtype=np.float32)
    expected = probabilities(logits, Sampling(temperature=temperature, top_k=k, top_p=p))
    count = 4000
    tokens = [sample(logits, Sampling(temperature=temperature, top_k=k, top_p=p), key=key)[0] for key in draws(count)]
    seen = np.bincount(tokens, minlength=logits.size) / count
    assert (np.abs(seen - expected) <= 4 * np.sqrt(expected * (1 - expected) / count)).all()


def test_masked_tokens_never_come() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 1.0])
    assert {sample(logits, Sampling(temperature=3.0, top_k=4, top_p=0.999), key=key)[0] for key in draws(100)} == {1, 3}


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (0.5 - 2**-24, 1), (0.5, 3), (1 - 2**-24, 3)])
def test_the_ends_of_the_random_numbers_draw_what_was_kept(
    u: float, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("compyute_transformer.generation.sampling")  # the package's own `sample` is the function
    monkeypatch.setattr(module, "uniform", lambda *_: u)
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    assert sample(logits, key=draws(1)[0])[0] == token


def test_logits_are_left_as_they_are() -> None:
    logits = np.linspace(-1, 1, 7)
    sample(logits, Sampling(temperature=0.5, top_k=3, top_p=0.5), key=draws(1)[0])
    np.testing.assert_array_equal(logits, np.linspace(-1, 1, 7))


def test_logits_of_any_size_overflow_nothing() -> None:
    token, log_probability = sample(
        np.array([3e38, -3e38, 0], dtype=np.float32), Sampling(temperature=0.001), key=draws(1)[0]
    )
    assert (token, log_probability) == (0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((-0.1, None, None), "temperature is a finite number of at least 0, got -0.1"),
        ((float("nan"), None, None), "temperature .* got nan"),
        ((float("inf"), None, None), "temperature .* got inf"),
        ((1.0, 0, None), "top_k is a whole number of at least 1, got 0"),
        ((1.0, 2.5, None), "top_k is a whole number of at least 1, got 2.5"),
        ((1.0, None, 0.0), r"top_p lies in \(0, 1\], got 0.0"),
        ((1.0, None, 1.1), r"top_p lies in \(0, 1\], got 1.1"),
        ((1.0, None, float("nan")), r"top_p lies in \(0, 1\], got nan"),
        ((1.0, None, None, 0.0), r"min_p lies in \(0, 1\], got 0.0"),
        ((1.0, None, None, 1.1), r"min_p lies in \(0, 1\], got 1.1"),
        ((1.0, None, None, None, 0.0), "repetition_penalty is a finite number above 0, got 0.0"),
        ((1.0, None, None, None, float("inf")), "repetition_penalty .* got inf"),
        ((1.0, None, None, None, float("nan")), "repetition_penalty .* got nan"),
    ],
)
def test_options_outside_their_range_are_refused(options: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        sample(np.zeros(3), Sampling(*options), key=draws(1)[0])


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for each in (sample, choose):
        with pytest.raises(ShapeError, match=r"logits have shape \(V,\)"):
            each(np.zeros(shape), key=draws(1)[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[0.0, np.nan, 1.0], [0.0, np.inf], [np.inf, np.nan], [-np.inf, -np.inf]])
def test_logits_that_say_nothing_are_refused(logits: list[float], temperature: float) -> None:
    for each in (sample, choose):
        with pytest.raises(NonFiniteError, match="The model has diverged"):
            each(np.array(logits), Sampling(temperature=temperature), key=draws(1)[0])


@pytest.mark.parametrize("options", [{"top_k": 700}, {"top_p": 0.9}, {"top_k": 900, "top_p": 0.5}, {"top_p": 0.001}])
def test_of_a_large_vocabulary_as_many_are_kept(options: dict[str, Any]) -> None:
    """More than are sorted at first; some of them equal, of which the first are kept."""
    logits = np.round(np.random.default_rng(5).normal(size=3000), 1)
    mass = np.exp(logits - logits.max())
    order = sorted(range(3000), key=lambda token: (-logits[token], token))
    kept = order[: options.get("top_k", 3000)]
    shares = mass[kept] / mass[kept].sum()
    if "top_p" in options:
        kept = kept[: next(n for n in range(1, 3001) if shares[:n].sum() >= options["top_p"])]
    expected = np.zeros(3000)
    expected[kept] = mass[kept] / mass[kept].sum()
    assert np.allclose(
        probabilities(logits, Sampling(**{"temperature": 1.0, **options})), expected, rtol=1e-12, atol=0.0
    )
