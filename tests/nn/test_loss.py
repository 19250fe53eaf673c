"""CrossEntropyLoss beside torch.nn.CrossEntropyLoss."""

from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.errors import BackwardError
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.verify import relative_error


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}], ids=str)
def test_loss_and_gradient_are_those_of_torch(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
    targets[0] = 2
    ours, oracle = CrossEntropyLoss(**options), torch.nn.CrossEntropyLoss(**options)
    their_logits = torch.from_numpy(logits.copy()).requires_grad_()
    loss = oracle(their_logits, torch.from_numpy(targets))
    (loss / 2).backward()
    assert relative_error(ours(logits, targets), loss.detach().numpy()) <= 1e-12
    assert relative_error(ours.backward(0.5), their_logits.grad.numpy()) <= 1e-12


def test_every_backward_needs_a_loss() -> None:
    criterion = CrossEntropyLoss()
    with pytest.raises(BackwardError, match=r"Call criterion\(logits, targets\) first"):
        criterion.backward()
    criterion(np.zeros((2, 3)), np.array([0, 1]))
    criterion.backward()
    with pytest.raises(BackwardError, match="once for each backward"):
        criterion.backward()
