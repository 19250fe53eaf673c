"""Metrics of answers: exact match by hand, BLEU as the paper counts it and as sacreBLEU's own command would say."""

import sys
from math import exp, log

import pytest

from compyute_transformer.errors import MissingExtraError, ShapeError
from compyute_transformer.training.reporting.metrics import bleu, chrf, exact_match, has_sacrebleu


def test_exact_match_counts_characters_and_case() -> None:
    assert exact_match(["a", "b", "c", "d"], ["a", "B", "c ", "d"]) == 0.5
    assert exact_match([""], [""]) == 1.0


def test_bleu_of_one_sentence_by_hand() -> None:
    answer, reference = "the cat sat on the mat today", "the cat sat on a mat today and slept"
    # shared 1- to 4-grams: 6 of 7, 4 of 6, 2 of 5, 1 of 4; 7 words for 9
    precision = exp((log(6 / 7) + log(4 / 6) + log(2 / 5) + log(1 / 4)) / 4)
    assert bleu([answer], [reference]) == pytest.approx(100 * exp(1 - 9 / 7) * precision, rel=1e-9)


def test_bleu_counts_all_answers_together() -> None:
    answers, references = ["a b c d e", "f g h i"], ["a b c d e", "f g h j"]
    precision = exp((log(8 / 9) + log(6 / 7) + log(4 / 5) + log(2 / 3)) / 4)
    assert bleu(answers, references) == pytest.approx(100 * precision, rel=1e-9)
    assert bleu(["1999-03-03"], ["1999-03-03"]) == pytest.approx(100.0)


@pytest.mark.parametrize("metric", [exact_match, bleu, chrf])
def test_as_many_references_as_answers(metric) -> None:
    with pytest.raises(ShapeError, match="got 2 translations and 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="got 0 translations and 0 references"):
        metric([], [])


def test_without_sacrebleu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_sacrebleu()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[translation\]'"):
        bleu(["a"], ["a"])


def test_bleu_and_chrf_tell_capitals_apart() -> None:
    small = ["the cat sat on a mat", "it was not his own"]
    assert bleu(small, small) == pytest.approx(100)
    for metric in (bleu, chrf):
        assert metric([text.upper() for text in small], small) < 10
