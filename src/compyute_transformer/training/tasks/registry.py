"""Registry: find the record of a task by name, and a preset and a name for a run by what the data look like."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...data.sources import fixed_part
from ...errors import ConfigError
from ..settings.presets import DEFAULT_PRESET, PRESETS
from .task import TaskRecord

__all__ = ["name_for", "preset_for", "task_record"]


def task_record(name: str) -> TaskRecord:
    """Return a task's record, by `DataSettings.record`. It is imported now, since tasks need different packages."""
    match name:
        case "translation":
            from .translation import TRANSLATION

            return TRANSLATION
        case "masked":
            from .masked import MASKED

            return MASKED
        case "chat":
            from .chat import CHAT

            return CHAT
        case "labels":
            from .labels import LABELS

            return LABELS
        case "images":
            from .images import IMAGES

            return IMAGES
        case _:
            from .language import LANGUAGE

            return LANGUAGE


def preset_for(task: str | None, sources: Sequence[str]) -> str:
    """Return the preset to start from if none is named: that of the task, or one that fits the first source.

    A .tsv file holds pairs of texts; a folder may hold classes of images, see `holds_images`; all else is text.

    Raises ConfigError for pairs together with other data.
    """
    if task is not None:
        return task if task in PRESETS else DEFAULT_PRESET
    if sources:
        first = Path(sources[0])
        pairs = [source for source in sources if source.lower().endswith(".tsv")]
        if pairs and len(pairs) < len(sources):
            other = next(source for source in sources if source not in pairs)
            raise ConfigError(
                f"preset_for: DATA are texts or pairs of texts (.tsv), got both: {other} and {pairs[0]}. Give one "
                "kind, or read all of them as texts: --task language."
            )
        if first.suffix.lower() == ".tsv":
            return "translation"
        if first.is_dir():
            from ...data.images.corpus import holds_images

            if holds_images(first):
                return "images"
    return DEFAULT_PRESET


def name_for(sources: Sequence[str], preset: str) -> str:
    """Return the default name of a run: its first file without the suffix, or its folder; else its preset."""
    if not sources:
        return preset
    first = Path(os.path.abspath(fixed_part(sources[0])))  # a link that leads to itself has a name too
    return (first.name if first.is_dir() else first.stem) or preset
