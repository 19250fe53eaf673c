"""A batch: each prompt gets exactly the tokens it gets alone, whatever stands beside it."""

from typing import Any

import numpy as np
import pytest
from generation_helpers import arguments

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import ConfigError, RangeError, VocabularyError
from compyute_transformer.generation import generate, generate_batch
from compyute_transformer.models import GPT, GPTConfig, Llama, LlamaConfig

LETTERS = CharacterTokenizer("\nabcdefghijklmnopqrstuvwxyz")
PROMPTS = ["abc", "", "thequickbrownfox", "abcdefghijkl", "z", "abc"]  # shorter and longer than the context


def gpt(rotary: bool = False, **options: Any) -> GPT | Llama:
    config = {"context_length": 12, "embed_dim": 16, "num_heads": 4, "num_layers": 2, "dropout": 0.5} | options
    model: GPT | Llama = GPT(GPTConfig(LETTERS.vocab_size, **config), seed=3)
    if rotary:
        model = Llama(LlamaConfig(LETTERS.vocab_size, **config), seed=3)
    model.flat.data *= 12
    return model


def prompts_and(options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each prompt with the options that it gets in a batch: one that occurs again has the next seed."""
    seed = options.get("seed", 0)
    return [
        (prompt, arguments(**options | {"seed": seed + PROMPTS[:index].count(prompt)}))
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "model",
    [{}, {"window": 3, "num_kv_heads": 2, "tie_word_embeddings": False}, {"rotary": True, "num_kv_heads": 2}],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.5, "seed": 5},
        {"temperature": 1.2, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.4, "stride": 5},
    ],
    ids=str,
)
def test_each_prompt_gets_the_text_it_gets_alone(options: dict[str, Any], model: dict[str, Any], cached: bool) -> None:
    made = gpt(**model)
    alone = [generate(made, LETTERS, prompt, max_new_tokens=25, **each) for prompt, each in prompts_and(options)]
    assert generate_batch(made, LETTERS, PROMPTS, max_new_tokens=25, cached=cached, **arguments(**options)) == alone
    assert all(len(text) == 25 for text in alone)
    assert len(set(alone)) == len(PROMPTS if options["temperature"] else set(PROMPTS))


def test_texts_that_stop_leave_the_batch_and_the_others_go_on() -> None:
    made, options = gpt(), {"max_new_tokens": 30, "temperature": 1.5, "stop": ["q", "ab"]}
    alone = [generate(made, LETTERS, prompt, **each) for prompt, each in prompts_and(options)]
    assert generate_batch(made, LETTERS, PROMPTS, **arguments(**options)) == alone
    assert len({len(text) for text in alone}) > 2


def test_seeds_may_be_given_one_by_one() -> None:
    made, options = gpt(), {"max_new_tokens": 20, "temperature": 1.5}
    texts = generate_batch(made, LETTERS, ["abc"] * 3, **arguments(**options) | {"seed": [1, 2, 1]})
    assert texts == [generate(made, LETTERS, "abc", **arguments(seed=seed, **options)) for seed in (1, 2, 1)]
    assert texts[0] != texts[1]


def test_neighbors_change_nothing() -> None:
    made, options = gpt(), {"max_new_tokens": 20, "temperature": 1.5}
    first = generate_batch(made, LETTERS, ["abc", "thequick"], **arguments(**options))[0]
    assert generate_batch(made, LETTERS, ["abc", "a"], **arguments(**options))[0] == first


def test_no_prompts_and_no_tokens_are_no_text() -> None:
    assert generate_batch(gpt(), LETTERS, [], max_new_tokens=3) == []
    assert generate_batch(gpt(), LETTERS, ["a", "bc"], max_new_tokens=0) == ["", ""]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("abc", {}, "a sequence of texts, got one text"),
        (["a"], {"max_new_tokens": -1}, "max_new_tokens is a whole number of at least 0"),
        (["a"], {"min_p": 2.0}, "min_p lies in"),
        (["a"], {"stride": 0}, "stride lies in"),
        (["a"], {"stop": ["", "b"]}, "not empty"),
    ],
)
def test_options_are_refused(prompts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        generate_batch(gpt(), LETTERS, prompts, **arguments(**{"max_new_tokens": 3} | options))


def test_fewer_seeds_than_prompts_are_refused() -> None:
    with pytest.raises(RangeError, match="one for each prompt, got 1 for 2"):
        generate_batch(gpt(), LETTERS, ["a", "b"], max_new_tokens=3, seed=[1])


def test_what_the_vocabulary_lacks_is_refused() -> None:
    with pytest.raises(VocabularyError, match="lacks 'É'"):
        generate_batch(gpt(), LETTERS, ["abc", "É"], max_new_tokens=3)
    with pytest.raises(ConfigError, match="tokenizer has 27 tokens"):
        generate_batch(GPT(GPTConfig(3, 8, 8, 2, 1)), LETTERS, ["abc"], max_new_tokens=3)


def test_the_model_is_left_as_it_was() -> None:
    made = gpt()
    before = made.flat.data.copy()
    generate_batch(made, LETTERS, PROMPTS, max_new_tokens=3)
    assert made.training
    assert made.generator.offset == 0
    np.testing.assert_array_equal(made.flat.data, before)
