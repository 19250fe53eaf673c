"""Generation: what the model sees, what is handed out, and that the model is left as it was."""

from typing import Any

import numpy as np
import pytest
from generation_helpers import arguments

from compyute_transformer.data import BytePairTokenizer, CharacterTokenizer
from compyute_transformer.errors import ConfigError, RangeError, VocabularyError
from compyute_transformer.generation import generate, generate_batch, probabilities, sample, stream
from compyute_transformer.generation.decode import prefill
from compyute_transformer.generation.sampling import Sampling
from compyute_transformer.models import TransformerLM, TransformerLMConfig
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.nn.module import Observer, observe
from compyute_transformer.random import SAMPLING, RandomKey

CONTEXT = 8
LETTERS = CharacterTokenizer("\nabcdefghijklmnopqrstuvwxyz")
BYTES = BytePairTokenizer.train("", 256)


def gpt(vocab_size: int = LETTERS.vocab_size, dropout: float = 0.5, seed: int = 3) -> GPT:
    """A small model with a will: larger weights than at the start of a training, so that every token counts."""
    model = GPT(GPTConfig(vocab_size, CONTEXT, embed_dim=16, num_heads=2, num_layers=2, dropout=dropout), seed)
    model.flat.data *= 12
    return model


class Windows(Observer):
    """Keeps the ids that the model reads, and whether any module was in training meanwhile."""

    def __init__(self) -> None:
        self.read: list[list[int]] = []
        self.trained: set[bool] = set()

    def before(self, path, module, phase, inputs, *_) -> None:  # type: ignore[no-untyped-def]
        self.trained.add(module.training)
        if path == "token_embedding":
            self.read.append(inputs[0][0].tolist())


def test_greedy_text_is_the_argmax_of_each_explicit_window() -> None:
    model, prompt = gpt(), "the quick"
    ids = LETTERS.encode(prompt.replace(" ", "")).tolist()
    text = generate(model, LETTERS, LETTERS.decode(ids), max_new_tokens=20, sampling=Sampling(temperature=0))
    model.eval()
    for letter in text:
        window = np.array([ids[-CONTEXT:]], dtype=np.int64)
        expected = int(model(window)[0, -1].argmax())
        assert LETTERS.decode([expected]) == letter
        ids.append(expected)
    assert len(text) == 20


@pytest.mark.parametrize("length", [1, 3, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_the_context_grows_to_its_full_length_and_slides(length: int) -> None:
    model, prompt, windows = gpt(), ("abcdefghijklmnopqrstuvwxyz" * 2)[:length], Windows()
    with observe(model, windows):
        text = generate(model, LETTERS, prompt, max_new_tokens=12, cached=False)
    whole = LETTERS.encode(prompt + text).tolist()
    assert windows.read == [whole[max(0, end - CONTEXT) : end] for end in range(length, length + 12)]
    assert max(map(len, windows.read)) == CONTEXT


def test_with_a_cache_each_token_is_read_once_until_the_context_slides() -> None:
    model, windows = gpt(), Windows()
    with observe(model, windows):
        text = generate(model, LETTERS, "abcde", max_new_tokens=6)
    whole = LETTERS.encode("abcde" + text).tolist()
    assert windows.read == [whole[:5], whole[5:6], whole[6:7], whole[7:8], whole[1:9], whole[2:10]]


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "seed": 4, "repetition_penalty": 1.3}])
def test_the_cached_text_is_the_uncached_text(stride: int, options: dict[str, Any]) -> None:
    def text(cached: bool) -> str:
        return generate(
            gpt(), LETTERS, "abcde", max_new_tokens=40, stride=stride, cached=cached, **arguments(**options)
        )

    assert text(True) == text(False)
    assert len(text(True)) == 40


def test_a_stride_moves_the_window_by_steps_that_are_read_once() -> None:
    model, windows = gpt(), Windows()
    with observe(model, windows):
        text = generate(model, LETTERS, "abcdefgh", max_new_tokens=7, stride=4)
    whole = LETTERS.encode("abcdefgh" + text).tolist()
    steps = [whole[end - 1 : end] for end in range(10, 13)]
    assert windows.read == [whole[:8], whole[4:9], *steps, whole[8:13], whole[13:14]]


def test_tokens_of_prompt_and_text_count_as_seen() -> None:
    model = gpt()
    pieces = stream(
        model, LETTERS, "abcdefghij", max_new_tokens=12, sampling=Sampling(temperature=0, repetition_penalty=5.0)
    )
    ids = LETTERS.encode("abcdefghij" + "".join(pieces)).tolist()
    for end in range(10, 22):
        logits = prefill(model, [ids[:end][-CONTEXT:]])[0]
        assert probabilities(logits, Sampling(temperature=0, repetition_penalty=5.0), ids[:end]).argmax() == ids[end]
    assert pieces.ids != stream_ids(model, 12, "abcdefghij", temperature=0)


def test_equal_seeds_give_equal_texts() -> None:
    model = gpt()
    texts = [
        generate(model, LETTERS, "abc", max_new_tokens=30, sampling=Sampling(temperature=1.5, seed=seed))
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] == generate(gpt(), LETTERS, "abc", max_new_tokens=30, sampling=Sampling(temperature=1.5, seed=7))


