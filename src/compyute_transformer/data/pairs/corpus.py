"""Pairs of texts: a source, and the target to be predicted from it.

    names and files -> UTF-8 lines, a tab in each -> Pairs -> (pairs to train on, pairs to validate on)

The generated pairs "dates" are built in, so a first run needs no file.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ... import _io
from ...errors import CorpusError, RangeError
from ...random import CORPUS, RandomKey, random_bits
from ..sources import is_name, refuse_twice, why_no_text
from .dates import date_pairs

__all__ = ["DATES", "Pair", "Pairs", "load_pairs"]

DATES = "dates"  # the name of the built-in pairs
DATES_TO_TRAIN_ON, DATES_HELD_OUT = 60_000, 2_000
SPLIT_SEED = 2**64 - 1  # so that the split depends on the pairs alone, not on the seed of a run


class Pair(NamedTuple):
    """A source, its target, and their place: the file and the line, counted from 1."""

    source: str
    target: str
    file: str
    line: int


@dataclass(frozen=True)
class Pairs:
    """Pairs, their short name, and the sources from which `load_pairs` reads them again.

    held_out: validation pairs of generated data; empty for pairs read from files. left_out: what was not read.
    """

    name: str
    sources: tuple[str, ...]
    pairs: tuple[Pair, ...] = field(repr=False)
    held_out: tuple[Pair, ...] = field(default=(), repr=False)
    left_out: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all pairs, a line each in UTF-8, in hexadecimal."""
        lines = "".join(f"{pair.source}\t{pair.target}\n" for pair in self.pairs + self.held_out)
        return hashlib.sha256(lines.encode()).hexdigest()

    def split(self, validation_fraction: float = 0.1) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Split into (training pairs, validation pairs); no source text is in both.

        That fraction of the distinct sources, at least one, is chosen for validation, with all their pairs; the choice
        depends on the pairs alone. Data with held_out pairs use those, whatever the fraction, except that 0 keeps none.
        Raises RangeError for a fraction outside [0, 1), CorpusError for a single source.
        """
        if not 0 <= validation_fraction < 1:
            raise RangeError(
                f"Pairs.split: a validation fraction lies in [0, 1), got {validation_fraction}. "
                "0.1 keeps a tenth of the sources for validation."
            )
        if validation_fraction == 0 or self.held_out:
            return self.pairs, self.held_out if validation_fraction else ()
        distinct = list(dict.fromkeys(pair.source for pair in self.pairs))
        if len(distinct) < 2:
            raise CorpusError(
                f"Pairs.split: training and validation have at least one source text each, but all of {self.name} "
                "have the same. Give more pairs, or --validation-fraction 0."
            )
        count = max(1, int(len(distinct) * validation_fraction))
        rank = np.argsort(random_bits(RandomKey(SPLIT_SEED, CORPUS, 0), 1, len(distinct))[0, 0], kind="stable")
        kept = {distinct[index] for index in rank[:count]}
        return (
            tuple(pair for pair in self.pairs if pair.source not in kept),
            tuple(pair for pair in self.pairs if pair.source in kept),
        )


def load_pairs(sources: str | Path | Sequence[str | Path] = ()) -> Pairs:
    """Read pairs from files, one after the other; without a source, or by the name "dates", generate those of `dates`.

    A file is UTF-8 text, with a source, a tab and a target in each line. White space around either is dropped, as are
    blank lines, a byte order mark, and CR before LF. If every line has the same number of further columns, as in the
    files of Tatoeba, they are left out. A file that is named dates is `Path("dates")`.

    Raises CorpusError, with file and line, for a missing file, bytes that are not UTF-8, a line without a tab or with
    another number of tabs than the first, an empty side, and files without pairs.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    if not listed or (len(listed) == 1 and is_name(listed[0], (DATES,), "load_pairs")):
        made = (date_pairs(DATES_TO_TRAIN_ON), date_pairs(DATES_HELD_OUT, held_out=True))
        kinds = (f"{DATES} to train on", f"{DATES} held out")
        training, held_out = (
            tuple(Pair(*texts, kind, number) for number, texts in enumerate(part, 1))
            for part, kind in zip(made, kinds, strict=True)
        )
        return Pairs(DATES, (DATES,), training, held_out)
    files = [Path(os.path.abspath(source)) for source in listed]
    refuse_twice("load_pairs", files)
    left_out: list[str] = []
    pairs = tuple(pair for file in files for pair in _read(file, left_out))
    if not pairs:
        raise CorpusError(
            f"load_pairs: there is at least one pair, but none in {', '.join(map(str, files))}. "
            "Write a source, a tab and a target in each line."
        )
    name = files[0].stem + (f"-and-{len(files) - 1}-more" if len(files) > 1 else "")
    return Pairs(name, tuple(map(str, files)), pairs, left_out=tuple(left_out))


def _read(file: Path, left_out: list[str]) -> Iterator[Pair]:
    try:
        raw = _io.read_bytes(file)
    except OSError as error:
        raise CorpusError(
            f"load_pairs: a source is a file that can be read; {file} cannot: {error.strerror}. Check the path; "
            f'the pairs that have a name are "{DATES}".'
        ) from error
    try:
        text = raw.decode()
        bad = raw.find(0)  # valid UTF-8, but the mark of a binary file, or of UTF-16
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        raise CorpusError(
            f"load_pairs: pairs are UTF-8 text, which line {raw.count(10, 0, bad) + 1} of {file} is not "
            f"({why_no_text(raw, bad)}). Save the file as UTF-8."
        )
    width = None  # columns of the first line, which all others must have
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if width is None:
            width = max(2, len(columns))
            left_out += [f"column {column} of {file.name}" for column in range(3, width + 1)]
        sides = columns[:2]
        if len(columns) != width or not all(sides):
            wrong = len(columns) != width
            came = f"{len(columns) - 1} tabs" if wrong else "an empty target" if sides[0] else "an empty source"
            raise CorpusError(
                f"load_pairs: a line is a source, one tab and a target, but line {number} of {file} has {came}: "
                f"{line.strip(chr(13))[:60]!r}. Correct the line, or delete it."
            )
        yield Pair(sides[0], sides[1], str(file), number)
