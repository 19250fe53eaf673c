"""Translation: the best of all answers, greedy search by hand, cached as uncached, many sources as one alone."""

from itertools import product
from math import exp, fsum
from typing import Any

import numpy as np
import pytest
from generation_helpers import arguments
from numpy.typing import NDArray

from compyute_transformer.data import CharacterTokenizer, special_tokens
from compyute_transformer.errors import ConfigError, NonFiniteError, RangeError, VocabularyError
from compyute_transformer.generation import Translation, probabilities, stream_translation, translate
from compyute_transformer.generation.decode import evaluating
from compyute_transformer.generation.sampling import Sampling
from compyute_transformer.models.transformer import Transformer, TransformerConfig

LETTERS = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz")
FEW = CharacterTokenizer("ab")
TEXTS = ["abc", "", "thequickbro", "z", "abc", "lazydog"]


def model(tokenizer: CharacterTokenizer = LETTERS, seed: int = 2, scale: float = 2.0, **options: Any) -> Transformer:
    """Not trained, but sharp enough that answers differ, and that some end and some do not."""
    config = {"context_length": 12, "embed_dim": 16, "num_heads": 4, "num_layers": 2, "dropout": 0.5} | options
    made = Transformer(TransformerConfig(special_tokens(tokenizer).vocab_size, **config), seed=seed)
    made.flat.data *= scale
    return made.to(dtype=np.float64)


def log_p(made: Transformer, tokenizer: CharacterTokenizer, text: str, answer: list[int]) -> NDArray[np.float64]:
    """Log-probabilities (len(answer) + 1, V) by the model's plain forward: of each token, and of the next."""
    special = special_tokens(tokenizer)
    source = np.array([[*tokenizer.encode(text).tolist(), special.end]], np.int32)
    with evaluating():
        target = [special.begin, *answer][: made.config.context_length]
        logits = made(source, np.array([target], np.int32))[0]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# What is found


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_a_wide_beam_finds_the_best_of_all_answers(seed: int, penalty: float) -> None:
    made, text, longest = model(FEW, seed, num_layers=1), "ab", 4
    end = special_tokens(FEW).end
    scores = {}
    for length in range(longest):
        for reference in product(range(FEW.vocab_size), repeat=length):
            rows = log_p(made, FEW, text, list(reference))
            total = sum(float(rows[n, token]) for n, token in enumerate([*reference, end]))
            scores[reference] = total / ((5 + length + 1) / 6) ** penalty
    best = max(scores, key=scores.__getitem__)
    [found] = translate(made, FEW, [text], beam_size=100, length_penalty=penalty, max_new_tokens=longest)
    assert found.ids == best
    assert found.ended
    assert found.text == FEW.decode(best)
    assert found.score == pytest.approx(scores[best], rel=1e-9)
    divisor = ((5 + len(best) + 1) / 6) ** penalty
    assert found.log_probability == pytest.approx(scores[best] * divisor, rel=1e-9)


def greedy(made: Transformer, text: str, longest: int) -> list[int]:
    special, ids = special_tokens(LETTERS), []
    while len(ids) < longest and special.end not in ids:
        last = log_p(made, LETTERS, text, ids)[-1]
        last[[special.padding, special.begin]] = -np.inf
        ids.append(int(last.argmax()))
    return ids


def test_a_beam_of_one_is_greedy_search() -> None:
    made, end = model(), special_tokens(LETTERS).end
    answers = translate(made, LETTERS, TEXTS)
    expected = [greedy(made, text, 12) for text in TEXTS]
    assert [[*answer.ids, *([end] if answer.ended else [])] for answer in answers] == expected
    assert len({answer.text for answer in answers}) > 3
    assert {answer.ended for answer in answers} == {True, False}
    for answer, text in zip(answers, TEXTS, strict=True):
        rows = log_p(made, LETTERS, text, list(answer.ids))
        each = [float(rows[n, token]) for n, token in enumerate([*answer.ids, *([end] if answer.ended else [])])]
        assert answer.log_probabilities == pytest.approx(each, rel=1e-8)
        assert answer.log_probability == pytest.approx(fsum(each), rel=1e-8)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2}, {"attn_implementation": "sequential"}], ids=str)
