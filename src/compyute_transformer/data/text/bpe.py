"""Byte pair encoding: a text is split into bytes, and the most frequent adjacent pairs are merged into tokens.

Every byte is a token, so every text can be encoded, and decoding returns exactly that text. The `tokenizers` library
does the work. It is imported when the first tokenizer is made; its `tokenizer.json` files can be loaded as they are.

Source: Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units" (ACL 2016); on bytes:
Radford et al., "Language models are unsupervised multitask learners" (2019).
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, RangeError, VocabularyError
from .characters import check_text, checked_ids, read_json

if TYPE_CHECKING:
    import tokenizers

__all__ = ["BytePairTokenizer"]

BYTES = 256
PIECE_LENGTH = 1 << 14  # characters; long enough that few pieces are needed, short enough to bound the memory
PIECES_AT_ONCE = 32
LONGEST_WORD = 256  # characters; a longer word is cut before training
LONG = 2_000_000  # characters from which on the training takes seconds, and has a bar on a terminal
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
# GPT-2's rule for cutting text into words looks ahead from white space. A single line end between two characters that
# are not white space is a word of its own, so a cut after it changes no token.
LINE_END = re.compile(r"[!-~\w]\n(?=[!-~\w])")


class BytePairTokenizer:
    """A tokenizer of the `tokenizers` library with the members of `Tokenizer`."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer") -> None:
        tokenizer.no_truncation()  # files made for a classifier cut every text at their 512 tokens
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._may_split = _splits_at_line_ends(json.loads(tokenizer.to_str()))
        ids = list(tokenizer.get_vocab(with_added_tokens=True).values())
        self._exists = np.zeros(max(ids, default=-1) + 1, dtype=bool)
        self._exists[ids] = True

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BytePairTokenizer":
        """Learn the merges of a text: 256 bytes and the vocab_size − 256 most frequent merges.

        The same text gives the same tokenizer. The vocabulary is smaller if no further pair occurs twice. A word of
        more than 256 characters, as in a text without spaces, is cut for the training, whose time would otherwise grow
        with the square of its length.
        Raises RangeError for a vocab_size below 256.
        """
        if vocab_size < BYTES:
            raise RangeError(
                f"BytePairTokenizer.train: a vocabulary holds at least the {BYTES} bytes, got vocab_size {vocab_size}. "
                "Give a larger one, or use a character tokenizer."
            )
        _check_unicode(text, "BytePairTokenizer.train")
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=len(text) > LONG and sys.stderr is not None and sys.stderr.isatty(),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        _interruptible(lambda: tokenizer.train_from_iterator(_training_pieces(text), trainer=trainer))
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        """V, the largest id plus one; ids lie in [0, V)."""
        return len(self._exists)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its name, such as "[MASK]"; None where there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def encode(self, text: str, add_special_tokens: bool = False) -> NDArray[np.int32]:
        """The ids of a text: int32, shape (number of tokens,).

        Nothing is added at either end, unless add_special_tokens asks for the tokens that the file puts there, such as
        the first token of a Llama. A special token spelt out in the text becomes that token's id.
        Raises VocabularyError for a lone surrogate, which has no UTF-8 bytes.
        """
        check_text(text, "BytePairTokenizer.encode")
        _check_unicode(text, "BytePairTokenizer.encode")
        if add_special_tokens:
            return np.array(self._tokenizer.encode(text).ids, dtype=np.int32)
        pieces = list(_pieces(text)) if self._may_split else [text]
        ids = [np.zeros(0, dtype=np.int32)]
        for start in range(0, len(pieces), PIECES_AT_ONCE):
            batch = pieces[start : start + PIECES_AT_ONCE]
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return np.concatenate(ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text whose ids these are, special tokens spelt out; bytes that are no whole character become U+FFFD.

        Raises RangeError for an id that no token has.
        """
        checked = checked_ids(ids, self.vocab_size, "BytePairTokenizer.decode")
        exists = self._exists[checked]
        if not exists.all():
            position = int(exists.argmin())
            raise RangeError(
                f"BytePairTokenizer.decode: an id is that of a token, got {checked[position]} at position {position}, "
                "a gap in the vocabulary. Use the tokenizer that the model was trained with."
            )
        return self._tokenizer.decode(checked.tolist(), skip_special_tokens=False)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` that the `tokenizers` library reads as well."""
        Path(path).write_text(self._tokenizer.to_str(pretty=True) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> "BytePairTokenizer":
        """Read any `tokenizer.json` of the `tokenizers` library. Raises DataError for any other file.

        Truncation and padding that the file asks for are turned off: a corpus is encoded whole.
        """
        read_json(path, "BytePairTokenizer.load")
        from tokenizers import Tokenizer

        try:
            return cls(Tokenizer.from_file(str(path)))
        except BaseException as error:  # a panic of the library is not an Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise DataError(
                f"BytePairTokenizer.load: {path} must be a tokenizer.json of the tokenizers library, "
                f"which reports: {str(error)[:300]}. Give the tokenizer.json that belongs to the model."
            ) from error


def _interruptible(train: Callable[[], None]) -> None:
    """Call a function of the tokenizers library, which hears no signal, so that Ctrl-C ends the wait for it."""
    if threading.current_thread() is not threading.main_thread():  # which alone is sent signals
        train()
        return
    errors: list[BaseException] = []

    def work() -> None:
        try:
            train()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if errors:
        raise errors[0]


def _check_unicode(text: str, operation: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"{operation}: a text is made of characters, which the lone surrogate {text[error.start]!r} "
            f"(U+{ord(text[error.start]):04X}) at position {error.start} is not. Read the text as UTF-8."
        ) from error


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        line_end = LINE_END.search(text, start + PIECE_LENGTH)
        stop = line_end.end() if line_end else len(text)
        yield text[start:stop]
        start = stop


def _training_pieces(text: str) -> Iterator[str]:
    """Yield pieces of a text in which no word has more than LONGEST_WORD characters."""
    for piece in _pieces(text):
        start = 0
        for word in LONG_WORD.finditer(piece):
            yield piece[start : word.start()]
            yield from (word[0][at : at + LONGEST_WORD] for at in range(0, len(word[0]), LONGEST_WORD))
            start = word.end()
        yield piece[start:]


def _splits_at_line_ends(state: dict[str, Any]) -> bool:
    """Whether a text has the ids of its pieces, one after the other: true of GPT-2's rule without additions."""
    rule = state["pre_tokenizer"] or {}
    return (
        state["normalizer"] is None
        and rule.get("type") == "ByteLevel"
        and rule["use_regex"]
        and not rule["add_prefix_space"]
        and not any(
            "\n" in token["content"] or token["lstrip"] or token["rstrip"] or token["single_word"]
            for token in state["added_tokens"]
        )
    )
