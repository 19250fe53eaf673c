"""What of DATA is read is what was meant, or the command says which option settles it."""

from pathlib import Path

import pytest
from command_helpers import TINY, shell, without_notice

from compyute_transformer.cli.train import matching
from compyute_transformer.data import load_corpus
from compyute_transformer.errors import ConfigError, CorpusError
from compyute_transformer.training.tasks.registry import name_for, preset_for


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, content in {
        "a.py": b"print('a')\n",
        "deep/b.py": b"print('b')\n",
        "notes.md": b"notes\n",
        "__pycache__/a.cpython-311.pyc": b"\xa7\r\r\n\0",
        "logo.png": b"\x89PNG\r\n\x1a\n",
        "runs/x/config.json": b"{}",
        "runs/x/samples.py": b"no",
        "runs/x/checkpoints/none.txt": b"no",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_what_is_no_text_is_left_out_and_named(source: Path) -> None:
    corpus = load_corpus(source)
    assert corpus.text == "print('a')\nprint('b')\nnotes\n"
    assert sorted(Path(name).name for name in corpus.left_out) == ["a.cpython-311.pyc", "logo.png"]


def test_a_pattern_is_the_files_that_match_outside_of_runs(source: Path) -> None:
    corpus = load_corpus(str(source / "**" / "*.py"))
    assert corpus.text == "print('a')\nprint('b')\n"
    assert corpus.name == "source"
    assert load_corpus(list(corpus.sources)).text == corpus.text
    assert name_for([str(source / "**" / "*.py")], "nano") == "source"
    with pytest.raises(CorpusError, match=r"none matches .*\*\.rs"):
        load_corpus(str(source / "*.rs"))


def test_include_on_the_command_line_also_after_a_resume(source: Path) -> None:
    done = shell(f'"$@" train source --include "*.py" {" ".join(TINY)} --steps 2 --context-length 2', source.parent)
    assert (done.returncode, without_notice(done.stderr)) == (0, "")
    assert "characters         22" in done.stdout
    again = shell('"$@" train --resume runs/source --steps 3', source.parent)
    assert again.returncode == 0, again.stderr
    refused = shell('"$@" train source/a.py --include "*.py"', source.parent)
    assert refused.returncode == 2
    assert "no DATA is one" in " ".join(refused.stderr.replace("│", " ").split())


def test_sources_without_a_folder_stay_as_they_are(source: Path) -> None:
    text = str(source / "a.py")
    assert matching([text], []) == [text]
    assert matching([text, str(source)], ["*.md", "*.py"]) == [text, f"{source}/**/*.md", f"{source}/**/*.py"]


def test_images_without_classes_say_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "circle.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CorpusError, match="one sub-folder of images for each class"):
        load_corpus(tmp_path)


def test_pairs_beside_a_text_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got both: a\.txt and b\.tsv.*--task language"):
        preset_for(None, ["a.txt", "b.tsv"])
    assert preset_for("language", ["a.txt", "b.tsv"]) == preset_for(None, ["a.txt"])
    assert preset_for(None, ["a.tsv", "b.TSV"]) == "translation"


def test_a_vocabulary_that_came_out_smaller_is_said(tmp_path: Path) -> None:
    (tmp_path / "owl.txt").write_text("an owl. " * 60)
    done = shell(f'"$@" train owl.txt --tokenizer bpe --vocab-size 5000 --steps 1 {" ".join(TINY)}', tmp_path)
    assert done.returncode == 0, done.stderr
    assert "smaller than the 5,000 tokens asked for" in done.stdout