def test_cached_equals_uncached(beam_size: int, options: dict[str, Any]) -> None:
    made = model(**options)
    cached, uncached = (translate(made, LETTERS, TEXTS, beam_size, cached=cached) for cached in (True, False))
    for ours, theirs in zip(cached, uncached, strict=True):
        assert (ours.text, ours.ids, ours.ended) == (theirs.text, theirs.ids, theirs.ended)
        assert ours.log_probabilities == pytest.approx(theirs.log_probabilities, rel=1e-8)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_each_source_gets_the_answer_it_gets_alone(beam_size: int) -> None:
    made = model()
    together = translate(made, LETTERS, TEXTS * 30, beam_size)  # more than one batch
    alone = [translate(made, LETTERS, [text], beam_size)[0] for text in TEXTS]
    for ours, theirs in zip(together, alone * 30, strict=True):
        assert ours.ids == theirs.ids
        assert ours.score == pytest.approx(theirs.score, rel=1e-8)
    assert translate(made, LETTERS, []) == []


# Where it ends


def test_an_answer_is_cut_at_the_longest_and_says_so() -> None:
    made = model()
    full = translate(made, LETTERS, TEXTS)
    assert not all(answer.ended for answer in full)
    assert max(len(answer.ids) for answer in full) == 12  # the context length
    assert translate(made, LETTERS, TEXTS, max_new_tokens=13) == full
    for short, long in zip(translate(made, LETTERS, TEXTS, max_new_tokens=3), full, strict=True):
        assert short.ids == long.ids[:3]
        assert short.ended == (long.ended and len(long.ids) < 3)


def test_end_alone_is_an_empty_answer() -> None:
    [answer] = translate(model(), LETTERS, ["abc"])
    assert answer == Translation("", (), answer.log_probabilities, answer.log_probability, True)
    assert len(answer.log_probabilities) == 1


def test_padding_begin_and_rows_without_a_token_are_never_written() -> None:
    special = special_tokens(FEW)
    made = Transformer(TransformerConfig(special.vocab_size + 3, 12, 16, 4, 1), seed=0)
    made.flat.data *= 2
    texts = ["".join(text) for text in product("ab", repeat=4)]
    for answer in translate(made, FEW, texts, beam_size=4):
        assert set(answer.ids) <= {0, 1}


def test_the_model_runs_in_eval_and_is_left_as_it_was() -> None:
    made = model()
    before = made.generator.offset
    assert translate(made, LETTERS, ["abc"]) == translate(made, LETTERS, ["abc"])
    assert made.training
    assert made.dropout.training
    assert made.generator.offset == before


def test_probabilities_are_those_of_the_whole_vocabulary() -> None:
    [answer] = translate(model(), LETTERS, ["abc"])
    assert all(0 < exp(p) < 1 for p in answer.log_probabilities)
    assert len(answer.log_probabilities) == len(answer.ids) + answer.ended


# What is drawn


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_at_temperature_zero_the_answer_is_that_of_greedy_search(text: str, cached: bool) -> None:
    made = model()
    pieces = stream_translation(made, LETTERS, text, cached=cached, sampling=Sampling(temperature=0.0))
    [answer] = translate(made, LETTERS, [text])
    assert "".join(pieces) == answer.text
    assert tuple(pieces.ids) == answer.ids
    assert pieces.ended is answer.ended
    assert pieces.log_probabilities == pytest.approx(answer.log_probabilities[: len(answer.ids)], rel=1e-9)


