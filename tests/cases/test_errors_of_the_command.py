"""An error of the command names a remedy for the command, and a command that fails leaves nothing behind."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli

Fails = Callable[..., str]


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run the command, which fails, and return its message without boxes and line ends."""

    def message(*arguments: object) -> str:
        capsys.readouterr()
        assert call(*arguments)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", captured.err).split())

    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that learned a text, owl and llama, and pairs of texts, pairs."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "owl.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text(
        "".join(f"{'ab' * (i % 4 + 1)}{'c' * (i % 7)}\tx{'y' * (i % 5)}\n" for i in range(40))
    )
    tiny = ["--steps", "1", "--sample-every", "0", *TINY]
    assert not call("train", folder / "owl.txt", "--out", folder / "owl", *tiny)
    llama = ["--preset", "llama", "--num-kv-heads", "2", "--tokenizer", "bpe", "--vocab-size", "270"]
    assert not call("train", folder / "owl.txt", "--out", folder / "llama", *llama, *tiny)
    assert not call("train", folder / "pairs.tsv", "--out", folder / "pairs", "--tokenizer", "characters", *tiny)
    return folder


# --- convert ---


def test_a_run_without_lora_has_no_adapter(fails: Fails, folder: Path, tmp_path: Path) -> None:
    for run in ("owl", "pairs"):
        message = fails("convert", folder / run, tmp_path / "out", "--adapter")
        assert "trained all its weights. Leave it out, or train LoRA: compyute train DATA --from MODEL" in message
    assert "a directory of PEFT" in fails("convert", folder / "owl", tmp_path / "out.gguf", "--adapter")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_a_run_that_no_other_program_has_is_not_converted(
    fails: Fails, folder: Path, tmp_path: Path, name: str
) -> None:
    message = fails("convert", folder / "pairs", tmp_path / name)
    assert f"{folder / 'pairs'} is a transformer. It stays a run" in message
    assert Path(message.rpartition(" ")[2]).is_file()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("run", "name", "dtype", "place"),
    [
        ("owl", "out", "q8_0", "a .gguf file"),
        ("llama", "out.gguf", "bfloat16", "a directory"),
        ("llama", "out.gguf", "float64", "a directory"),
    ],
)
def test_a_dtype_that_a_file_has_not_leaves_nothing(
    fails: Fails, folder: Path, tmp_path: Path, run: str, name: str, dtype: str, place: str
) -> None:
    message = fails("convert", folder / run, tmp_path / name, "--dtype", dtype)
    assert f"--dtype {dtype} is of {place}, got" in message
    assert "give an OUT of that kind, or another dtype" in message
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_needs_its_folder(fails: Fails, folder: Path, tmp_path: Path) -> None:
    message = fails("convert", folder / "llama", tmp_path / "models" / "out.gguf")
    assert "OUT is a file in a folder that exists" in message
    assert "make its folder first" in message


def test_heads_that_a_file_says_are_not_changed(fails: Fails, folder: Path, tmp_path: Path) -> None:
    assert not call("convert", folder / "owl", tmp_path / "owl")
    message = fails("convert", tmp_path / "owl", tmp_path / "out", "--num-heads", 4)
    assert "--num-heads is of files that do not say it" in message
    assert not (tmp_path / "out").exists()
