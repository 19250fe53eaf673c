"""Checkpoints that cannot be read, were renamed, linked, or are deleted while somebody reads them: nothing is lost."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_helpers import TEXT, Listener, tiny

from compyute_transformer import use_kernels
from compyute_transformer.errors import CheckpointError
from compyute_transformer.training import load_run, resume_run, start_run
from compyute_transformer.training.reporting.events import Started
from compyute_transformer.training.run import checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run of 6 steps, on the references, which need no compiler. Its last checkpoint is of step 6."""
    (tmp_path / "words.txt").write_text(TEXT)
    with use_kernels("reference"):
        start_run([str(tmp_path / "words.txt")], tiny(steps=6), tmp_path / "run")
        yield tmp_path / "run"


def told(run: Path) -> dict[str, bytes]:
    """What a run has told: its log and its samples."""
    return {name: (run / name).read_bytes() for name in ("log.jsonl", "samples.txt")}


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, scandir = told(run), os.scandir

    def denied(path: Any = ".") -> Any:
        if Path(path).name == "checkpoints":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(CheckpointError, match=r"must be readable; .*checkpoints is not: Permission denied"):
        resume_run(run, steps=9)
    monkeypatch.undo()
    assert told(run) == before
    assert resume_run(run, steps=9).step == 9


@pytest.mark.parametrize("name", ["step-00000002", "step-00000099"])
def test_a_renamed_checkpoint_is_refused_and_nothing_is_deleted(run: Path, name: str) -> None:
    before, last = told(run), checkpoint.latest(run)
    for step in checkpoint.steps(run)[:-1]:
        checkpoint.folder_of(run, step).rename(run / f"aside-{step}")
    last.rename(last.with_name(name))
    with pytest.raises(CheckpointError, match=rf"{name} holds step 6"):
        resume_run(run, steps=9)
    assert os.listdir(run / "checkpoints") == [name]
    assert told(run) == before


@pytest.mark.parametrize("name", ["step-00000099", "newest"])
def test_a_link_among_the_checkpoints_stops_nothing(run: Path, name: str) -> None:
    last = checkpoint.latest(run)
    (last.parent / name).symlink_to(last.name)
    (last.parent / "step-00000098").symlink_to("nowhere")
    assert load_run(run, "last").step == 6
    assert resume_run(run, steps=9).step == 9
    assert load_run(run, "last").step == 9


def test_a_checkpoint_that_was_moved_is_found_by_its_link(run: Path, tmp_path: Path) -> None:
    last = checkpoint.latest(run)
    last.rename(tmp_path / last.name)
    last.symlink_to(tmp_path / last.name)
    assert load_run(run, "last").step == 6
    listener = Listener()
    assert resume_run(run, listener, steps=9).step == 9
    assert "begins anew" not in listener.of(Started)[0].facts
    assert (tmp_path / last.name / "model.safetensors").exists()  # the run deletes its link, not what is elsewhere


def test_a_reader_looks_again_when_a_checkpoint_was_deleted_meanwhile(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, met = checkpoint.load_arrays, []

    def meanwhile(path: Path, *rest: Any) -> Any:
        if not met:
            met.append(path)
            resume_run(run, steps=9)  # which saves step 9 and deletes the checkpoint that is being read
            assert not path.exists()
        return load(path, *rest)

    monkeypatch.setattr(checkpoint, "load_arrays", meanwhile)
    state, _ = checkpoint.read(run, "last")
    assert met[0].name == "step-00000006"
    assert state.step == 9


def test_nothing_is_deleted_for_a_checkpoint_that_is_not_there(run: Path) -> None:
    state, before = checkpoint.load_state(checkpoint.latest(run)), checkpoint.steps(run)
    checkpoint.prune(run, replace(state, step=9, best_step=9))
    assert checkpoint.steps(run) == before


def test_a_checkpoint_that_cannot_be_deleted_is_no_failed_save(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = checkpoint.steps(run)

    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(checkpoint._io, "remove_folder", busy)
    assert resume_run(run, steps=9).step == 9
    assert {*earlier, 9} < set(checkpoint.steps(run))  # and the one of step 8, where it was validated
    monkeypatch.undo()
    assert resume_run(run, steps=12).step == 12
    assert set(checkpoint.steps(run)) == {checkpoint.load_state(checkpoint.best(run)).step, 12}
