"""Interrupt: Ctrl-C stops a run after the current step, so that nothing is lost. A second Ctrl-C stops it at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Interrupt", "interruptible"]

NOTICE = b"\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, without one.\n"


class Interrupt:
    """requested: whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Within a `with` block, the first SIGINT or SIGTERM sets `requested`; the second raises KeyboardInterrupt.

    Signals reach the main thread only; in other threads this does nothing. The previous handlers are restored.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        with suppress(OSError, ValueError):
            os.write(sys.__stderr__.fileno(), NOTICE)  # type: ignore[union-attr] # print is not for signal handlers

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
