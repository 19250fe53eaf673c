"""Metrics of translations against references: texts in, numbers out."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from ...errors import MissingExtraError, ShapeError

__all__ = ["bleu", "chrf", "exact_match", "has_sacrebleu"]

UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
MOSTLY = 0.3  # from this fraction of letters without spaces between words on, a word is a character


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the fraction of translations, in [0, 1], that equal their reference character by character.

    Raises ShapeError if there are none, or if the numbers of translations and references differ.
    """
    _check("exact_match", translations, references)
    pairs = zip(translations, references, strict=True)
    return sum(translation == reference for translation, reference in pairs) / len(translations)


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU of all translations, in [0, 100], with one reference each, by sacreBLEU.

    Words are cut by the rule "13a". References in a script without spaces between words (Chinese, Japanese, Thai, ...)
    are cut into characters. If no reference has four words, the longest n-grams that occur are the highest order.

    Raises MissingExtraError without sacreBLEU, ShapeError as `exact_match`.

    Sources: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"; Post 2018, "A call
    for clarity in reporting BLEU scores".
    """
    _check("bleu", translations, references)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise _missing("bleu", "BLEU") from error
    tokenize = "char" if _unspaced(references) else "13a"
    cut = BLEU(tokenize=tokenize).tokenizer
    longest = max(len(cut(reference).split()) for reference in references)
    score = BLEU(tokenize=tokenize, max_ngram_order=min(4, max(1, longest)))
    return float(score.corpus_score(list(translations), [list(references)]).score)


def chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the chrF of all translations, in [0, 100], with one reference each, by sacreBLEU with its defaults.

    chrF compares n-grams of characters, so it needs no rule for cutting words. Raises as `bleu`.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    _check("chrf", translations, references)
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise _missing("chrf", "chrF") from error
    return float(CHRF().corpus_score(list(translations), [list(references)]).score)


def has_sacrebleu() -> bool:
    """Return whether sacreBLEU is installed."""
    return find_spec("sacrebleu") is not None


def _unspaced(texts: Sequence[str]) -> bool:
    """Whether the texts are mostly of a script that puts no spaces between words."""
    letters = "".join("".join(text.split()) for text in texts)
    return len(UNSPACED.findall(letters)) > MOSTLY * len(letters)


def _missing(operation: str, metric: str) -> MissingExtraError:
    return MissingExtraError(
        f"{operation}: {metric} is computed by sacreBLEU, which is not installed. "
        "pip install 'compyute-transformer[translation]'; exact_match needs nothing."
    )


def _check(name: str, translations: Sequence[str], references: Sequence[str]) -> None:
    if len(translations) != len(references) or not translations:
        raise ShapeError(
            f"{name}: there is one reference for each translation, and at least one, got {len(translations)} "
            f"translations and {len(references)} references."
        )
