"""Watch: a local page that follows running trainings; it reads their logs and checkpoints, never the processes."""

from .server import Watcher

__all__ = ["Watcher"]
