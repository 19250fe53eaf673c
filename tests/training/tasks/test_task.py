from math import log
from pathlib import Path

import numpy as np
import pytest
from training_helpers import TEXT, task, tiny

from compyute_transformer import GPT
from compyute_transformer.data import IGNORE_INDEX, train_tokenizer
from compyute_transformer.data.text.batches import chosen_windows
from compyute_transformer.errors import CorpusError, VocabularyError
from compyute_transformer.ops import cross_entropy
from compyute_transformer.training import LanguageTask
from compyute_transformer.training.settings.presets import DEFAULT_PRESET, PRESETS
from compyute_transformer.training.tasks.language import evaluate_language
from compyute_transformer.training.tasks.task import split_batch


def gradient(parts: int, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient of one batch, taken in so many parts, in float64."""
    language = task(np.float64, dropout=0.0)
    loss = sum(language.loss_and_gradient(pair, weight) for pair, weight in split_batch([x, y], parts))
    return loss, language.model.flat.grad.copy()


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_large_batch(parts: int) -> None:
    language = task(batch_size=8, accumulation=1)
    x, y = language.batches.batch(0)
    y = y.copy()
    y[0, 3:], y[1], y[5, ::2] = IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX  # parts that score unequally, or nothing
    loss, whole = gradient(1, x, y)
    accumulated_loss, accumulated = gradient(parts, x, y)
    assert abs(whole).max() > 1e-3
    assert abs(accumulated - whole).max() <= 1e-14
    assert accumulated_loss == pytest.approx(loss, rel=1e-14)


def test_a_step_sees_the_same_rows_however_they_are_cut() -> None:
    cuts = [task(batch_size=8 // parts, accumulation=parts) for parts in (1, 2, 4)]
    for _ in range(2):
        batches = [language.batch() for language in cuts]
        assert [len(batch) for batch in batches] == [1, 2, 4]
        rows = [np.concatenate([x for (x, _), _ in batch]) for batch in batches]
        assert rows[0].shape == (8, 16)
        assert np.array_equal(rows[0], rows[1])
        assert np.array_equal(rows[0], rows[2])
        assert [sum(weight for _, weight in batch) for batch in batches] == [1.0, 1.0, 1.0]
    assert {language.units_per_step for language in cuts} == {8 * 16}


def test_validation_is_the_mean_over_every_target() -> None:
    language = task(np.float64)
    tokens, model = language.validation_tokens, language.model.eval()
    nats = []
    for start in range(0, len(tokens) - 1, 16):  # window by window, the last one short and not padded
        x, y = tokens[start : start + 16][: len(tokens) - 1 - start], tokens[start + 1 : start + 17]
        logits = model(x[None])[0]
        nats += [float(cross_entropy(logits[t], np.asarray(y[t]))) for t in range(len(y))]
    assert len(nats) == len(tokens) - 1
    assert len(nats) % 16 != 0
    for batch_size in (1, 3, 1000):
        metrics = evaluate_language(model, language.tokenizer, tokens, batch_size)
        assert metrics["loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-12)
        assert metrics["bits_per_character"] == pytest.approx(sum(nats) / len(nats) / log(2), rel=1e-12)
        assert metrics["tokens"] == metrics["characters"] == len(nats)


def test_a_bounded_validation_is_the_mean_over_windows_that_the_seed_chooses() -> None:
    language = task(np.float64)
    tokens, model = language.validation_tokens, language.model.eval()
    windows = {
        seed: [
            (x, y) for xs, ys in chosen_windows(tokens, 16, 2, 3 * 16 + 5, seed) for x, y in zip(xs, ys, strict=True)
        ]
        for seed in (0, 1)
    }
    starts = {seed: [find(tokens, x) for x, _ in chosen] for seed, chosen in windows.items()}
    assert all(len(set(each)) == 3 and each == sorted(each) for each in starts.values())
    assert all(start % 16 == 0 for each in starts.values() for start in each)
    assert starts[0] != starts[1]
    losses = [float(cross_entropy(model(x[None])[0], y)) for x, y in windows[1]]
    metrics = evaluate_language(model, language.tokenizer, tokens, 2, most=3 * 16 + 5, seed=1)
    assert metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert metrics["tokens"] == metrics["characters"] == 48
    whole = evaluate_language(model, language.tokenizer, tokens, 2)
    assert evaluate_language(model, language.tokenizer, tokens, 2, most=len(tokens) - 1, seed=1) == whole
    assert evaluate_language(model, language.tokenizer, tokens, 2, most=1)["tokens"] == 16
    bounded = task(np.float64, eval_tokens=53, seed=1)
    assert bounded.validate()["tokens"] == 48
    assert bounded.facts()["validated on"] == "53 of them, chosen by the seed (--eval-tokens)"
    assert "validated on" not in language.facts()


def find(tokens: np.ndarray, window: np.ndarray) -> int:
    """The place of a window that occurs once among those that begin at multiples of its length."""
    places = [s for s in range(0, len(tokens), len(window)) if np.array_equal(tokens[s : s + len(window)], window)]
    assert len(places) == 1
    return places[0]


def test_bits_count_characters_whatever_the_tokens() -> None:
    settings = tiny()
    tokenizer = train_tokenizer("bpe", TEXT, 300)
    model = GPT(settings.model.config({"vocab_size": tokenizer.vocab_size}))
    tokens = tokenizer.encode(TEXT[:500])
    metrics = evaluate_language(model, tokenizer, tokens, 4)
    characters = 500 - len(tokenizer.decode(tokens[:1]))
    assert metrics["tokens"] == len(tokens) - 1 < metrics["characters"] == characters
    assert metrics["bits_per_character"] == pytest.approx(metrics["loss"] * metrics["tokens"] / characters / log(2))


def test_bits_per_byte_count_the_bytes_of_utf8() -> None:
    text = "é€𝄞a" * 100  # 2, 3, 4 and 1 bytes
    tokenizer = train_tokenizer("characters", text)
    model = GPT(tiny().model.config({"vocab_size": tokenizer.vocab_size}))
    metrics = evaluate_language(model, tokenizer, tokenizer.encode(text[:41]), 4)
    assert metrics["characters"] == 40
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / log(2) * 40 / 100, rel=1e-12)
    assert metrics["bits_per_character"] == pytest.approx(2.5 * metrics["bits_per_byte"], rel=1e-12)


def test_looking_changes_nothing() -> None:
    language = task()
    for (x, y), weight in language.batch():
        language.loss_and_gradient((x, y), weight)
    state, grad, weights = language.state(), language.model.flat.grad.copy(), language.model.state_dict()
    assert state["dropout"]["offset"] > 0
    first, text = language.validate(), language.sample(5)
    assert language.validate() == first  # no dropout
    assert language.sample(5) == text
    assert language.sample(6) != text
    assert language.state() == state
    assert all(module.training for _, module in language.model.named_modules())
    assert np.array_equal(language.model.flat.grad, grad)
    assert all(np.array_equal(array, weights[name]) for name, array in language.model.state_dict().items())


def test_a_state_goes_on_where_it_was_taken() -> None:
    one, two = task(), task()
    for _ in range(3):
        for pair, weight in one.batch():
            one.loss_and_gradient(pair, weight)
    two.load_state(one.state())
    one.model.zero_grad()
    for language in (one, two):
        for pair, weight in language.batch():
            language.loss_and_gradient(pair, weight)
    assert np.array_equal(one.model.flat.grad, two.model.flat.grad)
    assert (
        one.state() == two.state() == {"batch": 4, "dropout": {"seed": 0, "stream": 1, "offset": 4 * 2 * (1 + 3 * 3)}}
    )


def test_a_sample_begins_with_its_prompt() -> None:
    language = task(sample_prompt="the cat")
    text = language.sample(0)
    assert text is not None
    assert text.startswith("the cat")
    assert len(text) == len("the cat") + 20


def test_without_a_validation_text_there_are_no_metrics() -> None:
    language = task()
    silent = LanguageTask(
        language.model, language.tokenizer, language.training_tokens, None, language.settings, {"corpus": "words"}
    )
    assert silent.validate() == {}
    assert silent.facts() == {
        "corpus": "words",
        "training_tokens": 1800,
        "validation_tokens": 0,
        "vocab_size": language.tokenizer.vocab_size,
    }


def test_what_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="'Z'"):
        task(sample_prompt="Zebra")


def test_the_prompt_of_a_preset_is_left_out_where_it_cannot_be_encoded() -> None:
    preset = str(PRESETS[DEFAULT_PRESET]["training"]["sample_prompt"])
    assert not set(preset) <= set(TEXT)
    assert task(sample_prompt=preset).prompt == ""
    assert task(sample_prompt="the cat").prompt == "the cat"
    with pytest.raises(CorpusError, match=r"training split must have at least .* = 1801 tokens, got 1800"):
        task(context_length=1800)
    good = task()
    with pytest.raises(CorpusError, match="validation split must have at least 2 tokens"):
        LanguageTask(good.model, good.tokenizer, good.training_tokens, good.training_tokens[:1], good.settings)
