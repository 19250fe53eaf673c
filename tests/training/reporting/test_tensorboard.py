import sys
from pathlib import Path

import pytest
from training_helpers import TEXT, tiny

from compyute_transformer import use_kernels
from compyute_transformer.errors import MissingExtraError
from compyute_transformer.training import resume_run, start_run


def scalars(run: Path) -> dict[str, list[int]]:
    """The steps of each curve, in the order written."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[int]] = {}
    for file in sorted((run / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
            data = data[12 + length + 4 :]
    return found


def test_curves_are_written_over_all_sittings(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(TEXT)
    run = tmp_path / "run"
    with use_kernels("reference"):
        start_run([str(tmp_path / "words.txt")], tiny(tensorboard=True, steps=4), run)
        resume_run(run, steps=8)
    found = scalars(run)
    assert found["loss/training"] == [1, 2, 4, 6, 8]
    assert found["loss/validation"] == found["validation/bits_per_character"] == [0, 4, 8]
    assert found["step/learning_rate"] == found["step/gradient_norm"] == [1, 2, 4, 6, 8]
    assert found["sample/text_summary"] == [4, 8]


def test_a_missing_extra_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text(TEXT)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[tensorboard\]'"):
        start_run([str(tmp_path / "words.txt")], tiny(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
