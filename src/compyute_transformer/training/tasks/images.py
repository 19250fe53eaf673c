"""Images: predict the class of an image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arrays import to_device, to_numpy
from ...data.images.batches import ImageBatches, ImageEncoder, ordered_batches
from ...data.images.corpus import Images, load_images
from ...data.sources import summary
from ...errors import RunError
from ...generation.decode import evaluating
from ...ops.loss import cross_entropy
from ...parallel import shared
from ..reporting.confusion import Confusion
from ..settings.settings import Settings, TrainingSettings
from ..watch import watched
from .task import SupervisedTask, TaskEvaluation

__all__ = ["IMAGES", "ImageTask", "Labeled", "evaluate_images"]


class Labeled(NamedTuple):
    """Images as bytes (number, height, width, channels), and the class of each."""

    pixels: np.ndarray
    labels: np.ndarray


class ImageTask(SupervisedTask):
    """Predict the class of an image: shuffled epochs of training images, evaluated on every validation image.

    model: ViT, or another that turns images into one row of logits each. validation None: there is no validation.
    shift: each training image is moved by up to that many pixels, differently each time.
    """

    unit = "images"

    def __init__(
        self,
        model: Any,
        encoder: ImageEncoder,
        training: Labeled,
        validation: Labeled | None,
        settings: TrainingSettings,
        shift: float = 0.0,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        rows = settings.accumulation * settings.batch_size
        batches = ImageBatches(*training, rows, encoder.normalize, settings.seed, shift)
        super().__init__(model, batches, settings)
        self.encoder = encoder
        self.units_per_step = rows
        self.training, self.validation = training, validation
        self._facts = dict(facts or {})
        self._latest: tuple[int, TaskEvaluation] | None = None  # the latest evaluation, and after how many batches

    def validate(self) -> Mapping[str, float]:
        """Return loss, accuracy and the number of images; see `evaluate_images`."""
        if self.validation is None:
            return {}
        evaluation = self._evaluate(self.validation)
        self._latest = self.batches.cursor, evaluation
        return evaluation.metrics

    def sample(self, seed: int) -> str | None:
        """Return the confusion matrix; see `Confusion`."""
        if self._latest is not None and self._latest[0] == self.batches.cursor:  # the model has not changed since
            evaluation = self._latest[1]
        else:
            evaluation = self._evaluate(self.training if self.validation is None else self.validation)
        return str(evaluation.confusion)

    def facts(self) -> Mapping[str, object]:
        """Return the numbers of images and classes."""
        validation = 0 if self.validation is None else len(self.validation.labels)
        return self._facts | {
            "training_images": len(self.training.labels),
            "validation_images": validation,
            "classes": len(self.encoder.classes),
        }

    def _evaluate(self, images: Labeled) -> TaskEvaluation:
        return evaluate_images(self.model, self.encoder, images, self.settings.batch_size)


def evaluate_images(model: Any, encoder: ImageEncoder, images: Labeled, batch_size: int) -> TaskEvaluation:
    """Evaluate a model on images, in `eval()`: loss in nats per image, accuracy, and the number of images."""

    def measure(batch: tuple[np.ndarray, np.ndarray]) -> tuple[float, list[int]]:
        x, labels = batch
        logits = model(to_device(x, model.device))
        nats = len(labels) * float(cross_entropy(logits, to_device(labels, model.device)))
        return nats, to_numpy(logits.argmax(axis=1)).tolist()

    with evaluating():
        batches = ordered_batches(*images, batch_size, encoder.normalize)
        measured = shared(measure, watched(batches, -(-len(images.labels) // batch_size)))
    predicted = np.array([label for _, labels in measured for label in labels])
    confusion = Confusion.of(encoder.classes, images.labels, predicted)
    number = len(images.labels)
    loss = sum(nats for nats, _ in measured) / number
    return TaskEvaluation({"loss": loss, "accuracy": confusion.accuracy, "images": number}, confusion)


class ImageRecord:
    """The record of image classification: images by class, how bytes become floats, the class of an image."""

    file = "images.json"

    def load(self, sources: Any) -> Images:
        """See `load_images`."""
        return load_images(sources)

    def encoder(self, data: Images, settings: Settings) -> ImageEncoder:
        """Measure classes, size and channels; mean and variance are those of the training images alone."""
        return ImageEncoder.measure(data, settings.data.image_size, settings.data.validation_fraction)

    def load_encoder(self, path: Path) -> ImageEncoder:
        """See `ImageEncoder.load`."""
        return ImageEncoder.load(path)

    def shape(self, encoder: ImageEncoder) -> dict[str, Any]:
        """Return the size of the images and the number of classes."""
        return {
            "image_height": encoder.height,
            "image_width": encoder.width,
            "channels": encoder.channels,
            "num_classes": len(encoder.classes),
        }

    def task(self, model: Any, encoder: ImageEncoder, data: Images, settings: Settings) -> ImageTask:
        """Split and shuffle the images."""
        training, validation = self.split(encoder, data, settings)
        facts: dict[str, object] = {
            "data": data.name,
            "image_size": f"{encoder.height} × {encoder.width} × {encoder.channels}",
        }
        if data.left_out:
            facts["left out"] = summary(data.left_out)
        return ImageTask(model, encoder, training, validation, settings.training, settings.data.shift, facts)

    def evaluate(
        self, model: Any, encoder: ImageEncoder, data: Images, settings: Settings, whole: bool
    ) -> TaskEvaluation:
        """Evaluate on images; see `evaluate_images`."""
        if whole:
            images: Labeled | None = Labeled(encoder.pixels(data), encoder.labels(data))
        else:
            _, images = self.split(encoder, data, settings)
        if images is None:
            raise RunError(
                "evaluate: the run was trained with validation_fraction 0, so it has no validation split of "
                f"{data.name}. "
                "Give images: compyute eval RUN FOLDER"
            )
        return evaluate_images(model, encoder, images, settings.training.batch_size)

    def split(self, encoder: ImageEncoder, data: Images, settings: Settings) -> tuple[Labeled, Labeled | None]:
        """Return the training and the validation images; see `Images.split`."""
        pixels, labels = encoder.pixels(data), encoder.labels(data)
        training, validation = data.split(settings.data.validation_fraction)
        held = Labeled(pixels[validation], labels[validation]) if len(validation) else None
        return Labeled(pixels[training], labels[training]), held


IMAGES = ImageRecord()
