"""What a tokenizer is, how one is made from a text, and how either kind is read back from its file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError
from .bpe import BytePairTokenizer
from .characters import FORMAT, CharacterTokenizer, read_json

__all__ = ["Tokenizer", "load_tokenizer", "train_tokenizer"]


class Tokenizer(Protocol):
    """Text to token ids and back; `decode(encode(text))` is the text."""

    @property
    def vocab_size(self) -> int:
        """V: every id lies in [0, V)."""
        ...

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text: int32, shape (number of tokens,)."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of 1-D ids; RangeError for an id that no token has."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the file that `load_tokenizer` reads."""
        ...


def train_tokenizer(kind: str, text: str, vocab_size: int = 1024) -> CharacterTokenizer | BytePairTokenizer:
    """Make a tokenizer from a text: kind "characters" or "bpe".

    vocab_size is for "bpe"; the vocabulary of "characters" is what the text holds. Raises ConfigError for another kind.
    """
    if kind == "characters":
        return CharacterTokenizer.train(text)
    if kind == "bpe":
        return BytePairTokenizer.train(text, vocab_size)
    raise ConfigError(f'train_tokenizer: a kind of tokenizer is "characters" or "bpe", got {kind!r}. Choose one.')


def load_tokenizer(path: str | Path) -> CharacterTokenizer | BytePairTokenizer:
    """Read a tokenizer file of either kind. Raises DataError for a file that is neither."""
    state = read_json(path, "load_tokenizer")
    if state.get("format") == FORMAT:
        return CharacterTokenizer.load(path)
    if "model" in state:
        return BytePairTokenizer.load(path)
    raise DataError(
        f'load_tokenizer: a tokenizer file has "format": "{FORMAT}", or is a tokenizer.json of the tokenizers library '
        f'with a "model"; {path} has neither. Give the tokenizer.json of a run or of a published model.'
    )
