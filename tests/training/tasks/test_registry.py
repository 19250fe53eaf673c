from pathlib import Path

import pytest

from compyute_transformer.training.settings.presets import DEFAULT_PRESET, PRESETS
from compyute_transformer.training.tasks.registry import name_for, preset_for, task_record


@pytest.mark.parametrize("name", ["language", "translation", "images"])
def test_every_task_has_a_record(name: str) -> None:
    record = task_record(name)
    assert record.file.endswith(".json")
    assert type(record).__name__.lower() == f"{name.removesuffix('s')}record"


def test_the_task_or_else_the_data_choose_the_preset(tmp_path: Path) -> None:
    assert preset_for(None, []) == preset_for("language", []) == DEFAULT_PRESET
    for task in ("dates", "digits", "translation", "images"):
        assert preset_for(task, []) == task
        assert PRESETS[task]["data"]["task"] == task
    assert preset_for(None, ["pairs.tsv"]) == preset_for(None, ["PAIRS.TSV"]) == "translation"
    assert preset_for("language", ["pairs.tsv"]) == DEFAULT_PRESET
    assert preset_for(None, ["text.txt"]) == DEFAULT_PRESET
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/one.txt").write_text("one")
    (tmp_path / "texts/pictures").mkdir()
    (tmp_path / "texts/pictures/1.png").write_bytes(b"")
    assert preset_for(None, [str(tmp_path / "texts")]) == DEFAULT_PRESET


def test_a_run_is_named_after_its_first_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.books").mkdir()
    assert name_for([], "nano") == "nano"
    assert name_for([str(tmp_path / "my text.txt"), "other.txt"], "nano") == "my text"
    assert name_for([str(tmp_path / "old.books")], "nano") == "old.books"
    assert name_for(["shakespeare"], "cpu") == "shakespeare"
    assert name_for(["/"], "nano") == "nano"
    monkeypatch.chdir(tmp_path / "old.books")
    assert name_for(["."], "nano") == "old.books"
