"""Characters that the encoding of the output lacks are replaced; they do not end a training."""

from pathlib import Path

from command_helpers import TEXT, TINY, shell


def test_another_encoding_prints_marks_for_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "сова.txt").write_text(TEXT)
    options = f"--steps 2 {' '.join(TINY)}"
    done = shell(f'"$@" train сова.txt {options}', tmp_path, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "????" in done.stdout
    assert shell('"$@" train нет.txt', tmp_path, PYTHONIOENCODING="ascii").returncode == 1
