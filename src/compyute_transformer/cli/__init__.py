"""The command `compyute`: train, use, verify and measure models from a shell."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave by SystemExit with the exit code.

    Exit codes: 0 done, 1 an error (one message, no traceback), 2 a command line that cannot be understood, 130
    interrupted, 141 the reader of the output went away.
    """
    from .processes import alone_or_first

    with alone_or_first():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    from . import terminal

    with terminal.loading():
        terminal.prepare_streams()
        from .. import threads
        from ..errors import CompyuteError

        getattr(threads, "configure_threads", lambda: None)()  # before NumPy loads
        from .app import app
    try:
        app(arguments, prog_name="compyute")
    except (CompyuteError, OSError) as error:  # OSError: a full disk while a log is written, for example
        terminal.note(f"Error: {terminal.for_users(error)}", style="red")
        sys.exit(1)
    except MemoryError as error:
        terminal.note(f"Error: out of memory: {error}. Choose a smaller model, batch or context.", style="red")
        sys.exit(1)
