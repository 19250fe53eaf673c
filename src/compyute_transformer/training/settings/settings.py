"""Settings of a run: what is read, what is built, how it is trained.

    defaults below < preset < TOML file < flags            the later wins, key by key

Every key is known, every value has its type and range, or a ConfigError says what is wrong. In a TOML file, and
wherever else nothing stands for nothing, the word "none" sets an optional value to None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_type_hints

from ...arrays import Device
from ...errors import ConfigError
from ...models.registry import MODELS
from ...nn.attention import Implementation
from ...nn.feed_forward import Activation
from ...optim.schedule import Decay, Schedule
from .choices import as_toml, did_you_mean, read_toml, require, typed
from .presets import PRESETS

__all__ = ["DataSettings", "ModelSettings", "Settings", "TrainingSettings"]

TaskName: TypeAlias = Literal["language", "translation", "dates", "images", "digits"]
KIND_OF = {"dates": "translation", "digits": "images"}  # tasks that bring their own data
if TYPE_CHECKING:
    Architecture: TypeAlias = str
else:
    Architecture = Literal[tuple(MODELS)]
FOREIGN = {  # settings of the data that a kind of task does not have
    "language": ("image_size", "shift"),
    "translation": ("image_size", "shift"),
    "images": ("tokenizer", "vocab_size"),
}
Sections: TypeAlias = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class DataSettings:
    """What is learned, and how data become arrays.

    task: "language", the next token of a text; "translation", one text from another; "images", the class of an image;
    "dates" and "digits" are a translation and images that come with the library.
    vocab_size: of "bpe"; the vocabulary of "characters" is what the corpus holds. validation_fraction: of the text,
    from its end; of the distinct sources of pairs; or of the images of each class; 0 trains on everything and validates
    nothing. The dates have validation pairs of their own, whatever the fraction, but for 0. image_size: the side of
    the square to which images are resized; None takes them as they are. shift: up to how many pixels, or parts of one,
    an image is moved in training, another way each time.
    """

    task: TaskName = "language"
    tokenizer: Literal["characters", "bpe"] = "characters"
    vocab_size: int = 1024
    validation_fraction: float = 0.1
    image_size: int | None = None
    shift: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of task: "language", "translation" or "images"."""
        return KIND_OF.get(self.task, self.task)

    def __post_init__(self) -> None:
        require(self.vocab_size >= 1, "vocab_size", "is at least 1", self.vocab_size)
        require(
            0 <= self.validation_fraction < 1,
            "validation_fraction",
            "lies in [0, 1), 0 for none",
            self.validation_fraction,
        )
        held = self.image_size is None or self.image_size >= 1
        require(held, "image_size", 'is at least 1, or "none" for the size they have', self.image_size)
        require(0 <= self.shift < inf, "shift", "is at least 0 and finite", self.shift)
        defaults = {entry.name: entry.default for entry in fields(self)}
        for name in FOREIGN[self.kind]:
            require(
                getattr(self, name) == defaults[name],
                name,
                f'does not belong to the task "{self.task}": leave it out',
                getattr(self, name),
            )


