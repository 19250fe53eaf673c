"""What happens in a run, as plain values: the trainer tells, and a log, a progress bar or a machine listens."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeAlias

__all__ = ["Advanced", "Evaluated", "Event", "Logged", "RunResult", "Sampled", "Saved", "Started", "record"]


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on, at a step.

    path: the package of the ops that run, "cpu" or "gpu" for the kernels, or "reference". units_per_step: tokens or
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
    """The same, every log_every steps, with all there is to say about the step.

    gradient_norm: before clipping. rate: units (tokens, images) a second, since the last of these. seconds: since the
    run began, without the time between an interruption and its resumption.
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
    """The whole validation split was predicted. best: whether no earlier loss was as low. metrics: what else came."""

    name: ClassVar[str] = "evaluation"
    step: int
    validation_loss: float
    best: bool
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """The model showed what it has learned."""

    name: ClassVar[str] = "sample"
    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """There is a checkpoint."""

    name: ClassVar[str] = "checkpoint"
    step: int
    folder: Path


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    step: steps taken. loss: of the last step that was logged. validation_loss, metrics: of the last evaluation; None
    and empty without one. best_step: where the validation loss was the lowest. interrupted: Ctrl-C or SIGTERM came
    first; `resume_run` goes on. seconds: of training, evaluation and sampling, over all sittings. taken: steps of this
    sitting alone.
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


Event: TypeAlias = Started | Advanced | Logged | Evaluated | Sampled | Saved | RunResult


def record(event: Event) -> dict[str, object]:
    """An event as one flat object of JSON values: "event", its name, and its fields; a field of fields lies open."""
    flat: dict[str, object] = {"event": event.name}
    for field in fields(event):
        value = getattr(event, field.name)
        flat.update(
            value if isinstance(value, Mapping) else {field.name: str(value) if isinstance(value, Path) else value}
        )
    return flat
