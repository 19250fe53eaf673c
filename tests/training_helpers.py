"""What the tests of training share: a run of a fraction of a second, a listener, and a process that dies on request."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer import GPT
from compyute_transformer.data import train_tokenizer
from compyute_transformer.training import LanguageTask, Settings
from compyute_transformer.training.reporting.events import Event

__all__ = ["TEXT", "TINY", "Killed", "Listener", "digests", "dying", "task", "tiny"]

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "it", "was", "not", "his", "own", "but", "one"]
TEXT = "".join(" ".join(WORDS[(i * j + i) % len(WORDS)] for j in range(7)) + "\n" for i in range(1, 91))

TINY: dict[str, object] = {
    "context_length": 16,
    "embed_dim": 16,
    "num_heads": 2,
    "num_layers": 3,
    "dropout": 0.1,
    "steps": 12,
    "batch_size": 4,
    "precision": "float32",
    "accumulation": 2,
    "learning_rate": 1e-2,
    "min_learning_rate": 1e-3,
    "warmup": 3,
    "eval_every": 4,
    "checkpoint_every": 3,
    "sample_every": 4,
    "sample_tokens": 20,
    "log_every": 2,
}


def tiny(**changes: object) -> Settings:
    """Settings of a run that takes a fraction of a second, with dropout and accumulation on."""
    chosen = {**TINY, **changes}
    chosen["warmup"] = changes.get("warmup", min(3, int(chosen["steps"])))  # type: ignore[call-overload]
    if chosen.get("decay") == "constant":
        chosen.pop("min_learning_rate")
    if chosen["sample_every"] == 0:
        chosen.pop("sample_tokens")
    return Settings.resolve("cpu", None, chosen)


def task(dtype: Any = np.float32, **changes: object) -> LanguageTask:
    """A language task on TEXT; `changes` are settings."""
    settings = tiny(**changes)
    tokenizer = train_tokenizer("characters", TEXT)
    ids = tokenizer.encode(TEXT)
    model = GPT(settings.model.config({"vocab_size": tokenizer.vocab_size}), settings.training.seed).to(dtype=dtype)
    return LanguageTask(model, tokenizer, ids[:1800], ids[1800:], settings.training)


def digests(run: Path) -> dict[str, str]:
    """The SHA-256 of every checkpoint file of a run."""
    files = sorted((run / "checkpoints").glob("*/*"))
    assert files, f"{run} has no checkpoints to compare"
    return {f"{file.parent.name}/{file.name}": sha256(file.read_bytes()).hexdigest() for file in files}


class Listener:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def report(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Killed(BaseException):
    """The process ended here."""


CALLS = ["fsync", "rename", "replace", "open", "mkdir", "unlink", "rmdir"]


@contextmanager
def dying(moment: int, after: bool = False) -> Iterator[list[str]]:
    """Count the calls that change a disk; the process dies before, or right after, the one of that number.

    Yields the names of the calls made so far. Death ends the block quietly.
    """
    made: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            now = len(made) == moment
            if now and not after:
                raise Killed
            try:
                return call(*args, **kwargs)
            finally:
                if now:
                    raise Killed

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        for name in ("write_bytes", "write_text"):
            patch.setattr(Path, name, counted("write", getattr(Path, name)))
        try:
            yield made
        except Killed:
            made.append("killed")
