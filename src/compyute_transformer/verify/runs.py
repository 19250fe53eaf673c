"""A user's own trained model, verified on its own validation text: `compyute verify runs/NAME`.

The gradients that trained it, of the loss on that text with the run's dropout on, in float64: along the flat buffer
and by each parameter against slopes; logits, loss and every gradient beside PyTorch; every way to build its attention
beside the others; and, in float32 as it was trained, kernels beside references.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..data.pairs.batches import EncodedPairs
from ..data.text.batches import validation_windows
from ..training.run.checkpoint import Which
from ..training.run.config import CONFIG, reload_data
from ..training.run.folder import LoadedRun, load_run
from ..training.tasks.images import IMAGES
from .function import of_loss
from .models import STEP, beside_implementations, beside_kernels, by_flat_buffer, whole_gradient, with_d
from .registry import cast
from .result import Label, Result, Task, attempt, from_errors
from .slopes import compare_slopes
from .subjects import subject_of
from .tolerances import Method
from .torch_models import compare_model

__all__ = ["is_run", "tasks_of_run"]

KINKED = (
    "A difference would step over the kinks of the model's ReLU; a complex step stays on its side of each, and is run."
)
MOST_IMAGES = 8
LONGEST, MOST_TOKENS = 128, 256  # of a window; of a batch: enough for every gradient, and a large model has an end


def is_run(text: str) -> bool:
    """Whether an argument means the folder of a run, not a part of a name: one is there, or it is written as a path."""
    return (Path(text) / CONFIG).is_file() or "/" in text or os.sep in text


def tasks_of_run(folder: str | Path, which: Which = "best", seed: int = 0) -> list[Task]:
    """The checks of a run.

    Raises RunError, CheckpointError or CorpusError where the run or its text cannot be read.
    """
    run = load_run(folder, which)
    inputs, targets = batch_of(run, folder)
    whole = Label(f"run.{Path(folder).resolve().name}", f"step {run.step}, {which}")

    def task(method: Method, dtype: Any, check: Any, label: Label = whole, methods: tuple[Method, ...] = ()) -> Task:
        def results() -> Iterator[Result]:
            return check(model_of(run, dtype, seed), cast(inputs, dtype), targets, label, seed)

        return Task(label.name, methods or (method,), partial(attempt, label, method, dtype, results))

    kinked = run.model.config.activation == "relu"
    slopes: tuple[Method, ...] = ("complex step",) if kinked else ("differences", "complex step")
    return [
        replace(task("differences", np.float64, along_the_buffer), absent=KINKED if kinked else None),
        task("complex step", np.float64, along_all_parameters),
        *(
            task("complex step", np.float64, partial(along_one_parameter, slopes), Label(path, whole.case), slopes)
            for path, _ in run.model.named_parameters()
        ),
        task("torch", np.float64, beside_torch),
        task("implementations", np.float64, beside_implementations),
        task("kernel", np.float32, beside_kernels),
    ]


def batch_of(run: LoadedRun, folder: str | Path) -> tuple[Any, Array]:
    """The inputs of the model, one or several, and targets, from the run's validation split.

    Windows from the start of its text; its first pairs; its first images. Of the training split, if it kept none.
    """
    data: Any = reload_data(folder, run.config)
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
    return next(validation_windows(tokens, length, rows))


def model_of(run: LoadedRun, dtype: Any, seed: int) -> Any:
    """The trained model in a dtype, in training mode, with draws of dropout of its own."""
    model = subject_of(run.model).model(run.model.config, seed).to(dtype=dtype)
    model.load_state_dict(run.model.state_dict())
    return model.train()


def along_the_buffer(model: Any, ids: Array, targets: Array, label: Label, seed: int) -> Iterator[Result]:
    """One direction through all parameters, by differences."""
    yield by_flat_buffer(model, ids, targets, label, seed)


def along_all_parameters(model: Any, ids: Array, targets: Array, label: Label, seed: int) -> Iterator[Result]:
    """One direction through all parameters, by a complex step."""
    yield whole_gradient(of_loss(model, ids, targets), label, seed)


def along_one_parameter(
    methods: tuple[Method, ...], model: Any, ids: Array, targets: Array, label: Label, seed: int
) -> Iterator[Result]:
    """The parameter whose path is the label's name, alone."""
    return compare_slopes(of_loss(model, ids, targets), label, seed, [label.name], methods, STEP)


def beside_torch(model: Any, ids: Array, targets: Array, label: Label, seed: int) -> list[Result]:
    """Logits, loss and the gradient of each parameter."""
    return from_errors(with_d(compare_model(model, ids, targets)), label, "torch", np.float64)
