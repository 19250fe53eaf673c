"""The settings of a run: their types, defaults, presets and choices.

settings   what is read, built and trained: defaults < preset < TOML file < options
presets    named settings
choices    checks of single values, and TOML
"""

from .presets import DEFAULT_PRESET, PRESETS
from .settings import DataSettings, ModelSettings, Settings, TrainingSettings

__all__ = ["DEFAULT_PRESET", "PRESETS", "DataSettings", "ModelSettings", "Settings", "TrainingSettings"]
