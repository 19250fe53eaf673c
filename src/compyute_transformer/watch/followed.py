"""Followed: what the log of a run holds so far, read piece by piece, and histograms of its last weights."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, RunError
from ..training.reporting.journal import LOG, parse_record
from ..training.run import checkpoint

__all__ = ["FollowedRun", "find_runs"]

BINS = 41  # an odd number: the middle one holds zero
LONGEST_SAMPLE = 10_000  # characters
FIELDS = {  # what the page draws, of each kind of event
    "step": ("step", "loss", "learning_rate", "gradient_norm", "rate", "seconds"),
    "evaluation": ("step", "validation_loss", "best"),
    "sample": ("step", "text"),
}


def find_runs(paths: list[Path]) -> list[Path]:
    """Return the folders of runs: those given, and those inside folders that hold runs.

    Raises RunError for a path that is neither.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path] if _is_run(path) else sorted(child for child in _children(path) if _is_run(child))
        if not inside:
            raise RunError(
                f"watch: a run is a folder with a config.json or a {LOG}, or a folder that holds such folders; "
                f"{str(path)!r} is neither. Start one: compyute train"
            )
        found += [run for run in inside if run not in found]
    return found


def _is_run(path: Path) -> bool:
    return (path / LOG).is_file() or (path / "config.json").is_file()


def _children(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


@dataclass
class FollowedRun:
    """The records of a run's log, and where the log was read to.

    story: how often the log began anew, as it does where a run goes on from an earlier checkpoint; records of another
    story are of no use.
    """

    folder: Path
    story: int = 0
    records: list[list[Any]] = field(default_factory=list)
    _file: int | None = None
    _position: int = 0
    _weights: "tuple[int, list[dict[str, Any]]] | None" = None

    def read(self) -> None:
        """Read what the log has gained since the last time. A log that was cut is read from the start."""
        try:
            with open(self.folder / LOG, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._position:
                    self._file, self._position, self.records = status.st_ino, 0, []
                    self.story += 1
                file.seek(self._position)
                whole, line_end, _ = file.read().rpartition(b"\n")  # the rest of a line is still being written
        except OSError:
            return
        self._position += len(whole) + len(line_end)
        for line in whole.decode("utf-8", "replace").split("\n"):
            values = parse_record(line)
            names = FIELDS.get(str(values.get("event"))) if values else None
            if values and names:
                self.records.append([values["event"], *(_shortened(values.get(name)) for name in names)])

    def idle_seconds(self, now: float) -> float | None:
        """Return how long ago the log was written to; None without a log."""
        try:
            return max(0.0, now - (self.folder / LOG).stat().st_mtime)
        except OSError:
            return None

    def weights(self) -> "dict[str, Any] | None":
        """Return histograms of the weights in the last checkpoint; None where there is none that can be read."""
        steps = checkpoint.steps(self.folder)
        if not steps:
            return None
        if self._weights is None or self._weights[0] != steps[-1]:
            try:
                state, (arrays,) = checkpoint.read(self.folder, "last")
            except CheckpointError:
                return None
            self._weights = state.step, [histogram(name, arrays[name]) for name in sorted(arrays, key=_by_number)]
        return {"step": self._weights[0], "arrays": self._weights[1]}


def histogram(name: str, array: np.ndarray) -> dict[str, Any]:
    """Return how many elements of an array lie in each of `BINS` equal parts of [−m, m], m the largest magnitude.

    mean, std: of the finite elements, in float64. not_finite: how many are infinite or NaN, which no part holds.
    """
    values = array.astype(np.float64, copy=False).ravel()
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max(initial=0.0))
    counts, _ = np.histogram(finite, BINS, (-most, most) if most else (-1.0, 1.0))
    return {
        "name": name,
        "shape": list(array.shape),
        "most": most,
        "mean": float(finite.mean()) if finite.size else 0.0,
        "std": float(finite.std()) if finite.size else 0.0,
        "not_finite": int(values.size - finite.size),
        "counts": counts.tolist(),
    }


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort blocks.2 before blocks.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_SAMPLE:
        return f"{value[:LONGEST_SAMPLE]}… ({len(value):,} characters)"
    return value
