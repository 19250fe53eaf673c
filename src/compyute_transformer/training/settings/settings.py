"""All settings of a run, and how they come about.

    defaults of the sections < preset < TOML file < options            the later wins, key by key

In a TOML file and on the command line, "none" sets an optional value to None.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeAlias, get_type_hints

from ...errors import ConfigError
from ...models.registry import MODELS
from .choices import as_toml, did_you_mean, read_toml, require, typed
from .presets import PRESETS, begin_with
from .sections import DataSettings, ModelSettings, TrainingSettings

__all__ = ["DataSettings", "ModelSettings", "Settings", "TrainingSettings"]

Sections: TypeAlias = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in three sections."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        architecture = self.model.architecture
        kinds = ("language", "masked") if self.data.kind == "labels" else (self.data.kind,)
        learners = [record.name for record in MODELS.values() if record.task in kinds]
        if architecture not in learners:
            raise ConfigError(
                f'Settings: architecture for the task "{self.data.task}" must be {" or ".join(learners)}, got '
                f"{architecture}. Choose one that learns it" + begin_with(learners[0])
            )
        require(
            self.training.patience is None or self.data.validation_fraction > 0,
            "patience",
            "counts validations, so validation_fraction must be above 0",
            f"patience {self.training.patience} and validation_fraction 0",
        )

    @classmethod
    def resolve(
        cls, preset: str, toml_path: str | Path | None = None, overrides: Mapping[str, object] | None = None
    ) -> Self:
        """Return the settings of a preset, changed by a TOML file and then by flat overrides, {"steps": 100}.

        Raises:
            ConfigError: a preset, section or key that does not exist, a value of the wrong type or range, or one that
                has no effect beside the others.
        """
        if preset not in PRESETS:
            raise ConfigError(f"Settings: there is no preset {preset!r}. {did_you_mean(preset, PRESETS)}")
        from_file = {} if toml_path is None else _checked(read_toml(Path(toml_path)), str(toml_path))
        return cls._changed(
            _checked(PRESETS[preset], f"preset {preset!r}"), _merged(from_file, _in_sections(overrides or {}))
        )

    def with_overrides(self, overrides: Mapping[str, object]) -> Self:
        """Return these settings with some keys of any section changed. Raises ConfigError as `resolve` does."""
        return self._changed(self.to_dict(), _in_sections(overrides))

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return sections of plain values, for JSON."""
        return asdict(self)

    def to_toml(self) -> str:
        """Return the text of a TOML file that `resolve` reads as these settings, without those that have no effect."""
        idle = self.without_effect()
        sections = (
            f"[{name}]\n" + "".join(f"{key} = {as_toml(value)}\n" for key, value in values.items() if key not in idle)
            for name, values in self.to_dict().items()
        )
        return "\n".join(sections)

    def without_effect(self) -> dict[str, str]:
        """Return the settings that nothing reads beside the others, each with the reason."""
        known, reasons = self.model.fields_of_config(), {}
        for name in SECTIONS:
            section = getattr(self, name)
            for entry in fields(section):
                if name == "model" and entry.name not in (*known, "architecture"):
                    reasons[entry.name] = f"with the architecture {self.model.architecture}"
                other, values = entry.metadata["only_with"] or ("", ())
                if other == "kind" and self.data.kind not in values:
                    reasons[entry.name] = f'for the task "{self.data.task}"'
                elif other not in ("", "kind") and (other in reasons or getattr(section, other) not in values):
                    reasons[entry.name] = reasons.get(other) or f"with {other} {getattr(section, other)}"
        return reasons

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any]) -> Self:
        """Return the settings of `to_dict`. A setting that came with a later version of the library has its default."""
        return cls._of(_checked(sections, "the saved settings"))

    @classmethod
    def _changed(cls, base: Sections, given: Sections) -> Self:
        """Return the base settings changed by those given, which have an effect and take along what follows them."""
        settings = cls._of(_merged(base, {"training": _following(base["training"], given.get("training", {}))}, given))
        idle, training = settings.without_effect(), settings.training
        for values in given.values():
            for key, value in values.items():
                if key in idle and value:  # what is off already may be said to be off
                    other = ", or set task to what the data are" if idle[key].startswith("for the task") else ""
                    raise ConfigError(f"Settings: {key} has no effect {idle[key]}, got {value}. Leave it out{other}.")
        if "warmup" in given.get("training", {}) and training.warmup > training.steps:
            raise ConfigError(
                f"Settings: warmup must be at most steps, here {training.steps}, got {training.warmup}: the learning "
                "rate would never reach its peak. Give a shorter warm-up, or more steps."
            )
        return settings

    @classmethod
    def _of(cls, sections: Sections) -> Self:
        built: Any = {name: section(**sections.get(name, {})) for name, section in SECTIONS.items()}
        return cls(**built)


SECTIONS: dict[str, Any] = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}
KINDS = {name: get_type_hints(section) for name, section in SECTIONS.items()}
SECTION_OF = {key: name for name, kinds in KINDS.items() for key in kinds}


LORA_RATE = 10  # times the learning rate of whole weights


def _following(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, object]:
    """Return what follows from the given values.

    A lower rate has a lower minimum, fewer steps a shorter warm-up, and LoRA a higher rate.
    """
    defaults = {entry.name: entry.default for entry in fields(TrainingSettings)}
    before: dict[str, Any] = {**defaults, **base}
    follow: dict[str, object] = {}
    rate = given.get("learning_rate", before["learning_rate"])
    if given.get("lora_rank") and before["lora_rank"] is None and "learning_rate" not in given:
        for name in ("learning_rate", "min_learning_rate"):  # factors that begin at zero need larger steps
            follow[name] = LORA_RATE * before[name]
    if 0 < rate < before["learning_rate"]:
        lowest = before["min_learning_rate"] * rate / before["learning_rate"]
        follow["min_learning_rate"] = float(f"{lowest:.12g}")  # 1e-4, and not 9.999999999999999e-05
    if given.get("steps", before["steps"]) < before["steps"] and before["warmup"] > 0:
        follow["warmup"] = min(before["warmup"], max(1, given["steps"] // 4))
    return follow


def _merged(*layers: Sections) -> Any:
    return {name: {key: value for layer in layers for key, value in layer.get(name, {}).items()} for name in SECTIONS}


def _checked(sections: Mapping[str, Any], source: str) -> Sections:
    """Return the sections with every value of its type. The dataclasses check ranges."""
    for name, values in sections.items():
        if name not in SECTIONS or not isinstance(values, Mapping):
            raise ConfigError(
                f"Settings: {source} must have the sections {', '.join(f'[{n}]' for n in SECTIONS)} and nothing else "
                f"at the top, got {name!r}. {_home(name) or did_you_mean(name, SECTIONS)}"
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
