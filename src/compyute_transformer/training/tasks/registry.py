"""Kinds: which kind of task a run is about, by name, and by what it is given to train on; and its name, likewise."""

from collections.abc import Sequence
from pathlib import Path

from ..settings.presets import DEFAULT_PRESET, PRESETS
from .task import TaskRecord

__all__ = ["task_record", "name_for", "preset_for"]


def task_record(name: str) -> TaskRecord:
    """The kind of that name, see `DataSettings.kind`; imported now, for images bring what language does not."""
    match name:
        case "translation":
            from .translation import TRANSLATION

            return TRANSLATION
        case "images":
            from .images import IMAGES

            return IMAGES
        case _:
            from .language import LANGUAGE

            return LANGUAGE


def preset_for(task: str | None, sources: Sequence[str]) -> str:
    """The preset where settings start when none is named: that of the task, else what the first source looks like.

    A .tsv file holds pairs of texts; a folder may hold classes of images, see `holds_images`; all else is text.
    """
    if task is not None:
        return task if task in PRESETS else DEFAULT_PRESET
    if sources:
        first = Path(sources[0])
        if first.suffix.lower() == ".tsv":
            return "translation"
        if first.is_dir():
            from ...data.images.corpus import holds_images

            if holds_images(first):
                return "images"
    return DEFAULT_PRESET


def name_for(sources: Sequence[str], preset: str) -> str:
    """What a run is called when nobody says: as its first file, without the ending, or folder; else as its preset."""
    if not sources:
        return preset
    first = Path(sources[0]).resolve()
    return (first.name if first.is_dir() else first.stem) or preset
