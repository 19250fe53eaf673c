"""Confusion: the confusion matrix of a classifier, as a table, as plain values, and as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plotting import plot_confusion, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Confusion"]

MOST_COLUMNS = 20  # with more classes, the table lists the most frequent errors instead
MOST_ERRORS = 10
LONGEST = 12  # letters of a class in a heading
CORNER = "true \\ predicted"


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts[true, predicted]: how many images of the true class were predicted to be of the other."""

    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, classes: tuple[str, ...], true: np.ndarray, predicted: np.ndarray) -> "Confusion":
        """Count pairs of class indices."""
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (true, predicted), 1)
        return cls(classes, counts)

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))

    def errors(self) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, count) of all errors, the most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.classes[true], self.classes[other], int(wrong[true, other])) for true, other in pairs]

    def __str__(self) -> str:
        """Return a table of true classes by predicted classes; of many classes, the most frequent errors."""
        if len(self.classes) > MOST_COLUMNS:
            worst = [f"{true} predicted as {other}: {count}" for true, other, count in self.errors()[:MOST_ERRORS]]
            return "\n".join(["most frequent errors", *(worst or ["none"])])
        names = [short(name) for name in self.classes]
        first = max(len(CORNER), *map(len, names))
        width = max(len(str(self.counts.max(initial=0))), *map(len, names)) + 2
        recalls = np.diag(self.counts) / np.maximum(1, self.counts.sum(axis=1))
        rows = [(CORNER, names, "recall"), *zip(names, self.counts.tolist(), recalls, strict=True)]
        lines = []
        for name, cells, recall in rows:
            numbers = "".join(f"{cell or '·':>{width}}" for cell in cells)
            lines.append(f"{name:<{first}}{numbers}  {recall if isinstance(recall, str) else f'{recall:.1%}':>6}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"classes": list(self.classes), "counts": self.counts.tolist()}

    def figure(self) -> "Figure":
        """Return a picture of the counts, see `plotting.plot_confusion`."""
        return plot_confusion(self.counts, [short(name) for name in self.classes])

    def draw(self, path: str | Path) -> None:
        """Write the picture to a file. Raises as `plot_confusion` and `save_figure`."""
        save_figure(self.figure(), Path(path))


def short(name: str) -> str:
    """Return the name of a class in few letters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
