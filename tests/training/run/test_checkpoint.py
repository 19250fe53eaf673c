import json
import os
from pathlib import Path

import numpy as np
import pytest
from training_helpers import dying

from compyute_transformer import _io as disk
from compyute_transformer.errors import CheckpointError
from compyute_transformer.training.run import checkpoint
from compyute_transformer.training.run.checkpoint import MODEL, OPTIMIZER, TrainerState


def save(run: Path, step: int, best: int | None = None) -> Path:
    """A checkpoint whose arrays hold their step."""
    describe = lambda sha256: TrainerState(step, {"batch": step}, "sgd", step, best, 0.5, {}, sha256)  # noqa: E731
    run.mkdir(exist_ok=True)
    arrays = {"weight": np.full((2, 3), step, np.float32), "bias": np.full(4, step + 0.1)}
    return checkpoint.save(run, arrays, {"velocity": np.full(5, step, np.float32)}, describe)


def load(path: Path) -> tuple[TrainerState, int, int]:
    """What is in a checkpoint: its state, and the steps of its two files of arrays."""
    state = checkpoint.load_state(path)
    model, optimizer = (checkpoint.load_arrays(path, state, name) for name in (MODEL, OPTIMIZER))
    return state, int(model["weight"][0, 0]), int(optimizer["velocity"][0])


def test_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a.b": rng.normal(size=(3, 5)), "c": np.ones(7, np.float32), "t": rng.normal(size=(3, 4)).T[::2]}
    path = checkpoint.save(tmp_path, arrays, {}, lambda sha256: TrainerState(1, {}, "sgd", 1, None, None, {}, sha256))
    state = checkpoint.load_state(path)
    loaded = checkpoint.load_arrays(path, state, MODEL)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)
    assert checkpoint.load_arrays(path, state, OPTIMIZER) == {}


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, best in [(0, 0), (10, 10), (20, 10), (30, 10)]:
        save(tmp_path, step, best)
    assert checkpoint.steps(tmp_path) == [10, 30]
    assert checkpoint.latest(tmp_path).name == "step-00000030"
    assert checkpoint.best(tmp_path).name == "step-00000010"
    save(tmp_path, 40, 40)
    assert checkpoint.steps(tmp_path) == [40]
    assert checkpoint.find(tmp_path, "best") == checkpoint.find(tmp_path, "last")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000040"]


def test_without_validation_the_best_is_the_last(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert checkpoint.best(tmp_path) == checkpoint.latest(tmp_path)


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 3), save(tmp_path / "two", 3)
    for name in os.listdir(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_leaves_a_whole_checkpoint(tmp_path: Path, after: bool) -> None:
    for moment in range(1, 100):
        run = tmp_path / f"run-{moment}"
        save(run, 10, 10)
        save(run, 20, 10)  # 10 is the best, 20 the last; saving 30 as the best deletes both
        with dying(moment, after) as made:
            save(run, 30, 30)
        for step in checkpoint.steps(run):  # whatever has the name of a checkpoint is one
            load(checkpoint.folder_of(run, step))
        state, model_step, optimizer_step = load(checkpoint.latest(run))
        assert state.step == model_step == optimizer_step
        assert state.step in (20, 30)
        best, model_step, optimizer_step = load(checkpoint.best(run))
        assert best.step == model_step == optimizer_step == (10 if state.step == 20 else 30)
        disk.sweep(run / "checkpoints")  # as the next start does
        assert all(name.startswith("step-") for name in os.listdir(run / "checkpoints"))
        save(run, 40, 40)  # and the run goes on
        assert checkpoint.steps(run) == [40]
        if "killed" not in made:
            break
    assert {"write", "fsync", "rename", "unlink"} <= set(made)
    assert moment == len(made) + 1  # it died at each of them


def test_no_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"has none yet. Start it again: compyute train --resume {tmp_path}"):
        checkpoint.latest(tmp_path)
    with pytest.raises(CheckpointError, match="has none yet"):
        checkpoint.best(tmp_path)


def test_a_best_checkpoint_that_is_gone_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1, 1)
    save(tmp_path, 2, 1)
    disk.remove_folder(checkpoint.folder_of(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"of step 1, .* does not exist. Use the last one"):
        checkpoint.best(tmp_path)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, "trainer_state.json"])
@pytest.mark.parametrize("how", ["flipped", "shortened", "emptied", "deleted"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 1, 1)
    path = save(tmp_path, 2, 1)
    data = bytearray((path / name).read_bytes())
    if how == "deleted":
        (path / name).unlink()
    else:
        data[-3] ^= 8
        (path / name).write_bytes({"flipped": data, "shortened": data[:-5], "emptied": b""}[how])
    with pytest.raises(CheckpointError, match=f"{name} is not: .*Delete {path} to continue from step-00000001"):
        load(path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    values = json.loads((path / "trainer_state.json").read_text())
    later = values | {"format": 3, "new": 1, "versions": {"compyute-transformer": "9.9"}}
    (path / "trainer_state.json").write_text(json.dumps(later))
    with pytest.raises(CheckpointError, match=r"reads formats up to 2, got format 3 .* compyute-transformer 9.9"):
        checkpoint.load_state(path)


def test_a_disk_that_refuses_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be: No space left on device. Free disk space"):
        save(tmp_path, 2)
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]


def test_a_command_can_be_pasted() -> None:
    assert checkpoint.resume_command(Path("my runs/a"), "--steps 3") == "compyute train --resume 'my runs/a' --steps 3"
