import os
from pathlib import Path

import pytest
from training_helpers import dying

from compyute_transformer import _io as disk


@pytest.mark.parametrize("after", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, after: bool) -> None:
    path = tmp_path / "config.json"
    for moment in range(1, 100):
        disk.replace_text(path, "old")
        with dying(moment, after) as made:
            disk.replace_text(path, "new")
        assert path.read_text() in ("old", "new")
        disk.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["config.json"]
        if "killed" not in made:
            break
    assert path.read_text() == "new"
    assert {"write", "fsync", "replace"} <= set(made)


def test_a_folder_has_its_name_once_all_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename, sync = os.rename, disk.sync
    monkeypatch.setattr(disk, "sync", lambda path: (done.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append(f"name {Path(b).name}"), rename(a, b)))
    with disk.new_folder(tmp_path / "new") as hidden:
        (hidden / "b").write_text("b")
        (hidden / "a").write_text("a")
    assert done == ["sync a", "sync b", "sync .writing-new", "name new", f"sync {tmp_path.name}"]
    disk.remove_folder(tmp_path / "new")
    assert done[5:] == ["name .deleting-new", f"sync {tmp_path.name}"]
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with disk.new_folder(path) as hidden:
            (hidden / "a").write_text("a")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_a_sweep_takes_only_what_is_hidden(tmp_path: Path) -> None:
    for name in (".writing-x", ".deleting-y", "kept", ".other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".writing-z.json").touch()
    disk.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".other", "kept"]
    disk.sweep(tmp_path / "missing")
