"""Names of files with escape sequences or changes of direction are printed without them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        with pytest.raises(SystemExit):
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\u202eb", "a\u2066b", "a\rb"])
def test_names_do_not_control_the_terminal(run: Callable[..., str], tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.txt").write_text(TEXT)
    for printed in (
        run("train", tmp_path / f"{name}.txt", "--runs", tmp_path, "--steps", 1, *TINY),
        run("train", tmp_path / f"no-{name}.txt"),
        run("generate", tmp_path / f"no-{name}"),
    ):
        assert not set(printed) & set("\x1b\u202e\u2066\r")
