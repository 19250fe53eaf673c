"""Texts with labels in JSON lines, and batches of them.

{"text": "The soup was cold.", "label": "bad"}

ids       t₀ t₁ t₂ t₃  ·       (B, T), · = padding
lengths   4                    (B), how many tokens of each row are no padding
labels    0                    (B), the number of the label among all, in the order of the alphabet
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import CorpusError, RangeError
from ...random import BATCHES, CORPUS, RandomKey, random_bits
from ..sources import read_lines

__all__ = [
    "EncodedText",
    "LabelBatches",
    "LabeledText",
    "LabeledTexts",
    "has_labels",
    "label_batches",
    "load_labeled_texts",
]

RULE = 'a line is an object with two texts, {"text": "The soup was cold.", "label": "bad"}'


class LabeledText(NamedTuple):
    """A text, and what it is."""

    text: str
    label: str


@dataclass(frozen=True)
class LabeledTexts:
    """Texts with labels, and a note of where they came from."""

    name: str
    sources: tuple[str, ...]
    texts: tuple[LabeledText, ...] = field(repr=False)
    sha256: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, in the order of the alphabet."""
        return tuple(sorted({each.label for each in self.texts}))

    def split(self, validation_fraction: float) -> tuple[list[LabeledText], list[LabeledText]]:
        """Return the texts to train on, and those to validate: of each label the same part, chosen once for all.

        A label of a single text is trained on. Raises RangeError for a fraction outside [0, 1), CorpusError where
        nothing is left to validate.
        """
        if not 0 <= validation_fraction < 1:
            raise RangeError(f"LabeledTexts.split: a validation fraction lies in [0, 1), got {validation_fraction}.")
        if validation_fraction == 0:
            return list(self.texts), []
        order = np.argsort(random_bits(RandomKey(0, CORPUS, 0), 1, len(self.texts))[0, 0], kind="stable")
        held: set[int] = set()
        for label in self.labels:
            own = [int(i) for i in order if self.texts[i].label == label]
            held |= set(own[: min(len(own) - 1, max(1, round(len(own) * validation_fraction)))])
        if not held:
            raise CorpusError(
                f"LabeledTexts.split: each label of {self.name} has one text, so none can be held out. Give more, or "
                "--validation-fraction 0."
            )
        training = [each for i, each in enumerate(self.texts) if i not in held]
        return training, [self.texts[i] for i in sorted(held)]


def load_labeled_texts(sources: str | Path | Sequence[str | Path]) -> LabeledTexts:
    """Read labeled texts from files of JSON lines, one after the other.

    Each line is an object with "text" and "label", two texts that are not blank.

    Raises CorpusError, with file and line, for a missing file, a line that is something else, and fewer than two
    labels.
    """
    read = read_lines("load_labeled_texts", "labeled texts", sources)
    texts = tuple(_labeled(line, f"line {number} of {file}") for line, file, number in read.lines)
    found = LabeledTexts(read.files[0].stem, tuple(map(str, read.files)), texts, read.sha256)
    if len(found.labels) < 2:
        raise CorpusError(
            f"load_labeled_texts: there are at least two labels to tell apart, got {', '.join(found.labels) or 'none'} "
            f"in {read.files[0]}. Give texts of each label."
        )
    return found


def _labeled(line: str, place: str) -> LabeledText:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"load_labeled_texts: {RULE}, but {place} is no JSON: {error}. Correct it.") from error
    given: list[Any] = [values.get(name) if isinstance(values, dict) else None for name in ("text", "label")]
    if not all(isinstance(each, str) and each.strip() for each in given):
        raise CorpusError(f"load_labeled_texts: {RULE}, but {place} is another one. Correct it, or delete it.")
    return LabeledText(*given)


def has_labels(file: str | Path) -> bool:
    """Return whether the first line of a file that is not blank has a label; False for a file that cannot be read."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            line = next((line for line in opened if line.strip()), "")
        return "label" in json.loads(line)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


class EncodedText(NamedTuple):
    """ids (N) of a text, and the number of its label."""

    ids: np.ndarray
    label: int


class LabelBatches:
    """Shuffled batches of labeled texts, as a pure function of (seed, index). Each text comes once an epoch.

    `next()` returns (ids, lengths, labels) of the batches 0, 1, 2, ...; `cursor` is the index of the next one and the
    whole state.
    """

    def __init__(self, texts: Sequence[EncodedText], batch_size: int, seed: int = 0) -> None:
        self.texts, self.batch_size = list(texts), batch_size
        self.seed, self.cursor = seed, 0

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the batch of an index, whatever was drawn before."""
        count = len(self.texts)
        positions = range(index * self.batch_size, (index + 1) * self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in {position // count for position in positions}}
        return padded([self.texts[orders[position // count][position % count]] for position in positions])

    def next(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the batch at the cursor, which moves on by one."""
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        bits = random_bits(RandomKey(self.seed, BATCHES, epoch), 1, len(self.texts))[0, 0]
        return np.argsort(bits, kind="stable")


def label_batches(texts: Iterable[EncodedText], batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (ids, lengths, labels) of every text once, in their order."""
    listed = list(texts)
    for start in range(0, len(listed), batch_size):
        yield padded(listed[start : start + batch_size])


def padded(texts: Sequence[EncodedText]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (B, T), as wide as the longest text, lengths (B) and labels (B)."""
    lengths = np.array([len(text.ids) for text in texts], np.int32)
    ids = np.zeros((len(texts), int(lengths.max())), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text.ids)] = text.ids
    return ids, lengths, np.array([text.label for text in texts], np.int32)
