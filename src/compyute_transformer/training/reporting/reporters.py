"""Report: a run told to whoever listens: plain lines in a pipe, JSON for a machine. A bar is in `progress`.

A reporter gets every event of `events` in the order in which it happens, and is closed at the end, after an error too.
"""

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Protocol
from unicodedata import category

from .events import Advanced, Evaluated, Event, Logged, RunResult, Sampled, Saved, Started, record

__all__ = [
    "JsonReporter",
    "LineReporter",
    "Reporter",
    "Reporters",
    "describe",
    "describe_metrics",
    "printable",
    "reporter_for",
    "tell",
]

TOLD = {  # the metrics that are worth a place in a line, and how they are put
    "bits_per_character": (".3f", "bits per character"),
    "exact_match": (".2%", "answered exactly"),
    "accuracy": (".2%", "recognized"),
}


BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they reorder what follows

FRACTIONS = ("exact_match", "accuracy")


class Reporter(Protocol):
    """What the trainer tells its events to."""

    def report(self, event: Event) -> None:
        """Hear an event."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Reporters:
    """Several reporters as one; none of them is silence."""

    def __init__(self, reporters: Sequence[Reporter] = ()) -> None:
        self.reporters = tuple(reporters)

    def report(self, event: Event) -> None:
        """Tell each."""
        for reporter in self.reporters:
            reporter.report(event)

    def close(self) -> None:
        """Close each."""
        for reporter in self.reporters:
            reporter.close()


class LineReporter:
    """A line an event: for a pipe, a log file, a terminal without cursor."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout

    def report(self, event: Event) -> None:
        """Print the event, if it is worth a line."""
        if (text := describe(event)) is not None:
            tell(self.stream, printable(text, self.stream))

    def close(self) -> None:
        """The stream is the caller's."""


class JsonReporter:
    """One JSON object a line, with the event's name under "event"."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout

    def report(self, event: Event) -> None:
        """Print the event. `Advanced` is left out: it says nothing that `Logged` will not."""
        if not isinstance(event, Advanced):
            tell(self.stream, json.dumps(record(event)))

    def close(self) -> None:
        """The stream is the caller's."""


def reporter_for(stream: IO[str] | None = None, as_json: bool = False) -> Reporter:
    """What suits a stream, by default the standard output: JSON if asked for, a bar on a terminal, else lines."""
    stream = stream or sys.stdout
    if as_json:
        return JsonReporter(stream)
    if stream.isatty():
        from .progress import ProgressReporter  # brings rich, which a pipe does not need

        return ProgressReporter(stream)
    return LineReporter(stream)


def tell(stream: IO[str], line: str) -> None:
    """Print a line at once. From when the reader of a pipe is gone (`| head`), whatever is printed goes nowhere.

    A run must not end because nobody watches it any more: its log has it all.
    """
    try:
        print(line, file=stream, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is how Windows says the first
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # the stream still holds what it could not print, and would try again
        os.close(nowhere)


def describe(event: Event) -> str | None:
    """An event in words; None for one that is not worth a line."""
    match event:
        case Started():
            return _head(event)
        case Logged():
            return (
                f"step {event.step:>6}  loss {event.loss:.4f}  learning rate {event.learning_rate:.2e}  "
                f"gradient {event.gradient_norm:.3g}  {event.rate:,.0f} {event.unit}/s"
            )
        case Evaluated():
            told = [f"validation loss {event.validation_loss:.4f}"]
            told += [
                f"{event.metrics[name]:{form}} {words}" for name, (form, words) in TOLD.items() if name in event.metrics
            ]
            return f"step {event.step:>6}  {'  '.join(told)}" + ("  best so far" if event.best and event.step else "")
        case Sampled():
            return f"step {event.step:>6}  sample:\n{_indented(event.text)}"
        case RunResult():
            how = "stopped" if event.interrupted else "finished"
            return f"{how} at step {event.step} after {duration(event.seconds)}: {event.folder}"
        case Saved() | Advanced():
            return None


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics in words, a line each."""
    per = next((f" per {unit.removesuffix('s')}" for unit in ("tokens", "images") if unit in metrics), "")
    lines = []
    for name, value in metrics.items():
        if name == "loss":
            told = f"{value:.4f} nats{per}"
        elif name in FRACTIONS:
            told = f"{value:.2%}"
        else:
            told = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        lines.append(f"{name.replace('_', ' '):<18} {told}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "3 min 05 s", "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str, stream: IO[str]) -> str:
    """A text that a stream can print: what its encoding lacks, and what would steer a terminal, becomes a mark."""
    # Control characters, lone surrogates and changes of direction; spaces of other widths and joined emoji are text.
    harmless = "".join(
        c
        if c in "\n\t" or (category(c) not in ("Cc", "Cs") and c not in BIDIRECTIONAL)
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return harmless.encode(encoding, "replace").decode(encoding)


def _head(event: Started) -> str:
    path = "reference ops" if event.path == "reference" else "fast ops"
    facts: Mapping[str, object] = {
        "run": event.folder,
        **event.facts,
        "parameters": event.parameters,
        "device": f"{event.device}, {path}",
        f"{event.unit} per step": event.units_per_step,
        "steps": f"{event.step:,} to {event.steps:,}" if event.step else event.steps,
    }
    lines = (
        f"{name.replace('_', ' '):<18} {f'{value:,}' if isinstance(value, int) else value}"
        for name, value in facts.items()
    )
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip("\n").split("\n"))
