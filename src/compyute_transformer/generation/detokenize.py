"""Detokenize a stream: tokens to text in whole characters, and without anything that may be part of a stop text."""

from collections.abc import Sequence

from ..data.text.tokenizer import Tokenizer
from ..errors import RangeError

__all__ = ["StopTexts", "WholeCharacters"]

REPLACEMENT = "\ufffd"  # what decoders put for bytes that are no character, or not yet


class WholeCharacters:
    """Decodes one token after the other; the pieces that it returns, joined, are the text of all tokens.

    A byte-pair token may end within a character: bytes that may be an unfinished character are held back until the next
    token. Some decoders put a space depending on the token before: a token is therefore decoded together with those
    before it, back to the last boundary but one between whole characters.

    context: the tokens before the first, whose text is not returned.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context)
        self._cut = len(self._ids)
        self._shown = len(tokenizer.decode(self._ids))

    def feed(self, token: int) -> str:
        """Return the text that a token completes, which is often empty."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        whole = text.removesuffix(REPLACEMENT)  # one stands for all the bytes of an unfinished character
        piece, self._shown = whole[self._shown :], max(self._shown, len(whole))
        if whole == text:
            del self._ids[: self._cut]
            self._cut, self._shown = len(self._ids), len(self._tokenizer.decode(self._ids))
        return piece

    def flush(self) -> str:
        """Return what was held back, at the end: a replacement character, or nothing."""
        return self._tokenizer.decode(self._ids)[self._shown :]


class StopTexts:
    """Passes text on up to the first stop text, however the text is cut into pieces.

    The first is the one that is complete first, and of those the one that begins first. Text that may be the start of a
    stop text is held back. found: whether a stop text has occurred.

    Raises RangeError for an empty stop text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if isinstance(stops, str) or not all(stops):
            raise RangeError(f"StopTexts: stop texts are a sequence of texts that are not empty, got {stops!r}.")
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Return the text that can be passed on after this piece."""
        text = self._held + piece
        starts = ((text.find(stop), stop) for stop in self._stops)
        hits = [(start + len(stop), start) for start, stop in starts if start >= 0]
        if hits:
            self.found, self._held = True, ""
            return text[: min(hits)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Return what was held back, at the end."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the start of a stop text that does not end there."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
