"""Settings of a run: what is read, what is built, how it is trained.

    defaults below < preset < TOML file < flags            the later wins, key by key

Every key is known, every value has its type and range, or a ConfigError says what is wrong. In a TOML file, and
wherever else nothing stands for nothing, the word "none" sets an optional value to None.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..backend import Device
from ..errors import ConfigError
from ..models.gpt import GPTConfig
from ..models.presets import PRESETS
from ..nn.attention import Implementation
from ..nn.feed_forward import Activation
from ..optim.schedule import Decay, Schedule

__all__ = ["DataSettings", "ModelSettings", "Settings", "TrainingSettings"]

Sections: TypeAlias = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class DataSettings:
    """How a corpus becomes tokens.

    vocab_size: of "bpe"; the vocabulary of "characters" is what the corpus holds. validation_fraction: of the text,
    from its end; 0 trains on everything and validates nothing.
    """

    tokenizer: Literal["characters", "bpe"] = "characters"
    vocab_size: int = 1024
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 1, "vocab_size", "is at least 1", self.vocab_size)
        _require(
            0 <= self.validation_fraction < 1,
            "validation_fraction",
            "lies in [0, 1), 0 for none",
            self.validation_fraction,
        )


@dataclass(frozen=True)
class ModelSettings:
    """The fields of `GPTConfig` but vocab_size, which the corpus decides."""

    context_length: int = 256
    embed_dim: int = 384
    num_heads: int = 6
    num_layers: int = 6
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True
    activation: Activation = "gelu_tanh"
    window: int | None = None
    tie_head: bool = True
    attention: Implementation = "auto"

    def __post_init__(self) -> None:
        self.config(vocab_size=1)  # which checks every field, and how they go together

    def config(self, vocab_size: int) -> GPTConfig:
        """The configuration of the model."""
        return GPTConfig(vocab_size=vocab_size, **asdict(self))


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. What happens every n steps happens never for n = 0, unless it says otherwise."""

    steps: int = 2000
    batch_size: int = 12  # windows at a time; a step sees accumulation times as many
    accumulation: int = 1  # parts in which the gradient of one step is gathered: more steps of less memory
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    min_learning_rate: float = 0.0  # where linear and cosine decay end
    warmup: int = 0  # steps
    decay: Decay = "cosine"
    weight_decay: float = 0.01  # of matrices
    beta1: float = 0.9  # adamw only
    beta2: float = 0.999  # adamw only
    momentum: float = 0.9  # sgd only
    clip: float | None = 1.0  # the longest gradient; None clips nothing
    eval_every: int = 250  # and before the first step, and at the end
    checkpoint_every: int = 500  # and where the validation loss is the lowest so far, and at the end
    sample_every: int = 500  # and at the end
    sample_prompt: str = ""  # empty: a line end
    sample_tokens: int = 200
    log_every: int = 10
    seed: int = 0  # of weights, dropout, batches and samples
    device: Device = "cpu"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "sample_tokens", "log_every"):
            _require(getattr(self, name) >= 1, name, "is at least 1", getattr(self, name))
        for name in ("warmup", "eval_every", "checkpoint_every", "sample_every"):
            _require(getattr(self, name) >= 0, name, "is at least 0", getattr(self, name))
        for name in ("beta1", "beta2", "momentum"):
            _require(0 <= getattr(self, name) < 1, name, "lies in [0, 1)", getattr(self, name))
        _require(0 < self.learning_rate < inf, "learning_rate", "is above 0 and finite", self.learning_rate)
        _require(
            0 <= self.min_learning_rate <= self.learning_rate,
            "min_learning_rate",
            f"lies in [0, learning_rate], here [0, {self.learning_rate:g}]",
            self.min_learning_rate,
        )
        _require(0 <= self.weight_decay < inf, "weight_decay", "is at least 0 and finite", self.weight_decay)
        _require(self.clip is None or self.clip > 0, "clip", 'is above 0, or "none" for no clipping', self.clip)
        _require(0 <= self.seed < 2**64, "seed", "lies in [0, 2⁶⁴)", self.seed)

    def schedule(self) -> Schedule:
        """The learning rate of each step."""
        return Schedule(self.learning_rate, self.steps, self.warmup, self.min_learning_rate, self.decay)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in three sections."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    @classmethod
    def resolve(
        cls, preset: str, toml_path: str | Path | None = None, overrides: Mapping[str, object] | None = None
    ) -> Self:
        """Defaults < preset < TOML file < overrides. Overrides are flat: {"steps": 100, "embed_dim": 64}.

        Raises ConfigError for a preset, section or key that does not exist, and for a value of the wrong type or range.
        """
        if preset not in PRESETS:
            raise ConfigError(f"Settings: there is no preset {preset!r}. {_did_you_mean(preset, PRESETS)}")
        layers = [_checked(PRESETS[preset], f"preset {preset!r}")]
        if toml_path is not None:
            layers.append(_checked(_read_toml(Path(toml_path)), str(toml_path)))
        return cls._of([*layers, _in_sections(overrides or {})])

    def with_overrides(self, overrides: Mapping[str, object]) -> Self:
        """These settings, but for some keys of any section."""
        return self._of([self.to_dict(), _in_sections(overrides)])

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Sections of plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. A setting that came with a later version of the library has its default."""
        return cls._of([_checked(sections, "the saved settings")])

    @classmethod
    def _of(cls, layers: Sequence[Sections]) -> Self:
        """Later layers win; ranges are checked once, in what comes out."""
        sections: Any = {name: section(**_merged(layers, name)) for name, section in SECTIONS.items()}
        return cls(**sections)


SECTIONS = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}
KINDS = {name: get_type_hints(section) for name, section in SECTIONS.items()}
SECTION_OF = {key: name for name, kinds in KINDS.items() for key in kinds}


def _merged(layers: Sequence[Sections], section: str) -> Any:
    return {key: value for layer in layers for key, value in layer.get(section, {}).items()}


def _checked(sections: Mapping[str, Any], source: str) -> Sections:
    """The sections with every value of its type. Ranges are left to the dataclasses."""
    for name, values in sections.items():
        if name not in SECTIONS or not isinstance(values, Mapping):
            raise ConfigError(
                f"Settings: {source} has the sections {', '.join(f'[{n}]' for n in SECTIONS)} and nothing else at the "
                f"top, got {name!r}. {_home(name) or _did_you_mean(name, SECTIONS)}"
            )
        for key in values:
            if key not in KINDS[name]:
                raise ConfigError(
                    f"Settings: [{name}] of {source} has no setting {key!r}. "
                    f"{_home(key) or _did_you_mean(key, KINDS[name])}"
                )
    return {
        name: {key: _typed(key, KINDS[name][key], value) for key, value in values.items()}
        for name, values in sections.items()
    }


def _in_sections(overrides: Mapping[str, object]) -> Sections:
    sections: dict[str, dict[str, object]] = {}
    for name, value in overrides.items():
        if name not in SECTION_OF:
            raise ConfigError(f"Settings: there is no setting {name!r}. {_did_you_mean(name, SECTION_OF)}")
        sections.setdefault(SECTION_OF[name], {})[name] = value
    return _checked(sections, "the overrides")


def _typed(name: str, kind: Any, value: object) -> object:
    """The value, if it is of the kind that the field is annotated with; whole numbers may stand for floats."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in options and (value is None or value == "none"):
        return None
    for option in options:
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return value
    raise ConfigError(f"Settings: {name} is {_describe(options)}, got {value!r} ({type(value).__name__}).")


def _describe(options: tuple[Any, ...]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: '"none"'}
    described: list[str] = []
    for option in options:
        choices = get_args(option)
        described.append("one of " + ", ".join(f'"{c}"' for c in choices) if choices else words[option])
    return " or ".join(described)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"Settings: {name} {rule}, got {value}.")


def _home(key: str) -> str | None:
    return f"It belongs below [{SECTION_OF[key]}]." if key in SECTION_OF else None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(names)}."


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Settings: the TOML file {path} must be readable; it is not: {error.strerror}. Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Settings: {path} must be a TOML file with sections [data], [model], [training]; it is not: {error}."
        ) from error
