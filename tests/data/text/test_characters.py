"""The character tokenizer: ids in code point order, exact round trips, errors that name the character."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.data.text import characters
from compyute_transformer.errors import DataError, DtypeError, RangeError, ShapeError, VocabularyError


def test_ids_are_the_order_of_code_points() -> None:
    tokenizer = CharacterTokenizer("banana\n𝔸é")
    assert tokenizer.characters == "\nabné𝔸"
    assert tokenizer.vocab_size == 6
    ids = tokenizer.encode("ban𝔸\n")
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 1, 3, 5, 0]


@given(st.text(min_size=1), st.data())
def test_round_trip(text: str, data: st.DataObject) -> None:
    tokenizer = CharacterTokenizer.train(text)
    other = data.draw(st.text(alphabet=sorted(set(text))))
    for sample in (text, other):
        ids = tokenizer.encode(sample)
        assert ids.shape == (len(sample),)
        assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == sample


@given(st.text(min_size=1))
def test_save_and_load(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "characters.json"
    CharacterTokenizer.train(text).save(path)
    assert CharacterTokenizer.load(path).characters == "".join(sorted(set(text)))


def test_the_file_is_readable_json(tmp_path: Path) -> None:
    CharacterTokenizer("bä").save(tmp_path / "t.json")
    raw = (tmp_path / "t.json").read_text(encoding="utf-8")
    assert json.loads(raw) == {"format": "compyute-transformer/characters", "version": 1, "characters": "bä"}
    assert "ä" in raw


def test_a_text_of_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a tale of two cities"
    tokenizer = CharacterTokenizer.train(text)
    whole = tokenizer.encode(text)
    monkeypatch.setattr(characters, "PIECE", 7)
    np.testing.assert_array_equal(tokenizer.encode(text), whole)
    assert tokenizer.decode(whole) == text


def test_empty_text_and_empty_ids() -> None:
    tokenizer = CharacterTokenizer("ab")
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int32
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab!", r"lacks '!' \(U\+0021\) at position 2\."),  # below the largest known code point
        ("a𝔸", r"lacks '𝔸' \(U\+1D538\) at position 1\."),  # above it
        ("\udc80", r"lacks '\\udc80' \(U\+DC80\) at position 0\."),
        ("c!cab!", r"lacks 'c' \(U\+0063\) at position 0, '!' \(U\+0021\) at position 1\."),
        ("cdefghi", r"'g' \(U\+0067\) at position 4 and 2 more\."),
    ],
)
def test_unknown_characters_are_named(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        CharacterTokenizer("ab").encode(text)


def test_every_unknown_code_point_is_refused() -> None:
    tokenizer = CharacterTokenizer("ac")
    for code_point in (0, ord("b"), ord("d"), 0x10FFFF):
        with pytest.raises(VocabularyError):
            tokenizer.encode(chr(code_point))


@pytest.mark.parametrize("characters", ["", "a\ud800"])
def test_what_cannot_be_a_vocabulary(characters: str) -> None:
    with pytest.raises(VocabularyError, match="CharacterTokenizer: a vocabulary"):
        CharacterTokenizer.train(characters)


@pytest.mark.parametrize("ids", [[0, -1], [0, 2], np.array([0, 2], dtype=np.uint16)])
def test_an_id_out_of_range_is_refused(ids: list[int] | np.ndarray) -> None:
    with pytest.raises(RangeError, match=rf"\[0, 2\), got {ids[1]} at position 1"):
        CharacterTokenizer("ab").decode(ids)


def test_ids_of_the_wrong_shape_or_kind_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"one axis, got shape \(1, 2\)"):
        CharacterTokenizer("ab").decode(np.array([[0, 1]]))
    with pytest.raises(DtypeError, match="float64"):
        CharacterTokenizer("ab").decode(np.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "compyute-transformer/characters", "version": 1, "characters": "ba"}', "sorted"),
        ('{"format": "compyute-transformer/characters", "version": 1, "characters": "aa"}', "distinct"),
        ('{"format": "compyute-transformer/characters", "version": 2, "characters": "ab"}', '"version": 1'),
        ('{"format": "other", "version": 1, "characters": "ab"}', '"format"'),
        ('{"format": "compyute-transformer/characters", "version": 1}', "list its characters"),
        ("[1]", "holds a list"),
        ("{", "not JSON"),
    ],
)
def test_a_file_that_save_did_not_write(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=message):
        CharacterTokenizer.load(tmp_path / "t.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read: No such file"):
        CharacterTokenizer.load(tmp_path / "nowhere.json")
