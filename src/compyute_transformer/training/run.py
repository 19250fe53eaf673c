"""Run: a folder in which a model is trained, left, taken up again, judged and used.

    runs/NAME/
        config.json      settings, corpus and its SHA-256, vocabulary size: all that decides what the run becomes
        tokenizer.json
        checkpoints/     see `checkpoint`
        log.jsonl        see `journal`
        samples.txt

A folder is a run once it has a config.json. From then on `resume_run` goes on with it, whatever happened in between.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from ..backend import Device
from ..data.corpus import Corpus, load_corpus
from ..data.tokenizer import Tokenizer, train_tokenizer
from ..errors import CheckpointError, ConfigError, RunError, StateError
from ..models.gpt import GPT
from . import checkpoint, disk
from .checkpoint import MODEL, Which, resume_command
from .config import CONFIG, TOKENIZER, RunConfig, load_config, load_run_tokenizer, reload_corpus, save_config
from .events import RunResult
from .report import Reporter, Reporters
from .settings import Settings, TrainingSettings
from .task import LanguageTask, validate_language
from .trainer import Trainer

__all__ = ["Evaluation", "LoadedRun", "Sources", "evaluate_run", "load_run", "resume_run", "start_run", "unused_name"]

Sources = str | Path | Sequence[str | Path]  # what `load_corpus` takes

FIXED = ("optimizer", "seed")  # of [training]; the state of a run that has begun was made with them


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to use, in `eval()`. step: of the checkpoint it comes from."""

    model: GPT
    tokenizer: Tokenizer
    settings: Settings
    config: RunConfig
    step: int


@dataclass(frozen=True)
class Evaluation:
    """How surprised a model is by a text: loss in nats a token; how much was predicted, and how long it took."""

    loss: float
    bits_per_character: float
    tokens: int
    characters: int
    seconds: float


def start_run(sources: Sources, settings: Settings, folder: str | Path, reporter: Reporter | None = None) -> RunResult:
    """Train a model on a corpus, from the beginning, in a new folder.

    Raises CorpusError, DownloadError, VocabularyError or ConfigError before anything is written, RunError for a folder
    that holds a run, NonFiniteError when training fails, CheckpointError when the disk refuses.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists() or checkpoint.steps(folder):
        raise RunError(
            f"start_run: a new run needs a folder without one, but {folder} holds a run. "
            f"Go on with it, {resume_command(folder)}, or choose another name."
        )
    corpus = load_corpus(sources)
    tokenizer = _train_tokenizer(corpus, settings)
    config = RunConfig(settings, tokenizer.vocab_size, corpus.name, corpus.sources, corpus.sha256)
    trainer = Trainer(_task(config, corpus, tokenizer), settings.training, folder)
    try:
        listeners = _listeners(reporter, settings.training, folder)
        folder.mkdir(parents=True, exist_ok=True)
        disk.sync(folder.parent)
        disk.sweep(folder)
        disk.replace_file(folder / TOKENIZER, tokenizer.save)
        save_config(folder, config)  # the last: it makes the folder a run
    except OSError as error:
        raise RunError(
            f"start_run: the folder of a run must be writable; {folder} is not: {error.strerror or error}. "
            "Choose another one."
        ) from error
    return trainer.train(listeners)


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

    Raises RunError where there is no run, CheckpointError for a damaged checkpoint or a corpus that has changed,
    ConfigError for settings that cannot change any more, and what `start_run` raises in training.
    """
    folder = Path(folder)
    config = load_config(folder)
    if not os.access(folder, os.W_OK):
        raise RunError(
            f"resume_run: the folder of a run must be writable; {folder} is not. Copy it, or give permission."
        )
    changed = _changed(config, {**(overrides or {}), **({} if steps is None else {"steps": steps})})
    settings = changed.settings.training
    disk.sweep(folder)
    disk.sweep(folder / checkpoint.FOLDER)
    task = _task(changed, reload_corpus(folder, config), load_run_tokenizer(folder, config))
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
    return trainer.train(listeners)


def load_run(folder: str | Path, which: Which = "best", device: Device = "cpu") -> LoadedRun:
    """Read a trained model and its tokenizer: of the best checkpoint, or of the last.

    Raises RunError where there is no run, CheckpointError where there is no checkpoint or one that does not fit.
    """
    folder = Path(folder)
    config = load_config(folder)
    tokenizer = load_run_tokenizer(folder, config)
    path = checkpoint.find(folder, which)
    state = checkpoint.load_state(path)
    model = GPT(config.model)
    try:
        model.load_state_dict(checkpoint.load_arrays(path, state, MODEL))
    except StateError as error:
        raise CheckpointError(
            f"load_run: {path} must fit the model of {folder / CONFIG}; it does not. {error}"
        ) from error
    return LoadedRun(model.to(device).eval(), tokenizer, config.settings, config, state.step)


def evaluate_run(
    folder: str | Path, sources: Sources = (), which: Which = "best", device: Device = "cpu"
) -> Evaluation:
    """Predict a whole text: the run's own validation split, or all of other sources.

    Raises what `load_run` and `load_corpus` raise, and RunError for a run that kept no text for validation.
    """
    began = perf_counter()
    run = load_run(folder, which, device)
    if sources:
        text = load_corpus(sources).text
    else:
        _, text = reload_corpus(folder, run.config).split(run.settings.data.validation_fraction)
    if not text:
        raise RunError(
            f"evaluate_run: {folder} was trained with validation_fraction 0, so it kept no text to be judged by. "
            f"Give one: compyute eval {folder} FILE"
        )
    metrics = validate_language(run.model, run.tokenizer, run.tokenizer.encode(text), run.settings.training.batch_size)
    return Evaluation(
        loss=metrics["loss"],
        bits_per_character=metrics["bits_per_character"],
        tokens=int(metrics["tokens"]),
        characters=int(metrics["characters"]),
        seconds=perf_counter() - began,
    )


def unused_name(parent: str | Path, base: str) -> Path:
    """A folder that is not there yet: parent/base, parent/base-2, parent/base-3, …"""
    path, number = Path(parent) / base, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{base}-{number}"
    return path


def _train_tokenizer(corpus: Corpus, settings: Settings) -> Tokenizer:
    """Characters must be known in the validation text too; merges are learned from the training text alone."""
    kind, data = settings.data.tokenizer, settings.data
    text = corpus.text if kind == "characters" else corpus.split(data.validation_fraction)[0]
    return train_tokenizer(kind, text, data.vocab_size)


def _task(config: RunConfig, corpus: Corpus, tokenizer: Tokenizer) -> LanguageTask:
    settings = config.settings
    training, validation = (tokenizer.encode(part) for part in corpus.split(settings.data.validation_fraction))
    model = GPT(config.model, settings.training.seed).to(settings.training.device)
    return LanguageTask(
        model,
        tokenizer,
        training,
        validation if settings.data.validation_fraction else None,
        settings.training,
        facts={"corpus": corpus.name, "characters": len(corpus.text)},
    )


def _listeners(reporter: Reporter | None, settings: TrainingSettings, folder: Path, step: int = 0) -> Reporter:
    reporters = [] if reporter is None else [reporter]
    if settings.tensorboard:
        from .tensorboard import TensorBoardReporter  # an extra, which most do without

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
    return replace(config, settings=after)
