"""Reporters: print the events of a run, as plain lines for a pipe or as JSON for a program. The bar is in `progress`.

A reporter receives every event of `events` in order, and is closed at the end, also after an error.
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
    "print_line",
    "printable",
]

IN_LINE = {  # the metrics shown in the line of a validation
    "bits_per_character": "{:.3f} bits per character",
    "exact_match": "exact match {:.2%}",
    "accuracy": "accuracy {:.2%}",
}


BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they reorder what follows

FRACTIONS = ("exact_match", "accuracy")


class Reporter(Protocol):
    """Receives the events of a run."""

    def report(self, event: Event) -> None:
        """Receive an event."""
        ...

    def close(self) -> None:
        """End the report; no event follows."""
        ...


class Reporters:
    """Several reporters as one. Without any, nothing is reported."""

    def interrupted(self, notice: str) -> bool:
        """Pass the notice of an interruption to those that can show it. Return whether one does."""
        told = [each.interrupted(notice) for each in self.reporters if hasattr(each, "interrupted")]
        return any(told)

    def validating(self, done: int, total: int) -> None:
        """Tell those that can show it how far a validation has come, in batches."""
        for each in self.reporters:
            if hasattr(each, "validating"):
                each.validating(done, total)

    def __init__(self, reporters: Sequence[Reporter] = ()) -> None:
        self.reporters = tuple(reporters)

    def report(self, event: Event) -> None:
        """Pass the event to each."""
        for reporter in self.reporters:
            reporter.report(event)

    def close(self) -> None:
        """Close each."""
        for reporter in self.reporters:
            reporter.close()


class LineReporter:
    """Prints one line per event, for a pipe, a log file or a terminal without cursor control."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout
        self._steps = 0
        self._first: Logged | None = None  # of this session

    def report(self, event: Event) -> None:
        """Print the event, if it has a line."""
        if isinstance(event, Started):
            self._steps, self._first = event.steps, None
        if (text := describe(event)) is not None:
            left = self._left(event) if isinstance(event, Logged) else ""
            print_line(self.stream, printable(text + left, self.stream))

    def _left(self, event: Logged) -> str:
        """Return the time left in words, from the second logged step of a session on."""
        first, self._first = self._first, self._first or event
        if first is None or event.step <= first.step or event.step >= self._steps:
            return ""
        seconds = (event.seconds - first.seconds) / (event.step - first.step) * (self._steps - event.step)
        return f"  {duration(seconds)} left"

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


class JsonReporter:
    """Prints one JSON object per line, with the event's name under "event"."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout

    def report(self, event: Event) -> None:
        """Print the event. `Advanced` is left out, since `Logged` holds the same and more."""
        if not isinstance(event, Advanced):
            print_line(self.stream, json.dumps(record(event)))

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


def print_line(stream: IO[str], line: str) -> None:
    """Print and flush a line. Once the reader of a pipe has gone (`| head`), lines are discarded.

    A run must not end because its output is no longer read; the log holds everything.
    """
    try:
        print(line, file=stream, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # Windows reports a broken pipe as EINVAL
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # the stream still holds the line and would print it again
        os.close(nowhere)


def describe(event: Event) -> str | None:
    """Return an event in words, or None for one that has no line."""
    match event:
        case Started():
            return _head(event)
        case Logged():
            return (
                f"step {event.step:>6}  loss {event.loss:.4f}  learning rate {event.learning_rate:.2e}  "
                f"gradient norm {event.gradient_norm:.3g}  {event.rate:,.0f} {event.unit}/s"
            )
        case Evaluated():
            words = [f"validation loss {event.validation_loss:.4f}"]
            words += [form.format(event.metrics[name]) for name, form in IN_LINE.items() if name in event.metrics]
            note = "best so far" if event.best else "" if event.step else "untrained"
            return f"step {event.step:>6}  {'  '.join(words)}" + (note and f"  {note}")
        case Sampled():
            return f"step {event.step:>6}  sample:\n{_indented(event.text)}"
        case RunResult():
            return _end(event)
        case Saved() | Advanced():
            return None


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics in words, one line each."""
    per = next((f" per {unit.removesuffix('s')}" for unit in ("tokens", "images") if unit in metrics), "")
    lines = []
    for name, value in metrics.items():
        if name == "loss":
            shown = f"{value:.4f} nats{per}"
        elif name in FRACTIONS:
            shown = f"{value:.2%}"
        else:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        lines.append(f"{name.replace('_', ' '):<18} {shown}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return seconds in words: "42 s", "3 min 05 s", "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str, stream: IO[str]) -> str:
    """Return a text that a stream can print.

    Characters that the encoding lacks, or that would control a terminal, are replaced by a mark.
    """
    # Control characters, lone surrogates and marks that reverse the direction of writing; other spaces and joined
    # emoji are ordinary text.
    harmless = "".join(c if _is_harmless(c) else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return harmless.encode(encoding, "replace").decode(encoding)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or (category(character) not in ("Cc", "Cs") and character not in BIDIRECTIONAL)


def _end(event: RunResult) -> str:
    how = "finished" if event.stopped is None and not event.interrupted else "stopped"
    best = f"; best checkpoint: step {event.best_step}" if event.best_step is not None else ""
    why = "" if event.stopped is None else f" ({event.stopped})"
    return f"{how} at step {event.step} after {duration(event.seconds)}{why}: {event.folder}{best}"


def _head(event: Started) -> str:
    path = "reference ops" if event.path == "reference" else "kernels"
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
