"""Run: a folder in which a model is trained, left, taken up again, judged and used.

    runs/NAME/
        config.json      settings, data, their SHA-256 and shape: all that decides what the run becomes
        tokenizer.json   or what else stands between data and arrays: see `task.Kind`
        checkpoints/     see `checkpoint`
        log.jsonl        see `journal`
        samples.txt

A folder is a run once it has a config.json. From then on `resume_run` goes on with it, whatever happened in between.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ... import _io as disk
from ...arrays import Device
from ...errors import CheckpointError, ConfigError, RunError, StateError
from ...models.registry import build_model
from ..reporting.events import RunResult
from ..reporting.reporters import Reporter, Reporters
from ..settings.settings import Settings, TrainingSettings
from ..tasks.registry import kind_of
from ..tasks.task import Data, Encoder, Task
from ..trainer import Trainer
from . import checkpoint, lock
from .checkpoint import MODEL, Which, resume_command
from .config import CONFIG, RunConfig, load_config, load_run_encoder, reload_data, save_config

if TYPE_CHECKING:
    from ...data.text.tokenizer import Tokenizer
    from ..reporting.confusion import Confusion

__all__ = ["Evaluation", "LoadedRun", "Sources", "evaluate_run", "load_run", "resume_run", "start_run", "unused_name"]

Sources = str | Path | Sequence[str | Path]  # what `Kind.load` takes

FIXED = ("optimizer", "seed")  # of [training]; the state of a run that has begun was made with them


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to use, in `eval()`. encoder: of its data. step: of the checkpoint it comes from."""

    model: Any
    encoder: Any
    settings: Settings
    config: RunConfig
    step: int

    @property
    def tokenizer(self) -> "Tokenizer":
        """The encoder of a run that is about text. Raises RunError for one that is not."""
        if self.settings.data.kind == "images":
            raise RunError(
                "LoadedRun: a tokenizer belongs to a run that reads text, got one that learned images. "
                "Judge it by images: compyute eval RUN"
            )
        tokenizer: Tokenizer = self.encoder
        return tokenizer


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on data it was not trained on, and how long it took to tell.

    metrics, confusion: see `Judgement`.
    """

    metrics: dict[str, float]
    confusion: "Confusion | None"
    seconds: float


def start_run(sources: Sources, settings: Settings, folder: str | Path, reporter: Reporter | None = None) -> RunResult:
    """Train a model on data, from the beginning, in a new folder.

    sources: what the task of the settings reads: texts, pairs of texts, folders of images; none for its own.

    Raises DataError, MissingExtraError or ConfigError before anything is written, RunError for a folder
    that holds a run or in which another process is beginning one, NonFiniteError when training fails, CheckpointError
    when the disk refuses. A second Ctrl-C is a KeyboardInterrupt that says how to go on.
    """
    folder = Path(folder)
    _refuse_a_run(folder)
    kind = kind_of(settings.data.kind)
    data = kind.load(sources)
    encoder = kind.encoder(data, settings)
    config = RunConfig(settings, kind.shape(encoder), data.name, data.sources, data.sha256)
    trainer = Trainer(_task(config, data, encoder), settings.training, folder)
    _require_extras(settings.training)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.hold(folder))
            _refuse_a_run(folder)  # again: another process may have begun one while the data were read
            listeners = _listeners(reporter, settings.training, folder)
            disk.sync(folder.parent)
            disk.sweep(folder)
            disk.replace_file(folder / kind.file, encoder.save)
            save_config(folder, config)  # the last: it makes the folder a run
        except OSError as error:
            raise RunError(
                f"start_run: the folder of a run must be writable; {folder} is not: {error.strerror or error}. "
                "Choose another one."
            ) from error
        return _train(trainer, listeners)


def resume_run(
    folder: str | Path,
    reporter: Reporter | None = None,
    steps: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> RunResult:
    """Go on with a run from its last checkpoint, or from the beginning where there is none yet.

    Without steps and overrides the run ends with the bits of one that was never interrupted.

    steps: how many steps there shall be in all; the learning rate then falls over that many. overrides: other settings
    of training, by name. Both are saved with the run.

    Raises RunError where there is no run, or another process trains it, CheckpointError for a damaged checkpoint or
    data that have changed, ConfigError for settings that cannot change any more, and what `start_run` raises in
    training.
    """
    folder = Path(folder)
    load_config(folder)  # refuses a folder without a run, which there is nothing to lock in
    if not os.access(folder, os.W_OK):
        raise RunError(
            f"resume_run: the folder of a run must be writable; {folder} is not. Copy it, or give permission."
        )
    with lock.hold(folder):
        config = load_config(folder)
        changed = _changed(config, {**(overrides or {}), **({} if steps is None else {"steps": steps})})
        settings = changed.settings.training
        disk.sweep(folder)
        disk.sweep(folder / checkpoint.FOLDER)
        task = _task(changed, reload_data(folder, config), load_run_encoder(folder, config))
        trainer = Trainer(task, settings, folder)
        if checkpoint.steps(folder):
            trainer.load(checkpoint.latest(folder))
        if settings.steps < trainer.step:
            raise ConfigError(
                f"resume_run: steps counts all steps, those taken too, got {settings.steps} for a run that has taken "
                f"{trainer.step}. Give more."
            )
        listeners = _listeners(reporter, settings, folder, trainer.step)
        if changed != config:
            save_config(folder, changed)
        return _train(trainer, listeners)


def load_run(folder: str | Path, which: Which = "best", device: Device = "cpu") -> LoadedRun:
    """Read a trained model and its encoder: of the best checkpoint, or of the last.

    Raises RunError where there is no run, CheckpointError where there is no checkpoint or one that does not fit.
    """
    folder = Path(folder)
    config = load_config(folder)
    encoder = load_run_encoder(folder, config)
    path = checkpoint.find(folder, which)
    state = checkpoint.load_state(path)
    model = build_model(config.model)
    try:
        model.load_state_dict(checkpoint.load_arrays(path, state, MODEL))
    except StateError as error:
        raise CheckpointError(
            f"load_run: {path} must fit the model of {folder / CONFIG}; it does not. {error}"
        ) from error
    return LoadedRun(model.to(device).eval(), encoder, config.settings, config, state.step)


def evaluate_run(
    folder: str | Path, sources: Sources = (), which: Which = "best", device: Device = "cpu"
) -> Evaluation:
    """Judge a model by the run's own validation split, or by all of other data.

    sources: other data; where they hold what the run was trained on, it is judged by its validation split all the same.

    Raises what `load_run` and `Kind.load` raise, and RunError for a run that kept nothing for validation.
    """
    began = perf_counter()
    run = load_run(folder, which, device)
    kind = run.config.kind
    data = kind.load(sources) if sources else reload_data(folder, run.config)
    judged = kind.judge(run.model, run.encoder, data, run.settings, whole=data.sha256 != run.config.sha256)
    return Evaluation(judged.metrics, judged.confusion, perf_counter() - began)


def unused_name(parent: str | Path, base: str) -> Path:
    """A folder that is not there yet: parent/base, parent/base-2, parent/base-3, …"""
    path, number = Path(parent) / base, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{base}-{number}"
    return path


def _task(config: RunConfig, data: Data, encoder: Encoder) -> Task:
    settings = config.settings
    model = build_model(config.model, settings.training.seed).to(settings.training.device)
    return config.kind.task(model, encoder, data, settings)


def _refuse_a_run(folder: Path) -> None:
    if (folder / CONFIG).exists() or checkpoint.steps(folder):
        raise RunError(
            f"start_run: a new run needs a folder without one, but {folder} holds a run. "
            f"Go on with it, {resume_command(folder)}, or choose another name."
        )


def _train(trainer: Trainer, listeners: Reporter) -> RunResult:
    try:
        return trainer.train(listeners)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            f"Stopped at once, after step {trainer.step:,}. Last checkpoint: {trainer.last_checkpoint()}. "
            f"Go on from it with:\n  {resume_command(trainer.run)}"
        ) from stop


def _require_extras(settings: TrainingSettings) -> None:
    if settings.tensorboard:
        from ..reporting.tensorboard import require_tensorboard

        require_tensorboard()


def _listeners(reporter: Reporter | None, settings: TrainingSettings, folder: Path, step: int = 0) -> Reporter:
    reporters = [] if reporter is None else [reporter]
    if settings.tensorboard:
        from ..reporting.tensorboard import TensorBoardReporter  # an extra, which most do without

        reporters.append(TensorBoardReporter(folder, step))
    return Reporters(reporters)


def _changed(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    before, after = config.settings, config.settings.with_overrides(overrides)
    fixed = any(getattr(before.training, name) != getattr(after.training, name) for name in FIXED)
    if fixed or (before.data, before.model) != (after.data, after.model):
        raise ConfigError(
            f"resume_run: of a run that has begun only [training] can change, and of that not {' and '.join(FIXED)}, "
            f"got {', '.join(overrides)}. Start a new run to change them."
        )
    rows = [settings.training.batch_size * settings.training.accumulation for settings in (before, after)]
    if rows[0] != rows[1] and before.data.kind != "language":  # a text has no epochs: its windows lie anywhere
        raise ConfigError(
            f"resume_run: batch_size · accumulation stays {rows[0]} in a run of {before.data.kind}, whose place in the "
            f"epoch is counted in batches, got {rows[1]}: some data would be seen twice, other not at all. "
            "Change both so that their product stays, or start a new run."
        )
    return replace(config, settings=after)