def test_the_stream_joined_is_the_generated_text() -> None:
    model = gpt(256)
    pieces = stream(model, BYTES, "é", max_new_tokens=40, sampling=Sampling(temperature=2.0))
    first = next(pieces)
    text = first + "".join(pieces)
    assert text == generate(model, BYTES, "é", max_new_tokens=40, sampling=Sampling(temperature=2.0))
    assert len(pieces.ids) == len(pieces.log_probabilities) == 40
    assert text == BYTES.decode([*BYTES.encode("é").tolist(), *pieces.ids])[1:]
    assert not pieces.stopped
    assert pieces.tokens_per_second == pytest.approx(39 / (pieces.times[-1] - pieces.times[0]))


def test_each_token_is_one_draw_of_the_sampling_stream() -> None:
    model = gpt()
    pieces = stream(
        model,
        LETTERS,
        "ab",
        max_new_tokens=9,
        cached=False,
        sampling=Sampling(temperature=1.3, top_k=20, top_p=0.9, seed=5),
    )
    ids = LETTERS.encode("ab" + "".join(pieces)).tolist()
    for drawn, (token, log_probability) in enumerate(zip(pieces.ids, pieces.log_probabilities, strict=True)):
        logits = prefill(model, [ids[: 2 + drawn][-CONTEXT:]])[0]
        assert sample(logits, Sampling(temperature=1.3, top_k=20, top_p=0.9), key=RandomKey(5, SAMPLING, drawn)) == (
            token,
            log_probability,
        )


def euro_writer() -> GPT:
    """A model that writes "€" for ever, byte by byte, whatever it has read before the last byte."""
    model = GPT(GPTConfig(256, CONTEXT, embed_dim=4, num_heads=1, num_layers=1, tie_word_embeddings=False))
    model.flat.data[...] = 0  # the blocks add nothing
    model.norm.weight.data[...] = 1
    first, second, third = BYTES.encode("€").tolist()
    model.token_embedding.weight.data[:, 0] = 1  # any other byte is on the first axis
    for axis, (byte, follower) in enumerate([(third, first), (first, second), (second, third)]):
        model.token_embedding.weight.data[byte] = np.eye(4)[axis]
        model.head.weight.data[follower, axis] = 1
    return model


def test_half_characters_are_held_back() -> None:
    assert list(stream(euro_writer(), BYTES, "a", max_new_tokens=6, sampling=Sampling(temperature=0))) == ["€", "€"]
    assert list(stream(euro_writer(), BYTES, "a", max_new_tokens=5, sampling=Sampling(temperature=0))) == [
        "€",
        "\ufffd",
    ]


def test_stop_texts_end_the_text_across_tokens() -> None:
    model = euro_writer()
    pieces = stream(model, BYTES, "a", max_new_tokens=30, sampling=Sampling(temperature=0, stop=["x", "€€€"]))
    assert list(pieces) == []  # six of nine bytes were held back, and the stop text is not shown
    assert pieces.stopped
    assert len(pieces.ids) == 9
    text = generate(gpt(), LETTERS, "abc", max_new_tokens=40, sampling=Sampling(temperature=1.5))
    stop = text[20:23]
    assert (
        generate(gpt(), LETTERS, "abc", max_new_tokens=40, sampling=Sampling(temperature=1.5, stop=[stop]))
        == text[: text.find(stop)]
    )


def test_the_beginning_of_a_stop_text_is_shown_if_the_rest_does_not_come() -> None:
    assert generate(euro_writer(), BYTES, "a", max_new_tokens=6, sampling=Sampling(temperature=0, stop=["€!"])) == "€€"


def test_a_stop_text_in_the_prompt_stops_nothing() -> None:
    assert len(generate(gpt(), LETTERS, "abc", max_new_tokens=3, sampling=Sampling(stop=["abc", "bc"]))) == 3


def test_nothing_is_dropped_and_nothing_saved() -> None:
    model, windows = gpt(dropout=0.9), Windows()
    offset = model.generator.offset
    with observe(model, windows):
        generate(model, LETTERS, "abc", max_new_tokens=3)
    assert windows.trained == {False}
    assert model.generator.offset == offset
    assert not any(module._saved for _, module in model.named_modules())


def test_the_mode_of_every_module_is_as_it_was() -> None:
    model = gpt()
    model.blocks[1].eval()  # a part that is frozen stays frozen
    before = [module.training for _, module in model.named_modules()]

    def now() -> list[bool]:
        return [module.training for _, module in model.named_modules()]

    generate(model, LETTERS, "abc", max_new_tokens=3)
    assert now() == before
    abandoned = stream(model, LETTERS, "abc", max_new_tokens=3)
    next(abandoned)
    assert now() == before  # also while the iterator is still alive


