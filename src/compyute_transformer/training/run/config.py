"""Config: all that decides what a run becomes, in config.json and the encoder's file beside its checkpoints."""

import json
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ... import _io as disk
from ..._version import __version__
from ...errors import CheckpointError, DataError, RunError
from ..settings.settings import Settings
from ..tasks.registry import kind_of
from ..tasks.task import Data, Encoder, Kind

__all__ = ["CONFIG", "RunConfig", "load_config", "load_run_encoder", "reload_data", "save_config"]

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """What config.json holds.

    shape: what the data decided of the model. data: their name; sources: where `Kind.load` finds them again; sha256:
    that they are the same.
    """

    settings: Settings
    shape: dict[str, Any]
    data: str
    sources: tuple[str, ...]
    sha256: str
    version: str = __version__

    @property
    def kind(self) -> Kind:
        """The kind of task."""
        return kind_of(self.settings.data.kind)

    @property
    def model(self) -> Any:
        """The configuration of the model."""
        return self.settings.model.config(self.shape)


def save_config(folder: Path, config: RunConfig) -> None:
    """Write a run's config.json, in the place of the old one, if any."""
    disk.replace_text(folder / CONFIG, json.dumps(asdict(config), indent=2) + "\n")


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises RunError where there is none, or one that cannot be read."""
    path = Path(folder) / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        _check(values)
        settings = Settings.from_dict(values["settings"])
        return RunConfig(**{**values, "settings": settings, "sources": tuple(values["sources"])})
    except FileNotFoundError as error:
        raise RunError(
            f"load_config: the folder of a run holds a {CONFIG}; there is none in {folder}. "
            "Check the path, or start a run: compyute train"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(
            f"load_config: {path} must be as the run wrote it; it cannot be read: {error}. "
            "Restore it from a copy, or install the version of the library that wrote it."
        ) from error


def reload_data(folder: str | Path, config: RunConfig) -> Data:
    """The data that a run began with. Raises CheckpointError if they have changed since, DataError if they are gone."""
    other = f"The model can still be judged by other data: compyute eval {shlex.quote(str(folder))} FILE"
    try:
        data = config.kind.load(config.sources)
    except DataError as error:
        raise type(error)(
            f"reload_data: the run {folder} needs the data that it began with, which cannot be read. {error} {other}"
        ) from error
    if data.sha256 != config.sha256:
        raise CheckpointError(
            f"reload_data: the data of {folder} must be those that the run began with, but "
            f"{', '.join(config.sources)} has changed since: SHA-256 {data.sha256}, not {config.sha256}. "
            "Restore them"
            + (" (they come with Python: use the version that began the run)" if "builtin" in config.sources else "")
            + f", or start a new run. {other}"
        )
    return data


def load_run_encoder(folder: str | Path, config: RunConfig) -> Encoder:
    """A run's encoder. Raises CheckpointError for a damaged one, or one that does not go with its config.json."""
    kind = config.kind
    path = Path(folder) / kind.file
    try:
        encoder: Encoder = kind.load_encoder(path)
    except DataError as error:
        raise CheckpointError(f"load_run_encoder: {path} must be as the run wrote it. {error}") from error
    if (shape := kind.shape(encoder)) != config.shape:
        raise CheckpointError(
            f"load_run_encoder: {path} must go with the {CONFIG} beside it, which says {_words(config.shape)}, got "
            f"{_words(shape)}. Restore {kind.file} from a copy."
        )
    return encoder


def _check(values: Any) -> None:
    """Raises ValueError, in words, for what is no object with the fields of a RunConfig."""
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    kinds = {"settings": dict, "shape": dict, "sources": list}
    names = [field.name for field in fields(RunConfig)]
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"it says nothing of {', '.join(missing)}")
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"it says something of {', '.join(unknown)}, which this version does not know")
    if wrong := [name for name in names if not isinstance(values[name], kinds.get(name, str))]:
        raise ValueError(f"what it says of {', '.join(wrong)} is of the wrong kind")


def _words(shape: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items())
