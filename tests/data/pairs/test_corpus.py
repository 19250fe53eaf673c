"""Pairs: what a file may hold, where an error stands, and a split that no source text crosses."""

import hashlib
from pathlib import Path

import pytest

from compyute_transformer.data import Pair, Pairs, load_pairs
from compyute_transformer.errors import CorpusError, RangeError


def file(folder: Path, content: str | bytes, name: str = "pairs.tsv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def made(*sources: str) -> Pairs:
    return Pairs("made", ("made",), tuple(Pair(s, f"to {s}", "made", n) for n, s in enumerate(sources, 1)))


# Where pairs come from


def test_a_pair_a_line_blank_lines_and_white_space_around_a_side_ignored(tmp_path: Path) -> None:
    path = file(tmp_path, "\ufeffein Haus\ta house\r\n\n  \t \n Äpfel \t apples\nzwei\u2028Zeilen\ttwo lines")
    pairs = load_pairs(path)
    assert [(pair.source, pair.target, pair.line) for pair in pairs.pairs] == [
        ("ein Haus", "a house", 1),
        ("Äpfel", "apples", 4),
        ("zwei\u2028Zeilen", "two lines", 5),  # only LF ends a line
    ]
    assert {pair.file for pair in pairs.pairs} == {str(path)}
    assert (pairs.name, pairs.sources, pairs.held_out) == ("pairs", (str(path),), ())


def test_several_files_follow_one_another(tmp_path: Path) -> None:
    first, second = file(tmp_path, "a\tb\n", "first.tsv"), file(tmp_path, "\nc\td\n", "second.txt")
    pairs = load_pairs([first, str(second)])
    assert pairs.pairs == (Pair("a", "b", str(first), 1), Pair("c", "d", str(second), 2))
    assert pairs.name == "first-and-1-more"
    assert load_pairs(pairs.sources) == pairs
    assert load_pairs([second, first]).sha256 != pairs.sha256


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, "a\tb\n")
    monkeypatch.chdir(tmp_path)
    assert load_pairs("pairs.tsv").sources == (str(tmp_path / "pairs.tsv"),)


def test_sha256_is_that_of_the_lines(tmp_path: Path) -> None:
    pairs = load_pairs(file(tmp_path, " ä\tb \r\n\nc\td"))
    assert pairs.sha256 == hashlib.sha256("ä\tb\nc\td\n".encode()).hexdigest()


def test_dates_are_there_without_a_file() -> None:
    pairs = load_pairs()
    assert load_pairs(["dates"]).sha256 == pairs.sha256
    assert (pairs.name, pairs.sources) == ("dates", ("dates",))
    training, validation = pairs.split(0.1)
    assert (len(training), len(validation)) == (60_000, 2_000)
    assert (training, validation) == pairs.split(0.5)
    assert pairs.split(0.0) == (training, ())
    assert not {pair.source for pair in training} & {pair.source for pair in validation}
    assert not {pair.target for pair in training} & {pair.target for pair in validation}
    assert validation[0].file == "dates held out"
    assert pairs.sha256 == "71bf52f8e1c38e8e06656f77d25228865fdf8def6b577b1df9a0731ada485f52"


# What cannot be used


@pytest.mark.parametrize(
    ("content", "line", "came"),
    [
        ("a\tb\nc d\n", 2, "0 tabs"),
        ("a\tb\n\n\nc\td\te\n", 4, "2 tabs"),
        ("a\t \n", 1, "an empty target"),
        ("\ta\n", 1, "an empty source"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, content: str, line: int, came: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(CorpusError) as caught:
        load_pairs([path])
    message = str(caught.value)
    assert message.startswith(
        f"load_pairs: a line is a source, one tab and a target, but line {line} of {path} has {came}"
    )
    assert message.endswith("Correct the line, or delete it.")


@pytest.mark.parametrize(
    ("content", "line", "byte"), [(b"a\tb\n\xe4\tb\n", 2, "E4"), ("a\tb".encode("utf-16-le"), 1, "00")]
)
def test_bytes_that_are_no_utf_8_are_named(tmp_path: Path, content: bytes, line: int, byte: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(CorpusError, match=rf"UTF-8 text, which line {line} of .*tsv is not \(byte \d+ is 0x{byte}\)"):
        load_pairs(path)


def test_files_without_pairs_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"at least one pair, but none in .*pairs.tsv"):
        load_pairs(file(tmp_path, "\n \n"))
    with pytest.raises(CorpusError, match=r'cannot: No such file or directory\. Check the path; .* "dates"'):
        load_pairs(tmp_path / "missing.tsv")
    with pytest.raises(CorpusError, match="cannot: Is a directory"):
        load_pairs(tmp_path)


# The split


def test_no_source_is_on_both_sides_and_every_pair_on_one() -> None:
    pairs = made(*(str(n % 40) for n in range(100)))
    training, validation = pairs.split(0.25)
    assert sorted(training + validation) == sorted(pairs.pairs)
    assert not {pair.source for pair in training} & {pair.source for pair in validation}
    assert len({pair.source for pair in validation}) == 10
    assert list(training) == sorted(training, key=lambda pair: pair.line)
    assert pairs.split(0.25) == (training, validation)


def test_validation_is_drawn_from_everywhere() -> None:
    lines = [pair.line for pair in made(*map(str, range(1000))).split(0.1)[1]]
    assert len(lines) == 100
    assert 350 < sum(lines) / 100 < 650
    assert lines != list(range(901, 1001))


def test_at_least_one_source_is_kept_unless_none_shall_be() -> None:
    pairs = made("a", "b", "c")
    assert len(pairs.split(0.01)[1]) == 1
    assert pairs.split(0.0) == (pairs.pairs, ())
    with pytest.raises(CorpusError, match="all of made have the same"):
        made("a", "a").split(0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(RangeError, match=r"lies in \[0, 1\), got"):
        made("a", "b").split(fraction)


def test_a_file_of_pairs_is_read_once(tmp_path: Path) -> None:
    path = file(tmp_path, b"a\tb\n")
    with pytest.raises(CorpusError, match="every file is read once"):
        load_pairs([path, path])
