"""Whole models, with dropout on, by every method, and ten steps of their training beside PyTorch.

A model's gradient is verified in one direction through its flat buffer, which all parameters share, and then for each
parameter alone, so that a failure has a name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from ..generation.cache import KeyValueCache
from ..generation.decode import prefill, step
from ..models.language import LanguageModel
from ..nn.attention import MultiHeadAttention
from ..nn.module import Module
from ..ops.loss import IGNORE_INDEX
from ..ops.multi_head import IMPLEMENTATIONS
from .differences import directional_error
from .function import Function, Gradients, images_of, of_loss, of_module, rewinder
from .registry import cotangent
from .result import Label, Result, Task, attempt, from_errors, gradient_errors, relative_error
from .slopes import compare_linearity, compare_slopes, line_of
from .subjects import SUBJECTS, Subject, subject_of
from .tolerances import Method, limit
from .torch_models import compare, compare_training, randomize

__all__ = [
    "STEP",
    "beside_implementations",
    "beside_kernels",
    "by_flat_buffer",
    "tasks",
    "whole_gradient",
    "with_d",
]

STEPS = 10
STEP = 2.0**-11  # shorter than for an op: the output of many layers is more curved

Check = Callable[[Any, Label, int], Iterable[Result]]
Inputs = Array | tuple[Array, ...]  # of a model's forward, one or several


def tasks(seed: int) -> Iterator[Task]:
    """The checks of every model."""
    checks: dict[tuple[Method, ...], Check] = {
        ("differences", "complex step"): by_slopes,
        ("adjoint", "linearity"): by_adjoint,
        ("torch",): by_torch,
        ("kernel",): by_kernels,
        ("implementations",): by_implementations,
    }
    for subject in SUBJECTS.values():
        for methods, check in checks.items():
            absent = subject.torch_missing if methods == ("torch",) else None
            yield Task(subject.name, methods, partial(each, subject, methods[0], check, seed), absent)


def each(subject: Subject, method: Method, check: Check, seed: int) -> Iterator[Result]:
    """What a check finds on each configuration."""
    for case, config in subject.cases.items():
        label = Label(subject.name, case)
        yield from attempt(label, method, np.float64, partial(check, config, label, seed))


def draw_model(config: Any, dtype: Any, seed: int) -> tuple[Any, tuple[Array, ...], Array]:
    """The model of a configuration with weights drawn anew, inputs, and targets of which one is ignored."""
    subject = subject_of(config)
    model = subject.model(config, seed).to(dtype=dtype)
    randomize(model, seed)
    inputs, targets = subject.batch(config, np.random.default_rng([seed, 6]), 3, dtype)
    targets.flat[0] = IGNORE_INDEX
    return model, inputs, targets


# --- slopes ----------------------------------------------------------------------------------------------------------


def by_slopes(config: Any, label: Label, seed: int) -> Iterator[Result]:
    """The loss: through the flat buffer, through all parameters by one complex step, and by each parameter alone.

    No differences through a ReLU: they would step over the kink of some hidden unit.
    """
    model, inputs, targets = draw_model(config, np.float64, seed)
    kinked = getattr(config, "activation", "") == "relu"
    if not kinked:
        yield by_flat_buffer(model, inputs, targets, label, seed)
    loss = of_loss(model, inputs, targets)
    yield whole_gradient(loss, label, seed)
    methods: tuple[Method, ...] = ("complex step",) if kinked else ("differences", "complex step")
    yield from compare_slopes(loss, label, seed, methods=methods, step=STEP)


def by_flat_buffer(model: Any, inputs: Inputs, targets: Array, label: Label, seed: int) -> Result:
    """One difference of the loss along a random direction of the flat buffer, in float64."""
    flat, start, rewind = model.flat, model.flat.data.copy(), rewinder(model)
    loss = of_loss(model, inputs, targets)

    def loss_at(weights: Array) -> Array:
        flat.data[...] = weights
        return loss.run(loss.inputs)  # whose arrays are views of the buffer

    model.zero_grad()
    with use_kernels("reference"):
        rewind()
        _, (gradients,) = loss.pull(loss.inputs, [np.float64(1.0)])
        gradient = np.concatenate(
            [np.ravel(found) for path in flat_order(model) if (found := gradients[path]) is not None]
        )
        error = directional_error(loss_at, [gradient], [start], seed=seed, step=STEP)
    flat.data[...] = start
    return label.result("differences", np.float64, "flat buffer", error, limit("differences", np.float64))


def flat_order(model: Module) -> list[str]:
    """The paths of the parameters as they lie in the flat buffer."""
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    return [paths[id(parameter)] for parameter in model.flat.parameters]


def whole_gradient(loss: Function, label: Label, seed: int) -> Result:
    """The gradient of all parameters together, by one complex step."""
    with use_kernels("reference"):
        line = line_of(loss, list(loss.inputs), seed)
        dy = cotangent(loss.run(loss.inputs), seed)
        _, (gradients,) = loss.pull(loss.inputs, [dy])
        error = line.against(dy, line.slope_by_complex_step, gradients)
    return label.result("complex step", np.float64, "all parameters", error, limit("complex step", np.float64))


def by_adjoint(config: Any, label: Label, seed: int) -> Iterator[Result]:
    """The logits: the adjoint identity and linearity, by each parameter."""
    model, inputs, _ = draw_model(config, np.float64, seed)
    logits = logits_of(model, inputs)
    yield from compare_slopes(logits, label, seed, methods=("adjoint",))
    yield from compare_linearity(logits, label, np.float64, seed)


def logits_of(model: Any, inputs: Inputs) -> Function:
    """The logits as a function of the parameters, and of images."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return of_module(model, images_of(given), lambda *moved: model(*(moved or given)))


