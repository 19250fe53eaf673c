"""Files: written whole or not at all, read within bounds, and arrays in one byte layout.

    write   write under a hidden name beside the target · fsync · rename · fsync the parent folder
    delete  rename to a hidden name · fsync the parent folder · remove

A rename within one folder is atomic, so a reader finds the old file or the new one, whenever the process is killed.
The fsync before the rename keeps a power cut from leaving the new name on an empty file. The fsync after it keeps the
rename from being lost. A killed write leaves a file with a hidden name, which `sweep` removes.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Array, to_numpy
from .errors import DtypeError

__all__ = [
    "array_bytes",
    "new_folder",
    "read_bytes",
    "read_json",
    "remove_folder",
    "replace_file",
    "replace_text",
    "sweep",
    "sync",
    "write_arrays",
]

WRITING, DELETING = ".writing-", ".deleting-"
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS)
RENAME_TRIES = 6  # a virus scanner on Windows may hold a new file open for a moment
JSON_BYTES = 64 << 20  # the largest JSON file that is read; a large tokenizer has about 20 MB


# --- arrays ---


def array_bytes(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays in the safetensors format, whatever their memory layout, byte order or device.

    safetensors writes memory as it lies, so a view, a transposed or a big-endian array must be copied first.

    Raises:
        DtypeError: an array is neither floating-point, integer nor boolean.
    """
    import safetensors.numpy

    plain = {name: _plain(name, array) for name, array in arrays.items()}
    return safetensors.numpy.save(plain, dict(metadata) if metadata else None)


def write_arrays(path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays to a safetensors file, atomically. Raises as `array_bytes`, and OSError."""
    data = array_bytes(arrays, metadata)
    replace_file(Path(path), lambda hidden: hidden.write_bytes(data))


def _plain(name: str, array: Array) -> np.ndarray:
    """Return the array as a C-contiguous little-endian NumPy array."""
    values = to_numpy(array)
    if values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16":
        raise DtypeError(
            f"array_bytes: arrays are floating-point, integer or boolean, got {values.dtype} for {name!r}. Convert it."
        )
    little = values.dtype.newbyteorder("<") if values.dtype.byteorder in "<>=" else values.dtype
    return np.asarray(values, dtype=little, order="C")


# --- reading ---


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Return the contents of a regular file.

    Raises:
        OSError: the file cannot be read, is a pipe or a device, or has more than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {limit:,}", str(path))
        return file.read()


def read_json(path: str | Path, limit: int = JSON_BYTES) -> Any:
    """Return the value in a JSON file; NaN, infinity and repeated keys are refused.

    Raises:
        OSError: as `read_bytes`.
        ValueError: the file is not UTF-8, not JSON, or nested too deeply.
    """
    return parse_json(read_bytes(path, limit).decode("utf-8"))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError as `read_json`."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values


# --- writing ---


def sync(path: Path) -> None:
    """Flush a file, or the renames within a folder, to the disk.

    Some file systems (SMB, VirtualBox, WSL, FUSE) cannot sync a folder. That is no error: its files were synced.
    """
    folder = path.is_dir()
    if os.name == "nt" and folder:
        return  # Windows cannot open folders, and journals renames itself
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (folder and error.errno in NO_FOLDER_SYNC):
            raise


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Create or replace a file. write: is called with the path to write to."""
    hidden = path.with_name(WRITING + path.name)
    try:
        write(hidden)
        sync(hidden)
        _rename(os.replace, hidden, path)
    except OSError:  # for example a full disk, which the partial file would keep full
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Create or replace a UTF-8 text file."""
    replace_file(path, lambda hidden: hidden.write_text(text, encoding="utf-8", newline="\n"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder of files that appears at once, complete, at the end of the `with` block.

    Yields the folder to write the files to. After an exception in the block, the folder does not exist.
    """
    hidden = path.with_name(WRITING + path.name)
    _remove(hidden, missing_ok=True)
    hidden.mkdir()
    try:
        yield hidden
        for file in sorted(hidden.iterdir()):
            sync(file)
        sync(hidden)
        _rename(os.rename, hidden, path)
    except OSError:  # for example a full disk, which the partial files would keep full
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder, which disappears at once. Of a symbolic link, only the link is deleted."""
    hidden = path.with_name(DELETING + path.name)
    _remove(hidden, missing_ok=True)
    _rename(os.rename, path, hidden)
    sync(path.parent)
    _remove(hidden)


def sweep(folder: Path) -> None:
    """Remove what killed writes and deletions left in a folder."""
    for leftover in [path for mark in (WRITING, DELETING) for path in folder.glob(f"{mark}*")]:
        _remove(leftover)


def _remove(path: Path, missing_ok: bool = False) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=missing_ok)
    elif path.is_symlink() or path.exists() or not missing_ok:
        path.unlink()


def _rename(rename: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Rename; where permission is denied, try again for a moment, since a scanner may hold the file open."""
    for attempt in range(RENAME_TRIES):
        try:
            return rename(source, target)
        except PermissionError:
            if attempt == RENAME_TRIES - 1:
                raise
            time.sleep(0.01 * 2**attempt)
