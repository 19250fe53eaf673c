"""Journal: the log of a run, `log.jsonl` with one event a line, and `samples.txt` with its samples alone.

A run that continues from a checkpoint drops what was logged after it, so the log tells one story however often the run
was interrupted. Before anything is dropped, the old file is copied to `log.jsonl.old` or `samples.txt.old`.
"""

import json
import os
from pathlib import Path
from typing import IO, Any

from ... import _io
from .events import Evaluated, Event, Logged, Sampled, record

__all__ = ["LOG", "SAMPLES", "Journal", "parse_record", "read_log"]

LOG, SAMPLES = "log.jsonl", "samples.txt"
COPY = ".old"
LATEST = 2**63  # no step comes later
TEXTS = ("event", "text", "unit")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the events of a run's log, in order; none without a log. A line that is damaged is skipped."""
    try:
        lines = _io.read_bytes(run / LOG).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return [values for line in lines if (values := parse_record(line)) is not None]


def parse_record(line: str) -> dict[str, Any] | None:
    """Return the event in a line of a log, or None for a line that is damaged or not yet whole."""
    try:
        values = _io.parse_json(line)
    except ValueError:
        return None
    return values if _is_record(values) else None


def _is_record(values: Any) -> bool:
    """Whether a line holds a step, and numbers and texts where they belong."""
    if not isinstance(values, dict) or type(values.get("step")) is not int or not 0 <= values["step"] < LATEST:
        return False
    if values.get("event") == Sampled.name and "text" not in values:
        return False
    return all(
        isinstance(value, str) if name in TEXTS else isinstance(value, int | float) and abs(value) < 1e300
        for name, value in values.items()
    )


class Journal:
    """Writes the events of a run that continues from a step; later events of the old log are dropped.

    records: those kept from before. seconds: how long the run had taken by then. writes: without, the log is only read,
    as by a process whose events another process writes.
    """

    def __init__(self, run: Path, step: int, writes: bool = True) -> None:
        self.records = [values for values in read_log(run) if values["step"] <= step]
        self.seconds = max((float(values.get("seconds", 0.0)) for values in self.records), default=0.0)
        self._log: IO[str] | None = None
        if not writes:
            return
        samples = [values for values in self.records if values.get("event") == Sampled.name]
        _rewrite(run / LOG, "".join(json.dumps(values) + "\n" for values in self.records))
        _rewrite(run / SAMPLES, "".join(_section(values["step"], values["text"]) for values in samples))
        self._log = open(run / LOG, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - open as long as the journal
        self._samples = open(run / SAMPLES, "a", encoding="utf-8", newline="\n")  # noqa: SIM115

    def report(self, event: Event) -> None:
        """Write an event, if the log keeps events of its kind."""
        if self._log is None:
            return
        if isinstance(event, Logged | Evaluated | Sampled):
            self._log.write(json.dumps(record(event)) + "\n")
            self._log.flush()
        if isinstance(event, Sampled):
            self._samples.write(_section(event.step, event.text))
            self._samples.flush()

    def sync(self) -> None:
        """Flush both files to the disk, before a checkpoint, which must never be ahead of its log."""
        if self._log is not None:
            os.fsync(self._log.fileno())
            os.fsync(self._samples.fileno())

    def close(self) -> None:
        """Close the files."""
        if self._log is not None:
            self._log.close()
            self._samples.close()


def _rewrite(path: Path, content: str) -> None:
    """Replace a file; if that drops a part of it, copy it first, unless the copy of an earlier time is longer."""
    old = path.read_bytes() if path.exists() else b""
    if old == content.encode("utf-8"):
        if not path.exists():
            _io.replace_text(path, content)
        return
    copy = path.with_name(path.name + COPY)
    if old and not (copy.exists() and copy.stat().st_size > len(old)):
        _io.replace_file(copy, lambda hidden: hidden.write_bytes(old))
    _io.replace_text(path, content)


def _section(step: int, text: str) -> str:
    return f"--- step {step} ---\n{text}\n\n"
