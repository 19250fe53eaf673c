"""Schedule: the learning rate as a function of the step, so that a resumed run needs no state for it."""

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Literal, get_args

from ..errors import ConfigError

__all__ = ["Decay", "Schedule"]

Decay = Literal["constant", "linear", "cosine", "inverse_sqrt"]


@dataclass(frozen=True)
class Schedule:
    """Warm up in a straight line, then stay, or fall to a minimum.

    η(t) = peak · (t + 1) / (warmup + 1)                          for t < warmup
    η(t) = minimum + (peak − minimum) · fall(r), r = (t − warmup) / (steps − warmup), held at minimum from `steps` on
    fall(r) = 1 (constant), 1 − r (linear), ½ (1 + cos π r) (cosine)

    Steps count from 0. inverse_sqrt is the schedule of the first transformer, which falls for ever, however many steps
    there are, and which counts steps from 1, n = t + 1:

    η(t) = peak · min(n / warmup, √(warmup / n)), from n = warmup on never below minimum

    The paper writes d^(−½) · min(n^(−½), n · warmup^(−3/2)), which is this with peak = (d · warmup)^(−½), d being the
    width of the model. Its base model, d = 512 and warmup 4000, has a peak of 7.0e-4.

    Sources: Loshchilov, Hutter 2017, "SGDR", for the cosine; Vaswani et al. 2017, "Attention is all you need",
    equation 3, for inverse_sqrt.
    """

    peak: float
    steps: int
    warmup: int = 0
    minimum: float = 0.0
    decay: Decay = "cosine"

    def __post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise ConfigError(f"Schedule: decay is one of {', '.join(get_args(Decay))}, got {self.decay!r}.")
        if self.steps < 1 or self.warmup < 0 or not 0 <= self.minimum <= self.peak:
            raise ConfigError(
                "Schedule: steps is at least 1, warmup at least 0, and 0 ≤ minimum ≤ peak, got "
                f"steps {self.steps}, warmup {self.warmup}, minimum {self.minimum}, peak {self.peak}."
            )
        if self.decay == "inverse_sqrt" and self.warmup < 1:
            raise ConfigError(
                f"Schedule: inverse_sqrt falls from where warm-up ends, so warmup is at least 1, got {self.warmup}. "
                "Give some steps of warm-up, the paper 4000 of 100 000, or another decay."
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.decay == "inverse_sqrt":
            n = step + 1
            return (
                self.peak * n / self.warmup if n < self.warmup else max(self.minimum, self.peak * sqrt(self.warmup / n))
            )
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if self.decay == "constant":
            return self.peak
        gone = (step - self.warmup) / (self.steps - self.warmup) if step < self.steps else 1.0
        fall = 1.0 - gone if self.decay == "linear" else 0.5 * (1.0 + cos(pi * gone))
        return self.minimum + (self.peak - self.minimum) * fall
