"""Ops, modules and losses, as named inputs, one output and a backward."""

import numpy as np
import pytest

from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import Dropout, Linear, MultiHeadAttention
from compyute_transformer.ops.linear import linear
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify.function import of_loss, of_module, of_op
from compyute_transformer.verify.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("validation_only")

X = np.random.default_rng(0).normal(size=(2, 5, 6))


def test_an_op_is_differentiated_by_what_has_a_gradient() -> None:
    op = REGISTRY["linear"]
    case = next(case for case in op.cases if case.name == "no_bias")
    arguments = case.arguments()
    function = of_op(op, arguments)
    assert set(function.inputs) == {"x", "weight"}
    assert np.array_equal(function.run(function.inputs), linear(arguments["x"], arguments["weight"]))
    y, (gradients,) = function.pull(function.inputs, [np.ones((2, 3, 4))])
    assert gradients["bias"] is None
    assert gradients["x"] is not None
    assert gradients["x"].shape == arguments["x"].shape
    assert y.shape == (2, 3, 4)


def test_a_module_is_differentiated_by_parameters_and_inputs_and_left_as_it_was() -> None:
    module = Linear(6, 4, generator=Generator(1)).to(dtype=np.float64)
    weight = module.weight.data
    function = of_module(module, {"x": X})
    assert list(function.inputs) == ["weight", "bias", "x"]
    other = function.inputs | {"weight": weight * 2.0}
    assert np.allclose(function.run(other), 2.0 * function.run(function.inputs))
    _, (first, second) = function.pull(function.inputs, [np.ones((2, 5, 4)), 3.0 * np.ones((2, 5, 4))])
    for name in function.inputs:
        assert np.allclose(3.0 * first[name], second[name]), "each pull is of its own dy alone"
    assert module.weight.data is weight
    assert module.weight.grad is None
    assert not module._saved


def test_parameters_may_be_complex_for_a_moment() -> None:
    module = Linear(6, 4, generator=Generator(1)).to(dtype=np.float64)
    function = of_module(module, {"x": X})
    y = function.run({name: value.astype(np.complex128) for name, value in function.inputs.items()})
    assert y.dtype == np.complex128
    assert module.weight.data.dtype == np.float64


def test_dropout_drops_the_same_each_time() -> None:
    module = MultiHeadAttention(6, 2, dropout=0.4).to(dtype=np.float64)
    module.generator = Generator(3, DROPOUT, 5)
    function = of_module(module, {"x": X})
    assert np.array_equal(function.run(function.inputs), function.run(function.inputs))
    assert not np.array_equal(function.run(function.inputs), module.eval()(X))
    drop = Dropout(0.5, generator=Generator(3, DROPOUT))
    dropped = of_module(drop, {"x": X})
    y, (gradients,) = dropped.pull(dropped.inputs, [np.ones_like(X)])
    assert np.array_equal(y == 0.0, gradients["x"] == 0.0)


def test_a_loss_is_differentiated_by_every_named_parameter() -> None:
    model = GPT(GPTConfig(5, context_length=4, embed_dim=6, num_heads=2, num_layers=1)).to(dtype=np.float64)
    ids = np.array([[0, 4, 2], [1, 1, 3]])
    loss = of_loss(model, ids, ids)
    assert list(loss.inputs) == [path for path, _ in model.named_parameters()]
    value, (once, twice) = loss.pull(loss.inputs, [np.float64(1.0), np.float64(2.0)])
    assert value == loss.run(loss.inputs)
    assert value.shape == ()
    assert all(np.allclose(2.0 * once[path], twice[path], atol=1e-15) for path in once)
