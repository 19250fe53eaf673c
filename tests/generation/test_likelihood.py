"""Likelihoods: every token once, with the context that its window gives it; choices by the sum of their tokens."""

from math import exp, log
from typing import Any

import numpy as np
import pytest

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import RangeError, ShapeError
from compyute_transformer.generation import choose, evaluate_ids, log_likelihoods
from compyute_transformer.models import GPT, GPTConfig

CONTEXT = 8
TOKENIZER = CharacterTokenizer("\nabcdefghijklmnopqrstuvwxyzä")


def gpt() -> GPT:
    config = GPTConfig(TOKENIZER.vocab_size, CONTEXT, embed_dim=16, num_heads=2, num_layers=2, dropout=0.5)
    model = GPT(config, 3).to(dtype=np.float64)
    model.flat.data *= 12
    return model


def log_p(model: GPT, before: Any, token: int) -> float:
    logits = model.eval()(np.array([before]))[0, -1].astype(np.float64)
    return float(logits[token] - log(np.exp(logits - logits.max()).sum()) - logits.max())


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 8), (5, 2), (None, None), (1, 1)])
def test_each_token_is_scored_once_in_its_window(window: int | None, stride: int | None) -> None:
    model, ids = gpt().train(), np.random.default_rng(0).integers(0, 27, 21)
    found = log_likelihoods(model, ids, window, stride)
    assert model.training
    window, stride = window or 8, stride or 4
    expected, begin, done = [], 0, 0
    while done < 20:
        end = min(20, window if done == 0 else done + stride)
        begin = max(0, end - window)
        expected += [log_p(model, ids[begin : target + 1], ids[target + 1]) for target in range(done, end)]
        done = end
    assert np.allclose(found, expected, atol=1e-9)


def test_short_texts_and_wrong_windows() -> None:
    model = gpt()
    assert log_likelihoods(model, [1, 2]).shape == (1,)
    for ids in ([1], [], [[1, 2]]):
        with pytest.raises(ShapeError, match="at least two ids"):
            log_likelihoods(model, ids)
    for window, stride in ((9, 1), (4, 5), (4, 0)):
        with pytest.raises(RangeError, match="1 ≤ stride ≤ window ≤ 8"):
            log_likelihoods(model, [1, 2, 3], window, stride)


def test_metrics_are_those_of_the_scored_tokens() -> None:
    model, text = gpt(), "zäh" * 9
    ids = TOKENIZER.encode(text)
    metrics = evaluate_ids(model, TOKENIZER, ids, stride=2)
    loss = -log_likelihoods(model, ids, stride=2).mean()
    assert metrics["loss"] == pytest.approx(loss)
    assert metrics["perplexity"] == pytest.approx(exp(loss))
    assert metrics["tokens"] == 26
    assert metrics["bits_per_byte"] == pytest.approx(loss * 26 / log(2) / (9 * 4 - 1))  # but for the first letter


def test_the_most_probable_choice_comes_first() -> None:
    model, prompt = gpt(), TOKENIZER.encode("abc").tolist()
    texts = ["yes", "no", "a"]
    expected = {}
    for text in texts:
        ids = TOKENIZER.encode(text).tolist()
        expected[text] = sum(log_p(model, [*prompt, *ids[:i]], token) for i, token in enumerate(ids))
    for given in ("abc", prompt):
        found = choose(model, TOKENIZER, given, texts)
        assert [choice.text for choice in found] == sorted(texts, key=lambda text: -expected[text])
        total = sum(exp(each) for each in expected.values())
        for choice in found:
            assert choice.log_probability == pytest.approx(expected[choice.text], abs=1e-4)
            assert choice.probability == pytest.approx(exp(expected[choice.text]) / total, abs=1e-4)
    for wrong in (["yes"], ["yes", ""], ["a", "b" * 7]):
        with pytest.raises(RangeError, match="at least two choices"):
            choose(model, TOKENIZER, "abc", wrong)
