"""Config: everything that decides what a run becomes, in config.json and the encoder's file beside its checkpoints."""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ... import _io
from ..._version import __version__
from ...data.sources import Name
from ...errors import CheckpointError, ConfigError, DataError, RunError
from ...models.registry import MODELS
from ..settings.settings import KINDS, Settings
from ..tasks.registry import task_record
from ..tasks.task import Data, Encoder, TaskRecord
from .schema import Check, checked, digest, plain, table, text

__all__ = ["CONFIG", "RunConfig", "check_size", "load_config", "load_run_encoder", "reload_data", "save_config"]

CONFIG = "config.json"
CONFIG_BYTES = 1 << 20
CHECKSUM = "checksum"

# Names that earlier versions wrote into [model] of config.json, and what they are called now.
RENAMED_SETTINGS = {"attention": "attn_implementation", "tie_head": "tie_word_embeddings"}
RENAMED_ARCHITECTURES = {
    "vaswani": "transformer_lm",
    "vaswani_decoder": "transformer_lm",
    "encoder_decoder": "transformer",
}


@dataclass(frozen=True)
class RunConfig:
    """The contents of config.json.

    shape: the fields of the model's configuration that the data decided. data: their name. sources: where
    `TaskRecord.load` finds them again. sha256: of the data. encoder_sha256: of the encoder's file. custom: "model" or
    "task" for a run that was started with the caller's own, which cannot be rebuilt from this file. start: the model
    that the run goes on from, see `start`; empty for a run that begins with random weights.
    """

    settings: Settings
    shape: dict[str, Any]
    data: str
    sources: tuple[str, ...]
    sha256: str
    version: str = __version__
    encoder_sha256: str = ""
    custom: str = ""
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> TaskRecord:
        """The record of the run's task."""
        return task_record(self.settings.data.record)

    @property
    def model(self) -> Any:
        """The configuration of the model."""
        if self.start:
            return started_config(self.start, self.settings)
        return self.settings.model.config(self.shape)


def started_config(start: Mapping[str, Any], settings: Settings) -> Any:
    """Return the configuration of a model that a run goes on from, with what the run's settings may change of it.

    Raises ConfigError for a configuration that this version cannot read.
    """
    own = settings.model
    changed = {"dropout": own.dropout, "attn_implementation": own.attn_implementation}
    try:
        return MODELS[own.architecture].config(**{**start["config"], **changed})
    except (KeyError, TypeError, ConfigError) as error:
        raise ConfigError(
            f"RunConfig: the model of {CONFIG} cannot be built: {error}. Restore it from a copy."
        ) from error


def save_config(folder: Path, config: RunConfig) -> None:
    """Write a run's config.json, replacing the old one."""
    values = asdict(config)
    _io.replace_text(folder / CONFIG, json.dumps({**values, CHECKSUM: digest(values)}, indent=2) + "\n")


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises RunError if it is missing, damaged or changed."""
    path = Path(folder) / CONFIG
    try:
        found = _io.read_json(path, CONFIG_BYTES)
        if isinstance(found, dict) and "model_type" in found:
            raise RunError(
                f"load_config: the folder of a run is asked for, and {folder} holds a published model. Make a run of "
                f"it: compyute train DATA --from {folder}"
            )
        values = _verified(found)
        settings = Settings.from_dict(_renamed(values["settings"]))
        return RunConfig(**{**values, "settings": settings, "sources": tuple(values["sources"])})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"load_config: the folder of a run holds a {CONFIG}; there is none in {folder}. "
            "Check the path, or start a run: compyute train"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)[:500]
        raise RunError(
            f"load_config: {path} must be as the run wrote it; it cannot be read: {reason}. "
            "Restore it from a copy, or install the version of the library that wrote it."
        ) from error


def _list_of_texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("is a list of texts")
    return [text(each) for each in value]


SCHEMA: dict[str, Check] = {
    "settings": table(table(plain)),
    "shape": table(plain),
    "data": text,
    "sources": _list_of_texts,
    "sha256": text,
    "version": text,
}
# Fields that the first versions did not write.
LATER: dict[str, Check] = {"encoder_sha256": text, "custom": text, "start": table(plain)}


def _verified(values: Any) -> dict[str, Any]:
    """Return the fields of a RunConfig. Raises ValueError, in words, for other values."""
    if isinstance(values, dict) and CHECKSUM in values:
        values = dict(values)
        if values.pop(CHECKSUM) != digest(values):
            raise ValueError(
                f'its "{CHECKSUM}" does not match, so it was damaged or edited. After an edit on purpose, delete the '
                f'line "{CHECKSUM}"'
            )
    later = {name: check for name, check in LATER.items() if isinstance(values, dict) and name in values}
    return checked(values, {**SCHEMA, **later})


def _renamed(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved settings with the names of earlier versions replaced by those of this one."""
    model = dict(sections.get("model", {}))
    for old, new in RENAMED_SETTINGS.items():
        if old in model and old not in KINDS["model"] and new in KINDS["model"]:
            model[new] = model.pop(old)
    name = model.get("architecture")
    if isinstance(name, str) and name not in MODELS and name in RENAMED_ARCHITECTURES:
        model["architecture"] = RENAMED_ARCHITECTURES[name]
    return {**sections, "model": model} if "model" in sections else dict(sections)


