"""Counter-based random numbers: known answers, addresses, and distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compyute_transformer import random
from compyute_transformer.errors import RangeError
from compyute_transformer.ops.dropout import dropout_forward
from compyute_transformer.random import (
    BATCHES,
    DROPOUT,
    INITIALIZATION,
    SAMPLING,
    Generator,
    RandomKey,
    dropout_threshold,
    integers,
    keep_mask,
    normal,
    philox,
    random_bits,
    uniform,
)

DRAW = RandomKey(seed=0x0123456789ABCDEF, stream=DROPOUT, offset=5)

# Counter words, key words and answer of Philox 4x32-10, from the known-answer tests of the authors' Random123.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_known_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    low, high = key  # the first key word is the low half of the seed
    words = philox(low | high << 32, tuple(np.array([word], np.uint64) for word in counter))
    assert [int(word[0]) for word in words] == list(answer)


def test_random_bits_are_philox_at_the_address_of_each_element() -> None:
    bits = random_bits(DRAW._replace(head=2), rows=3, columns=10, heads=4)
    assert bits.shape == (4, 3, 10)
    assert bits.dtype == np.uint32
    for head, row, column in [(0, 0, 0), (1, 2, 5), (3, 1, 9)]:
        counter = (column // 4, row, DRAW.offset, (DROPOUT << 16) + 2 + head)
        words = philox(DRAW.seed, tuple(np.array([word], np.uint64) for word in counter))
        assert bits[head, row, column] == words[column % 4][0]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.floats(0.0, 0.99))
def test_head_by_head_is_the_same_as_all_at_once(B: int, H: int, T: int, S: int, probability: float) -> None:
    whole = keep_mask(DRAW, probability, (B, H, T, S))
    parts = [keep_mask(DRAW.for_head(h), probability, (B, 1, T, S)) for h in range(H)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert np.array_equal(whole[:, H // 2 :], keep_mask(DRAW.for_head(H // 2), probability, (B, H - H // 2, T, S)))


def test_a_head_of_a_head_counts_on() -> None:
    assert DRAW.for_head(2).for_head(3) == DRAW.for_head(5)


def test_a_wider_draw_begins_with_the_narrower_one() -> None:
    assert np.array_equal(uniform(DRAW, (3, 50))[:, :7], uniform(DRAW, (3, 7)))
    assert np.array_equal(uniform(DRAW, (9, 7))[:3], uniform(DRAW, (3, 7)))


def test_a_draw_is_a_function_of_its_address() -> None:
    assert np.array_equal(uniform(DRAW, (4, 5)), uniform(DRAW, (4, 5)))
    others = [
        DRAW._replace(seed=DRAW.seed + 1),
        DRAW._replace(seed=DRAW.seed ^ 1 << 63),
        DRAW._replace(stream=SAMPLING),
        DRAW._replace(offset=6),
        DRAW._replace(head=1),
    ]
    drawn = [uniform(key, (4, 5)) for key in (DRAW, *others)]
    for i in range(len(drawn)):
        for j in range(i):
            assert not np.any(drawn[i] == drawn[j])


def test_the_streams_are_four_different_numbers() -> None:
    assert len({INITIALIZATION, DROPOUT, BATCHES, SAMPLING}) == 4


def test_rows_columns_and_neighboring_offsets_are_uncorrelated() -> None:
    x = np.stack([uniform(DRAW._replace(offset=o), (200, 200), np.float64) - 0.5 for o in (0, 1)]) * np.sqrt(12)
    for a, b in ((x[:, 1:], x[:, :-1]), (x[:, :, 1:], x[:, :, :-1]), (x[0], x[1]), (x[:, :, 4:], x[:, :, :-4])):
        assert abs(np.mean(a * b)) < 5 / np.sqrt(a.size)


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float32", np.dtype(np.float64)])
def test_uniform_lies_in_0_to_1_with_the_right_moments(dtype: object) -> None:
    x = uniform(DRAW, (300, 301), dtype)
    assert x.dtype == np.dtype(dtype)
    assert x.min() >= 0.0
    assert x.max() < 1.0
    assert abs(x.mean(dtype=np.float64) - 0.5) < 5 / np.sqrt(12 * x.size)
    assert abs(x.var(dtype=np.float64) - 1 / 12) < 5 / np.sqrt(180 * x.size)
    counts = np.histogram(x, 16, (0, 1))[0]
    assert np.sum((counts - x.size / 16) ** 2) / (x.size / 16) < 45  # χ² of 15 degrees of freedom: 1 in 10⁴ exceeds it


def test_uniform_is_the_same_in_float32_and_float64() -> None:
    assert np.array_equal(uniform(DRAW, (50, 50)), uniform(DRAW, (50, 50), np.float64))


def test_normal_has_the_moments_of_a_normal() -> None:
    z = normal(DRAW, (300, 301), np.float64)
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1.0) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3.0) < 5 * np.sqrt(96 / n)
    assert 4.0 < np.abs(z).max() < 7.0
    within = np.mean(np.abs(z) < 1.0)
    assert abs(within - 0.6826895) < 5 * np.sqrt(0.22 / n)


def test_normal_is_rounded_to_the_dtype_and_independent_of_uniform() -> None:
    assert normal(DRAW, (4, 5)).dtype == np.float32
    assert np.array_equal(normal(DRAW, (4, 5)), normal(DRAW, (4, 5), np.float64).astype(np.float32))
    assert np.array_equal(normal(DRAW, (9, 5))[:4], normal(DRAW, (4, 5)))


@pytest.mark.parametrize("high", [1, 2, 7, 1000, 2**31, 2**32])
def test_integers_cover_their_range_evenly(high: int) -> None:
    x = integers(DRAW, (200, 100), high)
    assert x.dtype == np.int64
    assert x.min() >= 0
    assert x.max() < high
    assert abs(x.mean() / high - (0.5 - 0.5 / high)) < 5 / np.sqrt(12 * x.size)
    if high <= 1000:
        assert len(np.unique(x)) == high


@pytest.mark.parametrize("high", [0, -1, 2**32 + 1])
def test_integers_without_a_range_are_refused(high: int) -> None:
    with pytest.raises(RangeError, match=rf"integers: high lies in \[1, 2³²\], got {high}"):
        integers(DRAW, (2,), high)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_keep_mask_keeps_one_minus_the_probability(probability: float) -> None:
    for shape in ((400, 250), (5, 8, 50, 50)):
        keep = keep_mask(DRAW, probability, shape)
        assert (keep.shape, keep.dtype) == (shape, bool)
        deviation = np.sqrt(probability * (1 - probability) / keep.size)
        assert abs(keep.mean() - (1 - probability)) <= 5 * deviation


def test_a_higher_probability_drops_more_of_the_same() -> None:
    assert np.all(keep_mask(DRAW, 0.3, (50, 50)) >= keep_mask(DRAW, 0.6, (50, 50)))


def test_the_threshold_fits_32_bits() -> None:
    assert dropout_threshold(0.0) == 0
    assert dropout_threshold(0.5) == 2**31
    assert dropout_threshold(np.nextafter(1.0, 0.0)) == 2**32 - 1


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 7), (0, 4), (3, 0)])
def test_any_shape_can_be_drawn(shape: tuple[int, ...]) -> None:
    for drawn in (uniform(DRAW, shape), normal(DRAW, shape), integers(DRAW, shape, 9), keep_mask(DRAW, 0.5, shape)):
        assert np.shape(drawn) == shape


# --- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_hands_out_one_offset_after_the_other() -> None:
    generator = Generator(seed=3, stream=BATCHES)
    assert [generator.next() for _ in range(3)] == [RandomKey(3, BATCHES, offset) for offset in range(3)]
    assert generator == Generator(3, BATCHES, 3)  # its whole state


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(value: int) -> None:
    with pytest.raises(RangeError, match=rf"Generator: a seed lies in .*, got {value}\. Give a non-negative integer"):
        Generator(value)
    with pytest.raises(RangeError, match=f"got {value}"):
        random.seed(value)


def test_equal_seeds_start_the_default_generator_equally() -> None:
    random.seed(11)
    first = random.default_generator().next()
    random.default_generator().next()
    random.seed(11)
    assert random.default_generator().next() == first == RandomKey(11, INITIALIZATION, 0)
    assert random.default_generator(DROPOUT).next() == RandomKey(11, DROPOUT, 0)
    random.seed(0)


def test_normal_numbers_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, shape = RandomKey(5, 1, 9), (7, 5, 11)
    whole = random.normal(draw, shape)
    for at_a_time in (1, 24, 100):  # fewer than a row, a few rows, and rows that do not divide
        monkeypatch.setattr(random, "AT_A_TIME", at_a_time)
        assert np.array_equal(random.normal(draw, shape), whole)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_numpy_make_the_same_numbers(kind: type) -> None:
    key = RandomKey(5, 1, 2, 3)
    other = RandomKey(*(kind(part) for part in key))
    assert other.words == key.words
    assert all(type(word) is int for word in other.words)
    assert np.array_equal(random_bits(other, 3, 5), random_bits(key, 3, 5))
    x = np.ones((3, 5), np.float32)
    assert np.array_equal(dropout_forward(x, 0.5, other)[0], dropout_forward(x, 0.5, key)[0])
