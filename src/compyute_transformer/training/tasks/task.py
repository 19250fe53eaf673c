"""Task: what a batch, a loss and a metric are. The trainer knows time, a task knows language, translation or images.

A step of the trainer is   for part, weight in task.batch(): loss += task.loss_and_gradient(part, weight)

    Kind            what the folder of a run asks of a kind of task: how its data are read, and what is made of them
    Task            what the trainer asks of a task
    SupervisedTask  what the kinds there are share: batches end with targets, and the loss is cross-entropy
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...arrays import Array, to_device
from ...data.text.batches import IGNORE_INDEX
from ...generation.decode import evaluating
from ...nn.module import Module
from ...ops.loss import cross_entropy, cross_entropy_backward, cross_entropy_forward
from ..settings.settings import Settings, TrainingSettings

if TYPE_CHECKING:
    from ..reporting.confusion import Confusion

__all__ = [
    "Batches",
    "Data",
    "Encoder",
    "Judgement",
    "Kind",
    "Parts",
    "SupervisedTask",
    "Task",
    "mean_loss",
    "split_batch",
]

Part = tuple[Array, ...]  # the inputs of the model, then the targets; each has as many rows
Parts = Sequence[tuple[Any, float]]


class Task(Protocol):
    """What the trainer asks of a task. All of it is a function of the settings, the step and `state`."""

    unit: str  # what is counted: "tokens", "images"

    @property
    def model(self) -> Module:
        """What is trained."""
        ...

    @property
    def units_per_step(self) -> int:
        """How much a step sees, for the rate."""
        ...

    def batch(self) -> Parts:
        """The next batch in parts, each with its weight in the loss of the step; the weights sum to one."""
        ...

    def loss_and_gradient(self, part: Any, weight: float) -> float:
        """Add weight times the gradient of a part's mean loss to the model's gradients; weight times that loss."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Metrics of the whole validation split, "loss" among them; empty where there is none. Changes no state."""
        ...

    def sample(self, seed: int) -> str | None:
        """Something that shows a person what the model has learned, or None. Changes no state."""
        ...

    def facts(self) -> Mapping[str, object]:
        """What is trained on what, for the head of a report."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values from which `load_state` goes on: where in the data, and where in the random numbers."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


# --- kinds of tasks ---


class Data(Protocol):
    """What a task is trained on: a text, pairs of texts, images; and a note of where it came from.

    sources: from which `Kind.load` reads it again. sha256: of its content, which tells that it is the same.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Where it came from."""
        ...

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        ...


class Encoder(Protocol):
    """What stands between data and arrays, fixed before training: a tokenizer, a list of classes."""

    def save(self, path: str | Path) -> None:
        """Write the file that `Kind.load_encoder` reads."""
        ...


@dataclass(frozen=True)
class Judgement:
    """How good a model is on data. metrics: "loss" among them. confusion: of a classifier, who was taken for whom."""

    metrics: dict[str, float]
    confusion: "Confusion | None" = None


class Kind(Protocol):
    """A kind of task. `run` knows how a run lives in its folder; a kind knows what the run is about.

    file: the name of the encoder's file.
    """

    file: str

    def load(self, sources: Any) -> Data:
        """Read data from names, files and folders; without a source, those that are always there."""
        ...

    def encoder(self, data: Any, settings: Settings) -> Any:
        """Make the encoder that the data ask for."""
        ...

    def load_encoder(self, path: Path) -> Any:
        """Read what an encoder saved. Raises DataError for another file."""
        ...

    def shape(self, encoder: Any) -> dict[str, Any]:
        """The fields of the model's configuration that the data decide, as plain values."""
        ...

    def task(self, model: Any, encoder: Any, data: Any, settings: Settings) -> Task:
        """The task: the data split, encoded, in batches."""
        ...

    def judge(self, model: Any, encoder: Any, data: Any, settings: Settings, whole: bool) -> Judgement:
        """Judge a model by the validation split of its data, or by the whole of other data.

        Raises RunError where there is no validation split.
        """
        ...


# --- what tasks share ---


class Batches(Protocol):
    """Batches by a cursor: `next` is a pure function of (seed, cursor), and moves the cursor on."""

    cursor: int

    def next(self) -> tuple[np.ndarray, ...]:
        """The inputs of the model, then the targets; each has as many rows."""
        ...


class SupervisedTask:
    """Predict targets: logits from the inputs, cross-entropy in nats, `accumulation` parts of `batch_size` rows a step.

    A batch has accumulation · batch_size rows, so the data of a step do not depend on how it is cut.
    """

    def __init__(self, model: Any, batches: Batches, settings: TrainingSettings) -> None:
        self.model = model
        self.batches = batches
        self.settings = settings

    def batch(self) -> Parts:
        """The next batch in parts, weighted by how many targets of each are scored."""
        arrays = [to_device(array, self.model.device) for array in self.batches.next()]
        return split_batch(arrays, self.settings.accumulation)

    def loss_and_gradient(self, part: Part, weight: float) -> float:
        """Cross-entropy, its targets smoothed as the settings say."""
        *inputs, targets = part
        loss, saved = cross_entropy_forward(self.model(*inputs), targets, label_smoothing=self.settings.label_smoothing)
        self.model.backward(cross_entropy_backward(weight, saved, overwrite=True))
        return weight * float(loss)

    def state(self) -> dict[str, Any]:
        """The index of the next batch, and the next draw of dropout."""
        dropout = self.model.generator
        return {
            "batch": self.batches.cursor,
            "dropout": {"seed": dropout.seed, "stream": dropout.stream, "offset": dropout.offset},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        dropout, self.batches.cursor = self.model.generator, state["batch"]
        dropout.seed, dropout.stream, dropout.offset = (state["dropout"][key] for key in ("seed", "stream", "offset"))


def split_batch(arrays: Sequence[Array], parts: int) -> Sequence[tuple[Part, float]]:
    """A batch, arrays of B rows with the targets last, in equal parts, each with its share of the scored targets.

    The mean over a batch is the mean of its parts' means only where all parts score equally many targets; with these
    weights it always is, and so is the gradient.
    """
    rows = len(arrays[-1]) // parts
    cut = [tuple(array[start : start + rows] for array in arrays) for start in range(0, rows * parts, rows)]
    scored = [int((part[-1] != IGNORE_INDEX).sum()) for part in cut]
    return [(part, count / max(1, sum(scored))) for part, count in zip(cut, scored, strict=True)]


def mean_loss(model: Module, batches: Iterable[Sequence[np.ndarray]]) -> tuple[float, int]:
    """Mean cross-entropy in nats over batches, (*inputs, targets) each, in `eval()`; and how many targets it is of."""
    nats, count = 0.0, 0
    with evaluating(model):
        for arrays in batches:
            *inputs, targets = (to_device(array, model.device) for array in arrays)
            scored = int((targets != IGNORE_INDEX).sum())
            nats += scored * float(cross_entropy(model(*inputs), targets))
            count += scored
    return nats / max(1, count), count
