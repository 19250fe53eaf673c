"""Checkpoint: everything a run needs to go on, at one step, in one folder.

    RUN/checkpoints/step-00000500/
        model.safetensors        the weights, by their names in the model
        optimizer.safetensors    what the optimizer remembers
        trainer_state.json       step, data cursor, random state, best loss so far, the SHA-256 of the other two

The folder appears whole or not at all (see `disk`), so its files belong together whenever the process was killed. No
file holds a time of day: the same run writes the same bytes. The last and the best checkpoint are kept.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy

from ... import _io as disk
from ...arrays import Array, to_numpy
from ...errors import CheckpointError, StateError
from ...optim.optimizer import Optimizer

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
    "restore_optimizer",
    "resume_command",
    "save",
    "steps",
]

FOLDER, MODEL, OPTIMIZER, STATE = "checkpoints", "model.safetensors", "optimizer.safetensors", "trainer_state.json"
FORMAT = 1

Which = Literal["best", "last"]


@dataclass(frozen=True)
class TrainerState:
    """The part of a checkpoint that is no array.

    step: optimizer steps taken. task: what the task needs to go on (see `task`). optimizer, optimizer_steps: its name
    and its own count. best_step, best_loss: of the lowest validation loss so far; None without validation.
    versions: of the libraries that wrote it. sha256: of the files of arrays.
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
    """Where the checkpoint of a step lies."""
    return run / FOLDER / f"step-{step:08d}"


def resume_command(run: Path, flags: str = "") -> str:
    """What to type to go on with a run."""
    return f"compyute train --resume {shlex.quote(str(run))}{flags and ' ' + flags}"


def steps(run: Path) -> list[int]:
    """The steps of which there is a checkpoint, in order."""
    matches = (re.fullmatch(r"step-(\d{8,})", path.name) for path in (run / FOLDER).glob("step-*"))
    return sorted(int(match[1]) for match in matches if match)


def save(
    run: Path,
    model: Mapping[str, Array],
    optimizer: Mapping[str, Array],
    describe: Callable[[dict[str, str]], TrainerState],
) -> Path:
    """Write a checkpoint, then delete those that are neither the last nor the best. Returns its folder.

    describe: the state, given the SHA-256 of the files. A step that has a checkpoint keeps it: equal runs are equal.

    Raises CheckpointError when the disk refuses; the checkpoints there are stay.
    """
    arrays = {MODEL: _to_bytes(model), OPTIMIZER: _to_bytes(optimizer)}
    state = describe({name: hashlib.sha256(data).hexdigest() for name, data in arrays.items()})
    path = folder_of(run, state.step)
    try:
        if not path.parent.exists():
            path.parent.mkdir()
            disk.sync(run)
        if not path.exists():
            with disk.new_folder(path) as hidden:
                for name, data in arrays.items():
                    (hidden / name).write_bytes(data)
                (hidden / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8", newline="\n")
        prune(run, state)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint.save: a checkpoint must be written whole; {path} cannot be: {error.strerror or error}. "
            f"Make room or give permission, then go on from the last one: {resume_command(run)}"
        ) from error
    return path


def prune(run: Path, state: TrainerState) -> None:
    """Delete the checkpoints before a state that are not the best. `save` does so; a kill may have come between."""
    for step in steps(run):
        if step not in (state.step, state.best_step):
            disk.remove_folder(folder_of(run, step))


def _to_bytes(arrays: Mapping[str, Array]) -> bytes:
    # safetensors writes the memory an array begins at, so a view or a transposed array would be saved as something else
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def latest(run: Path) -> Path:
    """The folder of the last checkpoint. Raises CheckpointError if there is none."""
    if not (found := steps(run)):
        raise CheckpointError(
            f"checkpoint.latest: a run has a checkpoint once its training has begun; {run} has none yet. "
            f"Start it again: {resume_command(run)}"
        )
    return folder_of(run, found[-1])


def best(run: Path) -> Path:
    """The folder of the checkpoint with the lowest validation loss; the last one, where nothing was validated."""
    last = latest(run)
    step = load_state(last).best_step
    path = last if step is None else folder_of(run, step)
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint.best: the best checkpoint, of step {step}, must be kept; {path} is gone. "
            "Use the last one instead: --checkpoint last"
        )
    return path


def find(run: Path, which: Which) -> Path:
    """The folder of the best or the last checkpoint."""
    return best(run) if which == "best" else latest(run)


def load_state(checkpoint: Path) -> TrainerState:
    """Read the state of a checkpoint. Raises CheckpointError for a damaged file, or one of a later format."""
    try:
        values = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if values["format"] == FORMAT:
            return TrainerState(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(checkpoint, STATE, str(error)) from error
    raise CheckpointError(
        f"checkpoint.load_state: this version reads format {FORMAT}, got format {values['format']} in "
        f"{checkpoint / STATE}. Install the version that wrote it: compyute-transformer "
        f"{values.get('versions', {}).get('compyute-transformer', 'of a later date')}"
    )


def load_arrays(checkpoint: Path, state: TrainerState, name: str) -> dict[str, np.ndarray]:
    """Read a file of arrays. Raises CheckpointError unless it is, to the bit, what was written with the state."""
    try:
        data = (checkpoint / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != state.sha256[name]:
            raise _damaged(checkpoint, name, "its SHA-256 is not the one in " + STATE)
        return safetensors.numpy.load(data)
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise _damaged(checkpoint, name, str(error)) from error


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
        f"Delete {checkpoint} to go on from {others[-1].name}" if others else "Restore it from a copy, or train anew"
    )
    return CheckpointError(
        f"checkpoint: every file must be as it was written; {checkpoint / name} is not: {reason}. {remedy}."
    )
