"""Images and their classes: the digits of scikit-learn, or a folder with one sub-folder per class.

    animals/cat/1.png  animals/cat/2.png  animals/dog/1.png   ->   classes ("cat", "dog"), labels (0, 0, 1)

A folder may also have the layout of ImageNet, with the parts above the classes; val is then the validation split:

    animals/train/cat/1.png  animals/train/dog/1.png  animals/val/cat/2.png  animals/val/dog/2.png

Images are gray, one channel, if all of them are; otherwise all are color, three channels. Pixels stay bytes until a
batch is made: see `batches`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from ... import _io
from ...errors import DataError, RangeError
from ...random import CORPUS, RandomKey, random_bits
from ..sources import is_name
from .files import MOST_BYTES, SUFFIXES, Look, images_below, import_extra, is_of_data, look_at, read_image

__all__ = ["Images", "holds_images", "image_files", "load_images"]

DIGITS = "digits"
LISTED = 5  # the names that an error lists
TRAINING, VALIDATION = ("train", "training"), ("val", "valid", "validation")  # parts above the classes
LEFT_OUT_PARTS = ("test",)
TEXTS = (".csv", ".htm", ".html", ".md", ".py", ".rst", ".tex", ".txt")


@dataclass(frozen=True, eq=False)
class Images:
    """Images, the class of each, and the sources from which `load_images` finds them again.

    labels: (number) indices of classes. looks: the size and the channels of each. contents: a number for each, equal
    for images that are equal byte for byte. files: their paths; none if `scans` holds the images, (number, height,
    width, 1) bytes. sha256: of the contents of the files, and of the classes. held_out: (number) which images the
    folder itself keeps for validation, or None. left_out: files in the folder that are not read.
    """

    name: str
    sources: tuple[str, ...]
    sha256: str
    classes: tuple[str, ...]
    labels: np.ndarray = field(repr=False)
    looks: tuple[Look, ...] = field(repr=False)
    contents: np.ndarray = field(repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)
    scans: np.ndarray | None = field(default=None, repr=False)
    held_out: np.ndarray | None = field(default=None, repr=False)
    left_out: tuple[str, ...] = field(default=(), repr=False)
    _read: dict[object, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """3 if any image has color, else 1."""
        return max(look.channels for look in self.looks)

    def pixels(self, size: tuple[int, int] | None = None, channels: int | None = None) -> np.ndarray:
        """Return all images, (number, height, width, channels) bytes, which are read at the first call.

        size: (height, width) to which each is resized; None keeps their size. channels: 1 or 3; None for those of the
        images.

        Raises DataError for images of several sizes without a size, color images as gray, and damaged files.
        """
        channels = channels or self.channels
        if channels < self.channels:
            colored = next(i for i, look in enumerate(self.looks) if look.channels == 3)
            raise DataError(
                f"Images.pixels: the images must be gray, but {self._named(colored)} has color. "
                "Convert it to gray, or train a model on colored images."
            )
        if size is None and len({look[:2] for look in self.looks}) > 1:
            other = next(i for i, look in enumerate(self.looks) if look[:2] != self.looks[0][:2])
            first, second = (f"{self._named(i)} is {self.looks[i].height} × {self.looks[i].width}" for i in (0, other))
            raise DataError(
                f"Images.pixels: all images have one size, but {first} pixels and {second}. "
                "Give --image-size N, to which all are resized."
            )
        if (size, channels) not in self._read:
            self._read[size, channels] = self._pixels(size, channels)
        return self._read[size, channels]

    def split(self, validation_fraction: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training and of the validation part: that fraction of each class, by the seed.

        The parts do not overlap, and together are all images. Each class keeps at least one image for training, and
        gives one for validation if it has two that differ. Copies of an image stay together, and in training if they
        lie in several classes. A fraction of 0 gives no validation part. If the folder has a validation part of its
        own, that one is used.

        Raises RangeError for a fraction outside [0, 1).
        """
        if not 0 <= validation_fraction < 1:
            raise RangeError(
                f"Images.split: a validation fraction lies in [0, 1), got {validation_fraction}. "
                "0.1 keeps a tenth of each class for validation."
            )
        if self.held_out is not None:
            held = self.held_out & (validation_fraction > 0)
            return np.flatnonzero(~self.held_out), np.flatnonzero(held)
        found, classes = np.unique(np.unique([self.contents, self.labels], axis=1)[0], return_counts=True)
        shared = found[classes > 1]
        held = np.zeros(len(self), dtype=bool)
        for index in range(len(self.classes)) if validation_fraction else ():
            distinct = np.array(list(dict.fromkeys(self.contents[self.labels == index].tolist())))
            order = np.argsort(random_bits(RandomKey(seed, CORPUS, index, 1), 1, len(distinct))[0, 0], kind="stable")
            count = min(max(1, round(len(distinct) * validation_fraction)), len(distinct) - 1)
            drawn = distinct[order][~np.isin(distinct[order], shared)][:count]
            held |= np.isin(self.contents, drawn)
        return np.flatnonzero(~held), np.flatnonzero(held)

    def _pixels(self, size: tuple[int, int] | None, channels: int) -> np.ndarray:
        if self.scans is not None and size in (None, self.scans.shape[1:3]):
            return self.scans.repeat(channels, axis=-1)
        if self.scans is not None:
            raise DataError(
                f"Images.pixels: the images of {self.name} have {self.scans.shape[1]} × {self.scans.shape[2]} pixels, "
                f"and are not resized, got {size[0] if size else 0} × {size[1] if size else 0}. Leave the size out."
            )
        return np.stack([read_image(file, channels, size) for file in self.files])

    def _named(self, index: int) -> str:
        return str(self.files[index]) if self.files else f"image {index} of {self.name}"


