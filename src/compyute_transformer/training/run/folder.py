"""Folder: the folder of a run, in which a model is trained, interrupted and resumed; `load` reads what was learned.

    runs/NAME/
        config.json      settings, data, their SHA-256 and shape: everything that decides what the run becomes
        tokenizer.json   or what else stands between data and arrays; see `tasks.task.TaskRecord`
        checkpoints/     see `checkpoint`
        log.jsonl        see `reporting.journal`
        samples.txt

A folder is a run once it has a config.json. From then on `resume_run` continues it, whatever happened in between.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from ... import _io
from ..._version import __version__
from ...environment.products import fastest_precision
from ...errors import ConfigError, RunError
from ...exchange.complete import Pretrained, is_pretrained, model_path
from ...models.registry import build_model
from ...nn.module import Module
from ...parallel import Communicator, for_device, world
from ..reporting.events import RunResult
from ..reporting.reporters import Reporter, Reporters
from ..settings.settings import Settings, TrainingSettings
from ..tasks.registry import task_record
from ..tasks.task import Data, Encoder, Task
from ..trainer import Callback, Trainer
from . import checkpoint, lock
from .checkpoint import resume_command
from .config import CONFIG, RunConfig, check_size, load_config, load_run_encoder, reload_data, save_config
from .load import CustomModel, Sources, load_run, own_model, require_custom
from .start import Start, built, frozen_weights

__all__ = ["resume_run", "start_from", "start_run", "unused_name"]

Given: TypeAlias = CustomModel | Start

# Of [training]: the state of a run that has begun depends on them.
FIXED = ("optimizer", "seed", "train_blocks", "lora_rank", "lora_alpha", "lora_targets")


def start_from(source: str | Path) -> Start:
    """Return the model that a run goes on from, for `start_run(..., model=...)`.

    source: a directory of Hugging Face Transformers, a .gguf file, the name of a package that holds one, or the folder
    of a run. Raises what `load_run` raises, and when a part of a published model is asked for what `Pretrained` raises.
    """
    return Start(source, Pretrained(source) if is_pretrained(model_path(source)) else load_run(source))


def start_run(
    sources: Sources,
    settings: Settings,
    folder: str | Path,
    reporter: Reporter | None = None,
    *,
    model: Given | None = None,
    task: Task | None = None,
    callbacks: Sequence[Callback] = (),
    communicator: Communicator | None = None,
) -> RunResult:
    """Train a model on data, from the beginning, in a new folder.

    sources: what the task of the settings reads: texts, pairs of texts, folders of images; none for its own data.
    model: a model in place of the one that the settings describe, or a function that makes it from the fields that the
    data decide ({"vocab_size": 65}), or a `Start`, the model that the run goes on from. task: a whole task, with its
    model and its data, in place of everything above; sources are then not read. callbacks: see `Trainer`.
    communicator: the processes that train together, all of which call this; without one, those that were started
    together (`mpiexec -n 4`).

    Raises DataError, MissingExtraError or ConfigError before anything is written, RunError for a folder that holds a
    run or in which another process is starting one, NonFiniteError when training fails, and CheckpointError when the
    disk refuses. A second Ctrl-C is a KeyboardInterrupt that says how to continue.
    """
    folder, communicator = Path(folder), for_device(communicator or world(), settings.training.device)
    if communicator.rank == 0:
        _refuse_a_run(folder)
    config, task, encoder = _described(sources, settings, model, task)
    if settings.training.precision == "auto" and task.model.precision is None:
        config = _with_precision(config, communicator)
    settings = config.settings
    trainer = Trainer(task, settings.training, folder, callbacks, communicator, bool(config.start))
    _require_extras(settings.training)
    _agree(communicator, config, trainer)
    if communicator.rank != 0:
        communicator.barrier()  # until process 0 has written what makes the folder a run
        return _train(trainer, Reporters([]))
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.hold(folder))
            _refuse_a_run(folder)  # again: another process may have started one while the data were read
            listeners = _listeners(reporter, settings.training, folder)
            _io.sync(folder.parent)
            _io.sweep(folder)
            if encoder is not None:
                file = folder / config.record.file
                _io.replace_file(file, encoder.save)
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                config = replace(config, encoder_sha256=digest)
            if isinstance(model, Start):
                model.save(folder, task.model)
            save_config(folder, config)  # last, since it makes the folder a run
        except OSError as error:
            raise RunError(
                f"start_run: the folder of a run must be writable; {folder} is not: {error.strerror or error}. "
                "Choose another one."
            ) from error
        communicator.barrier()
        return _train(trainer, listeners)


def resume_run(
    folder: str | Path,
    reporter: Reporter | None = None,
    steps: int | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    model: CustomModel | None = None,
    task: Task | None = None,
    callbacks: Sequence[Callback] = (),
    communicator: Communicator | None = None,
) -> RunResult:
    """Continue a run from its last checkpoint, or from the beginning if there is none yet.

    Without steps and overrides the run ends with the same bits as one that was never interrupted.

    steps: the total number of steps; the learning rate then decays over that many. overrides: other settings of
    training, by name. Both are saved with the run, unless no step is left to take. model, task: those that the run was
    started with, if it was started with the caller's own. callbacks: see `Trainer`.

    Raises RunError if there is no run or another process trains it, CheckpointError for a damaged checkpoint or data
    that have changed, ConfigError for settings that cannot change any more, and what `start_run` raises in training.
    """
    folder = Path(folder)
    load_config(folder)  # refuses a folder without a run, in which there is nothing to lock
    if not os.access(folder, os.W_OK):
        raise RunError(
            f"resume_run: the folder of a run must be writable; {folder} is not. Copy it, or give permission."
        )
    device = load_config(folder).settings.with_overrides(overrides or {}).training.device
    communicator = for_device(communicator or world(), device)
    leads = communicator.rank == 0
    with lock.hold(folder) if leads else nullcontext():
        if leads:
            _io.sweep(folder)
            _io.sweep(folder / checkpoint.FOLDER)
        communicator.barrier()  # until process 0 has the lock
        config = load_config(folder)
        given = {**(overrides or {}), **({} if steps is None else {"steps": steps})}
        changed = _changed(config, given, communicator)
        settings = changed.settings.training
        require_custom("resume_run", folder, config, model, task)
        begun = bool(checkpoint.steps(folder))
        if begun and not config.custom and not config.start:
            check_size(folder, config, checkpoint.shapes(checkpoint.latest(folder)))
        if task is None:
            data, encoder = reload_data(folder, config), load_run_encoder(folder, config)
            task = _task(changed, data, encoder, _started(folder, changed, begun) if config.start else model)
        trainer = Trainer(task, settings, folder, callbacks, communicator, bool(config.start))
        if begun:
            trainer.load(checkpoint.latest(folder))
        if settings.steps < trainer.step:
            raise ConfigError(
                f"resume_run: steps counts all steps, including those already taken, got {settings.steps} for a run "
                f"that has taken {trainer.step}. Give more."
            )
        _agree(communicator, changed, trainer)  # all processes have read the folder before one writes to it
        listeners = _listeners(reporter, settings, folder, trainer.step) if leads else Reporters([])
        if changed != config and leads and trainer.step < settings.steps:  # else no step is taken with it
            save_config(folder, changed)
        return _train(trainer, listeners)


def unused_name(parent: str | Path, base: str) -> Path:
    """Return a folder that does not exist yet: parent/base, parent/base-2, parent/base-3, …"""
    path, number = Path(parent) / base, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{base}-{number}"
    return path


def _described(
    sources: Sources, settings: Settings, model: Given | None, task: Task | None
) -> tuple[RunConfig, Task, Encoder | None]:
    """Return the configuration and the task of a new run, and the encoder that it saves, if it has one."""
    if task is not None:
        return RunConfig(settings, {}, "custom", (), "", custom="task"), task, None
    record = task_record(settings.data.record)
    data = record.load(sources)
    if not isinstance(model, Start):
        _refuse_fine_tuning(settings.training)
        encoder = record.encoder(data, settings)
        config = RunConfig(settings, record.shape(encoder), data.name, data.sources, data.sha256)
        task = _task(config, data, encoder, model)
        return replace(config, custom="" if model is None else "model"), task, encoder
    encoder = model.encoder(settings.data.record, data)
    config = RunConfig(settings, record.shape(encoder), data.name, data.sources, data.sha256, start=model.describe())
    return config, _task(config, data, encoder, model.prepared(config)), encoder


def _with_precision(config: RunConfig, communicator: Communicator) -> RunConfig:
    """Return the configuration of a run on a CPU with what the precision "auto" stands for on this machine.

    It is saved so: wherever the run goes on, it goes on with the same numbers.
    """
    settings = config.settings
    if settings.training.device != "cpu":
        return config
    chosen: Any = communicator.from_first(fastest_precision("cpu") if communicator.rank == 0 else None)
    return replace(config, settings=replace(settings, training=replace(settings.training, precision=chosen)))


def _refuse_fine_tuning(settings: TrainingSettings) -> None:
    for name in ("train_blocks", "lora_rank"):
        if getattr(settings, name) is not None:
            raise ConfigError(
                f"start_run: {name} is for a run that goes on from another model, got {getattr(settings, name)}. "
                "Give that model: compyute train --from MODEL"
            )


def _started(folder: Path, config: RunConfig, begun: bool) -> Module:
    """Return the model of a run that went on from another one: with its frozen weights, or before it has begun all."""
    if not begun:
        return cast(Module, start_from(config.start["source"]).prepared(config))
    model = built(config)
    model.load_state_dict(frozen_weights(folder, model), strict=False)
    return cast(Module, model)


def _task(config: RunConfig, data: Data, encoder: Encoder, model: CustomModel | None = None) -> Task:
    settings = config.settings
    made = build_model(config.model, settings.training.seed) if model is None else own_model(model, config)
    return config.record.task(made.to(settings.training.device), encoder, data, settings)


def _agree(communicator: Communicator, config: RunConfig, trainer: Trainer) -> None:
    """Raise ParallelError where the processes that train together differ in what the run becomes."""
    if communicator.size == 1:
        return
    trainer.parallel.own(config.settings.training.accumulation * config.settings.training.leaves)
    products = trainer.products() if communicator.rank == 0 else ""
    communicator.barrier()  # until process 0 has measured which kernel is the fastest; the others read what it keeps
    communicator.agree(
        version=__version__,
        numpy=np.__version__,
        settings=config.settings.to_toml(),
        products=products or trainer.products(),
        data=[config.data, config.sha256],
        weights=hashlib.sha256(trainer.model.flat.data.tobytes()).hexdigest(),
        step=trainer.step,
    )


def _refuse_a_run(folder: Path) -> None:
    if (folder / CONFIG).exists() or checkpoint.steps(folder):
        raise RunError(
            f"start_run: a new run needs a folder without one, but {folder} holds a run. "
            f"Continue it, {resume_command(folder)}, or choose another folder."
        )


def _train(trainer: Trainer, listeners: Reporter) -> RunResult:
    try:
        return trainer.train(listeners)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            f"Stopped at once, after step {trainer.step:,}. Last checkpoint: {trainer.last_checkpoint()}. "
            f"Continue from it with:\n  {resume_command(trainer.run)}"
        ) from stop


def _require_extras(settings: TrainingSettings) -> None:
    if settings.tensorboard:
        from ..reporting.tensorboard import require_tensorboard

        require_tensorboard()


def _listeners(reporter: Reporter | None, settings: TrainingSettings, folder: Path, step: int = 0) -> Reporter:
    reporters = [] if reporter is None else [reporter]
    if settings.tensorboard:
        from ..reporting.tensorboard import TensorBoardReporter  # an optional dependency

        reporters.append(TensorBoardReporter(folder, step))
    return Reporters(reporters)


def _changed(config: RunConfig, overrides: Mapping[str, object], communicator: Communicator) -> RunConfig:
    before, after = config.settings, config.settings.with_overrides(overrides)
    fixed = any(getattr(before.training, name) != getattr(after.training, name) for name in FIXED)
    if fixed or (before.data, before.model) != (after.data, after.model):
        raise ConfigError(
            f"resume_run: once a run has begun, only settings of [training] but {', '.join(FIXED)} can change, "
            f"got {', '.join(overrides)}. Start a new run to change them."
        )
    rows = [settings.training.batch_size * settings.training.accumulation for settings in (before, after)]
    if rows[0] != rows[1] and before.data.record not in (
        "language",
        "masked",
    ):  # a text has no epochs, only random windows
        raise ConfigError(
            f"resume_run: batch_size · accumulation must stay {rows[0]} in a run of {before.data.kind}, whose position "
            f"in the epoch is counted in batches, got {rows[1]}: some data would be seen twice, some not at all. "
            "Change both so that their product stays the same, or start a new run."
        )
    changed = replace(config, settings=after)
    return _with_precision(changed, communicator) if overrides.get("precision") == "auto" else changed