@dataclass(frozen=True)
class ModelSettings:
    """The fields of every model's configuration but those that the data decide, such as the size of the vocabulary.

    A field that the architecture does not have keeps its default.
    """

    architecture: Architecture = "gpt"
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
    tie_word_embeddings: bool = True
    attn_implementation: Implementation = "auto"
    patch_size: int = 4  # of images: the side of the squares that become tokens

    def __post_init__(self) -> None:
        self.config(self._example_shape())  # which checks every field, and how they go together

    def config(self, shape: Mapping[str, Any]) -> Any:
        """The configuration of the model. shape: the fields that the data decide.

        Raises ConfigError for a value that the model cannot have, and for a setting that it does not have at all.
        """
        kind = MODELS[self.architecture].config
        known = {entry.name for entry in fields(kind)}
        given = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "architecture"}
        defaults = {entry.name: entry.default for entry in fields(self)}
        foreign = [name for name, value in given.items() if name not in known and value != defaults[name]]
        if foreign:
            raise ConfigError(
                f"Settings: the architecture {self.architecture} has no {' and no '.join(foreign)}, got "
                f"{', '.join(f'{name} {given[name]}' for name in foreign)}. Leave it out, or choose another one."
            )
        config: Any = kind(**{name: value for name, value in given.items() if name in known}, **shape)
        return config

    def _example_shape(self) -> dict[str, Any]:
        """Return values for the fields that the data decide: enough to check the others before there are data."""
        if MODELS[self.architecture].task != "images":
            return {"vocab_size": 1}
        side = max(1, self.patch_size)
        return {"image_height": side, "image_width": side, "channels": 1, "num_classes": 2}


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
    label_smoothing: float = 0.0  # the part of a target's probability that goes to all classes alike, in training
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
    threads: int | None = None  # of the CPU; None: one a core, or as the environment says
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "sample_tokens", "log_every"):
            require(getattr(self, name) >= 1, name, "is at least 1", getattr(self, name))
        for name in ("warmup", "eval_every", "checkpoint_every", "sample_every"):
            require(getattr(self, name) >= 0, name, "is at least 0", getattr(self, name))
        for name in ("beta1", "beta2", "momentum", "label_smoothing"):
            require(0 <= getattr(self, name) < 1, name, "lies in [0, 1)", getattr(self, name))
        require(0 < self.learning_rate < inf, "learning_rate", "is above 0 and finite", self.learning_rate)
        require(
            0 <= self.min_learning_rate <= self.learning_rate,
            "min_learning_rate",
            f"lies in [0, learning_rate], here [0, {self.learning_rate:g}]",
            self.min_learning_rate,
        )
        require(0 <= self.weight_decay < inf, "weight_decay", "is at least 0 and finite", self.weight_decay)
        require(self.threads is None or self.threads >= 1, "threads", 'is at least 1, or "none"', self.threads)
        require(self.clip is None or self.clip > 0, "clip", 'is above 0, or "none" for no clipping', self.clip)
        require(0 <= self.seed < 2**64, "seed", "lies in [0, 2⁶⁴)", self.seed)

    def schedule(self) -> Schedule:
        """The learning rate of each step."""
        return Schedule(self.learning_rate, self.steps, self.warmup, self.min_learning_rate, self.decay)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in three sections."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        architecture = self.model.architecture
        learners = [record.name for record in MODELS.values() if record.task == self.data.kind]
        require(
            architecture in learners,
            "architecture",
            f'for the task "{self.data.task}" is {" or ".join(learners)}',
            architecture,
        )

    @classmethod
    def resolve(
        cls, preset: str, toml_path: str | Path | None = None, overrides: Mapping[str, object] | None = None
    ) -> Self:
        """Defaults < preset < TOML file < overrides. Overrides are flat: {"steps": 100, "embed_dim": 64}.

        Raises ConfigError for a preset, section or key that does not exist, and for a value of the wrong type or range.
        """
        if preset not in PRESETS:
            raise ConfigError(f"Settings: there is no preset {preset!r}. {did_you_mean(preset, PRESETS)}")
        layers = [_checked(PRESETS[preset], f"preset {preset!r}")]
        if toml_path is not None:
            layers.append(_checked(read_toml(Path(toml_path)), str(toml_path)))
        return cls._of([*layers, _in_sections(overrides or {})])

    def with_overrides(self, overrides: Mapping[str, object]) -> Self:
        """These settings, but for some keys of any section."""
        return self._of([self.to_dict(), _in_sections(overrides)])

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Sections of plain values, for JSON."""
        return asdict(self)

    def to_toml(self) -> str:
        """The text of a TOML file that `resolve` reads as these settings."""
        sections = (
            f"[{name}]\n" + "".join(f"{key} = {as_toml(value)}\n" for key, value in values.items())
            for name, values in self.to_dict().items()
        )
        return "\n".join(sections)

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
                f"top, got {name!r}. {_home(name) or did_you_mean(name, SECTIONS)}"
            )
        for key in values:
            if key not in KINDS[name]:
                raise ConfigError(
                    f"Settings: [{name}] of {source} has no setting {key!r}. "
                    f"{_home(key) or did_you_mean(key, KINDS[name])}"
                )
    return {
        name: {key: typed(key, KINDS[name][key], value) for key, value in values.items()}
        for name, values in sections.items()
    }


def _in_sections(overrides: Mapping[str, object]) -> Sections:
    sections: dict[str, dict[str, object]] = {}
    for name, value in overrides.items():
        if name not in SECTION_OF:
            raise ConfigError(f"Settings: there is no setting {name!r}. {did_you_mean(name, SECTION_OF)}")
        sections.setdefault(SECTION_OF[name], {})[name] = value
    return _checked(sections, "the overrides")


def _home(key: str) -> str | None:
    return f"It belongs below [{SECTION_OF[key]}]." if key in SECTION_OF else None
