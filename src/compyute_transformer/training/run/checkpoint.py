"""Checkpoint: everything that a run needs to continue from one step, in one folder.

    RUN/checkpoints/step-00000500/
        model.safetensors        the weights, by their names in the model
        optimizer.safetensors    the optimizer's moments
        trainer_state.json       step, data cursor, random state, best loss so far; the SHA-256 of all three files

The folder appears complete or not at all (see `_io`), so its files always belong together. No file holds a time of day:
the same run writes the same bytes. The last and the best checkpoint are kept.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy

from ... import _io
from ...arrays import Array, to_numpy
from ...errors import CheckpointError, StateError
from ...optim.optimizer import Optimizer
from .schema import Check, checked, digest, integer, number, optional, plain, table, text

__all__ = [
    "MODEL",
    "OPTIMIZER",
    "TrainerState",
    "Which",
    "best",
    "find",
    "folder_of",
    "latest",
    "load_arrays",
    "load_state",
    "optimizer_arrays",
    "prune",
    "read",
    "restore_optimizer",
    "resume_command",
    "save",
    "shapes",
    "steps",
]

FOLDER, MODEL, OPTIMIZER, STATE = "checkpoints", "model.safetensors", "optimizer.safetensors", "trainer_state.json"
FORMAT = 2
OLD_FORMAT = 1  # without a checksum of trainer_state.json itself
STATE_BYTES = 1 << 20
CHECKSUM = "checksum"

Which = Literal["best", "last"]

SCHEMA: dict[str, Check] = {
    "step": integer(),
    "task": table(plain),
    "optimizer": text,
    "optimizer_steps": integer(),
    "best_step": optional(integer()),
    "best_loss": optional(number),
    "versions": table(text),
    "sha256": table(text),
    "format": integer(),
}


@dataclass(frozen=True)
class TrainerState:
    """The part of a checkpoint that is not an array.

    step: optimizer steps taken. task: what the task needs to continue (see `Task.state`). optimizer, optimizer_steps:
    its name and its own count. best_step, best_loss: of the lowest validation loss since training began; None before
    the first validation of trained weights. versions: of the libraries that wrote it. sha256: of the files of arrays.
    """

    step: int
    task: dict[str, Any]
    optimizer: str
    optimizer_steps: int
    best_step: int | None
    best_loss: float | None
    versions: dict[str, str]
    sha256: dict[str, str]
    format: int = FORMAT


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return run / FOLDER / f"step-{step:08d}"


def resume_command(run: Path, flags: str = "") -> str:
    """Return the command that continues a run."""
    return f"compyute train --resume {shlex.quote(str(run))}{flags and ' ' + flags}"


def steps(run: Path) -> list[int]:
    """Return the steps of which there is a checkpoint, in order.

    A link counts if the folder that it leads to has the same name, as of a checkpoint that was moved to another disk.

    Raises CheckpointError for a folder of checkpoints that cannot be read: unreadable does not mean absent.
    """
    try:
        with os.scandir(run / FOLDER) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and _is_itself(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: the folder of a run's checkpoints must be readable; {run / FOLDER} is not: "
            f"{error.strerror or error}. Give permission to read it."
        ) from error
    matches = (re.fullmatch(r"step-(\d{8,18})", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def _is_itself(entry: os.DirEntry[str]) -> bool:
    return not entry.is_symlink() or Path(entry).resolve().name == entry.name


def save(
    run: Path,
    model: Mapping[str, Array],
    optimizer: Mapping[str, Array],
    describe: Callable[[dict[str, str]], TrainerState],
) -> Path:
    """Write a checkpoint, then delete those that are neither the last nor the best, and return its folder.

    describe: returns the state, given the SHA-256 of the files. A checkpoint that exists is kept: equal runs are equal.

    Raises CheckpointError if it cannot be written; the earlier checkpoints stay.
    """
    arrays = {MODEL: _io.array_bytes(model), OPTIMIZER: _io.array_bytes(optimizer)}
    state = describe({name: hashlib.sha256(data).hexdigest() for name, data in arrays.items()})
    values = asdict(state)
    path = folder_of(run, state.step)
    try:
        if not path.parent.exists():
            path.parent.mkdir()
            _io.sync(run)
        if not path.exists():
            with _io.new_folder(path) as hidden:
                for name, data in arrays.items():
                    (hidden / name).write_bytes(data)
                content = json.dumps({**values, CHECKSUM: digest(values)}, indent=2) + "\n"
                (hidden / STATE).write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise CheckpointError(
            f"checkpoint.save: a checkpoint must be written whole; {path} cannot be: {error.strerror or error}. "
            f"Free disk space or give permission, then continue from the last one: {resume_command(run)}"
        ) from error
    prune(run, state)
    return path


def prune(run: Path, state: TrainerState) -> None:
    """Delete the checkpoints that are neither a state's own nor the best.

    Nothing is deleted unless the state's own checkpoint exists. What cannot be deleted stays, for the next save to try
    again: the checkpoint itself is safe.
    """
    found = steps(run)
    for step in found if state.step in found else ():
        if step not in (state.step, state.best_step):
            with suppress(OSError):
                _io.remove_folder(folder_of(run, step))


def latest(run: Path) -> Path:
    """Return the folder of the last checkpoint. Raises CheckpointError if there is none."""
    if not (found := steps(run)):
        raise CheckpointError(
            f"checkpoint.latest: a run has a checkpoint once its training has begun; {run} has none yet. "
            f"Start it again: {resume_command(run)}"
        )
    return folder_of(run, found[-1])


def best(run: Path) -> Path:
    """Return the folder of the checkpoint with the lowest validation loss, or the last one before any validation.

    Once training has begun, the untrained weights of step 0 are never the best.
    """
    last = latest(run)
    step = load_state(last).best_step
    path = folder_of(run, step) if step else last
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint.best: the best checkpoint, of step {step}, must be kept; {path} does not exist. "
            "Use the last one instead: --checkpoint last"
        )
    return path


def find(run: Path, which: Which) -> Path:
    """Return the folder of the best or the last checkpoint."""
    return best(run) if which == "best" else latest(run)


def read(run: Path, which: Which, names: Sequence[str] = (MODEL,)) -> tuple[TrainerState, list[dict[str, np.ndarray]]]:
    """Read a checkpoint while another process may be training the run and deleting old checkpoints."""
    while True:
        before = steps(run)
        try:
            path = find(run, which)
            state = load_state(path)
            return state, [load_arrays(path, state, name) for name in names]
        except CheckpointError:
            if steps(run) == before:
                raise


def load_state(checkpoint: Path) -> TrainerState:
    """Read the state of a checkpoint.

    Raises CheckpointError for a damaged file, one of a later format, and a folder that has another step's name.
    """
    try:
        values = _io.read_json(checkpoint / STATE, STATE_BYTES)
        if isinstance(values, dict) and (version := integer()(values.get("format"))) > FORMAT:
            raise CheckpointError(
                f"checkpoint.load_state: this version reads formats up to {FORMAT}, got format {version} in "
                f"{checkpoint / STATE}. Install the version that wrote it: compyute-transformer "
                f"{_writer(values)}"
            )
        state = TrainerState(**_verified(values))
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, STATE, str(getattr(error, "strerror", None) or error)) from error
    run = checkpoint.parent.parent
    if checkpoint.name != folder_of(run, state.step).name:
        raise CheckpointError(
            f"checkpoint.load_state: the folder of a checkpoint has the name of its step; {checkpoint} holds step "
            f"{state.step}. Rename it back to {folder_of(run, state.step).name}."
        )
    return state


def _verified(values: Any) -> dict[str, Any]:
    """Return the fields of a TrainerState. Raises ValueError for values that were not written by `save`."""
    if isinstance(values, dict) and values.get("format") != OLD_FORMAT:
        values = dict(values)
        if values.pop(CHECKSUM, None) != digest(values):
            raise ValueError(f"its {CHECKSUM} does not match its values")
    fields = checked(values, SCHEMA)
    if fields["best_step"] is not None and fields["best_step"] > fields["step"]:
        raise ValueError("best_step is later than step")
    return fields


def _writer(values: Mapping[str, Any]) -> str:
    versions = values.get("versions")
    version = versions.get("compyute-transformer") if isinstance(versions, dict) else None
    return version[:40] if isinstance(version, str) else "of a later date"


def load_arrays(checkpoint: Path, state: TrainerState, name: str) -> dict[str, np.ndarray]:
    """Read a file of arrays. Raises CheckpointError unless it is, to the bit, what was written with the state."""
    try:
        data = _io.read_bytes(checkpoint / name)
        if hashlib.sha256(data).hexdigest() != state.sha256.get(name):
            raise _damaged(checkpoint, name, f"its SHA-256 is not the one in {STATE}")
        return safetensors.numpy.load(data)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(checkpoint, name, str(getattr(error, "strerror", None) or error)) from error


def shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a checkpoint, without reading the weights."""
    try:
        with safetensors.safe_open(checkpoint / MODEL, "numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(checkpoint, MODEL, str(getattr(error, "strerror", None) or error)) from error


def optimizer_arrays(optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Return the state of an optimizer as arrays by the names of its parameters: "head.weight.first_moment"."""
    state = optimizer.state_dict()
    names = [name for group in state["param_groups"] for name in group["param_names"]]
    return {
        f"{names[number]}.{key}": np.asarray(value) if key == "step" else to_numpy(value)
        for number, values in state["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(optimizer: Optimizer, arrays: Mapping[str, Array]) -> None:
    """Give an optimizer the state that `optimizer_arrays` returned; its own options stay.

    Raises:
        StateError: the arrays are not those of this optimizer over these parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    numbers = {name: i for i, name in enumerate(name for group in groups for name in group["param_names"])}
    state: dict[int, dict[str, Any]] = {}
    for path, array in arrays.items():
        name, _, key = path.rpartition(".")
        if name not in numbers:
            raise StateError(
                f"checkpoint.restore_optimizer: {path} must belong to a parameter of the model; it does not."
            )
        state.setdefault(numbers[name], {})[key] = int(array) if key == "step" else array
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _damaged(checkpoint: Path, name: str, reason: str) -> CheckpointError:
    run = checkpoint.parent.parent
    others = [folder_of(run, step) for step in steps(run) if folder_of(run, step) != checkpoint]
    remedy = (
        f"Delete {checkpoint} to continue from {others[-1].name}"
        if others
        else "Restore it from a copy, or start a new run"
    )
    return CheckpointError(
        f"checkpoint: every file must be as it was written; {checkpoint / name} is not: {reason[:300]}. {remedy}."
    )
