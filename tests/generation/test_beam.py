"""Beam search over made-up log-probabilities: greedy, exhaustive, early ends, the length penalty, ties."""

from collections.abc import Callable, Sequence
from itertools import product
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compyute_transformer.errors import RangeError
from compyute_transformer.generation.beam import Beam, BeamOptions, Hypothesis, length_divisor

END = 2
Model = Callable[[tuple[int, ...]], NDArray[np.float64]]  # what was written -> log-probabilities of what follows


def random_model(seed: int, vocabulary: int = 3, sharpness: float = 1.0) -> Model:
    def log_p(ids: tuple[int, ...]) -> NDArray[np.float64]:
        logits = np.random.default_rng([seed, *ids]).normal(size=vocabulary) * sharpness
        return logits - np.log(np.exp(logits).sum())

    return log_p


def search(model: Model, options: BeamOptions) -> Beam:
    beam, steps = Beam(options), 0
    while not beam.over:
        parents = beam.extend(np.stack([model(beginning.ids) for beginning in beam.open]))
        assert len(parents) == len(beam.open) <= options.beam_size
        steps += 1
    assert steps <= options.longest
    return beam


def scored(model: Model, ids: Sequence[int], penalty: float) -> float:
    total = sum(float(model(tuple(ids[:n]))[token]) for n, token in enumerate(ids))
    return total / ((5 + len(ids)) / 6) ** penalty


@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([0.0, 0.6, 1.0, 3.0]), st.integers(2, 4))
def test_a_beam_wide_enough_finds_the_best_of_all_answers(seed: int, longest: int, penalty: float, V: int) -> None:
    model = random_model(seed, max(V, END + 1))
    tokens = [token for token in range(max(V, END + 1)) if token != END]
    answers = [(*reference, END) for length in range(longest) for reference in product(tokens, repeat=length)]
    best = max(answers, key=lambda ids: scored(model, ids, penalty))
    found = search(model, BeamOptions(10_000, penalty, longest, END)).best
    assert found.ids == best
    assert found.total == pytest.approx(scored(model, best, 0.0), rel=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([0.0, 0.6, 2.0]))
def test_a_beam_of_one_takes_the_most_probable_token_until_end(seed: int, longest: int, penalty: float) -> None:
    model = random_model(seed)
    ids: tuple[int, ...] = ()
    while len(ids) < longest and END not in ids:
        ids = (*ids, int(model(ids).argmax()))
    assert search(model, BeamOptions(1, penalty, longest, END)).best.ids == ids


@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0.0, 0.6, 2.0]))
def test_the_beam_is_that_of_a_plain_search_that_never_ends_early(seed: int, size: int, penalty: float) -> None:
    model, longest = random_model(seed, 5, sharpness=2.0), 7
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(longest):
        longer = [(total + float(model(ids)[t]), (*ids, t)) for total, ids in beam for t in range(5)]
        kept = sorted(longer, reverse=True)[: size - len(ended)]
        ended += [(total, ids) for total, ids in kept if ids[-1] == END]
        beam = [(total, ids) for total, ids in kept if ids[-1] != END]
    best = max(ended or beam, key=lambda found: found[0] / ((5 + len(found[1])) / 6) ** penalty)
    assert search(model, BeamOptions(size, penalty, longest, END)).best.ids == best[1]


def table(rows: dict[tuple[int, ...], list[float]]) -> Model:
    return lambda ids: np.log(rows.get(ids, [1 / 3] * 3))


def test_a_wider_beam_finds_what_greedy_search_misses() -> None:
    model = table(
        {
            (): [0.6, 0.4, 1e-9],
            (0,): [0.34, 0.33, 0.33],
            (1,): [0.01, 0.01, 0.98],
            **{(0, a): [0.4, 0.3, 0.3] for a in (0, 1)},
        }
    )
    assert search(model, BeamOptions(1, 0.0, 3, END)).best.ids == (0, 0, 0)
    found = search(model, BeamOptions(2, 0.0, 3, END)).best
    assert found.ids == (1, END)
    assert found.log_probabilities == pytest.approx((log(0.4), log(0.98)))


