"""Subjects of a run: a user's own trained model, verified on its own validation text by `compyute verify runs/NAME`.

The gradients that trained it, of the loss on that text with the run's dropout on, in float64: along the flat buffer
and by each parameter against slopes; logits, loss and every gradient beside PyTorch; every implementation of its
attention beside the others; and, in float32 as it was trained, kernels beside references.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..data.pairs.batches import EncodedPairs
from ..data.text.batches import validation_windows
from ..data.text.masked import masked_windows
from ..errors import RunError
from ..models.registry import record_of
from ..training.run.checkpoint import Which
from ..training.run.config import CONFIG, reload_data
from ..training.run.load import LoadedRun, load_run
from ..training.tasks.images import IMAGES
from ..training.tasks.masked import mask_of
from .models import STEP, ModelSubject
from .record import cast
from .result import Label, Result, Task
from .slopes import compare_slopes
from .subject import Check, Kernels, tasks
from .tolerances import Method

__all__ = ["batch_of", "is_run", "model_of", "tasks_of_run"]

KINKED = (
    "A difference would step over the kinks of the model's ReLU; a complex step stays on its side of each, and is run."
)
MOST_IMAGES = 8
LONGEST, MOST_TOKENS = 128, 256  # of a window; of a batch: enough for every gradient, and a large model has an end


def is_run(text: str) -> bool:
    """Say whether an argument means the folder of a run: one is there, or it is written as a path."""
    return (Path(text) / CONFIG).is_file() or "/" in text or os.sep in text


class RunSubject(ModelSubject):
    """The trained model of a run, on a batch of its own data."""

    torch_runs: tuple[tuple[Any, Kernels], ...] = ((np.float64, "auto"),)

    def __init__(self, run: LoadedRun, batch: tuple[Any, Array], label: Label, seed: int) -> None:
        super().__init__(run.model.config, label, seed)
        self.run, self.batch = run, batch
        self.slopes = ("complex step",) if self.kinked else ("differences", "complex step")

    def draw(self, dtype: Any) -> tuple[Any, tuple[Array, ...], Array]:
        """Return the trained model in a dtype, and the batch."""
        inputs, targets = self.batch
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        return model_of(self.run, dtype, self.seed), cast(given, dtype), targets

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the checks of the whole model; each parameter has slopes of its own."""
        return {
            self.slopes: self.by_whole_gradient,
            ("torch",): self.by_torch,
            ("implementations",): self.by_implementations,
            ("kernel",): self.by_kernels,
            **self.on_gpu(),
        }


class ParameterSubject(RunSubject):
    """One parameter of a run's model; its path is the name of the label."""

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the one check of a parameter."""
        return {self.slopes: self.by_slopes}

    def by_slopes(self) -> Iterator[Result]:
        """Compare its gradient with slopes of the loss."""
        loss = self.function(np.float64)
        return compare_slopes(loss, self.label, self.seed, [(self.label.name,)], self.slopes, STEP)


def tasks_of_run(folder: str | Path, which: Which = "best", seed: int = 0) -> list[Task]:
    """Return the checks of a run.

    Raises RunError, CheckpointError or CorpusError where the run or its text cannot be read.
    """
    run = load_run(folder, which)
    batch, case = batch_of(run, folder), f"step {run.step}, {which}"
    whole = RunSubject(run, batch, Label(f"run.{Path(folder).resolve().name}", case), seed)
    parameters = [ParameterSubject(run, batch, Label(path, case), seed) for path, _ in run.model.named_parameters()]
    absent = [Task(whole.label.name, ("differences",), list, KINKED)] if whole.kinked else []
    return [*absent, *tasks([whole, *parameters])]


def batch_of(run: LoadedRun, folder: str | Path) -> tuple[Any, Array]:
    """Return the inputs of the model, one or several, and targets, from the run's validation split.

    They are windows from the start of its text, its first pairs, or its first images; those of the training split where
    there is no validation split.
    """
    data: Any = reload_data(folder, run.config)
    if run.settings.data.kind == "labels":
        raise RunError(
            "verify: the head of a run that learned labels of texts is in no record, so it cannot be verified by its "
            "folder. Verify it in Python: verify.check_module(load_run(folder).model, ids, lengths)"
        )
    if run.settings.data.kind == "images":
        training, validation = IMAGES.split(run.encoder, data, run.settings)
        pixels, labels = (array[:MOST_IMAGES] for array in validation or training)
        return run.encoder.normalize(pixels), labels
    training, validation = data.split(run.settings.data.validation_fraction)
    length = min(run.model.config.context_length, LONGEST)
    rows = max(1, min(run.settings.training.batch_size, MOST_TOKENS // length))
    if run.settings.data.kind == "translation":
        pairs = (validation or training)[:rows]
        encoded = EncodedPairs(pairs, run.tokenizer, run.model.config.context_length, "validation")
        *inputs, labels = encoded.batch(np.arange(len(pairs)))
        return tuple(inputs), labels
    tokens = run.tokenizer.encode((validation or training)[: 64 * rows * length])
    if run.settings.data.kind == "masked":
        *masked, labels = next(masked_windows(tokens, length, rows, mask_of(run.tokenizer), rows * length))
        return tuple(masked), labels
    return next(validation_windows(tokens, length, rows))


def model_of(run: LoadedRun, dtype: Any, seed: int) -> Any:
    """Return the trained model in a dtype, in training mode, with draws of dropout of its own."""
    model = record_of(run.model).model(run.model.config, seed).to(dtype=dtype)
    model.load_state_dict(run.model.state_dict())
    return model.train()
