"""Prediction: the class of each image, the label or the target of each text, where no answers are known."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import exp
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..arrays import to_device, to_numpy
from ..data.images.corpus import image_files
from ..data.images.files import look_at, read_image
from ..errors import DataError, RunError
from ..nn.module import evaluating
from ..ops.activation import softmax
from .run.load import LoadedRun

__all__ = ["Prediction", "predict_images", "predict_labels", "predict_texts"]

AT_ONCE = 64  # images or texts in one batch

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input.

    input: the path of an image, or a text. output: the class, or the target. probability: of the output. probabilities:
    of every class or label; empty for targets.
    """

    input: str
    output: str
    probability: float
    probabilities: Mapping[str, float] = field(default_factory=dict)


def predict_images(run: LoadedRun, sources: Iterable[str | Path]) -> Iterator[Prediction]:
    """Yield the class of each image; sources are image files, and folders of them without or with classes.

    Raises RunError for a run that did not learn images, DataError for a file that is no image, or one that the model
    cannot see: of another size where images are not resized, or colored where it has seen gray ones.
    """
    if run.settings.data.kind != "images":
        raise RunError(f"predict_images: the run learned {run.settings.data.kind}, not images.")
    for paths in _batches(image_files(sources)):
        yield from _classify(run, paths)


def _classify(run: LoadedRun, paths: Sequence[Path]) -> Iterator[Prediction]:
    encoder = run.encoder
    pixels = np.stack([_pixels(encoder, path) for path in paths])
    with evaluating():
        rows = to_numpy(softmax(run.model(to_device(encoder.normalize(pixels), run.model.device))))
    for path, row in zip(paths, rows.astype(np.float64), strict=True):
        best = int(row.argmax())
        every = dict(zip(encoder.classes, row.tolist(), strict=True))
        yield Prediction(str(path), encoder.classes[best], float(row[best]), every)


def _pixels(encoder: Any, path: Path) -> np.ndarray:
    look, size = look_at(path), (encoder.height, encoder.width)
    if look.channels > encoder.channels:
        raise DataError(
            f"predict_images: the model has seen gray images only, and {path} has color. Convert it to gray."
        )
    if not encoder.resize and look[:2] != size:
        raise DataError(
            f"predict_images: the model sees images of {size[0]} × {size[1]} pixels, got {path} of {look.height} × "
            f"{look.width}. Resize it, or train with --image-size, which resizes all."
        )
    return read_image(path, encoder.channels, size)


def predict_texts(run: LoadedRun, texts: Iterable[str], beam_size: int = 1) -> Iterator[Prediction]:
    """Yield the target of each text: a translation, a label, an answer.

    Raises RunError for a run that did not learn pairs of texts, and what `generation.translate` raises.
    """
    if run.settings.data.kind != "translation":
        raise RunError(f"predict_texts: the run learned {run.settings.data.kind}, not pairs of texts.")
    from ..generation import translate

    for chunk in _batches(texts):
        for text, found in zip(chunk, translate(run.model, run.encoder, chunk, beam_size=beam_size), strict=True):
            yield Prediction(text, found.text, exp(found.log_probability))


def predict_labels(run: LoadedRun, texts: Iterable[str]) -> Iterator[Prediction]:
    """Yield the label of each text. Raises RunError for a run that did not learn labels of texts."""
    if run.settings.data.kind != "labels":
        raise RunError(f"predict_labels: the run learned {run.settings.data.kind}, not labels of texts.")
    yield from labels_of(run.model, run.encoder, texts)


def labels_of(model: Any, encoder: Any, texts: Iterable[str]) -> Iterator[Prediction]:
    """Yield the label that a `TextClassifier` gives to each text. encoder: a `LabelEncoder`."""
    from .tasks.labels import shares_of

    labels = encoder.labels
    for chunk in _batches(texts):
        for text, row in zip(chunk, shares_of(model, encoder, chunk), strict=True):
            best = int(row.argmax())
            yield Prediction(text, labels[best], float(row[best]), dict(zip(labels, row.tolist(), strict=True)))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    waiting = iter(items)
    while batch := list(islice(waiting, AT_ONCE)):
        yield batch
