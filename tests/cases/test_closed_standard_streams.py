"""A standard stream that is closed does not end a training."""

from pathlib import Path

import pytest
from command_helpers import TEXT, TINY, shell, without_notice


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_a_closed_stream_ends_no_training(tmp_path: Path, closed: str) -> None:
    (tmp_path / "owl.txt").write_text(TEXT)
    done = shell(f'"$@" train owl.txt --steps 2 {" ".join(TINY)} {closed}', tmp_path)
    assert (done.returncode, without_notice(done.stderr)) == (0, "")
    assert (tmp_path / "runs" / "owl" / "checkpoints" / "step-00000002").is_dir()
    assert "Traceback" not in (tmp_path / "runs" / "owl" / "log.jsonl").read_text()
