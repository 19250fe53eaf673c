"""Image files: find them below a folder, inspect their headers, and read them as 8-bit arrays, with Pillow.

any bit depth below 16, gray          -> one channel
16 bits, gray                         -> one channel, the upper 8 bits
color, a palette, CMYK               -> three channels, red, green and blue
transparency                          -> laid on white
turned by the camera (EXIF)           -> upright
"""

import os
import warnings
from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import _io
from ...errors import DataError, MissingExtraError

__all__ = ["SUFFIXES", "Look", "images_below", "import_extra", "is_of_data", "look_at", "read_image"]

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# The formats that Pillow may use, whatever the suffix says: others, such as PostScript, would run code in the file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_BYTES, MOST_PIXELS = 256 << 20, 64_000_000  # of one image
GRAY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
COLOR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
ROTATED = (5, 6, 7, 8)  # EXIF orientations that lay an image on its side
ORIENTATION = 0x0112


class Look(NamedTuple):
    """What the header of a file says. channels: 1 or 3."""

    height: int
    width: int
    channels: int


def import_extra(module: str, package: str, what: str) -> Any:
    """Import a module of an optional package. Raises MissingExtraError, which says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"load_images: {what} need {package}, which is not installed. pip install 'compyute-transformer[images]'"
        ) from error


def is_of_data(folder: str) -> bool:
    """Return whether a folder of this name may hold data: it is not hidden, nor what archives of macOS carry along."""
    return not folder.startswith(".") and folder not in ("__MACOSX", "__pycache__")


def images_below(folder: Path) -> Iterator[Path]:
    """Return the image files below a folder by their suffix, sorted by path, without hidden files."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if is_of_data(name)]  # os.walk enters those that stay
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    images = (file for file in found if file.suffix.lower() in SUFFIXES)
    return iter(sorted(images, key=lambda file: file.relative_to(folder).parts))


def look_at(file: Path) -> Look:
    """Return the size and the channels of an image, upright.

    Raises DataError for a file that is not an image, is too large, or has numbers that 8 bits cannot hold.
    """
    with _open(file) as image:
        mode, (width, height) = _mode(image), image.size
        if mode not in GRAY + COLOR:
            raise DataError(
                f"load_images: an image holds 8 or 16 bits a number, but Pillow reads {file} as another (mode {mode}). "
                "Save it as an 8-bit PNG, or leave it out."
            )
        try:
            turned = image.getexif().get(ORIENTATION) in ROTATED
        except Exception as error:  # decoders raise many errors
            raise _damaged(file, error) from error
        height, width = (width, height) if turned else (height, width)
        return Look(height, width, 1 if mode in GRAY else 3)


def read_image(file: Path, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the pixels (height, width, channels) of an image, uint8, upright, resized to a size (height, width).

    Gray becomes color by repeating the channel. Color is not converted to gray: the caller refuses that before.

    Raises DataError for a file that is damaged.
    """
    pillow, ops = _pillow(), import_extra("PIL.ImageOps", "Pillow", "image files")
    with _open(file) as opened:
        try:
            mode = _mode(opened)
            opened.load()  # here, so that damage is found here
            image = ops.exif_transpose(opened)
        except Exception as error:  # decoders raise many errors
            raise _damaged(file, error) from error
        if mode.startswith("I;16"):
            image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            colors = image.convert("RGBA")
            image = pillow.alpha_composite(pillow.new("RGBA", colors.size, "white"), colors)
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and (image.height, image.width) != size:
            image = image.resize(size[::-1], pillow.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def _pillow() -> Any:
    return import_extra("PIL.Image", "Pillow", "image files")


def _mode(image: Any) -> str:
    """Return Pillow's mode. For a PGM of more than 8 bits, which Pillow calls 32-bit, return that of 16 bits."""
    wide = image.format == "PPM" and image.mode == "I"
    return "I;16" if wide else str(image.mode)


def _open(file: Path) -> Any:
    pillow = _pillow()
    try:
        content = _io.read_bytes(file, MOST_BYTES)  # refuses pipes and devices
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)  # the check below is stricter
            image = pillow.open(BytesIO(content), formats=FORMATS)
    except Exception as error:
        raise _damaged(file, error) from error
    if image.width * image.height > MOST_PIXELS:
        raise DataError(
            f"load_images: an image has at most {MOST_PIXELS:,} pixels; {file} has {image.width} × {image.height}. "
            "Make it smaller, or leave it out."
        )
    return image


def _damaged(file: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or _reason(error) or type(error).__name__
    return DataError(
        f"load_images: every image file must be readable as an image; {file} is not: {reason}. "
        "Repair it or leave it out."
    )


def _reason(error: Exception) -> str:
    return (
        "its contents are of no format that is read here"
        if "cannot identify" in str(error)
        else str(error).partition("\n")[0]
    )
