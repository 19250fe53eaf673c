"""Generation on arrays of ids: `model.generate` and `generate_ids`."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.generation import Sampling, generate, generate_ids
from compyute_transformer.models import GPT, GPTConfig

LETTERS = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz")
CONFIG = GPTConfig(LETTERS.vocab_size, context_length=8, embed_dim=16, num_heads=2, num_layers=2, dropout=0.5)


def model(seed: int = 3) -> GPT:
    made = GPT(CONFIG, seed)
    made.flat.data *= 8  # untrained weights predict every letter alike
    return made


@pytest.mark.parametrize("stride", [1, 3])
def test_ids_are_those_of_the_text(stride: int) -> None:
    sampling = Sampling(temperature=1.2, top_k=9, repetition_penalty=1.3, seed=4)
    text = generate(model(), LETTERS, "abc", max_new_tokens=20, sampling=sampling, stride=stride)
    ids = model().generate(LETTERS.encode("abc"), max_new_tokens=20, sampling=sampling, stride=stride)
    assert LETTERS.decode(ids) == "abc" + text


def test_each_row_continues_as_it_does_alone_with_its_own_seed() -> None:
    made, rows = model(), np.array([[0, 1, 2], [0, 1, 2], [5, 5, 1]], np.int32)
    together = generate_ids(made, rows, max_new_tokens=12, sampling=Sampling(1.5, seed=7))
    assert together.shape == (3, 15)
    assert together.dtype == np.int32
    np.testing.assert_array_equal(together[:, :3], rows)
    for row in range(3):
        alone = made.generate(rows[row], max_new_tokens=12, sampling=Sampling(1.5, seed=7 + row))
        np.testing.assert_array_equal(together[row], alone)
    assert (together[0] != together[1]).any()
    assert made.training


def test_a_stop_id_ends_its_row_and_is_repeated_to_the_longest() -> None:
    rows = np.array([[0, 1], [2, 3], [4, 5]])
    free = model().generate(rows, max_new_tokens=20, sampling=Sampling(1.5))
    stop = int(free[0, 6])
    ended = model().generate(rows, max_new_tokens=20, sampling=Sampling(1.5), stop_ids=[stop])
    for before, after in zip(free, ended, strict=True):
        end = next((at for at in range(2, len(before)) if before[at] == stop), len(before) - 1)
        np.testing.assert_array_equal(after[: end + 1], before[: end + 1])
        assert (after[end:] == before[end]).all()
    first = int(np.flatnonzero(free[0, 2:] == stop)[0]) + 3
    assert len(model().generate(rows[0], max_new_tokens=20, sampling=Sampling(1.5), stop_ids=[stop])) == first


def test_no_new_tokens_return_the_ids() -> None:
    np.testing.assert_array_equal(model().generate(np.array([1, 2]), max_new_tokens=0), [1, 2])


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        (np.zeros((1, 0), int), {}, ShapeError, "at least one id a row"),
        (np.zeros((1, 1, 1), int), {}, ShapeError, r"shape \(B, T\) or \(T\)"),
        (np.zeros((1, 2)), {}, DtypeError, "ids are integers, got float64"),
        (np.array([[26]]), {}, RangeError, r"lie in \[0, 26\)"),
        (np.array([[-1]]), {}, RangeError, r"lie in \[0, 26\)"),
        (np.array([[0]]), {"stop_ids": [26]}, RangeError, r"lie in \[0, 26\)"),
        (np.array([[0]]), {"max_new_tokens": -1}, RangeError, "max_new_tokens is a whole number"),
        (np.array([[0]]), {"sampling": Sampling(stop=["a"])}, RangeError, "stop texts need a tokenizer"),
        (np.array([[0]]), {"stride": 9}, RangeError, "stride lies in"),
    ],
)
def test_arguments_are_refused(ids: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model().generate(ids, **{"max_new_tokens": 3} | options)
