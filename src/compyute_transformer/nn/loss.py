"""Loss: a module around `ops.cross_entropy`, with PyTorch's name and options."""

from .._arguments import CheckedArguments
from ..arrays import Array
from ..errors import BackwardError
from ..ops.loss import CrossEntropySaved, cross_entropy_backward, cross_entropy_forward

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(CheckedArguments):
    """The mean negative log-likelihood of the targets: `loss = criterion(logits, targets)`.

    `criterion.backward()` returns the gradient of the logits, to be given to `model.backward`.

    label_smoothing: the probability that is spread evenly over all classes. ignore_index: the target of rows that do
    not count.
    """

    def __init__(self, *, label_smoothing: float = 0.0, ignore_index: int = -100) -> None:
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        self._saved: CrossEntropySaved | None = None

    def __call__(self, logits: Array, targets: Array) -> Array:
        """Return the loss of logits (*rows, V) and targets (*rows)."""
        loss, self._saved = cross_entropy_forward(
            logits, targets, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing
        )
        return loss

    def backward(self, dloss: float = 1.0) -> Array:
        """Return the gradient of the logits. dloss: the gradient of the loss, 1/n for n micro-batches.

        Raises:
            BackwardError: no loss was computed since the last backward.
        """
        if self._saved is None:
            raise BackwardError(
                "CrossEntropyLoss: a backward needs the loss it belongs to. Call criterion(logits, targets) first, "
                "once for each backward."
            )
        saved, self._saved = self._saved, None
        return cross_entropy_backward(dloss, saved)
