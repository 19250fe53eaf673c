"""The command `compyute`: train, use, verify and measure models from a shell."""

# Before `main` is entered, Ctrl-C would end in a traceback: so nothing that takes time is imported up here.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

LOWER = "Lower the batch (--batch-size, with as much more --accumulation), the context (--context-length) or the model."


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run the command and leave by SystemExit with the exit code.

    Exit codes: 0 done, 1 an error (one message, no traceback), 2 a command line that cannot be understood, 130
    interrupted, 141 the reader of the output went away.
    """
    try:
        from . import terminal

        with terminal.loading():
            from .processes import alone_or_first
        with alone_or_first():
            _main(arguments)
    except KeyboardInterrupt:  # where no handler stands: before `loading`, or between two commands of this block
        os.write(2, b"\nInterrupted.\n")
        sys.exit(130)


def _main(arguments: "Sequence[str] | None") -> None:
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
        gone = "" if terminal.folder_exists() else " The folder in which the command runs was deleted: go to another."
        terminal.note(f"Error: {terminal.for_users(error)}{gone}", style="red")
        sys.exit(1)
    except MemoryError as error:
        from ..arrays import memory_fault

        terminal.note(f"Error: {memory_fault(error)}. {LOWER}", style="red")
        sys.exit(1)
