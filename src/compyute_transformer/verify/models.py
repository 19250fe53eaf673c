"""Subjects of the models: every record of `models/registry.py` in its small configurations, with dropout on.

A model's gradient is verified in one direction through its flat buffer, which all parameters share, and then for each
parameter alone, so that a failure has a name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..arrays import Array, to_device
from ..dispatch import use_kernels
from ..generation.cache import KeyValueCache
from ..generation.decode import prefill, step
from ..models.language import LanguageModel
from ..models.registry import MODELS, record_of
from ..nn.module import Module
from ..ops.loss import IGNORE_INDEX
from ..ops.multi_head import IMPLEMENTATIONS
from .differences import directional_error
from .function import Function, images_of, of_loss, of_module, randomize, rewinder
from .kernels import on_device
from .record import cast, cotangent
from .result import Label, Outcome, Result, from_errors, outcome_errors
from .slopes import compare_linearity, compare_slopes, line_of
from .subject import Check, Subject
from .tolerances import Method, limit
from .torch.models import torch_missing, torch_outcome, train_beside_torch

__all__ = ["ModelSubject", "draw_model", "subjects"]

STEP = 2.0**-11  # shorter than for an op: the output of many layers is more curved


class ModelSubject(Subject):
    """A model with random weights, in training mode, and a random batch."""

    slopes: tuple[Method, ...] = ("differences", "complex step")
    step = STEP
    linear_in = (np.float64,)
    variants_in = (np.float64,)

    def __init__(self, config: Any, label: Label, seed: int = 0) -> None:
        self.config, self.label, self.seed = config, label, seed
        self.torch_missing = torch_missing(record_of(config))
        # a difference would step over the kink of some hidden unit; a complex step stays on its side of each
        self.kinked = getattr(config, "activation", "") == "relu"

    def draw(self, dtype: Any) -> tuple[Any, tuple[Array, ...], Array]:
        """Return the model, always with the same weights and draws of dropout, its inputs and targets."""
        return draw_model(self.config, dtype, self.seed)

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the checks that apply."""
        return {
            self.slopes: self.by_slopes,
            ("adjoint", "linearity"): self.by_adjoint,
            ("torch",): self.by_torch,
            ("training",): self.by_training,
            ("kernel",): self.by_kernels,
            ("implementations",): self.by_implementations,
            **self.on_gpu(),
        }

    def function(self, dtype: Any) -> Function:
        """Return the loss as a function of the parameters, and of images."""
        return of_loss(*self.draw(dtype))

    def logits(self, dtype: Any) -> Function:
        """Return the logits as a function of the parameters, and of images."""
        model, inputs, _ = self.draw(dtype)
        return of_module(model, images_of(inputs), lambda *moved: model(*(moved or inputs)))

    def by_slopes(self) -> Iterator[Result]:
        """Compare the gradients of the loss: through the flat buffer, of all parameters together, and of each alone."""
        yield from self.by_whole_gradient()
        methods = tuple(method for method in self.slopes if method != "differences" or not self.kinked)
        yield from compare_slopes(self.function(np.float64), self.label, self.seed, None, methods, self.step)

    def by_whole_gradient(self) -> Iterator[Result]:
        """Compare the gradient of all parameters together, by a difference and by a complex step."""
        if not self.kinked:
            yield by_flat_buffer(*self.draw(np.float64), self.label, self.seed)
        loss = self.function(np.float64)
        with use_kernels("reference"):
            line = line_of(loss, list(loss.inputs), self.seed)
            dy = cotangent(loss.run(loss.inputs), self.seed)
            _, (gradients,) = loss.pull(loss.inputs, [dy])
            error = line.against(dy, line.slope_by_complex_step, gradients)
        yield from from_errors({"all parameters": error}, self.label, "complex step", np.float64)

    def by_adjoint(self) -> Iterator[Result]:
        """Compare the logits: the adjoint identity and linearity, by each parameter."""
        logits = self.logits(np.float64)
        yield from compare_slopes(logits, self.label, self.seed, methods=("adjoint",))
        yield from compare_linearity(logits, self.label, np.float64, self.seed)

    def outcome(self, dtype: Any) -> Outcome:
        """Return logits, loss and all gradients."""
        return run_model(*self.draw(dtype))

    def outcome_on_gpu(self, dtype: Any) -> Outcome:
        """Return the same, computed on a GPU."""
        model, inputs, targets = self.draw(dtype)
        return run_model(model.to("cuda"), on_device(inputs, "cuda"), to_device(targets, "cuda"))

    def oracles(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the same by PyTorch."""
        model, inputs, targets = self.draw(dtype)
        yield "", torch_outcome(model, inputs, targets)

    def by_training(self) -> Iterator[Result]:
        """Compare the losses of ten steps and the weights after them with PyTorch's, in float64.

        In float32 the two part: where a gradient is zero but for rounding, AdamW makes a whole step of its sign.
        """
        errors = outcome_errors(*train_beside_torch(*self.draw(np.float64)))
        yield from from_errors(errors, self.label, "training", np.float64)

    def by_kernels(self) -> Iterator[Result]:
        """Compare the outcome with kernels with that of references alone; of a language model also token by token."""
        yield from super().by_kernels()
        model, (ids, *_), _ = self.draw(np.float32)
        if isinstance(model, LanguageModel):
            with use_kernels("reference"):
                expected = token_by_token(model, ids)
            errors = outcome_errors({"logits": token_by_token(model, ids)}, {"logits": expected})
            yield from from_errors(errors, self.label, "kernel", np.float32, "token by token")

    def variants(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcome with each implementation of attention."""
        for name in IMPLEMENTATIONS:
            model, inputs, targets = self.draw(dtype)
            model.use_attention(name)
            yield name, run_model(model, inputs, targets)


def subjects(seed: int) -> Iterator[ModelSubject]:
    """Yield every model of the registry in each of its small configurations."""
    for record in MODELS.values():
        for case, config in record.small_configs().items():
            yield ModelSubject(config, Label(f"models.{record.model.__name__}", case), seed)


def draw_model(config: Any, dtype: Any, seed: int = 0, batch_size: int = 3) -> tuple[Any, tuple[Array, ...], Array]:
    """Return the model of a configuration with weights drawn anew, inputs, and targets of which one is ignored."""
    record = record_of(config)
    model = record.model(config, seed).to(dtype=dtype)
    randomize(model, seed)
    inputs, targets = record.batch(config, np.random.default_rng([seed, 6]), batch_size)
    targets.flat[0] = IGNORE_INDEX
    return model, cast(inputs, dtype), targets


def run_model(model: Any, inputs: tuple[Array, ...], targets: Array) -> Outcome:
    """Return logits, loss and the gradients of the parameters, by their paths, and of images."""
    function = of_loss(model, inputs, targets)
    logits = of_module(model, {}, lambda: model(*inputs))
    loss, (gradients,) = function.pull(function.inputs, [model.flat.data.dtype.type(1.0)])
    return {"logits": logits.run(logits.inputs), "loss": loss, **{f"d{name}": g for name, g in gradients.items()}}


def by_flat_buffer(model: Any, inputs: tuple[Array, ...], targets: Array, label: Label, seed: int) -> Result:
    """Compare the gradient with one difference of the loss along a random direction of the flat buffer, in float64."""
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
    """Return the paths of the parameters as they lie in the flat buffer."""
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    return [paths[id(parameter)] for parameter in model.flat.parameters]


def token_by_token(model: LanguageModel, ids: Array) -> Array:
    """Return the logits of what follows each of ids (B, T), each computed with the cache of those before it."""
    cache = KeyValueCache(model, len(ids))
    logits = [prefill(model, ids[:, :1].tolist(), cache)]
    logits += [step(model, column.tolist(), cache) for column in ids[:, 1:].T]
    return np.stack(logits, axis=1)