def test_the_length_penalty_favors_longer_answers() -> None:
    model = table({(): [0.55, 1e-9, 0.45], (0,): [1e-9, 0.9, 0.1], (0, 1): [1e-9, 1e-9, 0.85]})
    short, long = log(0.45), log(0.55) + log(0.9) + log(0.85)
    assert short > long
    assert short / 1.0 < long / (8 / 6) ** 1.0
    assert search(model, BeamOptions(3, 0.0, 3, END)).best.ids == (END,)
    assert search(model, BeamOptions(3, 1.0, 3, END)).best.ids == (0, 1, END)


def test_the_search_ends_once_nothing_open_can_win() -> None:
    beam = search(table({(): [0.05, 0.05, 0.9]}), BeamOptions(3, 0.6, 50, END))
    assert beam.best.ids == (END,)
    assert [beginning.ids for beginning in beam.open] == [(0,), (1,)]


def test_the_search_goes_on_while_a_longer_answer_can_win() -> None:
    """At its present length the open hypothesis scores below the finished one; five tokens later, above it."""
    certain = {(0,) * n: [1 - 2e-9, 1e-9, 1e-9] for n in range(1, 5)}
    model = table({(): [0.4, 0.1, 0.5], **certain, (0,) * 5: [1e-9, 1e-9, 1 - 2e-9]})
    assert log(0.4) < log(0.5) < log(0.4) / length_divisor(6, 3.0)
    assert search(model, BeamOptions(2, 3.0, 10, END)).best.ids == (0, 0, 0, 0, 0, END)


def test_the_best_of_equals_is_the_one_found_first() -> None:
    beam = Beam(BeamOptions(2, 0.6, 9, END))
    beam.ended = [Hypothesis((token, END), (-0.5, -0.5), -1.0) for token in (1, 0)]
    assert beam.best.ids == (1, END)
    beam.ended, beam.open = [], beam.ended
    assert beam.best.ids == (1, END)


def test_without_an_end_the_best_beginning_is_the_answer() -> None:
    beam = search(lambda ids: np.log([0.7, 0.3, 1e-300]), BeamOptions(2, 0.6, 4, END))
    assert beam.best.ids == (0, 0, 0, 0)
    assert beam.ended == []


def test_of_equals_the_first_and_what_never_comes_is_never_taken() -> None:
    beam = Beam(BeamOptions(2, 0.0, 9, END))
    assert beam.extend(np.array([[-1.0, -1.0, -1.0]])) == [0, 0]
    assert [beginning.ids for beginning in beam.open] == [(0,), (1,)]
    beam = Beam(BeamOptions(5, 0.0, 9, END))
    assert beam.extend(np.array([[-np.inf, -1.0, -np.inf]])) == [0]
    assert [beginning.ids for beginning in beam.open] == [(1,)]


def test_the_divisor_is_that_of_wu_et_al() -> None:
    assert length_divisor(1, 0.6) == 1.0
    assert length_divisor(7, 1.0) == 2.0
    assert length_divisor(19, 0.5) == 2.0
    assert length_divisor(100, 0.0) == 1.0


@pytest.mark.parametrize(
    "changed",
    [{"beam_size": 0}, {"length_penalty": -0.1}, {"length_penalty": float("inf")}, {"longest": 0}],
)
def test_options_out_of_range_are_refused(changed: dict[str, float]) -> None:
    options = BeamOptions(**({"beam_size": 2, "length_penalty": 0.6, "longest": 8, "end": END} | changed))
    with pytest.raises(RangeError, match=r"^translate: \w+ is (finite and )?at least [01], got"):
        options.check()
    BeamOptions(1, 0.0, 1, END).check()


@pytest.mark.parametrize(("name", "changed"), [("beam_size", {"beam_size": 2.5}), ("max_new_tokens", {"longest": 2.0})])
def test_numbers_of_answers_and_tokens_are_whole(name: str, changed: dict[str, Any]) -> None:
    with pytest.raises(RangeError, match=rf"^translate: {name} is a whole number, got 2\."):
        BeamOptions(**({"beam_size": 2, "length_penalty": 0.6, "longest": 8, "end": END} | changed)).check()
    BeamOptions(np.int64(2), 0.6, np.int64(8), END).check()  # type: ignore[arg-type]
