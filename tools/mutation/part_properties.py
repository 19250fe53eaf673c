"""What the parts around the layers keep: a parameter, the loss, and a list of modules.

gradient    what is given to a parameter stays the giver's; the sum lies in the buffer; a frozen one gets none
loss        the module is the op, and goes back once
list        what is appended is registered
"""

from collections.abc import Iterator

import numpy as np

from compyute_transformer.errors import BackwardError
from compyute_transformer.nn import CrossEntropyLoss, Linear, ModuleList, Parameter
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim.flat import FlatBuffer
from compyute_transformer.verify.result import Result

from .properties import Property, check_that

__all__ = ["part_properties"]


def part_properties() -> Iterator[Property]:
    """Every property of these parts, with its name."""
    yield "gradient", _gradient
    yield "loss", _loss
    yield "list", _list


def _gradient() -> Iterator[Result]:
    parameter, given = Parameter(np.zeros((2, 3))), np.ones((2, 3))
    parameter.accumulate(given)
    parameter.accumulate(given)
    yield check_that("Parameter", "the sum", bool(np.all(parameter.grad == 2.0 * np.ones((2, 3)))))
    yield check_that("Parameter", "what was given", np.array_equal(given, np.ones((2, 3))))
    frozen = Parameter(np.zeros((2, 3)), requires_grad=False)
    frozen.accumulate(given)
    yield check_that("Parameter", "frozen", frozen.grad is None)
    flat = FlatBuffer([Parameter(np.zeros((2, 3))), Parameter(np.zeros((2, 3)))])
    for member in flat.parameters:
        member.accumulate(given)
        placed = np.shares_memory(member.grad, flat.grad)
        yield check_that("Parameter", "a gradient in the buffer", placed and np.array_equal(member.grad, given))


def _loss() -> Iterator[Result]:
    rng, options = np.random.default_rng(5), {"label_smoothing": 0.2, "ignore_index": 3}
    logits, targets, criterion = rng.normal(size=(2, 4, 5)), rng.integers(0, 5, (2, 4)), CrossEntropyLoss(**options)
    loss, saved = cross_entropy_forward(logits, targets, **options)
    for given, dloss in (((), 1.0), ((0.25,), 0.25)):
        yield check_that("CrossEntropyLoss", "loss", bool(criterion(logits, targets) == loss))
        same = np.array_equal(criterion.backward(*given), cross_entropy_backward(dloss, saved))
        yield check_that("CrossEntropyLoss", f"gradient of {dloss} times the loss", same)
        refused = False
        try:
            criterion.backward(*given)
        except BackwardError:
            refused = True
        yield check_that("CrossEntropyLoss", "a second backward is refused", refused)


def _list() -> Iterator[Result]:
    first, second = Linear(2, 3), Linear(3, 2)
    modules = ModuleList([first])
    yield check_that("ModuleList", "append returns the list", modules.append(second) is modules)
    yield check_that("ModuleList", "its modules", [id(module) for module in modules] == [id(first), id(second)])
    yield check_that("ModuleList", "their paths", [path for path, _ in modules.named_modules()] == ["", "0", "1"])
