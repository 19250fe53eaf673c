"""SGD with momentum beside torch.optim.SGD, and its refusals."""

from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.errors import ConfigError, InputError
from compyute_transformer.nn import Parameter
from compyute_transformer.optim import SGD
from compyute_transformer.verify import relative_error

LIMITS = {np.float64: 1e-12, np.float32: 1e-6}
SHAPES = [(4, 3), (5,), (2, 3), (3,)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.2}], ids=str)
def test_twenty_steps_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    rng = np.random.default_rng(0)
    parameters = [Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]
    theirs = [torch.from_numpy(parameter.data.copy()).requires_grad_() for parameter in parameters]
    ours, oracle = SGD(parameters, lr=0.1, **options), torch.optim.SGD(theirs, lr=0.1, **options)
    for _ in range(20):
        for our, their in zip(parameters, theirs, strict=True):
            gradient = rng.normal(size=our.shape).astype(dtype)
            our.grad, their.grad = gradient.copy(), torch.from_numpy(gradient)
        before = [our.grad.copy() for our in parameters]
        ours.step()
        oracle.step()
        for our, their, gradient in zip(parameters, theirs, before, strict=True):
            assert relative_error(our.data, their.detach().numpy()) <= LIMITS[dtype]
            assert np.array_equal(our.grad, gradient), "the gradient is left as it was"
            assert our.dtype == dtype
    assert ours.steps == 20


def test_the_learning_rate_is_required() -> None:
    with pytest.raises(InputError, match=r"required argument: .lr."):
        SGD([Parameter(np.ones(2))])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": "0.1"},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^SGD: {next(iter(options))} is a number"):
        SGD([Parameter(np.ones(2))], **{"lr": 0.1, **options})
