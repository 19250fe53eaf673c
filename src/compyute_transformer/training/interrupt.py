"""The signals that end a run: the first stops it after the current step, with a checkpoint; the second at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Interrupt", "interruptible"]

NOTICE = "Stopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, without one."


class Interrupt:
    """The state of an interruption. requested: whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def interruptible(show: Callable[[str], bool] | None = None) -> Iterator[Interrupt]:
    """Let SIGINT and SIGTERM set `requested` within a `with` block; the second signal raises KeyboardInterrupt.

    show: takes the notice that the first signal was understood, and returns whether it shows it; otherwise it is
    written to the standard error.
    Signals reach the main thread only: in another thread nothing changes. A process that is forked from this one, such
    as a worker of a pool, ends by the signal as usual. The previous handlers are restored at the end.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    process = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        if show is not None and show(NOTICE):
            return
        with suppress(AttributeError, OSError, ValueError):  # standard error may be closed, or None
            os.write(sys.__stderr__.fileno(), f"\n{NOTICE}\n".encode())  # type: ignore[union-attr] # print may not be called in a handler

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
