"""Early stopping: a callback that ends a run whose validation loss does not fall any more."""

from typing import Any

from ..errors import RangeError
from .reporting.events import Evaluated, Event, Started

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """A callback that stops a run when the validation loss has not improved for `patience` validations.

    min_delta: by how much the loss must fall to count as an improvement. The validation of the untrained model does
    not count. The best checkpoint is kept, and is the one that `load_run` reads.

    The setting `patience` adds this callback to a run.

    Raises RangeError for a patience below 1.
    """

    def __init__(self, patience: int = 3, min_delta: float = 0.0) -> None:
        if patience < 1 or not min_delta >= 0:
            raise RangeError(
                f"EarlyStopping: patience is at least 1 and min_delta at least 0, got {patience} and {min_delta}."
            )
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.since = 0

    def __call__(self, trainer: Any, event: Event) -> None:
        if isinstance(event, Started):
            self.best, self.since = trainer.best_loss, trainer.validations_since_best()
        if not isinstance(event, Evaluated) or event.step == 0:
            return
        if self.best is None or event.validation_loss < self.best - self.min_delta:
            self.best, self.since = event.validation_loss, 0
        else:
            self.since += 1
        if self.since >= self.patience:
            trainer.stop(f"the validation loss has not improved for {self.since} validations")
