"""Journal: what a run leaves to read. `log.jsonl`, one event a line, and `samples.txt`, its samples alone.

Both are cut back to the checkpoint from which a run goes on, so they tell one story however often it was interrupted.
"""

import json
import os
from pathlib import Path
from typing import Any

from ... import _io as disk
from .events import Evaluated, Event, Logged, Sampled, record

__all__ = ["LOG", "SAMPLES", "Journal", "read_log"]

LOG, SAMPLES = "log.jsonl", "samples.txt"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The events of a run's log, in order; none without a log. A line that a kill cut short is passed over."""
    records = []
    path = run / LOG
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            records.append(values)
    return records


class Journal:
    """Writes the events of a run that goes on at a step; what came after that step is forgotten.

    records: those kept from before. seconds: how long the run had taken by then.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.records = [values for values in read_log(run) if values["step"] <= step]
        self.seconds = max((values.get("seconds", 0.0) for values in self.records), default=0.0)
        samples = [values for values in self.records if values.get("event") == Sampled.name]
        disk.replace_text(run / LOG, "".join(json.dumps(values) + "\n" for values in self.records))
        disk.replace_text(run / SAMPLES, "".join(_section(values["step"], values["text"]) for values in samples))
        self._log = open(run / LOG, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - open as long as the journal
        self._samples = open(run / SAMPLES, "a", encoding="utf-8", newline="\n")  # noqa: SIM115

    def report(self, event: Event) -> None:
        """Write an event down, if it is one to be remembered."""
        if isinstance(event, Logged | Evaluated | Sampled):
            self._log.write(json.dumps(record(event)) + "\n")
            self._log.flush()
        if isinstance(event, Sampled):
            self._samples.write(_section(event.step, event.text))
            self._samples.flush()

    def sync(self) -> None:
        """Make the disk hold it all: before a checkpoint, which must never be ahead of its log."""
        os.fsync(self._log.fileno())
        os.fsync(self._samples.fileno())

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._samples.close()


def _section(step: int, text: str) -> str:
    return f"--- step {step} ---\n{text}\n\n"
