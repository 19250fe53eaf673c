"""Byte pair encoding: exact round trips of any text, the same merges each time, long texts cut without a change."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from compyute_transformer.data import BytePairTokenizer
from compyute_transformer.data.text import bpe
from compyute_transformer.errors import DataError, DtypeError, RangeError, VocabularyError

TEXT = "the quick brown fox jumps over the lazy dog\n\n  the fox — der Fuchs — springt über den Hund\r\n" * 20
TOKENIZER = BytePairTokenizer.train(TEXT, 300)
# Texts in which white space, line ends and words of every kind meet often.
LINES = st.lists(st.sampled_from(["\n", "\r", " ", "\t", "\u2003", "\x1c", "the", "'s", "3", "é", "—", "。"])).map(
    "".join
)


@given(st.text() | LINES)
def test_round_trip_of_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(ids.tolist()) == text


def test_training_shortens_the_text() -> None:
    assert TOKENIZER.vocab_size == 300
    assert TOKENIZER.encode(TEXT).size < 0.6 * len(TEXT.encode())
    assert TOKENIZER.encode(TEXT).max() < 300


def test_256_is_bytes_without_merges() -> None:
    tokenizer = BytePairTokenizer.train(TEXT, 256)
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode(TEXT).size == len(TEXT.encode())


def test_a_small_text_gives_a_small_vocabulary() -> None:
    assert BytePairTokenizer.train("abab", 1000).vocab_size == 257
    assert BytePairTokenizer.train("", 1000).vocab_size == 256


def test_fewer_tokens_than_bytes_are_refused() -> None:
    with pytest.raises(RangeError, match="256 bytes, got vocab_size 255"):
        BytePairTokenizer.train(TEXT, 255)


def test_training_gives_the_same_tokenizer_in_every_process(tmp_path: Path) -> None:
    script = "import sys; from test_bpe import TOKENIZER; TOKENIZER.save(sys.argv[1])"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, tmp_path / f"{seed}.json"], env=environment, check=True)
    TOKENIZER.save(tmp_path / "0.json")
    contents = {(tmp_path / f"{name}.json").read_bytes() for name in "012"}
    assert len(contents) == 1


def test_training_and_encoding_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    BytePairTokenizer.train(TEXT, 260).encode(TEXT)
    assert capfd.readouterr() == ("", "")


# Long texts are encoded in pieces


@given(LINES)
def test_pieces_have_the_ids_of_the_whole(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "PIECE_LENGTH", 0)
        patch.setattr(bpe, "PIECES_AT_ONCE", 2)
        in_pieces = TOKENIZER.encode(text)
        assert "".join(bpe._pieces(text)) == text
    assert in_pieces.tolist() == TOKENIZER._tokenizer.encode(text).ids


def test_every_character_may_stand_beside_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "PIECE_LENGTH", 0)
    text = "".join(f"{chr(c)}\n{chr(c)}" for c in range(0x3100) if not chr(c).isalnum() or c < 0x500)
    assert len(list(bpe._pieces(text))) > 1000
    assert TOKENIZER.encode(text).tolist() == TOKENIZER._tokenizer.encode(text).ids


def test_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "PIECE_LENGTH", 100)
    pieces = list(bpe._pieces("ten digits\n" * 100))
    assert {len(piece) for piece in pieces} == {110, 1100 - 110 * 9}
    assert all(piece.endswith("\n") for piece in pieces)


# Decoding


def test_an_incomplete_character_becomes_the_replacement_character() -> None:
    tokenizer = BytePairTokenizer.train("", 256)
    ids = tokenizer.encode("a€")
    assert len(ids) == 4
    assert tokenizer.decode(ids[:3]) == "a\ufffd"


@pytest.mark.parametrize("wrong", [-1, 300])
def test_an_id_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(RangeError, match=rf"BytePairTokenizer\.decode.*\[0, 300\), got {wrong} at position 1"):
        TOKENIZER.decode([0, wrong])


def test_ids_that_are_no_integers_are_refused() -> None:
    with pytest.raises(DtypeError, match="float32"):
        TOKENIZER.decode(np.zeros(2, dtype=np.float32))
    assert TOKENIZER.decode([]) == ""


@pytest.mark.parametrize("operation", [TOKENIZER.encode, lambda text: BytePairTokenizer.train(text, 256)])
def test_a_lone_surrogate_is_refused(operation) -> None:
    with pytest.raises(VocabularyError, match=r"U\+DC80\) at position 2"):
        operation("ab\udc80")


# Files


def test_save_and_load(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = BytePairTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == 300
    assert np.array_equal(loaded.encode(TEXT), TOKENIZER.encode(TEXT))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT).ids == TOKENIZER.encode(TEXT).tolist()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tokenizer.json with what published ones have: special tokens, a gap, an added start, truncation, padding."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**vocabulary, "<s>": 256, "ab": 260}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8, pad_id=0)
    tokenizer.save(str(tmp_path / "published.json"))
    return tmp_path / "published.json"


def test_a_published_tokenizer_encodes_the_text_whole_and_adds_nothing(published: Path) -> None:
    tokenizer = BytePairTokenizer.load(published)
    assert tokenizer.encode("ab" * 10).tolist() == [260] * 10
    assert tokenizer.encode("").tolist() == []


def test_special_tokens_in_a_text_survive_the_round_trip(published: Path) -> None:
    tokenizer = BytePairTokenizer.load(published)
    assert tokenizer.encode("<s>ab").tolist() == [256, 260]
    assert tokenizer.decode([256, 260]) == "<s>ab"


def test_the_vocabulary_reaches_to_the_largest_id_and_gaps_are_refused(published: Path) -> None:
    tokenizer = BytePairTokenizer.load(published)
    assert tokenizer.vocab_size == 261
    with pytest.raises(RangeError, match="got 258 at position 1, a gap"):
        tokenizer.decode([260, 258])


def with_prefix_space(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def with_normalizer(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Prepend("▁")


def with_line_token(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens(["b\nc"])


def with_greedy_token(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens([AddedToken("c", lstrip=True)])


def with_no_rule(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    "change", [with_prefix_space, with_normalizer, with_line_token, with_greedy_token, with_no_rule]
)
def test_a_tokenizer_that_looks_across_lines_gets_the_whole_text(
    published: Path, monkeypatch: pytest.MonkeyPatch, change
) -> None:
    inner = Tokenizer.from_file(str(published))
    change(inner)
    tokenizer = BytePairTokenizer(inner)
    monkeypatch.setattr(bpe, "PIECE_LENGTH", 0)
    assert not tokenizer._may_split
    assert tokenizer.encode("ab\ncd\nef").tolist() == inner.encode("ab\ncd\nef", add_special_tokens=False).ids


@pytest.mark.parametrize("content", [{}, {"model": {"type": "Nonsense"}}])
def test_a_file_of_another_kind(tmp_path: Path, content: dict) -> None:
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"must be a tokenizer\.json"):
        BytePairTokenizer.load(tmp_path / "t.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"BytePairTokenizer\.load.*nowhere"):
        BytePairTokenizer.load(tmp_path / "nowhere.json")


def test_ctrl_c_ends_the_wait_for_a_training_that_hears_no_signal() -> None:
    began = time.perf_counter()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        bpe._interruptible(lambda: time.sleep(20))
    assert time.perf_counter() - began < 10


def test_an_error_of_the_training_reaches_the_caller() -> None:
    def fail() -> None:
        raise ValueError("of the library")

    with pytest.raises(ValueError, match="of the library"):
        bpe._interruptible(fail)
