"""Pieces: joined they are the whole text, no character is ever shown in halves, and no part of a stop text is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from compyute_transformer.data import BytePairTokenizer, CharacterTokenizer
from compyute_transformer.errors import RangeError
from compyute_transformer.generation.detokenize import StopTexts, WholeCharacters

BYTES = BytePairTokenizer.train("", 256)  # one token for each byte: any character but ASCII comes in halves
MERGED = BytePairTokenizer.train("naïve café — 日本語日本語 🙂🙃 " * 30, 300)


def feed(characters: WholeCharacters, ids: list[int]) -> list[str]:
    return [characters.feed(token) for token in ids] + [characters.flush()]


@given(st.text())
def test_characters_come_whole(text: str) -> None:
    pieces = feed(WholeCharacters(BYTES), BYTES.encode(text).tolist())
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    shown = [piece for piece in pieces if piece]
    assert len(shown) == len(text)  # each as soon as its last byte is there


def test_a_character_appears_with_its_last_byte() -> None:
    assert feed(WholeCharacters(BYTES), BYTES.encode("a€b").tolist()) == ["a", "", "", "€", "b", ""]


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED])
@given(data=st.data())
def test_pieces_of_any_tokens_are_the_text_of_them_all(tokenizer: BytePairTokenizer, data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30)
    context, new = data.draw(ids), data.draw(ids)
    pieces = feed(WholeCharacters(tokenizer, context), new)
    text = tokenizer.decode(context + new)
    begin = tokenizer.decode(context)
    # A context that ends within a character has already shown what the rest of that character replaces.
    assert "".join(pieces) == text[len(begin) :]


def test_a_context_that_ends_within_a_character_is_not_shown_again() -> None:
    euro = BYTES.encode("€").tolist()
    assert feed(WholeCharacters(BYTES, euro[:1]), BYTES.encode("a").tolist()) == ["a", ""]
    assert feed(WholeCharacters(BYTES, euro[:2]), euro[:1]) == ["", "\ufffd"]


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    euro = BYTES.encode("€").tolist()
    assert feed(WholeCharacters(BYTES), euro[:2]) == ["", "", "\ufffd"]
    assert feed(WholeCharacters(BYTES), [euro[0], *BYTES.encode("a").tolist()]) == ["", "\ufffda", ""]


def test_replacement_characters_of_the_vocabulary_are_text() -> None:
    tokenizer = CharacterTokenizer("a\ufffd")
    assert "".join(feed(WholeCharacters(tokenizer), [1, 1, 0, 1])) == tokenizer.decode([1, 1, 0, 1])


def test_spaces_that_depend_on_the_token_before_are_kept() -> None:
    vocabulary = {"▁one": 0, "▁two": 1, "▁three": 2}
    library = Tokenizer(models.WordLevel(vocabulary, unk_token="▁one"))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()  # drops the space before the first word, and that one only
    pieces = feed(WholeCharacters(BytePairTokenizer(library), [0]), [1, 2, 1, 1, 0])
    assert pieces == [" two", " three", " two", " two", " one", ""]


def test_long_texts_are_decoded_a_few_tokens_at_a_time() -> None:
    lengths: list[int] = []

    class Watched(CharacterTokenizer):
        def decode(self, ids: list[int]) -> str:  # type: ignore[override]
            lengths.append(len(ids))
            return super().decode(ids)

    assert feed(WholeCharacters(Watched("ab"), [0] * 50), [1] * 50) == ["b"] * 50 + [""]
    assert max(lengths[-100:]) <= 2


# --- stop texts ---


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the text is cut: read letter by letter, the first stop text that is complete, the longest of equals."""
    for end in range(len(text) + 1):
        begun = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begun:
            return min(begun)
    return None


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_stop_texts_are_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    through, shown = StopTexts(stops), ""
    for piece in pieces:
        shown += through.feed(piece)
        if through.found:
            break
        assert not any(stop in shown for stop in stops)
    shown += through.flush()
    text = "".join(pieces)
    cut = first_stop(text, stops)
    assert through.found == (cut is not None)
    assert shown == text[:cut]


@pytest.mark.parametrize("pieces", [["abba"], ["a", "b", "b", "a"]])
def test_the_stop_text_that_is_complete_first_ends_the_text(pieces: list[str]) -> None:
    stops = StopTexts(["abba", "bb"])
    assert "".join(map(stops.feed, pieces)) == "a"
    assert stops.found


def test_only_what_may_begin_a_stop_text_is_held_back() -> None:
    stops = StopTexts(["\n\nEnd"])
    assert [stops.feed(piece) for piece in ("One.", "\n", "Two.\n\nE", "x", "\n\nEnd of all")] == [
        "One.",
        "",
        "\nTwo.",
        "\n\nEx",
        "",
    ]
    assert stops.found
    assert stops.flush() == ""


@pytest.mark.parametrize("stops", [[""], ["a", ""], "abc"])
def test_empty_stop_texts_are_refused(stops: list[str] | str) -> None:
    with pytest.raises(RangeError, match="sequence of texts that are not empty"):
        StopTexts(stops)