# --- beside others ---------------------------------------------------------------------------------------------------


def by_torch(config: Any, label: Label, seed: int) -> Iterator[Result]:
    """Logits, loss and every gradient in both dtypes, and the losses of ten training steps in float64.

    Not in float32: where a gradient is zero but for rounding, AdamW makes a whole step of its sign, so that two right
    trainings part ways with some seeds.
    """
    for dtype in (np.float64, np.float32):
        yield from from_errors(with_d(compare(config, dtype, seed)), label, "torch", dtype)
    losses = enumerate(compare_training(config, np.float64, STEPS, seed), start=1)
    errors = {
        f"loss of step {step}": relative_error(np.array(ours), np.array(theirs)) for step, (ours, theirs) in losses
    }
    yield from from_errors(errors, label, "torch", np.float64)


def by_kernels(config: Any, label: Label, seed: int) -> list[Result]:
    """Logits, loss and every gradient in float32."""
    return beside_kernels(*draw_model(config, np.float32, seed), label, seed)


def by_implementations(config: Any, label: Label, seed: int) -> Iterator[Result]:
    """The same with one way to build attention beside another, in float64."""
    model, inputs, targets = draw_model(config, np.float64, seed)
    return beside_implementations(model, inputs, targets, label, seed)


def beside_kernels(model: Any, inputs: Inputs, targets: Array, label: Label, seed: int) -> list[Result]:
    """A model as it runs by default beside itself on references alone; a language model also token by token."""
    outcome = outcome_of(model, inputs, targets)
    with use_kernels("reference"):
        expected = outcome()
    errors = compare_outcomes(outcome(), expected)
    if isinstance(model, LanguageModel):
        ids = inputs[0] if isinstance(inputs, tuple) else inputs
        with use_kernels("reference"):
            slowly = written(model, ids)
        errors["logits, token by token"] = relative_error(written(model, ids), slowly)
    return from_errors(errors, label, "kernel", model.flat.data.dtype)


def written(model: LanguageModel, ids: Array) -> Array:
    """The logits of what follows each of ids (B, T), each read behind the cache of those before it."""
    cache = KeyValueCache(model, len(ids))
    logits = [prefill(model, ids[:, :1].tolist(), cache)]
    logits += [step(model, column.tolist(), cache) for column in ids[:, 1:].T]
    return np.stack(logits, axis=1)


def beside_implementations(model: Any, inputs: Inputs, targets: Array, label: Label, seed: int) -> Iterator[Result]:
    """A model built with each implementation of attention beside the first of them."""
    dtype = model.flat.data.dtype
    before = next(m.implementation for m in model.modules() if isinstance(m, MultiHeadAttention))
    outcome, outcomes = outcome_of(model, inputs, targets), {}
    for name in IMPLEMENTATIONS:
        model.use_attention(name)
        outcomes[name] = outcome()
    model.use_attention(before)
    (first, expected), *others = outcomes.items()
    for name, found in others:
        errors = compare_outcomes(found, expected)
        yield from from_errors(errors, label, "implementations", dtype, f"{name} beside {first}")


def outcome_of(model: Any, inputs: Inputs, targets: Array) -> Callable[[], Gradients]:
    """A function that runs a model, always with the same elements dropped: logits, loss, the gradients by path."""
    loss, logits = of_loss(model, inputs, targets), logits_of(model, inputs)
    one = model.flat.data.dtype.type(1.0)

    def outcome() -> Gradients:
        value, (gradients,) = loss.pull(loss.inputs, [one])
        return {"logits": logits.run(logits.inputs), "loss": value} | gradients

    return outcome


def compare_outcomes(ours: Gradients, theirs: Gradients) -> dict[str, float]:
    """The error of each."""
    return with_d({name.removeprefix("d"): error for name, error in gradient_errors(ours, theirs).items()})


def with_d(errors: Mapping[str, float]) -> dict[str, float]:
    """Errors by name, with a d before what is a gradient."""
    return {name if name in ("logits", "loss") else f"d{name}": error for name, error in errors.items()}
