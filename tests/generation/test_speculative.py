"""Speculative decoding: the text is that of the model alone, whatever the draft guesses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from generation_helpers import arguments

from compyute_transformer.arrays import Array
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import ConfigError, RangeError
from compyute_transformer.generation import KeyValueCache, generate, generate_batch, stream
from compyute_transformer.generation.decode import Reader, prefill
from compyute_transformer.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig, ViT, ViTConfig
from compyute_transformer.nn import Observer, observe
from compyute_transformer.verify.function import randomize

LETTERS = CharacterTokenizer("abcdefghijk")
SIZES: dict[str, Any] = {"context_length": 24, "embed_dim": 24, "num_heads": 4, "num_layers": 2}
CONFIGS: dict[str, Any] = {
    "gpt": GPTConfig(11, **SIZES),
    "gpt, padded vocabulary": GPTConfig(14, **SIZES),
    "llama": LlamaConfig(11, **SIZES, mlp_dim=31),
    "llama, window, grouped heads": LlamaConfig(11, **SIZES, mlp_dim=31, window=5, num_kv_heads=2),
}


def made(config: Any, seed: int = 0) -> LanguageModel:
    """With weights as after a training, so that every token counts."""
    model = (GPT if isinstance(config, GPTConfig) else Llama)(config, seed)
    randomize(model, seed=seed)
    model.flat.data *= 0.3
    return model.eval()


def near(model: LanguageModel, amount: float) -> LanguageModel:
    """A draft that often agrees: the same weights, a little changed."""
    draft = type(model)(model.config)
    noise = np.random.default_rng(5).normal(0, amount, model.flat.data.shape)
    draft.flat.data[...] = model.flat.data + noise.astype(draft.flat.data.dtype)
    return draft.eval()


class Read(Observer):
    """Counts the forwards of a model, and keeps how many tokens each read."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def before(self, path, module, phase, inputs, *_) -> None:  # type: ignore[no-untyped-def]
        if path == "token_embedding":
            self.counts.append(inputs[0].shape[1])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0, "seed": 4, "repetition_penalty": 1.3}])
@pytest.mark.parametrize("amount", [0.0, 0.03, 1.0], ids=["right", "near", "wrong"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_text_is_that_of_the_model_alone(config: Any, amount: float, options: dict[str, Any]) -> None:
    model = made(config)
    draft, guessed, right = near(model, amount), 0, 0
    for prompt, count, stride in (("abc", 15, 1), ("abcdefghijka", 26, 7), ("a", 1, 1), ("b", 0, 1)):
        how = {"max_new_tokens": count, "stride": stride, **arguments(**options)}
        alone = stream(model, LETTERS, prompt, **how)
        drafted = stream(model, LETTERS, prompt, draft=draft, **how)
        assert "".join(drafted) == "".join(alone)
        assert drafted.ids == alone.ids
        np.testing.assert_allclose(drafted.log_probabilities, alone.log_probabilities, rtol=1e-4, atol=1e-4)
        assert (alone.drafted, alone.accepted) == (0, 0)
        guessed, right = guessed + drafted.drafted, right + drafted.accepted
    assert right <= guessed
    if amount == 0.0:
        assert right == guessed
    elif amount == 1.0 or options["temperature"]:
        assert right < guessed
    assert guessed >= 25


def test_several_tokens_are_read_at_once_and_the_cache_goes_back_where_a_guess_is_wrong() -> None:
    model, seen = made(CONFIGS["gpt"]), Read()
    with observe(model, seen):
        drafted = stream(model, LETTERS, "abc", max_new_tokens=20, draft=near(model, 0.03), temperature=0)
        text = "".join(drafted)
    assert len(text) == 20
    assert len(seen.counts) == 20 - drafted.accepted
    assert seen.counts[0] == 3 + 4  # the prompt, and the first guesses
    assert max(seen.counts[1:]) > 1
    with observe(model, seen):
        seen.counts.clear()
        "".join(stream(model, LETTERS, "abc", max_new_tokens=20, draft=near(model, 0.0), temperature=0))
    assert seen.counts == [3 + 4, 1 + 6, 1 + 7]  # right guesses make the next draft longer, up to the end of the text


def test_a_reader_keeps_what_two_texts_share() -> None:
    model, seen = made(CONFIGS["llama"]), Read()
    reader = Reader(model)
    texts = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 3, 9, 9, 9], [1, 2], [1, 2], [7, 2]]
    with observe(model, seen):
        logits = [reader.read_ahead(text, 2) for text in texts]
    assert seen.counts == [5, 2, 2, 2, 2, 2]
    for text, found in zip(texts, logits, strict=True):
        expected = np.concatenate([prefill(model, [text[:-1]]), prefill(model, [text])])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reader.read([[7, 2, 3]]), prefill(model, [[7, 2, 3]]), rtol=1e-4, atol=1e-5)
    assert reader.read([[1], [2]]).shape == (2, 11)
    assert reader.read_ahead([1, 2], 1).shape == (1, 11)  # the cache had two rows
    assert [reader.room(list(range(n))) for n in (1, 24, 25)] == [23, 0, 0]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "seed": 2}], ids=["greedy", "sampled"])
