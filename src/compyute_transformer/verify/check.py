"""What a proof finds: one measured error beside the limit it must keep."""

from dataclasses import dataclass

import numpy as np

from ..arrays import Array, to_numpy

__all__ = ["Check", "Measured", "gradient_errors", "relative_error"]


class Measured(float):
    """An error, |ours − theirs| / scale, that remembers the numbers it comes from: a certificate states them.

    ours, theirs: the two numbers furthest apart. where: the index at which they stand, () if they stand alone.
    """

    ours: float
    theirs: float
    scale: float
    where: tuple[int, ...]

    def __new__(
        cls,
        error: float,
        ours: float = float("nan"),
        theirs: float = float("nan"),
        scale: float = float("nan"),
        where: tuple[int, ...] = (),
    ) -> "Measured":
        """An error without its numbers is one that has none, such as that of another shape."""
        measured = super().__new__(cls, error)
        measured.ours, measured.theirs, measured.scale, measured.where = ours, theirs, scale, where
        return measured


@dataclass(frozen=True)
class Check:
    """One comparison.

    op, case: what was run. subject: what was compared ("y", "dx", …), and with whom. error: relative. limit: the
    largest error that passes.
    """

    op: str
    case: str
    subject: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error keeps the limit. An error that is not a number does not."""
        return self.error <= self.limit

    def __str__(self) -> str:
        relation = "keeps" if self.passed else "BREAKS"
        return f"{self.op} [{self.case}] {self.subject}: error {self.error:.2g} {relation} the limit {self.limit:.2g}"


def relative_error(ours: Array, theirs: Array) -> Measured:
    """The largest |ours − theirs| over the largest |theirs|, in float64; 0 if both are zero throughout.

    Another shape is an infinite error, never a broadcast; so is another dtype, which is a drift. A NaN on either side
    is an error of NaN, which keeps no limit.
    """
    a, b = to_numpy(ours), to_numpy(theirs)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return Measured(float("inf"))
    if a.size == 0:
        return Measured(0.0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, as it should be
        distance = np.abs(a - b)
    where = tuple(int(i) for i in np.unravel_index(np.argmax(distance), distance.shape))  # that of a NaN, if any
    largest, scale = float(distance[where]), float(np.abs(b).max())
    error = largest / scale if scale else float("inf" if largest else largest)  # NaN stays NaN, 0 stays 0
    return Measured(error, float(a[where]), float(b[where]), scale, where)


def gradient_errors(ours: dict[str, Array | None], theirs: dict[str, Array | None]) -> dict[str, float]:
    """The relative error of each gradient, by name; infinite where one side has a gradient and the other has none."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"gradient_errors: the same names on both sides, got {sorted(ours)} and {sorted(theirs)}.")
    errors: dict[str, float] = {}
    for name, gradient in ours.items():
        other = theirs[name]
        if gradient is not None and other is not None:
            errors[f"d{name}"] = relative_error(gradient, other)
        elif gradient is not None or other is not None:
            errors[f"d{name}"] = float("inf")
    return errors
