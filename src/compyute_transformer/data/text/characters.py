"""Characters: the tokenizer with one token per distinct character, with ids in the order of the code points.

encode and decode are one look-up each, in a table from code point to id or from id to code point. The check of ids and
the reading of JSON, which the byte pair tokenizer needs too, are here as well.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _io
from ...errors import DataError, DtypeError, RangeError, ShapeError, VocabularyError

__all__ = ["CharacterTokenizer", "check_text", "checked_ids", "read_json"]

FORMAT = "compyute-transformer/characters"
VERSION = 1
NAMED = 5  # how many unknown characters an error names
PIECE = 1 << 20  # characters encoded at once: a large text takes no memory beside its ids


class CharacterTokenizer:
    """One token per distinct character of `characters`; token i is the i-th in the order of code points.

    Raises VocabularyError for no characters at all, and for lone surrogates, which are no characters.
    """

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise VocabularyError(
                "CharacterTokenizer: a vocabulary has at least one character, got none. Give a text with text in it."
            )
        self._code_points = _code_points(self.characters)
        if surrogates := [c for c in self.characters if "\ud800" <= c <= "\udfff"]:
            raise VocabularyError(
                f"CharacterTokenizer: a vocabulary is made of characters, which the lone surrogate "
                f"{_name(surrogates[0])} is not. Read the text as UTF-8."
            )
        # One row more than the largest known code point: every larger one is looked up there, and is unknown.
        self._ids = np.full(int(self._code_points[-1]) + 2, -1, dtype=np.int32)
        self._ids[self._code_points] = np.arange(self.vocab_size, dtype=np.int32)

    @classmethod
    def train(cls, text: str) -> "CharacterTokenizer":
        """The tokenizer whose vocabulary is every distinct character of a text."""
        return cls(text)

    @property
    def vocab_size(self) -> int:
        """V, the number of distinct characters; ids lie in [0, V)."""
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text's characters: int32, shape (length,). Raises VocabularyError for an unknown character."""
        check_text(text, "CharacterTokenizer.encode")
        ids = np.empty(len(text), np.int32)
        for start in range(0, len(text), PIECE):
            points = _code_points(text[start : start + PIECE])
            ids[start : start + PIECE] = self._ids[np.minimum(points, len(self._ids) - 1)]
        if ids.size and ids.min() < 0:
            raise VocabularyError(self._describe_unknown(text, ids))
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text whose ids these are. Raises RangeError for an id outside [0, V)."""
        checked = checked_ids(ids, self.vocab_size, "CharacterTokenizer.decode")
        return bytes(self._code_points[checked]).decode("utf-32-le")

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as a small JSON file."""
        state = {"format": FORMAT, "version": VERSION, "characters": self.characters}
        Path(path).write_text(json.dumps(state, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> "CharacterTokenizer":
        """Read what `save` wrote. Raises DataError for any other file."""
        state = read_json(path, "CharacterTokenizer.load")
        characters = state.get("characters")
        if state.get("format") != FORMAT or state.get("version") != VERSION or not isinstance(characters, str):
            raise DataError(
                f'CharacterTokenizer.load: the file must say "format": "{FORMAT}", "version": {VERSION} and '
                f"list its characters; {path} does not. Give a file that CharacterTokenizer.save wrote."
            )
        tokenizer = cls(characters)
        if tokenizer.characters != characters:  # another order would give every weight of a model another character
            raise DataError(
                f"CharacterTokenizer.load: characters are distinct and sorted by code point; in {path} they are not. "
                "The file was changed after it was saved: restore it."
            )
        return tokenizer

    def _describe_unknown(self, text: str, ids: NDArray[np.int32]) -> str:
        first: dict[str, int] = {}
        for position in np.flatnonzero(ids < 0).tolist():
            first.setdefault(text[position], position)
        named = [f"{_name(character)} at position {at}" for character, at in list(first.items())[:NAMED]]
        more = f" and {len(first) - NAMED} more" if len(first) > NAMED else ""
        return (
            f"CharacterTokenizer.encode: a text has only the {self.vocab_size} characters of the vocabulary, "
            f"which lacks {', '.join(named)}{more}. Leave them out, or train with a byte pair tokenizer, "
            "which encodes any text."
        )


def _code_points(text: str) -> NDArray[np.uint32]:
    # "surrogatepass": a lone surrogate (undecodable bytes on a command line) shall reach our own error message.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _name(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"


def check_text(text: object, operation: str) -> None:
    """Raise a DtypeError unless it is a text."""
    if not isinstance(text, str):
        raise DtypeError(f"{operation}: a text is a str, got {type(text).__name__}. Encode several one by one.")


def checked_ids(ids: Sequence[int] | np.ndarray, vocab_size: int, operation: str) -> np.ndarray:
    """Return the ids as a 1-D integer array, each in [0, vocab_size).

    Raises ShapeError, DtypeError or RangeError in the name of the operation.
    """
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ShapeError(
            f"{operation}: ids have one axis, got shape {array.shape}. Decode the rows of a batch one by one."
        )
    if array.size == 0:
        return np.zeros(0, dtype=np.int32)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{operation}: ids are integers, got {array.dtype}. Convert them with astype(int).")
    wrong = (array < 0) | (array >= vocab_size)
    if wrong.any():
        position = int(wrong.argmax())
        raise RangeError(
            f"{operation}: an id lies in [0, {vocab_size}), got {array[position]} at position {position}. "
            "Use the tokenizer that the model was trained with."
        )
    return array


def read_json(path: str | Path, operation: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raises DataError, with the name of the operation, if there is none."""
    try:
        state = _io.read_json(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise DataError(
            f"{operation}: a tokenizer is a JSON file; {path} cannot be read: {reason}. Check the path."
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{operation}: a tokenizer is a JSON object; {path} holds a {type(state).__name__}.")
    return state
