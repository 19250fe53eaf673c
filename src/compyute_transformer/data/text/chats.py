"""Conversations in JSON lines, and batches in which only the answers are predicted.

{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]}

ids        u₀ u₁ u₂ a₀ a₁ END     a conversation as the model's chat template renders it
x          u₀ u₁ u₂ a₀ a₁  ·      (B, T), · = padding
y           ×  × a₀ a₁ END ×      (B, T), × = IGNORE_INDEX: what the user says is read, and not predicted
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import CorpusError, RangeError
from ...random import BATCHES, RandomKey, random_bits
from ..sources import read_lines
from .batches import IGNORE_INDEX

__all__ = ["Chat", "ChatBatches", "Chats", "EncodedChat", "chat_batches", "load_chats"]

ROLES = ("system", "user", "assistant", "tool")
ANSWER = "assistant"


class Chat(NamedTuple):
    """One conversation. file, line: where it stands."""

    messages: tuple[Mapping[str, Any], ...]
    file: str
    line: int


@dataclass(frozen=True)
class Chats:
    """Conversations, and a note of where they came from."""

    name: str
    sources: tuple[str, ...]
    chats: tuple[Chat, ...] = field(repr=False)
    sha256: str = ""

    def split(self, validation_fraction: float) -> tuple[tuple[Chat, ...], tuple[Chat, ...]]:
        """Return the conversations to train on, and the last ones, to validate.

        Raises RangeError for a fraction outside [0, 1), CorpusError for a single conversation.
        """
        if not 0 <= validation_fraction < 1:
            raise RangeError(f"Chats.split: a validation fraction lies in [0, 1), got {validation_fraction}.")
        count = len(self.chats)
        if validation_fraction == 0:
            return self.chats, ()
        if count < 2:
            raise CorpusError(
                f"Chats.split: training and validation have at least one conversation each, but {self.name} has one. "
                "Give more, or --validation-fraction 0."
            )
        kept = max(1, int(count * validation_fraction))
        return self.chats[:-kept], self.chats[-kept:]


def load_chats(sources: str | Path | Sequence[str | Path]) -> Chats:
    """Read conversations from files of JSON lines, one after the other.

    Each line is an object with "messages", a list of objects with "role" (system, user, assistant or tool) and
    "content", a text; at least one of them is an answer of the assistant.

    Raises CorpusError, with file and line, for a missing file, a line that is something else, and no lines.
    """
    read = read_lines("load_chats", "conversations", sources)
    chats = [_chat(line, str(file), number) for line, file, number in read.lines]
    if not chats:
        raise CorpusError(f"load_chats: there is at least one conversation, got none in {read.files[0]}.")
    return Chats(read.files[0].stem, tuple(map(str, read.files)), tuple(chats), read.sha256)


def _chat(line: str, file: str, number: int) -> Chat:
    try:
        values = json.loads(line)
        messages = values.get("messages") if isinstance(values, dict) else None
        if not isinstance(messages, list) or not messages:
            raise ValueError('has no list "messages"')
        for message in messages:
            if not isinstance(message, dict) or message.get("role") not in ROLES:
                raise ValueError(f'has a message whose "role" is none of {", ".join(ROLES)}')
            if not isinstance(message.get("content"), str):
                raise ValueError('has a message whose "content" is no text')
        if not any(message["role"] == ANSWER for message in messages):
            raise ValueError(f'has no answer, a message of the role "{ANSWER}"')
    except (ValueError, RecursionError) as error:
        is_json = not isinstance(error, json.JSONDecodeError | RecursionError)
        raise CorpusError(
            f'load_chats: a line is a conversation, {{"messages": [{{"role": "user", "content": "..."}}, ...]}}, but '
            f"line {number} of {file} {'' if is_json else 'is no JSON: '}{error}. Correct the line, or delete it."
        ) from error
    return Chat(tuple(messages), file, number)


class EncodedChat(NamedTuple):
    """ids (N) of a conversation, and whether each is a part of an answer."""

    ids: np.ndarray
    answers: np.ndarray


class ChatBatches:
    """Shuffled batches of conversations, as a pure function of (seed, index). Each comes once an epoch.

    `next()` returns (x, y) of the batches 0, 1, 2, ...; `cursor` is the index of the next one and the whole state.
    """

    def __init__(self, chats: Sequence[EncodedChat], batch_size: int, context_length: int, seed: int = 0) -> None:
        self.chats, self.batch_size, self.context_length = list(chats), batch_size, context_length
        self.seed, self.cursor = seed, 0

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch of an index, whatever was drawn before."""
        count = len(self.chats)
        positions = range(index * self.batch_size, (index + 1) * self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in {position // count for position in positions}}
        rows = [self.chats[orders[position // count][position % count]] for position in positions]
        return _padded(rows, self.context_length)

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch at the cursor, which moves on by one."""
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        bits = random_bits(RandomKey(self.seed, BATCHES, epoch), 1, len(self.chats))[0, 0]
        return np.argsort(bits, kind="stable")


def chat_batches(
    chats: Iterable[EncodedChat], batch_size: int, context_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (x, y) of every conversation once, the shortest first."""
    ordered = sorted(chats, key=lambda chat: len(chat.ids))
    for start in range(0, len(ordered), batch_size):
        yield _padded(ordered[start : start + batch_size], context_length)


def _padded(chats: Sequence[EncodedChat], context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (B, T), as wide as the longest conversation, at most the context."""
    T = min(context_length, max(len(chat.ids) for chat in chats) - 1)
    x = np.zeros((len(chats), T), np.int32)  # padding stands after what is read, which no position before it sees
    y = np.full((len(chats), T), IGNORE_INDEX, np.int32)
    for row, (ids, answers) in enumerate(chats):
        n = min(T, len(ids) - 1)
        x[row, :n] = ids[:n]
        y[row, :n] = np.where(answers[1 : n + 1], ids[1 : n + 1], IGNORE_INDEX)
    return x, y
