"""Choose: which reporter suits a stream."""

import sys
from typing import IO

from .reporters import JsonReporter, LineReporter, Reporter

__all__ = ["reporter_for"]


def reporter_for(stream: IO[str] | None = None, as_json: bool = False) -> Reporter:
    """Return a reporter for a stream (default: standard output): JSON on request, a bar on a terminal, else lines."""
    stream = stream or sys.stdout
    if as_json:
        return JsonReporter(stream)
    if stream.isatty():
        from .progress import ProgressReporter  # brings rich, which a pipe does not need

        return ProgressReporter(stream)
    return LineReporter(stream)
