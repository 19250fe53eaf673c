"""Sources: the names of built-in data, and a summary of the files that were left out of a folder."""

import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import _io
from ..errors import CorpusError, DataError

__all__ = [
    "Lines",
    "Name",
    "fixed_part",
    "is_name",
    "is_pattern",
    "read_lines",
    "refuse_twice",
    "summary",
    "why_no_text",
]

WILDCARDS = frozenset("*?[")

LISTED = 3  # the files that a summary names


class Name(str):
    """The name of built-in data, never a path: what a saved run was trained on."""


def is_name(source: str | Path, names: Container[str], operation: str) -> bool:
    """Return whether a source is the name of built-in data.

    Raises DataError for a text that is such a name and also a file or folder here.
    """
    if not isinstance(source, str) or source not in names:
        return False
    if not isinstance(source, Name) and os.path.exists(source):
        raise DataError(
            f"{operation}: {source!r} is the name of built-in data, and there is a file or folder of that name here. "
            f"Write ./{source} for yours; for the built-in data, run the command in another folder."
        )
    return True


def is_pattern(source: str | Path) -> bool:
    """Return whether a source is a pattern of paths, such as src/**/*.py, and no path itself."""
    return bool(WILDCARDS & set(str(source))) and not os.path.exists(source)


def fixed_part(source: str | Path) -> Path:
    """Return the folder below which the files of a pattern lie; a source that is no pattern as it is."""
    path = Path(source)
    while is_pattern(path):
        path = path.parent
    return path


def refuse_twice(operation: str, files: Iterable[Path]) -> None:
    """Raise a CorpusError for a file that is named twice: what was learned from it would validate it too."""
    seen: dict[str, Path] = {}
    for file in files:
        real = os.path.realpath(file)
        if real in seen:
            also = "" if seen[real] == file else f", also as {seen[real]}"
            raise CorpusError(
                f"{operation}: every file is read once, but {file} is given twice{also}. Name it once, and no folder "
                "together with a file in it."
            )
        seen[real] = file


# The first bytes of files that are no text but may hold one.
COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}


def why_no_text(raw: bytes, place: int) -> str:
    """Return why bytes are no UTF-8 text, in a few words. place: the first byte that is wrong."""
    for magic, name in COMPRESSED.items():
        if raw.startswith(magic):
            return f"compressed with {name}: unpack it first"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    return f"byte {place} is 0x{raw[place]:02X}"


def summary(left_out: Sequence[str]) -> str:
    """Return how many files were left out, by suffix, with the first names."""
    kinds = Counter(Path(name).suffix.lower() or "without suffix" for name in left_out)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(LISTED))
    rest = len(left_out) - LISTED
    names = ", ".join(Path(name).name for name in left_out[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
    return f"{counts} ({names})"


class Lines(NamedTuple):
    """The lines of text files that are not blank. lines: each with its file and its number, from 1. sha256: of all."""

    files: tuple[Path, ...]
    lines: list[tuple[str, Path, int]]
    sha256: str


def read_lines(operation: str, what: str, sources: str | Path | Sequence[str | Path]) -> Lines:
    """Read the lines of files of JSON lines. what: they hold, for the message.

    Raises CorpusError for no file, and for one that is missing or no text.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    if not listed:
        raise CorpusError(f"{operation}: {what} are read from files of JSON lines. Give at least one.")
    files = tuple(Path(os.path.abspath(source)) for source in listed)
    digest, found = hashlib.sha256(), []
    for file in files:
        try:
            raw = _io.read_bytes(file)
            text = raw.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{operation}: a source is a file of UTF-8 text; {file} cannot be read: {error}. Check the path."
            ) from error
        digest.update(raw)
        found += [(line, file, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return Lines(files, found, digest.hexdigest())