def load_images(sources: str | Path | Sequence[str | Path] = ()) -> Images:
    """Find images by name or in a folder; without a source, "digits".

    A `str` that is exactly "digits" is scikit-learn's 1797 scans of handwritten digits, 8 × 8 pixels (Alpaydin and
    Kaynak 1998). A folder has a sub-folder for each class, with image files in it or below it, or the parts train and
    val with the classes below. Classes are sorted by name, images by path. Hidden files, and files without the suffix
    of an image, are left out.

    Raises DataError for a missing folder, fewer than two classes, a class without images, a file that is not an image;
    MissingExtraError without the packages that read them.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    given = listed or [DIGITS]
    if len(given) > 1:
        raise DataError(
            f"load_images: images come from one folder with a sub-folder for each class, got {len(given)} sources: "
            f"{_enumerate(given)}. Put the classes into one folder."
        )
    if is_name(given[0], (DIGITS,), "load_images"):
        return _digits()
    return _folder(Path(given[0]).absolute())


def image_files(sources: Iterable[str | Path]) -> Iterator[Path]:
    """Yield image files: those that are named, whatever their suffix, and those below the folders that are named.

    Raises DataError for a path that does not exist, and for a folder without images.
    """
    for source in map(Path, sources):
        if source.is_dir():
            found = list(images_below(source))
            if not found:
                raise DataError(
                    f"image_files: a folder holds image files ({' '.join(SUFFIXES)}), but there is none in {source}. "
                    "Check the path."
                )
            yield from found
        elif source.exists():
            yield source
        else:
            raise DataError(f"image_files: an image is a file that exists; there is no {source}. Check the path.")


def holds_images(folder: Path) -> bool:
    """Return whether a folder looks like classes of images.

    It has two or more sub-folders with an image in each, no text beside them, and fewer texts than images below.
    """
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.suffix.lower() in TEXTS and path.is_file() for path in visible):
        return False
    inner = _classes_of(folder)
    images = [sum(1 for _ in images_below(path)) for path in inner]
    return len(inner) >= 2 and all(images) and len(_texts_below(folder)) < sum(images)


def _digits() -> Images:
    bunch = import_extra("sklearn.datasets", "scikit-learn", "the digits").load_digits()
    # 17 shades of gray, 0 to 16, become 0 to 255
    scans = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    looks = (Look(*scans.shape[1:]),) * len(scans)
    classes = tuple(str(name) for name in bunch.target_names)
    content = [labels.astype("<i8").tobytes(), scans.tobytes()]
    contents = _numbered(scan.tobytes() for scan in scans)
    return Images(DIGITS, (DIGITS,), _sha256(classes, content), classes, labels, looks, contents, scans=scans)


def _folder(folder: Path) -> Images:
    if not folder.is_dir():
        raise DataError(
            f'load_images: images come from a folder that exists, or by the name "{DIGITS}"; there is no folder '
            f"{folder}. Check the path."
        )
    inner = _classes_of(folder)
    if parts := _parts_of(inner):
        return _of_parts(folder, *parts)
    found = {path.name: tuple(images_below(path)) for path in inner}
    if not any(found.values()):
        raise DataError(
            f"load_images: a folder has a sub-folder for each class with image files in it ({' '.join(SUFFIXES)}); "
            f"in the {len(inner)} sub-folders of {folder} there are none. Check the path."
        )
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(
            f"load_images: every class has at least one image, but in {folder} there is none of {_enumerate(empty)}. "
            "Add images, or take the empty sub-folders away."
        )
    if len(found) < 2:
        raise DataError(
            f"load_images: there are at least two classes to tell apart, but {folder} has one sub-folder, "
            f"{next(iter(found))}. Give the folder that holds one sub-folder for each class."
        )
    return _images(folder, found)


def _parts_of(inner: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return (training part, validation part) if those are the sub-folders and both have classes below."""
    training = [path for path in inner if path.name.lower() in TRAINING and _classes_of(path)]
    validation = [path for path in inner if path.name.lower() in VALIDATION and _classes_of(path)]
    others = [path for path in inner if path.name.lower() not in (*TRAINING, *VALIDATION, *LEFT_OUT_PARTS)]
    return (training[0], validation[0]) if len(training) == 1 == len(validation) and not others else None


