"""Images: say which class an image is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arrays import to_device, to_numpy
from ...data.images.batches import ImageBatches, ImageEncoder, ordered_batches
from ...data.images.corpus import Images, load_images
from ...errors import RunError
from ...generation.decode import evaluating
from ...ops.loss import cross_entropy
from ..reporting.confusion import Confusion
from ..settings.settings import Settings, TrainingSettings
from .task import TaskEvaluation, SupervisedTask

__all__ = ["IMAGES", "ImageTask", "Labeled", "evaluate_images"]


class Labeled(NamedTuple):
    """Images as bytes (number, height, width, channels), and the class of each."""

    pixels: np.ndarray
    labels: np.ndarray


class ImageTask(SupervisedTask):
    """Say which class an image is of: shuffled epochs to train on, every validation image to be judged by.

    model: ViT, or another that turns images into one row of logits each. validation None: nothing is validated. shift:
    up to so many pixels each training image is moved, another way each time.
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
        self._judged: tuple[int, TaskEvaluation] | None = None  # the latest, and after how many batches

    def validate(self) -> Mapping[str, float]:
        """Loss, accuracy and how many images there were; see `evaluate_images`."""
        if self.validation is None:
            return {}
        judgement = self._judge(self.validation)
        self._judged = self.batches.cursor, judgement
        return judgement.metrics

    def sample(self, seed: int) -> str | None:
        """What each class is taken for; see `Confusion`."""
        if self._judged is not None and self._judged[0] == self.batches.cursor:  # validated a moment ago
            judgement = self._judged[1]
        else:
            judgement = self._judge(self.training if self.validation is None else self.validation)
        return str(judgement.confusion)

    def facts(self) -> Mapping[str, object]:
        """Images and classes."""
        validation = 0 if self.validation is None else len(self.validation.labels)
        return self._facts | {
            "training_images": len(self.training.labels),
            "validation_images": validation,
            "classes": len(self.encoder.classes),
        }

    def _judge(self, images: Labeled) -> TaskEvaluation:
        return evaluate_images(self.model, self.encoder, images, self.settings.batch_size)


def evaluate_images(model: Any, encoder: ImageEncoder, images: Labeled, batch_size: int) -> TaskEvaluation:
    """How well a model tells images apart, in `eval()`: loss, the mean in nats an image; accuracy; images, how many."""
    nats, said = 0.0, []
    with evaluating(model):
        for x, labels in ordered_batches(*images, batch_size, encoder.normalize):
            logits = model(to_device(x, model.device))
            nats += len(labels) * float(cross_entropy(logits, to_device(labels, model.device)))
            said.append(to_numpy(logits.argmax(axis=1)))
    confusion = Confusion.of(encoder.classes, images.labels, np.concatenate(said))
    number = len(images.labels)
    return TaskEvaluation({"loss": nats / number, "accuracy": confusion.accuracy, "images": number}, confusion)


class ImageRecord:
    """Images by class, how bytes become floats, and the class of an image."""

    file = "images.json"

    def load(self, sources: Any) -> Images:
        """See `load_images`."""
        return load_images(sources)

    def encoder(self, data: Images, settings: Settings) -> ImageEncoder:
        """Classes, size and channels; mean and variance are those of the training images alone."""
        return ImageEncoder.measure(data, settings.data.image_size, settings.data.validation_fraction)

    def load_encoder(self, path: Path) -> ImageEncoder:
        """See `ImageEncoder.load`."""
        return ImageEncoder.load(path)

    def shape(self, encoder: ImageEncoder) -> dict[str, Any]:
        """The size of the images, and the number of classes."""
        return {
            "image_height": encoder.height,
            "image_width": encoder.width,
            "channels": encoder.channels,
            "num_classes": len(encoder.classes),
        }

    def task(self, model: Any, encoder: ImageEncoder, data: Images, settings: Settings) -> ImageTask:
        """The images, split and shuffled."""
        training, validation = self.split(encoder, data, settings)
        facts = {"data": data.name, "image_size": f"{encoder.height} × {encoder.width} × {encoder.channels}"}
        return ImageTask(model, encoder, training, validation, settings.training, settings.data.shift, facts)

    def evaluate(self, model: Any, encoder: ImageEncoder, data: Images, settings: Settings, whole: bool) -> TaskEvaluation:
        """Name images; see `evaluate_images`."""
        if whole:
            images: Labeled | None = Labeled(encoder.pixels(data), encoder.labels(data))
        else:
            _, images = self.split(encoder, data, settings)
        if images is None:
            raise RunError(
                f"judge: the run was trained with validation_fraction 0, so it kept no images of {data.name} to be "
                "judged by. Give some: compyute eval RUN FOLDER"
            )
        return evaluate_images(model, encoder, images, settings.training.batch_size)

    def split(self, encoder: ImageEncoder, data: Images, settings: Settings) -> tuple[Labeled, Labeled | None]:
        """What is trained on, and what judges; see `Images.split`."""
        pixels, labels = encoder.pixels(data), encoder.labels(data)
        training, validation = data.split(settings.data.validation_fraction)
        held = Labeled(pixels[validation], labels[validation]) if len(validation) else None
        return Labeled(pixels[training], labels[training]), held


IMAGES = ImageRecord()
