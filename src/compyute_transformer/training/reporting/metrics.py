"""Metrics of answers beside the truth: texts in, numbers out; no model, no gradient."""

from collections.abc import Sequence
from importlib.util import find_spec

from ...errors import MissingExtraError, ShapeError

__all__ = ["bleu", "can_bleu", "exact_match"]


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of answers, in [0, 1], that are their reference, character by character.

    Raises ShapeError for no answers, or other numbers of answers and references.
    """
    _check("exact_match", answers, references)
    return sum(answer == reference for answer, reference in zip(answers, references, strict=True)) / len(answers)


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of all answers together, in [0, 100], one reference each: sacreBLEU's, with its defaults.

    Raises MissingExtraError without sacreBLEU, ShapeError as `exact_match`.

    Sources: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"; Post 2018, "A call
    for clarity in reporting BLEU scores", whose implementation this is: words cut by 13a, case kept, smoothed by exp.
    """
    _check("bleu", answers, references)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError(
            "bleu: BLEU is computed by sacreBLEU, which is not installed. "
            "pip install 'compyute-transformer[translation]'; exact_match needs nothing."
        ) from error
    return float(BLEU().corpus_score(list(answers), [list(references)]).score)


def can_bleu() -> bool:
    """Whether sacreBLEU is installed."""
    return find_spec("sacrebleu") is not None


def _check(name: str, answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references) or not answers:
        raise ShapeError(
            f"{name}: there is a reference for each answer, and at least one, got {len(answers)} answers and "
            f"{len(references)} references."
        )