@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"temperature": 2.0, "top_k": 4, "repetition_penalty": 3.0}, {"top_p": 0.7}]
)
def test_tokens_are_drawn_from_the_probabilities_of_the_plain_forward(options: dict[str, Any]) -> None:
    made, text, special = model(FEW, scale=0.7), "abba", special_tokens(FEW)
    firsts = [
        stream_translation(made, FEW, text, max_new_tokens=1, **arguments(seed=seed, **options)) for seed in range(400)
    ]
    drawn = [next(iter(["".join(one)]), "") for one in firsts]
    logits = log_p(made, FEW, text, [])[0].copy()
    logits[[special.padding, special.begin]] = -np.inf
    expected = probabilities(logits, Sampling(**{"temperature": 1.0, **{"temperature": 0.8, **options}}))
    for token in range(FEW.vocab_size):
        share = drawn.count(FEW.decode([token])) / len(drawn)
        assert abs(share - expected[token]) < 4 * np.sqrt(max(expected[token], 0.01) / len(drawn))


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_cache() -> None:
    made = model(scale=0.7)
    texts = {
        cached: [
            "".join(stream_translation(made, LETTERS, "abc", cached=cached, sampling=Sampling(seed=seed)))
            for seed in range(6)
        ]
        for cached in (True, False)
    }
    assert texts[True] == texts[False]
    assert len(set(texts[True])) > 1


def test_drawing_ends_before_a_stop_text_and_leaves_the_mode() -> None:
    made = model(scale=0.7).train()
    whole = "".join(stream_translation(made, LETTERS, "abc", sampling=Sampling(seed=3)))
    assert len(whole) > 3
    pieces = stream_translation(made, LETTERS, "abc", sampling=Sampling(seed=3, stop=[whole[2:4]]))
    assert "".join(pieces) == whole[: whole.index(whole[2:4])]
    assert pieces.stopped
    assert made.training


def test_a_repeated_token_is_punished() -> None:
    made, text, special = model(), "thequickbro", special_tokens(LETTERS)
    plain, punished = (
        stream_translation(made, LETTERS, text, sampling=Sampling(temperature=0.0, repetition_penalty=penalty))
        for penalty in (1.0, 4.0)
    )
    assert "".join(plain) != "".join(punished)
    source = np.array([[*LETTERS.encode(text).tolist(), special.end]], np.int32)
    with evaluating():
        logits = made(source, np.array([[special.begin, *punished.ids]], np.int32)[:, : made.config.context_length])[0]
    logits[:, [special.padding, special.begin]] = -np.inf
    for n, token in enumerate(punished.ids):
        assert (
            probabilities(logits[n], Sampling(temperature=0.0, repetition_penalty=4.0), seen=punished.ids[:n])[token]
            == 1.0
        )


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"max_new_tokens": 0}, {"stop": [""]}])
def test_options_of_drawing_are_refused_at_the_call(options: dict[str, Any]) -> None:
    with pytest.raises(RangeError):
        stream_translation(model(), LETTERS, "abc", **arguments(**options))


def test_a_text_that_cannot_be_read_is_refused_at_the_call() -> None:
    with pytest.raises(RangeError, match="a source has at most 12 tokens"):
        stream_translation(model(), LETTERS, "a" * 12)
    with pytest.raises(VocabularyError):
        stream_translation(model(), LETTERS, "A")


# What is refused


@pytest.mark.parametrize("options", [{"beam_size": 0}, {"length_penalty": -1.0}, {"max_new_tokens": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(RangeError, match=rf"^translate: {next(iter(options))} is "):
        translate(model(), LETTERS, ["abc"], **options)


def test_texts_that_cannot_be_read() -> None:
    made = model()
    with pytest.raises(RangeError, match="got one text"):
        translate(made, LETTERS, "abc")
    assert len(translate(made, LETTERS, ["a" * 11])) == 1
    with pytest.raises(RangeError, match=r"at most 12 tokens, .* its end included, got 13 for 'aaaaaaaaaaaa'"):
        translate(made, LETTERS, ["abc", "a" * 12])
    with pytest.raises(VocabularyError, match="lacks 'Z'"):
        translate(made, LETTERS, ["Z"])
    with pytest.raises(ConfigError, match="with the three special ones, 29 tokens and the model 5 rows"):
        translate(model(FEW), LETTERS, ["abc"])


def test_a_model_that_has_diverged() -> None:
    made = model()
    made.flat.data[:] = np.nan
    with pytest.raises(NonFiniteError, match="The model has diverged"):
        translate(made, LETTERS, ["abc"])
