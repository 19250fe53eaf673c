"""Events: what happens in a run, as plain values, for the log, the progress bar, callbacks and other programs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeAlias

__all__ = ["Advanced", "Evaluated", "Event", "Logged", "RunResult", "Sampled", "Saved", "Started", "record"]


@dataclass(frozen=True)
class Started:
    """Training begins, or continues, at a step.

    path: where the ops run: "cpu" or "gpu" for the kernels, or "reference". units_per_step: tokens or
    images, as `unit` says. facts: what is trained, and on what.
    """

    name: ClassVar[str] = "started"
    folder: Path
    step: int
    steps: int
    parameters: int
    device: str
    path: str
    units_per_step: int
    unit: str
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Advanced:
    """A step was taken: `step` of them so far. loss: of its batch, before the weights moved."""

    name: ClassVar[str] = "advanced"
    step: int
    loss: float


@dataclass(frozen=True)
class Logged:
    """A step was taken, reported in full every log_every steps.

    gradient_norm: before clipping. rate: units (tokens, images) per second since the last logged step. seconds: since
    the run began, without the time between an interruption and its resumption.
    """

    name: ClassVar[str] = "step"
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    rate: float
    unit: str
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The validation split was evaluated.

    best: whether the loss is the lowest since training began; never of step 0. metrics: all metrics but the loss.
    """

    name: ClassVar[str] = "evaluation"
    step: int
    validation_loss: float
    best: bool
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """A sample shows what the model has learned."""

    name: ClassVar[str] = "sample"
    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    name: ClassVar[str] = "checkpoint"
    step: int
    folder: Path


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    step: steps taken. loss: of the last logged step. validation_loss, metrics: of the last validation; None and empty
    without one. best_step: of the lowest validation loss since training began. interrupted: whether Ctrl-C or SIGTERM
    ended it; `resume_run` continues. seconds: of training, validation and sampling, over all sessions. taken: steps of
    this session. stopped: why a callback ended it, or None.
    """

    name: ClassVar[str] = "finished"
    folder: Path
    step: int
    loss: float | None
    validation_loss: float | None
    metrics: Mapping[str, float]
    best_step: int | None
    interrupted: bool
    seconds: float
    taken: int
    stopped: str | None = None


Event: TypeAlias = Started | Advanced | Logged | Evaluated | Sampled | Saved | RunResult


def record(event: Event) -> dict[str, object]:
    """Return an event as one flat object of JSON values: "event" with its name, and its fields.

    The entries of a field that is a mapping become fields of the object.
    """
    flat: dict[str, object] = {"event": event.name}
    for field in fields(event):
        value = getattr(event, field.name)
        flat.update(
            value if isinstance(value, Mapping) else {field.name: str(value) if isinstance(value, Path) else value}
        )
    return flat