def test_a_token_or_a_text_inside_a_draft_ends_the_text(options: dict[str, Any]) -> None:
    model = made(CONFIGS["gpt"])
    draft, how = near(model, 0.0), {"max_new_tokens": 20, **options}
    whole = stream(model, LETTERS, "abc", **how)
    text = "".join(whole)
    stop_id = next(token for token in whole.ids[2:] if token not in whole.ids[:2])
    for more in ({"stop_ids": [stop_id]}, {"stop": [text[5:7]]}):
        alone, drafted = (stream(model, LETTERS, "abc", draft=given, **how, **more) for given in (None, draft))
        assert "".join(alone) == "".join(drafted) != text
        assert (alone.ids, alone.ended, alone.stopped) == (drafted.ids, drafted.ended, drafted.stopped)
        assert drafted.ended or drafted.stopped


def test_nothing_is_drafted_past_the_end_of_the_text_or_of_the_window() -> None:
    model = made(CONFIGS["gpt"])
    draft = near(model, 0.0)
    for count in (1, 2, 3):
        drafted = stream(model, LETTERS, "abc", max_new_tokens=count, draft=draft)
        assert len("".join(drafted)) == count
        assert drafted.drafted == drafted.accepted == count - 1
    past = stream(model, LETTERS, "abcdefgh" * 3, max_new_tokens=5, draft=draft)
    assert "".join(past) == generate(model, LETTERS, "abcdefgh" * 3, max_new_tokens=5)
    assert past.drafted == 0


def test_a_draft_with_a_shorter_context_works_too() -> None:
    model = made(CONFIGS["gpt"])
    draft = made(replace(CONFIGS["gpt"], context_length=5, num_layers=1), seed=1)
    for stride in (1, 7):
        how = {"max_new_tokens": 30, "stride": stride, "temperature": 0.0}
        assert generate(model, LETTERS, "abcabc", draft=draft, **how) == generate(model, LETTERS, "abcabc", **how)


def test_ids_are_generated_with_a_draft_too() -> None:
    model, ids = made(CONFIGS["llama"]), np.array([[1, 2, 3]])
    for options in ({"temperature": 0}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "stop_ids": [4]}):
        alone = model.generate(ids, max_new_tokens=20, **options)
        drafted = model.generate(ids, max_new_tokens=20, draft=near(model, 0.03), **options)
        np.testing.assert_array_equal(drafted, alone)
    with pytest.raises(RangeError, match="one row, got 2"):
        model.generate(np.array([[1], [2]]), max_new_tokens=2, draft=model)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "vocabulary": (lambda: made(GPTConfig(12, **SIZES)), {}, "11 tokens, got one of 12"),
    "kind": (lambda: ViT(ViTConfig(4, 4, 3, 5, 2, 12, 3, 1)), {}, "is a language model, got ViT"),
    "no cache": (lambda: made(CONFIGS["gpt"]), {"cached": False}, "got cached=False"),
    "dynamic": (
        lambda: made(replace(CONFIGS["llama"], rope_scaling="dynamic", rope_factor=2.0)),
        {},
        "dynamic scaling",
    ),
}


@pytest.mark.parametrize(("build", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_draft_that_cannot_guess_is_refused(build: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(made(CONFIGS["gpt"]), LETTERS, "abc", max_new_tokens=3, draft=build(), **options)


def test_a_batch_has_no_draft() -> None:
    model = made(CONFIGS["gpt"])
    with pytest.raises(ConfigError, match="A draft guesses for one text: use generate or stream"):
        generate_batch(model, LETTERS, ["a", "b"], max_new_tokens=3, draft=model)


def test_a_cache_is_truncated_within_what_it_holds() -> None:
    model = made(CONFIGS["gpt"])
    cache = KeyValueCache(model)
    ids: Array = np.array([[1, 2, 3, 4]])
    expected = model(ids, cache)[:, 2:]
    cache.truncate(2)
    np.testing.assert_allclose(model(ids[:, 2:], cache), expected, rtol=1e-4, atol=1e-5)
    cache.truncate(4)
    for length in (-1, 5):
        with pytest.raises(RangeError, match=r"length lies in \[0, 4\]"):
            cache.truncate(length)
    assert cache.length == 4
