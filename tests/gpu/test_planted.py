"""The tests of the CUDA kernels notice mistakes: dropped barriers, wrong strides, masks off by one, missing scales.

Half of the mistakes are planted here, which takes half a minute. This plants all:

    PYTHONPATH=src:tools:tests python -m gpu.test_planted
"""

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from cuda_helpers import kernels_on_cpu
from gpu import test_cached_attention, test_kernels
from gpu.planted import MISTAKES, Mistake, planted

from compyute_transformer.gpu._kernel import source_of
from cuda_on_cpu import CompileError

TESTS = {
    "norm": (
        "norms_of_more_rows_than_blocks",
        "norms",
        "norms_of_a_residual_sum",
        "norms_of_frozen_parameters",
        "norms_whose_result_is_rounded",
    ),
    "loss": (
        "cross_entropy",
        "cross_entropy_of_impossible_and_broken_rows",
        "cross_entropy_of_large_logits",
        "cross_entropy_over_the_logits",
    ),
    "activation": ("activations", "activations_far_from_zero", "softmax", "softmax_of_rows_without_scores"),
    "dropout": ("dropout_drops_what_a_cpu_drops", "dropout_advances_with_a_number_on_the_device"),
    "embedding": ("embedding_adds_equal_ids",),
    "rotary": ("rotary_position", "rotary_position_within_a_packed_projection"),
    "cached_attention": ("attention_to_a_cache_equals_the_reference",),
    "adamw": ("adamw_whose_numbers_stay_on_the_device", "adamw", "a_step_that_is_not_finite_changes_nothing"),
}
IN_FILES = (test_kernels, test_cached_attention)
BUFFERS = (1024, 3001)


def arguments_of(test: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments with which pytest would call a test, those of float32 first."""
    names: list[tuple[str, ...]] = []
    values: list[list[tuple[Any, ...]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            several = isinstance(mark.args[0], tuple)
            names.append(mark.args[0] if several else (mark.args[0],))
            values.append([tuple(value) if several else (value,) for value in mark.args[1]])
    if "buffers" in inspect.signature(test).parameters:
        names.append(("buffers",))
        values.append([(size,) for size in BUFFERS])
    several_dtypes = [i for i, group in enumerate(names) if group == ("dtype",)]
    chosen = sorted(product(*values), key=lambda one: [one[i][0] is not np.float32 for i in several_dtypes])
    for choice in chosen:
        given = dict(
            pair for group, value in zip(names, choice, strict=True) for pair in zip(group, value, strict=True)
        )
        if "buffers" in given:
            given["buffers"] = [test_kernels.numbers(seed, given["buffers"], dtype=np.float32) for seed in range(2)]
        yield given


def is_noticed(mistake: Mistake) -> bool:
    """Whether a test of the topic fails on the text with the mistake. A text that does not compile is an error."""
    planted(mistake, source_of(mistake.topic))  # an error in the list is no test that fails
    with kernels_on_cpu(optimize=False, text=lambda source: planted(mistake, source), only=mistake.topic):
        for name in TESTS[mistake.topic]:
            test = next(getattr(file, f"test_{name}") for file in IN_FILES if hasattr(file, f"test_{name}"))
            for given in arguments_of(test):
                with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
                    if "monkeypatch" in inspect.signature(test).parameters:
                        given["monkeypatch"] = patch
                    try:
                        test(**given)
                    except CompileError:
                        raise
                    except Exception:
                        return True
    return False


@pytest.mark.parametrize("topic", TESTS)
def test_the_right_texts_pass(topic: str) -> None:
    assert not is_noticed(Mistake(topic, "nothing", "Storage", "Storage"))


@pytest.mark.parametrize("topic", TESTS)
def test_planted_mistakes_are_noticed(topic: str) -> None:
    assert [mistake for mistake in MISTAKES[::2] if mistake.topic == topic and not is_noticed(mistake)] == []


def test_a_mistake_is_in_the_text_as_it_is_now() -> None:
    with pytest.raises(ValueError, match="norm: the text has no piece 'what is not there'"):
        planted(Mistake("norm", "", "what is not there", ""), "text")


if __name__ == "__main__":
    noticed = [is_noticed(mistake) for mistake in MISTAKES]
    for mistake, found in zip(MISTAKES, noticed, strict=True):
        print("noticed" if found else "MISSED ", f"{mistake.topic:12} {mistake.what}")
    print(f"{sum(noticed)} of {len(noticed)} mistakes are noticed.")
