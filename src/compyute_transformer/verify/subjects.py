"""The models that are verified, derived from the records of `models/registry.py`.

A record's small configurations and example batch are used as they are; its PyTorch version is `verify/torch/NAME.py`,
found by the record's name. A model without one is verified by all other methods, and the table says that the comparison
with PyTorch was not run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..models.registry import MODELS, Batch, ModelRecord
from .registry import cast
from .torch_modules import Tensor

__all__ = ["SUBJECTS", "Batch", "Subject", "subject_of"]


@dataclass(frozen=True)
class Subject:
    """A model to verify."""

    record: ModelRecord

    @property
    def name(self) -> str:
        """The name of its results."""
        return f"models.{self.model.__name__}"

    @property
    def model(self) -> Callable[..., Any]:
        """The class, built from a configuration and a seed."""
        return self.record.model

    @property
    def cases(self) -> Mapping[str, Any]:
        """The configurations by name."""
        return self.record.small_configs()

    @property
    def torch_missing(self) -> str | None:
        """Why there is no comparison with PyTorch; None where there is one."""
        if find_spec(f"{__package__}.torch.{self.record.name}") is not None:
            return None
        return f"There is no PyTorch version of this model, verify/torch/{self.record.name}.py."

    def batch(self, config: Any, rng: np.random.Generator, batch_size: int, dtype: Any) -> Batch:
        """Return a random batch, its floats in the model's dtype."""
        inputs, targets = self.record.batch(config, rng, batch_size)
        return cast(inputs, dtype), targets

    def kernel(self, weights: Any, config: Any, *inputs: Any) -> Tensor:
        """Return the logits of the PyTorch version; the last of inputs is what drops."""
        if self.torch_missing:
            raise ConfigError(f"verify: {self.torch_missing}")
        return import_module(f"{__package__}.torch.{self.record.name}").logits(weights, config, *inputs)


SUBJECTS: dict[type, Subject] = {record.config: Subject(record) for record in MODELS.values()}


def subject_of(given: Any) -> Subject:
    """Return the subject of a configuration, or of a model.

    Raises:
        ConfigError: no record of `models/registry.py` has the configuration.
    """
    config = getattr(given, "config", given)
    if type(config) not in SUBJECTS:
        known = ", ".join(subject.name for subject in SUBJECTS.values())
        raise ConfigError(
            f"verify: a model is verified by its record in models/registry.py, and {type(config).__name__} has none. "
            f"There are {known}."
        )
    return SUBJECTS[type(config)]