def _of_parts(folder: Path, training: Path, validation: Path) -> Images:
    names = sorted({path.name for part in (training, validation) for path in _classes_of(part)})
    found = {name: tuple(images_below(training / name)) for name in names}
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(
            f"load_images: every class has at least one training image, but in {training} there is none of "
            f"{_enumerate(empty)}. Add images, or remove the class from {validation}."
        )
    held = {name: tuple(images_below(validation / name)) for name in names}
    images = _images(folder, {name: found[name] + held[name] for name in names})
    return replace(images, held_out=np.array([validation in file.parents for file in images.files]))


def _images(folder: Path, found: dict[str, tuple[Path, ...]]) -> Images:
    """Inspect and count the files of each class."""
    files = tuple(file for each in found.values() for file in each)
    labels = np.repeat(np.arange(len(found)), [len(each) for each in found.values()])
    looks = tuple(look_at(file) for file in files)
    digests = []

    def content() -> Iterator[bytes]:
        for label, file in zip(labels, files, strict=True):
            raw = _bytes_of(file)  # read once for both digests, and one file at a time
            digests.append(hashlib.sha256(raw).digest())
            yield from (f"{label} {file.name}".encode(), raw)

    sha256 = _sha256(found, content())
    numbers, left_out = _numbered(digests), _left_out(folder, files)
    return Images(folder.name, (str(folder),), sha256, tuple(found), labels, looks, numbers, files, left_out=left_out)


def _files_below(folder: Path) -> list[Path]:
    below = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in below if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def _texts_below(folder: Path) -> list[Path]:
    return [path for path in _files_below(folder) if path.suffix.lower() in TEXTS]


def _left_out(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    read = set(files)
    return tuple(str(path) for path in _files_below(folder) if path not in read)


def _classes_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_of_data(path.name))


def _bytes_of(file: Path) -> bytes:
    try:
        return _io.read_bytes(file, MOST_BYTES)
    except OSError as error:
        raise DataError(
            f"load_images: every image file must be readable; {file} is not: {error.strerror}. "
            "Change its permissions or leave it out."
        ) from error


def _sha256(classes: Iterable[str], content: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in chain((name.encode() for name in classes), [b""], content):
        digest.update(len(part).to_bytes(8, "little"))  # so that the boundaries between the parts count
        digest.update(part)
    return digest.hexdigest()


def _numbered(contents: Iterable[bytes]) -> np.ndarray:
    """Return a number for each content, equal for equal contents."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(content, len(numbers)) for content in contents])


def _enumerate(items: Sequence[object]) -> str:
    rest = len(items) - LISTED
    return ", ".join(str(item) for item in items[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
