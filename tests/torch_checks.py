"""What the tests of the models share: the errors of a model and of its training beside PyTorch."""

from typing import Any

import numpy as np

from compyute_transformer.verify.models import draw_model, run_model
from compyute_transformer.verify.result import outcome_errors
from compyute_transformer.verify.torch.models import Recipe, torch_outcome, train_beside_torch

__all__ = ["broken", "torch_errors", "training_errors"]


def torch_errors(config: Any, dtype: Any = np.float64, seed: int = 0, length: int | None = None) -> dict[str, float]:
    """Return the errors of logits, loss and every gradient. length: of the inputs; by default that of the context."""
    model, inputs, targets = draw_model(config, dtype, seed)
    if length is not None:
        inputs, targets = tuple(x[:, :length] for x in inputs), targets[:, :length]
    theirs = torch_outcome(model, inputs, targets)
    return outcome_errors(run_model(model, inputs, targets), theirs)


def training_errors(config: Any, dtype: Any = np.float64, max_norm: float | None = None) -> dict[str, float]:
    """Return the errors of the losses of ten steps and of the weights after them; the losses must have fallen."""
    ours, theirs = train_beside_torch(*draw_model(config, dtype), Recipe(max_norm=max_norm))
    first, last = ours["loss of step 1"], ours["loss of step 10"]
    assert first is not None
    assert last is not None
    assert last < first - 0.1, "ten steps on one batch teach something"
    return outcome_errors(ours, theirs)


def broken(errors: dict[str, float], allowed: float) -> dict[str, float]:
    """Return the errors that exceed what is allowed. A NaN does."""
    return {name: error for name, error in errors.items() if not error <= allowed}
