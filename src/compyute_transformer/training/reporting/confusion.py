"""Confusion: which classes a classifier takes for which, as a table, as plain values, and as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plotting import plot_confusion, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Confusion"]

MOST_COLUMNS = 20  # classes beyond which the table lists the worst mistakes instead
MOST_MISTAKES = 10
LONGEST = 12  # letters of a class in a heading


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts[true, said]: how many images of one class were taken for another, or rightly for their own."""

    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, classes: tuple[str, ...], true: np.ndarray, said: np.ndarray) -> "Confusion":
        """Count pairs of class indices."""
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (true, said), 1)
        return cls(classes, counts)

    @property
    def accuracy(self) -> float:
        """The share that was taken rightly."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))

    def mistakes(self) -> list[tuple[str, str, int]]:
        """(true class, what it was taken for, how often), the most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.classes[true], self.classes[said], int(wrong[true, said])) for true, said in pairs]

    def __str__(self) -> str:
        """A row for each true class, a column for what it was taken for; of many classes the worst mistakes alone."""
        if len(self.classes) > MOST_COLUMNS:
            worst = [f"{true} taken for {said}: {count}" for true, said, count in self.mistakes()[:MOST_MISTAKES]]
            return "\n".join(["the most frequent mistakes", *(worst or ["none"])])
        names = [short(name) for name in self.classes]
        first = max(len("true \\ said"), *map(len, names))
        width = max(len(str(self.counts.max(initial=0))), *map(len, names)) + 2
        shares = np.diag(self.counts) / np.maximum(1, self.counts.sum(axis=1))
        rows = [("true \\ said", names, "right"), *zip(names, self.counts.tolist(), shares, strict=True)]
        lines = []
        for name, cells, share in rows:
            numbers = "".join(f"{cell or '·':>{width}}" for cell in cells)
            lines.append(f"{name:<{first}}{numbers}  {share if isinstance(share, str) else f'{share:.1%}':>6}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"classes": list(self.classes), "counts": self.counts.tolist()}

    def figure(self) -> "Figure":
        """Return a picture of the counts, see `plotting.plot_confusion`."""
        return plot_confusion(self.counts, [short(name) for name in self.classes])

    def draw(self, path: str | Path) -> None:
        """Write the picture to a file. Raises as `plot_confusion` and `save_figure`."""
        save_figure(self.figure(), Path(path))


def short(name: str) -> str:
    """A class in few letters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
