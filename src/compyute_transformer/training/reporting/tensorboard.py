"""TensorBoard: the curves of a run, for `tensorboard --logdir runs`. Needs the extra `tensorboard`."""

from pathlib import Path
from types import ModuleType

from ...errors import MissingExtraError
from .events import Evaluated, Event, Logged, Sampled

__all__ = ["TensorBoardReporter", "require_tensorboard"]

FOLDER = "tensorboard"


class TensorBoardReporter:
    """Writes scalars and samples to RUN/tensorboard.

    step: where the run continues; what an earlier session wrote beyond it is hidden.

    Raises MissingExtraError without tensorboardX.
    """

    def __init__(self, run: Path, step: int = 0) -> None:
        self.writer = require_tensorboard().SummaryWriter(
            str(run / FOLDER),
            purge_step=step + 1,
            flush_secs=10,
            filename_suffix=f".step-{step:08d}",  # two files of one second would have one name
        )

    def report(self, event: Event) -> None:
        """Write the numbers of an event."""
        match event:
            case Logged():
                self.writer.add_scalar("loss/training", event.loss, event.step)
                self.writer.add_scalar("step/learning_rate", event.learning_rate, event.step)
                self.writer.add_scalar("step/gradient_norm", event.gradient_norm, event.step)
                self.writer.add_scalar(f"step/{event.unit}_per_second", event.rate, event.step)
            case Evaluated():
                self.writer.add_scalar("loss/validation", event.validation_loss, event.step)
                for name, value in event.metrics.items():
                    self.writer.add_scalar(f"validation/{name}", value, event.step)
            case Sampled():
                self.writer.add_text("sample", event.text, event.step)

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()


def require_tensorboard() -> ModuleType:
    """Return the package that writes the files. Raises MissingExtraError if it is not installed."""
    try:
        import tensorboardX
    except ImportError as error:
        raise MissingExtraError(
            "TensorBoardReporter: tensorboard = true needs tensorboardX, which is not installed. "
            "pip install 'compyute-transformer[tensorboard]', or turn it off: log.jsonl holds the same numbers."
        ) from error
    return tensorboardX
