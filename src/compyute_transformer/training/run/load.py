"""Load: what was trained is read from the folder of a run, to be used or evaluated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from ...arrays import Device
from ...errors import CheckpointError, RunError, StateError
from ...models.registry import build_model
from ...nn.module import Module
from ..settings.settings import Settings
from . import checkpoint
from .checkpoint import Which
from .config import CONFIG, RunConfig, check_size, load_config, load_run_encoder, reload_data
from .start import built, frozen_weights

if TYPE_CHECKING:
    from ...data.text.tokenizer import Tokenizer
    from ..reporting.confusion import Confusion

__all__ = [
    "CustomModel",
    "Evaluation",
    "LoadedRun",
    "Sources",
    "evaluate_run",
    "load_run",
    "own_model",
    "require_custom",
]

Sources: TypeAlias = str | Path | Sequence[str | Path]  # what `TaskRecord.load` takes
CustomModel: TypeAlias = Module | Callable[[Mapping[str, Any]], Module]


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to use, in `eval()`. encoder: of its data. step: of the checkpoint it was read from."""

    model: Any
    encoder: Any
    settings: Settings
    config: RunConfig
    step: int

    @property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of a run that reads text. Raises RunError for other runs."""
        if self.settings.data.kind == "images":
            raise RunError(
                "LoadedRun: a tokenizer belongs to a run that reads text, got one that learned images. "
                "Evaluate it on images: compyute eval RUN"
            )
        tokenizer: Tokenizer = getattr(self.encoder, "tokenizer", self.encoder)  # of conversations, one with a template
        return tokenizer


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on data it was not trained on, and how long the evaluation took.

    metrics, confusion: see `TaskEvaluation`. step: of the checkpoint that was evaluated. own_data: whether the data are
    those that the run was trained on; then it is their validation part.
    """

    metrics: dict[str, float]
    confusion: "Confusion | None"
    seconds: float
    step: int = 0
    own_data: bool = False


def load_run(
    folder: str | Path, which: Which = "best", device: Device = "cpu", *, model: CustomModel | None = None
) -> LoadedRun:
    """Read a trained model and its encoder, from the best checkpoint or from the last.

    The best checkpoint is the one with the lowest validation loss since training began; before the first validation it
    is the last one. model: the one that the run was started with, if it was the caller's own.

    A model that was trained with products in bfloat16 computes them so: `model.precision`.

    Raises RunError if there is no run, and CheckpointError if there is no checkpoint, or one that does not fit.
    """
    folder = Path(folder)
    config = load_config(folder)
    require_custom("load_run", folder, config, model, None if model is None else model)
    encoder = None if config.custom == "task" else load_run_encoder(folder, config)
    state, (arrays,) = checkpoint.read(folder, which)
    if config.start:
        loaded = built(config)
        arrays = frozen_weights(folder, loaded) | arrays
    elif model is None:
        check_size(folder, config, {name: array.shape for name, array in arrays.items()})
        loaded = build_model(config.model)
    else:
        loaded = own_model(model, config)
    try:
        loaded.load_state_dict(arrays)
    except StateError as error:
        raise CheckpointError(
            f"load_run: step {state.step} must fit the model of {folder / CONFIG}; it does not. {error}"
        ) from error
    if (chosen := config.settings.training.precision_on(device)) != "float32":
        loaded.precision = chosen
    return LoadedRun(loaded.to(device).eval(), encoder, config.settings, config, state.step)


def evaluate_run(
    folder: str | Path, sources: Sources = (), which: Which = "best", device: Device = "cpu"
) -> Evaluation:
    """Evaluate a model on the run's own validation split, or on all of other data.

    sources: other data. If they are the data that the run was trained on, their validation split is used all the same.

    Raises what `load_run` and `TaskRecord.load` raise, and RunError for a run without a validation split.
    """
    began = perf_counter()
    run = load_run(folder, which, device)
    record = run.config.record
    data = record.load(sources) if sources else reload_data(folder, run.config)
    own = data.sha256 == run.config.sha256
    found = record.evaluate(run.model, run.encoder, data, run.settings, whole=not own)
    return Evaluation(found.metrics, found.confusion, perf_counter() - began, run.step, own)


def own_model(model: CustomModel, config: RunConfig) -> Any:
    """Return the caller's own model."""
    return model if isinstance(model, Module) else model(config.shape)


def require_custom(operation: str, folder: Path, config: RunConfig, model: object, task: object) -> None:
    """Raise RunError if a run was started with a custom model or task that is not given again."""
    if (config.custom == "model" and model is None) or (config.custom == "task" and task is None):
        word = "model" if operation == "load_run" else config.custom
        raise RunError(
            f"{operation}: {folder} was started with its own {config.custom}, which cannot be rebuilt from its files. "
            f"Give it again: {operation}(folder, {word}=...)."
        )
