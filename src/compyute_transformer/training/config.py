"""Config: all that decides what a run becomes, in config.json and tokenizer.json beside its checkpoints."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import __version__
from ..data.corpus import Corpus, load_corpus
from ..data.tokenizer import Tokenizer, load_tokenizer
from ..errors import CheckpointError, DataError, RunError
from ..models.gpt import GPTConfig
from . import disk
from .settings import Settings

__all__ = ["CONFIG", "TOKENIZER", "RunConfig", "load_config", "load_run_tokenizer", "reload_corpus", "save_config"]

CONFIG, TOKENIZER = "config.json", "tokenizer.json"


@dataclass(frozen=True)
class RunConfig:
    """What config.json holds. sources: where `load_corpus` finds the corpus again; sha256: that it is the same text."""

    settings: Settings
    vocab_size: int
    corpus: str
    sources: tuple[str, ...]
    sha256: str
    version: str = __version__

    @property
    def model(self) -> GPTConfig:
        """The configuration of the model."""
        return self.settings.model.config(self.vocab_size)


def save_config(folder: Path, config: RunConfig) -> None:
    """Write a run's config.json, in the place of the old one, if any."""
    disk.replace_text(folder / CONFIG, json.dumps(asdict(config), indent=2) + "\n")


def load_config(folder: str | Path) -> RunConfig:
    """Read a run's config.json. Raises RunError where there is none, or one that cannot be read."""
    path = Path(folder) / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings.from_dict(values["settings"])
        return RunConfig(**{**values, "settings": settings, "sources": tuple(values["sources"])})
    except FileNotFoundError as error:
        raise RunError(
            f"load_config: the folder of a run holds a {CONFIG}; there is none in {folder}. "
            "Check the path, or start a run: compyute train"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"load_config: {path} must be as the run wrote it; it cannot be read: {error}. "
            "Restore it from a copy, or install the version of the library that wrote it."
        ) from error


def reload_corpus(folder: str | Path, config: RunConfig) -> Corpus:
    """The text that a run began with. Raises CheckpointError if it has changed since, CorpusError if it is gone."""
    corpus = load_corpus(config.sources)
    if corpus.sha256 != config.sha256:
        raise CheckpointError(
            f"reload_corpus: the corpus of {folder} must be the text that the run began with, but "
            f"{', '.join(config.sources)} has changed since: SHA-256 {corpus.sha256}, not {config.sha256}. "
            "Restore the text"
            + (" (it comes with Python: use the version that began the run)" if "builtin" in config.sources else "")
            + ", or start a new run."
        )
    return corpus


def load_run_tokenizer(folder: str | Path, config: RunConfig) -> Tokenizer:
    """A run's tokenizer. Raises CheckpointError for a damaged one, or one that does not go with its config.json."""
    path = Path(folder) / TOKENIZER
    try:
        tokenizer = load_tokenizer(path)
    except DataError as error:
        raise CheckpointError(f"load_run_tokenizer: {path} must be as the run wrote it. {error}") from error
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"load_run_tokenizer: the tokenizer of {folder} must have the {config.vocab_size} tokens of its {CONFIG}, "
            f"got {tokenizer.vocab_size}. Restore {TOKENIZER} from a copy."
        )
    return tokenizer
