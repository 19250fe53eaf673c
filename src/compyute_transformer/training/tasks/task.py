"""Task: what a batch, a loss and a metric are. The trainer counts steps; a task knows language, translation or images.

A step of the trainer is   for part, weight in task.batch(): loss += task.loss_and_gradient(part, weight)

    TaskRecord      what the folder of a run needs to know: how data are read, and what is made of them
    Task            what the trainer needs of a task
    SupervisedTask  what the tasks of this library share: batches end with targets, and the loss is cross-entropy
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
from ...parallel import shared
from ..mixed import gradient_in_pieces
from ..settings.settings import Settings, TrainingSettings
from ..watch import watched

if TYPE_CHECKING:
    from ..reporting.confusion import Confusion

__all__ = [
    "Batches",
    "Data",
    "Encoder",
    "Parts",
    "SupervisedTask",
    "Task",
    "TaskEvaluation",
    "TaskRecord",
    "mean_loss",
    "split_batch",
]

Part = tuple[Array, ...]  # the inputs of the model, then the targets; each has as many rows
Parts = Sequence[tuple[Any, float]]


class Task(Protocol):
    """What the trainer needs of a task. All of it is a function of the settings, the step and `state`."""

    unit: str  # what is counted: "tokens", "images"

    @property
    def model(self) -> Module:
        """The model that is trained."""
        ...

    @property
    def units_per_step(self) -> int:
        """How many units a step sees, for the rate."""
        ...

    def batch(self) -> Parts:
        """Return the next batch in parts, each with its weight in the loss of the step; the weights sum to one."""
        ...

    def loss_and_gradient(self, part: Any, weight: float) -> float:
        """Add weight times the gradient of a part's mean loss to the model's gradients, and return weight · loss."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Return metrics of the validation split, "loss" among them; empty without a split. Changes no state."""
        ...

    def sample(self, seed: int) -> str | None:
        """Return a text that shows what the model has learned, or None. Changes no state."""
        ...

    def facts(self) -> Mapping[str, object]:
        """Return what is trained on what, for the head of a report."""
        ...

    def state(self) -> dict[str, Any]:
        """Return plain values from which `load_state` continues: the position in the data and the random state."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken. Raises ValueError, KeyError or TypeError for other values."""
        ...


# --- the record of a task ---


class Data(Protocol):
    """What a task is trained on: a text, pairs of texts or images, with a note of where it came from.

    sources: from which `TaskRecord.load` reads it again. sha256: of its content, in hexadecimal.
    """

    @property
    def name(self) -> str:
        """A short name."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Names, files and folders."""
        ...

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content."""
        ...


class Encoder(Protocol):
    """What turns data into arrays, fixed before training: a tokenizer, or a list of classes."""

    def save(self, path: str | Path) -> None:
        """Write the file that `TaskRecord.load_encoder` reads."""
        ...


@dataclass(frozen=True)
class TaskEvaluation:
    """How good a model is on data. metrics: "loss" among them. confusion: the confusion matrix of a classifier."""

    metrics: dict[str, float]
    confusion: "Confusion | None" = None


class TaskRecord(Protocol):
    """Everything that the library must know about a task: one record each for language, translation and images.

    file: the name of the encoder's file.
    """

    file: str

    def load(self, sources: Any) -> Data:
        """Read data from names, files and folders; without a source, the task's built-in data."""
        ...

    def encoder(self, data: Any, settings: Settings) -> Any:
        """Make the encoder for some data."""
        ...

    def load_encoder(self, path: Path) -> Any:
        """Read the file of an encoder. Raises DataError for any other file."""
        ...

    def shape(self, encoder: Any) -> dict[str, Any]:
        """Return the fields of the model's configuration that the data decide, as plain values."""
        ...

    def task(self, model: Any, encoder: Any, data: Any, settings: Settings) -> Task:
        """Make the task: split and encode the data, and make batches."""
        ...

    def evaluate(self, model: Any, encoder: Any, data: Any, settings: Settings, whole: bool) -> TaskEvaluation:
        """Evaluate a model on the validation split of its data, or on the whole of other data.

        Raises RunError if there is no validation split.
        """
        ...


# --- what tasks share ---


class Batches(Protocol):
    """Batches by a cursor: `next` is a pure function of (seed, cursor), and advances the cursor."""

    cursor: int

    def next(self) -> tuple[np.ndarray, ...]:
        """Return the inputs of the model, then the targets, with equal numbers of rows."""
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
        """Return the next batch in parts, weighted by how many targets of each are scored."""
        arrays = [to_device(array, self.model.device) for array in self.batches.next()]
        return split_batch(arrays, self.settings.accumulation * self.settings.leaves)

    def loss_and_gradient(self, part: Part, weight: float) -> float:
        """Compute the cross-entropy with label smoothing, and add its gradient."""
        *inputs, targets = part
        smoothing = self.settings.label_smoothing
        cut = gradient_in_pieces(self.model, inputs, targets, smoothing, weight)
        if cut is not None:
            return weight * float(cut)
        loss, saved = cross_entropy_forward(self.model(*inputs), targets, label_smoothing=smoothing)
        self.model.backward(cross_entropy_backward(weight, saved, overwrite=True))
        return weight * float(loss)

    def state(self) -> dict[str, Any]:
        """Return the index of the next batch and the random state of dropout."""
        dropout = self.model.generator
        return {
            "batch": self.batches.cursor,
            "dropout": {"seed": dropout.seed, "stream": dropout.stream, "offset": dropout.offset},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken. Raises ValueError for values out of range."""
        batch, saved = state["batch"], state["dropout"]
        limits = {"seed": 2**64, "stream": 2**32, "offset": 2**64}
        values = {"batch": batch, **{name: saved[name] for name in limits}}
        for name, limit in {"batch": 2**32, **limits}.items():
            if type(values[name]) is not int or not 0 <= values[name] < limit:
                raise ValueError(f"{name} is a whole number in [0, {limit}), got {str(values[name])[:40]!r}")
        dropout, self.batches.cursor = self.model.generator, batch
        dropout.seed, dropout.stream, dropout.offset = (values[name] for name in limits)


def split_batch(arrays: Sequence[Array], parts: int) -> Sequence[tuple[Part, float]]:
    """Split a batch, arrays of B rows with the targets last, into equal parts with weights.

    The weight of a part is its fraction of the scored targets. The mean loss over a batch is then the weighted sum of
    the parts' mean losses, even if the parts score different numbers of targets, and so is the gradient.
    """
    rows = len(arrays[-1]) // parts
    cut = [tuple(array[start : start + rows] for array in arrays) for start in range(0, rows * parts, rows)]
    scored = [int((part[-1] != IGNORE_INDEX).sum()) for part in cut]
    return [(part, count / max(1, sum(scored))) for part, count in zip(cut, scored, strict=True)]


def mean_loss(model: Module, batches: Iterable[Sequence[np.ndarray]], total: int) -> tuple[float, int]:
    """Return the mean cross-entropy in nats over batches (*inputs, targets), in `eval()`, and the number of targets.

    total: how many batches there are, for a bar.
    """

    def measure(arrays: Sequence[np.ndarray]) -> tuple[float, int]:
        *inputs, targets = (to_device(array, model.device) for array in arrays)
        scored = int((targets != IGNORE_INDEX).sum())
        return scored * float(cross_entropy(model(*inputs), targets)), scored

    with evaluating():
        measured = shared(measure, watched(batches, total))
    count = sum(scored for _, scored in measured)
    return sum(nats for nats, _ in measured) / max(1, count), count
