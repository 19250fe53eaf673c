"""Lock: only one process at a time trains a run.

The lock is `flock` on the open folder itself. It leaves no file behind, and the system releases it when the process
ends for any reason. Windows has no `flock`, and some network file systems cannot lock folders: there, nothing keeps
two processes from training the same run.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import RunError

__all__ = ["hold"]


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes from training the run of a folder, within a `with` block.

    Raises RunError if another process holds the lock, OSError for a folder that cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"train: only one process at a time trains a run, but another process is training {folder}. "
                "Wait for it, or choose another folder."
            ) from error
        except OSError:
            pass  # a file system without locks on folders; a run on it must still be possible
        yield
    finally:
        os.close(descriptor)
