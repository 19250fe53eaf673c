"""Mutations of files, and what may come of reading them: shared by the programs that fuzz runs and models."""

import json
import random
import signal
import string
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

from compyute_transformer.errors import CompyuteError
from compyute_transformer.training.run.schema import digest

__all__ = ["broken_rule", "flip", "of_bytes", "of_json"]

SECONDS, CHARACTERS = 5, 5000  # thirty tensors that do not fit are named
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**70), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x" * 200_000, "\x1b[31mred", "\u202e", "../../etc/passwd", "/dev/zero", "no", "\ud800", "cpu", "none"),
    *([], {}, [[]], {"a": {}}, [1, 2, 3], {"": ""}),
]


class _TooLong(BaseException):
    pass


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flip(data: bytes, chance: random.Random) -> bytes:
    """Flip one bit."""
    at = chance.randrange(8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Cut, insert, repeat or replace bytes."""
    start = chance.randrange(len(data) + 1)
    stop = min(len(data), start + chance.choice((1, 2, 7, 100)))
    junk = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 50))))
    return chance.choice(
        [
            *(b"", data[:start], data[start:], data[:start] + data[stop:], data[:start] + junk + data[stop:]),
            *(data[:start] + junk + data[start:], data + data, data[::-1], bytes(len(data)), b"\xff\xfe" + data),
            *(b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000, data.replace(b"0", b"1"), data.replace(b'"', b"")),
            *(data[:start] + data[start:stop] * 50 + data[stop:], b"\x1b[2J" + data, data.upper()),
        ]
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def of_json(data: bytes, chance: random.Random) -> bytes:
    """Change some values of a JSON file; half of the time with a checksum that fits the new values."""
    values = json.loads(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if not (places := list(_places(values))):
            break
        place, key = chance.choice(places)
        how = chance.randrange(5)
        if how == 0:
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place["".join(chance.choices(string.printable, k=5))] = deepcopy(chance.choice(ODD))
        elif how == 2 and isinstance(place[key], int | float):
            with suppress(OverflowError):  # half of a whole number that no float can hold
                place[key] = chance.choice((-1, 2, 10, 1000, 0.5)) * place[key]
        else:
            place[key] = deepcopy(chance.choice(ODD))
    if isinstance(values, dict) and "checksum" in values and chance.random() < 0.5:
        values.pop("checksum")
        with suppress(UnicodeError, ValueError):
            values["checksum"] = digest(values)
    return json.dumps(values).encode("utf-8", "surrogatepass")


def _controls(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


def broken_rule(call: Callable[[], object]) -> tuple[str, Any]:
    """Return which rule a call breaks, nothing if none, and what it returned.

    No error but the library's own, none that is long or controls a terminal, none that takes more than five seconds.
    """
    try:
        with _within(SECONDS):
            return "", call()
    except CompyuteError as error:
        text = str(error)
        if len(text) > CHARACTERS:
            return f"an error of {len(text):,} characters: {text[:200]!r}", None
        return (f"an error with {_controls(text)}: {text[:300]!r}" if _controls(text) else ""), None
    except _TooLong:
        return "it took too long", None
    except BaseException:
        return "another error: " + traceback.format_exc(limit=-4), None