def test_generation_in_the_middle_of_a_training_step_changes_nothing() -> None:
    ids = LETTERS.encode("abcdefgh").reshape(1, -1)
    gradients = []
    for disturbed in (False, True):
        model = gpt()
        logits = model(ids)
        if disturbed:
            generate(model, LETTERS, "xyz", max_new_tokens=2)
        model.backward(np.ones_like(logits))
        gradients.append(model.flat.grad.copy())
    np.testing.assert_array_equal(*gradients)


def test_an_empty_prompt_is_a_line_end_or_token_zero() -> None:
    model, letters = gpt(), CharacterTokenizer("\t" + LETTERS.characters[:-1])
    assert generate(model, letters, "", max_new_tokens=9) == generate(model, letters, "\n", max_new_tokens=9)
    assert generate(model, letters, "", max_new_tokens=9) != generate(model, letters, "\t", max_new_tokens=9)
    no_line_end = CharacterTokenizer("abc")
    model = gpt(3)
    assert generate(model, no_line_end, "", max_new_tokens=9) == generate(model, no_line_end, "a", max_new_tokens=9)


def test_rows_without_a_token_are_never_drawn() -> None:
    model = gpt(vocab_size=64)
    assert max(stream_ids(model, 60)) < LETTERS.vocab_size


def stream_ids(model: GPT, count: int, prompt: str = "a", temperature: float = 3.0) -> list[int]:
    pieces = stream(model, LETTERS, prompt, max_new_tokens=count, sampling=Sampling(temperature=temperature))
    assert len("".join(pieces)) == count
    return pieces.ids


def test_no_tokens_are_no_text() -> None:
    pieces = stream(gpt(), LETTERS, "abc", max_new_tokens=0)
    assert list(pieces) == pieces.ids == []
    assert pieces.tokens_per_second is None


def test_a_character_outside_the_vocabulary_is_named_before_anything_is_drawn() -> None:
    with pytest.raises(VocabularyError, match=r"lacks 'É' \(U\+00C9\) at position 2"):
        stream(gpt(), LETTERS, "abÉ", max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is a whole number of at least 0, got -1"),
        (
            {"max_new_tokens": 10**20},
            r"max_new_tokens is at most 1,000,000,000, got 100,000,000,000,000,000,000\. Give",
        ),
        ({"max_new_tokens": 2.5}, "max_new_tokens is a whole number of at least 0, got 2.5"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": -1}, "seed lies in"),
        ({"stop": [""]}, "not empty"),
        ({"stop": "abc"}, "sequence of texts"),
        ({"min_p": 1.5}, r"min_p lies in \(0, 1\], got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is a finite number above 0"),
        ({"stride": 0}, r"stride lies in \[1, 8\], the context length, got 0"),
        ({"stride": CONTEXT + 1}, "stride lies in"),
    ],
)
def test_options_are_refused_at_the_call(options: dict[str, object], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        stream(gpt(), LETTERS, "a", **arguments(**{"max_new_tokens": 3} | options))  # type: ignore[arg-type]


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer has 256 tokens and the model 27 rows"):
        stream(gpt(), BYTES, "a", max_new_tokens=3)


def test_another_language_model_writes_by_the_same_words() -> None:
    config = TransformerLMConfig(LETTERS.vocab_size, CONTEXT, embed_dim=16, num_heads=2, num_layers=2, dropout=0.5)
    model = TransformerLM(config, seed=3)
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.5, "seed": 1}
    prompts = ["thequick", "a", "fox"]
    alone = [generate(model, LETTERS, prompt, **arguments(**options)) for prompt in prompts]
    assert [len(text) for text in alone] == [20] * 3
    assert len(set(alone)) == 3
    assert alone == [generate(model, LETTERS, prompt, cached=False, **arguments(**options)) for prompt in prompts]
    assert alone == generate_batch(model, LETTERS, prompts, **arguments(**options))
    assert model.training
    assert model.generator.offset == 0


def test_an_end_token_ends_the_text_and_is_no_part_of_it() -> None:
    model = gpt()
    whole = stream(model, LETTERS, "abc", max_new_tokens=12, temperature=0)
    text = "".join(whole)
    assert not whole.ended
    end = next(i for i in range(1, 12) if text[i] not in text[:i])
    ids = LETTERS.encode("abc").tolist()
    for prompt in ("abc", ids, np.array(ids)):
        pieces = stream(model, LETTERS, prompt, max_new_tokens=12, stop_ids=[0, whole.ids[end]], temperature=0)
        assert "".join(pieces) == text[:end]
        assert (pieces.ended, pieces.stopped, pieces.ids) == (True, False, whole.ids[:end])
    texts = generate_batch(model, LETTERS, ["abc", "a"], max_new_tokens=12, stop_ids=[whole.ids[end]], temperature=0)
    assert texts[0] == text[:end]
    for prompt, stop_ids in (([], []), ([27], []), ("a", [27])):
        with pytest.raises(RangeError, match=r"lie in \[0, 27\)"):
            stream(model, LETTERS, prompt, max_new_tokens=1, stop_ids=stop_ids)
    with pytest.raises(RangeError, match="stop_ids are whole numbers of at least 0"):
        stream(model, LETTERS, "a", max_new_tokens=1, stop_ids=[-1])
