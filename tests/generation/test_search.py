"""Beam search of language models: against every continuation that there is, and against greedy generation."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import RangeError
from compyute_transformer.generation import Continuation, beam_search, generate, log_likelihoods
from compyute_transformer.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from compyute_transformer.verify.function import randomize

LETTERS = CharacterTokenizer("abcd")
SIZES: dict[str, Any] = {"context_length": 12, "embed_dim": 8, "num_heads": 2, "num_layers": 2}
MODELS: dict[str, LanguageModel] = {
    "gpt, padded vocabulary": GPT(GPTConfig(6, **SIZES)),
    "llama, window": Llama(LlamaConfig(4, **SIZES, window=3)),
}


def made(name: str) -> LanguageModel:
    model = MODELS[name]
    randomize(model, seed=2)
    model.flat.data *= 0.5
    return model.eval()


def log_p(model: LanguageModel, prompt: list[int], ids: tuple[int, ...]) -> float:
    """Return the log-probability of a continuation among the tokens that there are."""
    logits = model(np.array([[*prompt, *ids]]))[0, len(prompt) - 1 : -1, :4].astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    rows = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(rows[np.arange(len(ids)), list(ids)].sum())


@pytest.mark.parametrize("name", MODELS)
def test_a_wide_beam_finds_the_most_probable_continuation(name: str) -> None:
    model = made(name)
    for prompt in ("ab", "dcba"):
        ids = LETTERS.encode(prompt).tolist()
        found = beam_search(model, LETTERS, prompt, max_new_tokens=4, beam_size=64, length_penalty=0.0)
        best = max(product(range(4), repeat=4), key=lambda each: log_p(model, ids, each))
        assert found.ids == best
        assert found.text == LETTERS.decode(best)
        assert found.score == pytest.approx(log_p(model, ids, best), abs=1e-4)
        assert not found.ended
        assert sum(found.log_probabilities) == pytest.approx(found.score)


def test_end_tokens_end_a_continuation_and_count_in_its_score() -> None:
    model, ids = made("llama, window"), LETTERS.encode("ab").tolist()
    found = beam_search(model, LETTERS, ids, max_new_tokens=4, beam_size=64, length_penalty=1.0, stop_ids=[1, 3])

    def ended(each: tuple[int, ...]) -> bool:
        return each[-1] in (1, 3) and not {1, 3} & {*each[:-1]}

    every = [each for n in range(1, 5) for each in product(range(4), repeat=n) if ended(each)]
    best = max(every, key=lambda each: log_p(model, ids, each) / ((5 + len(each)) / 6))
    assert (found.ids, found.ended) == (best[:-1], True)
    assert found.score == pytest.approx(log_p(model, ids, best) / ((5 + len(best)) / 6), abs=1e-4)
    assert len(found.log_probabilities) == len(best)


@pytest.mark.parametrize("name", MODELS)
def test_a_beam_of_one_is_greedy_and_a_wider_one_is_as_good(name: str) -> None:
    model = made(name)
    greedy = beam_search(model, LETTERS, "abc", max_new_tokens=8, beam_size=1)
    assert greedy.text == generate(model, LETTERS, "abc", max_new_tokens=8, temperature=0)
    scores = [beam_search(model, LETTERS, "abc", max_new_tokens=8, beam_size=size).score for size in (1, 4, 300)]
    assert scores[2] >= scores[0] - 1e-5
    assert scores[2] >= scores[1] - 1e-5
    if name.startswith("llama"):
        whole = log_likelihoods(model, [*LETTERS.encode("abc").tolist(), *greedy.ids])
        np.testing.assert_allclose(greedy.log_probabilities, whole[2:], atol=1e-4)


def test_it_ends_where_the_context_does() -> None:
    found = beam_search(made("llama, window"), LETTERS, "abcdabcdabcd", max_new_tokens=5)
    assert isinstance(found, Continuation)
    assert len(found.ids) == 1
    for options, words in (
        ({"prompt": "abcd" * 4}, "a prompt has at most 12 tokens"),
        ({"beam_size": 0}, "beam_search: beam_size is at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is at least 1"),
        ({"length_penalty": -1.0}, "length_penalty is finite"),
        ({"stop_ids": [9]}, "the vocabulary"),
    ):
        given: dict[str, Any] = {"prompt": "ab", "max_new_tokens": 3, **options}
        with pytest.raises(RangeError, match=words):
            beam_search(made("llama, window"), LETTERS, given.pop("prompt"), **given)
