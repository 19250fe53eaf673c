"""LambdaLR and CosineAnnealingLR beside PyTorch's."""

import numpy as np
import pytest
import torch

from compyute_transformer.errors import ConfigError
from compyute_transformer.nn import Parameter
from compyute_transformer.optim import SGD, CosineAnnealingLR, LambdaLR


def optimizers() -> tuple[SGD, torch.optim.SGD]:
    ours, theirs = [Parameter(np.ones(2)) for _ in range(2)], [torch.ones(2, requires_grad=True) for _ in range(2)]
    return tuple(
        kind([{"params": [one], "lr": 0.5}, {"params": [other]}], lr=2.0)
        for kind, (one, other) in ((SGD, ours), (torch.optim.SGD, theirs))
    )


@pytest.mark.parametrize("name", ["one function", "a function for each group", "cosine"])
def test_the_learning_rates_are_those_of_torch_and_a_state_goes_round(name: str) -> None:
    half, third = (lambda step: 0.5**step), (lambda step: 3.0**-step)
    arguments = {"one function": (half,), "a function for each group": ([half, third],), "cosine": (10, 0.1)}[name]
    (ours, theirs), kind = optimizers(), CosineAnnealingLR if name == "cosine" else LambdaLR
    scheduler, oracle = kind(ours, *arguments), getattr(torch.optim.lr_scheduler, kind.__name__)(theirs, *arguments)
    for step in range(10):
        if step == 5:
            state = scheduler.state_dict()
            scheduler = kind(ours, *arguments)
            scheduler.load_state_dict(state)
        assert scheduler.get_last_lr() == pytest.approx([group["lr"] for group in theirs.param_groups], rel=1e-12)
        ours.step()
        theirs.step()
        scheduler.step()
        oracle.step()


def test_what_cannot_be_scheduled_is_refused() -> None:
    ours, _ = optimizers()
    with pytest.raises(ConfigError, match="one function for each of the 2 groups, got 1"):
        LambdaLR(ours, [lambda step: 1.0])
    with pytest.raises(ConfigError, match="T_max is at least 1"):
        CosineAnnealingLR(ours, 0)
    with pytest.raises(ConfigError, match="optimizer is an Optimizer, got float"):
        LambdaLR(0.1, lambda step: 1.0)  # type: ignore[arg-type]