def reload_data(folder: str | Path, config: RunConfig) -> Data:
    """Read the data that a run was started with, and check that they are the same.

    Data that are gone from their old place are looked for beside the run, for a project folder that was moved as a
    whole. Raises CheckpointError for data that have changed, and DataError for data that are gone.
    """
    other = f"The model can still be evaluated on other data: compyute eval {shlex.quote(str(folder))} FILE"
    try:
        data = config.record.load(_places(Path(folder), config.sources))
    except DataError as error:
        raise type(error)(
            f"reload_data: the run {folder} needs the data that it was started with, which cannot be read. "
            f"{error} {other}"
        ) from error
    if data.sha256 != config.sha256:
        raise CheckpointError(
            f"reload_data: the data of {folder} must be those that the run was started with, but "
            f"{', '.join(config.sources)} has changed since: SHA-256 {data.sha256}, not {config.sha256}. "
            "Restore them"
            + (" (they come with Python: use the version that began the run)" if "builtin" in config.sources else "")
            + f", or start a new run. {other}"
        )
    return data


def _places(folder: Path, sources: tuple[str, ...]) -> list[str]:
    """Return the sources; each that is gone from its absolute path is replaced by one in the same place near the run.

    A project that was moved keeps the relative place of its run and its data, so the longest tail of the old path that
    exists below a parent of the run is the same file.
    """
    places = (source if os.path.isabs(source) else Name(source) for source in sources)
    return [place if isinstance(place, Name) else _moved(folder.resolve(), Path(place)) or place for place in places]


def _moved(folder: Path, source: Path) -> str | None:
    if not source.is_absolute() or source.exists():
        return None
    for start in range(1, len(source.parts)):
        tail = Path(*source.parts[start:])
        for parent in folder.parents[:4]:
            if (found := parent / tail).exists():
                return str(found)
    return None


def load_run_encoder(folder: str | Path, config: RunConfig) -> Encoder:
    """Read a run's encoder. Raises CheckpointError for a damaged one, or one that does not fit its config.json."""
    record = config.record
    path = Path(folder) / record.file
    try:
        if config.encoder_sha256 and hashlib.sha256(_io.read_bytes(path)).hexdigest() != config.encoder_sha256:
            raise DataError(f"Its SHA-256 is not the one in {CONFIG}. Restore it from a copy.")
        encoder: Encoder = record.load_encoder(path)
    except DataError as error:
        raise CheckpointError(f"load_run_encoder: {path} must be as the run wrote it. {error}") from error
    except OSError as error:
        raise CheckpointError(
            f"load_run_encoder: {path} must be as the run wrote it; it cannot be read: {error.strerror or error}. "
            "Restore it from a copy."
        ) from error
    if (shape := record.shape(encoder)) != config.shape:
        raise CheckpointError(
            f"load_run_encoder: {path} must fit the {CONFIG} beside it, which says {_words(config.shape)}, got "
            f"{_words(shape)}. Restore {record.file} from a copy."
        )
    return encoder


def check_size(folder: Path, config: RunConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError if a model of this configuration has more weights than a checkpoint.

    This is checked before the model is built, so that a damaged config.json cannot ask for all memory. The bound is
    coarse: every layer has at least one square matrix, and every token an embedding.
    """
    weights = sum(prod(shape) for shape in shapes.values())
    model = config.model
    width, layers = int(model.embed_dim), int(model.num_layers)
    least = layers * width * width + int(getattr(model, "vocab_size", 0)) * width
    if least > weights:
        raise CheckpointError(
            f"load_run: the weights of a checkpoint must fit the model of {folder / CONFIG}, which has at least "
            f"{least:,} weights; the checkpoint has {weights:,}. Restore {CONFIG} from a copy."
        )


def _words(shape: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items())
