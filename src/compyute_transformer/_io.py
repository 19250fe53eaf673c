"""Writing so that a reader finds the old or the new, never a half: whatever kills the process, at whatever moment.

    new     write under a hidden name beside it · fsync · rename · fsync the folder that holds both names
    delete  rename to a hidden name · fsync the folder · remove

A rename within one folder is atomic. The fsync before it keeps a power cut from leaving the new name on an empty file,
the one after it from forgetting the rename. What a killed write leaves behind has a hidden name: `sweep` removes it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["new_folder", "remove_folder", "replace_file", "replace_text", "sweep", "sync"]

WRITING, DELETING = ".writing-", ".deleting-"


def sync(path: Path) -> None:
    """Make the disk hold what was written to a file, or renamed within a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and journals renames by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Put a new file in the place of an old one, or of none. write: gets the path to write to."""
    hidden = path.with_name(WRITING + path.name)
    write(hidden)
    sync(hidden)
    os.replace(hidden, path)
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Put a UTF-8 text in the place of an old one, or of none."""
    replace_file(path, lambda hidden: hidden.write_text(text, encoding="utf-8", newline="\n"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder of files that appears at once, at the end of the `with` block, whole.

    Yields where to write the files. After an exception in the block there is no folder.
    """
    hidden = path.with_name(WRITING + path.name)
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    try:
        yield hidden
        for file in sorted(hidden.iterdir()):
            sync(file)
        sync(hidden)
        os.rename(hidden, path)
    except OSError:  # the disk is full, say: what was written so far would keep it so
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder that vanishes at once, whole."""
    hidden = path.with_name(DELETING + path.name)
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    sync(path.parent)
    shutil.rmtree(hidden)


def sweep(folder: Path) -> None:
    """Remove what killed writes and deletions left behind in a folder."""
    for leftover in [path for mark in (WRITING, DELETING) for path in folder.glob(f"{mark}*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
