"""An op, a module and a whole model as the checks see them: named inputs in, one array out, and a backward."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..arrays import Array
from ..nn.module import Module
from ..ops.loss import cross_entropy_backward, cross_entropy_forward
from ..random import Generator
from .record import Arguments, Op

__all__ = ["Function", "Gradients", "Values", "images_of", "of_loss", "of_module", "of_op", "randomize"]

Values: TypeAlias = Mapping[str, Array]
Gradients: TypeAlias = dict[str, Array | None]


@dataclass(frozen=True)
class Function:
    """y = f(inputs), and its hand-written backward.

    inputs: what it is differentiated by, by name, where it is looked at. run: y at other values of all of them. pull: y
    there, and for each of several dy the gradients by name.
    """

    inputs: dict[str, Array]
    run: Callable[[Values], Array]
    pull: Callable[[Values, Sequence[Any]], tuple[Array, list[Gradients]]]


def of_op(op: Op, arguments: Arguments) -> Function:
    """An op at arguments, differentiated by those that have a gradient."""

    def run(values: Values) -> Array:
        return op.forward(*(arguments | dict(values)).values())[0]

    def pull(values: Values, dys: Sequence[Array]) -> tuple[Array, list[Gradients]]:
        y, saved = op.forward(*(arguments | dict(values)).values())
        return y, [op.gradients(dy, saved) for dy in dys]

    given = {name: arguments[name] for name in op.differentiable if arguments[name] is not None}
    return Function(given, run, pull)


def of_module(
    module: Module,
    inputs: Values,
    forward: Callable[..., Array] | None = None,
    backward: Callable[[Array], Any] | None = None,
) -> Function:
    """A module in training at inputs, differentiated by its parameters, by path, and by the inputs.

    forward, backward: how to run it, if not by its own; backward returns one gradient for each input, or a tuple.
    Dropout drops the same elements each time.
    """
    forward, backward = forward or module, backward or module.backward
    rewind = rewinder(module)
    parameters = dict(module.named_parameters())

    def run(values: Values) -> Array:
        with holding(module, values):
            rewind()
            y: Array = forward(*(values[name] for name in inputs))
        module.clear_saved()
        return y

    def pull(values: Values, dys: Sequence[Array]) -> tuple[Array, list[Gradients]]:
        found: list[Gradients] = []
        with holding(module, values):
            for dy in dys:
                rewind()
                for parameter in parameters.values():
                    parameter.grad = None
                y = forward(*(values[name] for name in inputs))
                dinputs = backward(dy)
                several = dinputs if isinstance(dinputs, tuple) else (dinputs,)
                given = dict(zip(inputs, several, strict=False))  # attention's dmemory is None without a memory
                # copies: the gradients of the next dy are written into the same buffer
                own = {path: p.grad if p.grad is None else p.grad.copy() for path, p in parameters.items()}
                found.append(own | given)
        return y, found

    return Function({path: p.data for path, p in parameters.items()} | dict(inputs), run, pull)


def of_loss(model: Module, inputs: Array | tuple[Array, ...], targets: Array) -> Function:
    """The cross-entropy of a model's logits at targets, differentiated by its parameters; dy is the loss's weight.

    inputs: of the model, one or several. Ids have no gradient; images, which are floats, are differentiated by as well.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    saved: list[Any] = []

    def forward(*moved: Array) -> Array:
        loss, kept = cross_entropy_forward(model(*(moved or given)), targets)
        saved[:] = [kept]
        return loss

    def backward(dloss: Array) -> Any:
        return model.backward(cross_entropy_backward(dloss, saved.pop()))

    return of_module(model, images_of(given), forward, backward)


def images_of(inputs: tuple[Array, ...]) -> dict[str, Array]:
    """Those inputs of a model that have a gradient: images, which are floats; ids and lengths have none."""
    images = [x for x in inputs if x.dtype.kind == "f"]
    return {"images": images[0]} if images else {}


@contextmanager
def holding(module: Module, values: Values) -> Iterator[None]:
    """Other arrays as a module's parameters, complex ones too, within a `with` block; then its own again."""
    own = [(path, parameter, parameter.data, parameter.grad) for path, parameter in module.named_parameters()]
    try:
        for path, parameter, _, _ in own:
            parameter.data, parameter.grad = values[path], None
        yield
    finally:
        for _, parameter, data, gradient in own:
            parameter.data, parameter.grad = data, gradient


def rewinder(module: Module) -> Callable[[], None]:
    """A function that sets all dropout generators of a module back to where they stand now."""
    generators = [inner.generator for inner in module.modules() if hasattr(inner, "generator")]
    kept: list[tuple[Generator, int]] = [(generator, generator.offset) for generator in generators]

    def rewind() -> None:
        for generator, offset in kept:
            generator.offset = offset

    return rewind


def randomize(module: Module, seed: int = 0) -> None:
    """Draw all weights anew: matrices of variance 1/columns, and ±0.3 on vectors, about the values they have.

    Scales of 1 and biases of 0 would hide a missing factor and a missing sum, and matrices as small as those of a new
    model would hide the whole path through the scores.
    """
    rng = np.random.default_rng([seed, 3])
    state = module.state_dict()
    for path, array in state.items():
        noise = rng.normal(size=array.shape)
        state[path] = noise * array.shape[-1] ** -0.5 if array.ndim > 1 else array + 0.3 * noise
    module.load_state_dict(state)
