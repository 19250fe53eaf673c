"""Batches of images: bytes (B, height, width, channels) become floats of mean 0 and variance 1, with labels (B).

Epochs are without replacement: each sees every image once, in its own order. Epochs join without a gap, so that all
batches have B images; for 5 images and B = 3:

    epoch 0        epoch 1
    3 0 4 1 2      4 0 3 1 2   …
    [   ] [        ] [   ] [ …
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import _io
from ...errors import DataError, DtypeError, RangeError, ShapeError
from ...random import BATCHES, RandomKey, random_bits, uniform
from .corpus import Images

__all__ = ["ImageBatches", "ImageEncoder", "ordered_batches"]

FORMAT, VERSION = "compyute images", 1


@dataclass(frozen=True)
class ImageEncoder:
    """What turns image files into arrays: classes, size, channels, and how bytes become floats.

    mean, std: of each channel of the training images, in units of 255. resize: whether images of another size are
    resized; otherwise they are refused.
    """

    classes: tuple[str, ...]
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: bool = False

    @classmethod
    def measure(cls, images: Images, image_size: int | None = None, validation_fraction: float = 0.1) -> "ImageEncoder":
        """Measure the encoder of images: mean and variance are those of their training part alone.

        image_size: the side of the square to which all are resized; None keeps their size.
        """
        pixels = images.pixels(None if image_size is None else (image_size, image_size))
        training, _ = images.split(validation_fraction)
        counts = np.zeros((pixels.shape[3], 256))  # a histogram of each channel: exact, and small
        for image in training:
            for channel, count in enumerate(counts):
                count += np.bincount(pixels[image, ..., channel].ravel(), minlength=256)
        shades, share = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
        mean = share @ shades
        variance = (share * (shades - mean[:, None]) ** 2).sum(axis=1)
        std = np.maximum(np.sqrt(variance), 1 / 255)  # images of one shade have no deviation
        size = pixels.shape[1], pixels.shape[2], pixels.shape[3]
        return cls(images.classes, *size, tuple(mean.tolist()), tuple(std.tolist()), image_size is not None)

    def pixels(self, images: Images) -> np.ndarray:
        """Return the bytes of images in the size of the model. Raises DataError for images that do not fit it."""
        pixels: np.ndarray = images.pixels((self.height, self.width) if self.resize else None, self.channels)
        if pixels.shape[1:3] != (self.height, self.width):
            raise DataError(
                f"ImageEncoder: the model sees images of {self.height} × {self.width} pixels, got {images.name} with "
                f"{pixels.shape[1]} × {pixels.shape[2]}. Resize them, or train with --image-size, which resizes all."
            )
        return pixels

    def labels(self, images: Images) -> np.ndarray:
        """Return the class of each image as an index. Raises DataError for a class the model was not trained on."""
        if foreign := [name for name in images.classes if name not in self.classes]:
            raise DataError(
                f"ImageEncoder: the model knows the classes {', '.join(self.classes)}, got {', '.join(foreign)} in "
                f"{images.name}. Give images of the classes it was trained on."
            )
        numbers = np.array([self.classes.index(name) for name in images.classes])
        labels: np.ndarray = numbers[images.labels]
        return labels

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Return bytes as float32, with mean 0 and variance 1 in each channel over the training images."""
        mean, std = (np.array(values, dtype=np.float32) * np.float32(255) for values in (self.mean, self.std))
        normalized: np.ndarray = (pixels.astype(np.float32) - mean) / std
        return normalized

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        state = {"format": FORMAT, "version": VERSION, **asdict(self)}
        Path(path).write_text(json.dumps(state, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> "ImageEncoder":
        """Read what `save` wrote. Raises DataError for any other file."""
        try:
            state: dict[str, Any] = _io.read_json(path)
            known = state.pop("format") == FORMAT and state.pop("version") == VERSION
            fields: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
            encoder = cls(**fields)
            numbers = [float(number) for number in (*encoder.mean, *encoder.std)]
            whole = known and len(numbers) == 2 * encoder.channels and all(isinstance(c, str) for c in encoder.classes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if not whole:
            raise DataError(
                f'ImageEncoder.load: the file must be JSON, say "format": "{FORMAT}", "version": {VERSION} and have '
                f"the fields that ImageEncoder.save wrote; {path} does not. Give the images.json of a run."
            )
        return encoder


def as_images(operation: str, pixels: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels as arrays. Raises ShapeError unless there are images, and a whole label for each."""
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    if pixels.ndim != 4 or pixels.size == 0 or labels.shape != pixels.shape[:1]:
        raise ShapeError(
            f"{operation}: pixels have shape (number, height, width, channels), at least one image, and there is a "
            f"label for each, got {pixels.shape} and {labels.shape}."
        )
    if pixels.dtype.kind not in "uif" or labels.dtype.kind not in "iu":
        raise DtypeError(
            f"{operation}: pixels are bytes and labels integers, got {pixels.dtype} and {labels.dtype}. "
            "Convert them with array.astype."
        )
    return pixels, labels


class ImageBatches:
    """Shuffled batches of training images, as a pure function of (seed, index).

    pixels: (number, height, width, channels) bytes. `next()` returns the batches 0, 1, 2, …; `cursor` is the index of
    the next one and the whole state, so setting it resumes a run. shift: each image is moved by up to that many pixels
    along both axes, differently each time; see `moved`. normalize: turns bytes into floats.

    `for x, labels in batches` takes one epoch from the cursor on, `len(batches)` batches; the next loop continues.

    Raises RangeError for a batch size below 1, a shift that could move an image away, and a seed outside [0, 2⁶⁴).
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        seed: int = 0,
        shift: float = 0.0,
    ) -> None:
        pixels, labels = as_images("ImageBatches", pixels, labels)
        if batch_size < 1 or not 0 <= seed < 2**64:
            raise RangeError(
                f"ImageBatches: batch_size is at least 1, a seed lies in [0, 2⁶⁴), got {batch_size} and {seed}."
            )
        if not 0 <= shift < min(pixels.shape[1:3]):
            raise RangeError(
                f"ImageBatches: shift lies in [0, {min(pixels.shape[1:3])}), the shorter side of the images, "
                f"got {shift}. Give 0 to move nothing."
            )
        self.pixels, self.labels, self.normalize = pixels, labels, normalize
        self.batch_size, self.seed, self.shift = batch_size, seed, shift
        self.cursor = 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # of the last epoch that was asked for

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch of an index in [0, 2³²): images (B, height, width, channels) and labels (B)."""
        if not 0 <= index < 2**32:
            raise RangeError(f"ImageBatches.batch: an index lies in [0, 2³²), got {index}. Count batches from 0.")
        rows = self._rows(index)
        pixels = self.pixels[rows]
        if self.shift:
            directions = 2 * uniform(RandomKey(self.seed, BATCHES, index, 1), (len(rows), 2)) - 1
            pixels = moved(pixels, directions * np.float32(self.shift))
        return self.normalize(pixels), self.labels[rows]

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch at the cursor, and advance the cursor."""
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(len(self)):
            yield self.next()

    def _rows(self, index: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(self.batch_size) + index * self.batch_size, len(self.pixels))
        return np.concatenate([self._epoch(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    def _epoch(self, epoch: int) -> np.ndarray:
        known, order = self._order  # taken once: another thread may put its own there meanwhile
        if known != epoch:
            bits = random_bits(RandomKey(self.seed, BATCHES, epoch), 1, len(self.pixels))[0, 0]
            order = np.argsort(bits, kind="stable")
            self._order = epoch, order
        return order


def moved(pixels: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Move each image down and right by its two numbers of `moves` (B, 2), float32, which may be negative.

    Interpolates bilinearly; pixels from outside are black. Returns float32 from 0 to 255.
    """
    for axis in (1, 2):
        whole = np.floor(moves[:, axis - 1])
        part = (moves[:, axis - 1] - whole)[:, None, None, None]
        pixels = (1 - part) * shifted(pixels, whole, axis) + part * shifted(pixels, whole + 1, axis)
    return pixels


def shifted(pixels: np.ndarray, steps: np.ndarray, axis: int) -> np.ndarray:
    """Move each image along an axis by its whole number of steps (B); pixels from outside are black."""
    length, shape = pixels.shape[axis], [len(pixels), 1, 1, 1]
    shape[axis] = length
    origins = (np.arange(length) - steps[:, None].astype(np.int64)).reshape(shape)  # the source of each pixel
    inside = (origins >= 0) & (origins < length)
    return np.where(inside, np.take_along_axis(pixels, origins % length, axis), 0)


def ordered_batches(
    pixels: np.ndarray, labels: np.ndarray, batch_size: int, normalize: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every image once, in order; the last batch may be smaller."""
    pixels, labels = as_images("ordered_batches", pixels, labels)
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        yield normalize(pixels[part]), labels[part]
