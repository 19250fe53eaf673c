"""Corpora: names, files and folders, line ends, refusals, the split; the download from a server on this machine."""

import gzip
import hashlib
import os
import socket
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pooch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compyute_transformer import _io
from compyute_transformer.data import Corpus, load_corpus, load_corpus_by_name
from compyute_transformer.data.sources import summary
from compyute_transformer.data.text import corpus
from compyute_transformer.errors import CorpusError, DataError, DownloadError, RangeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "b.txt": "two\n",
        "a/z.md": "one",
        "a.txt": "three",
        ".hidden": "no",
        ".git/c.txt": "no",
    }.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path / "texts"


# Where text comes from


def test_no_source_is_the_language_reference_of_this_python() -> None:
    loaded = load_corpus()
    assert (loaded.name, loaded.sources) == ("builtin", ("builtin",))
    assert loaded.text.startswith('The "assert" statement\n')
    assert loaded.text.endswith("\n")
    assert len(loaded.text) > 300_000
    assert load_corpus(()) == load_corpus_by_name("builtin") == loaded


def test_builtin_corpus_does_not_depend_on_the_order_of_the_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = {"with": "\nThe with statement\n", "assert": "The assert statement\n\n"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", SimpleNamespace(topics=topics))
    assert load_corpus().text == "The assert statement\n\nThe with statement\n"


def test_builtin_corpus_missing_from_a_stripped_python_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusError, match="compyute train FILE"):
        load_corpus()


def test_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poem.txt").write_bytes("Größe — 𝔸\n".encode())
    monkeypatch.chdir(tmp_path)
    loaded = load_corpus("poem.txt")
    assert loaded == Corpus("poem", "Größe — 𝔸\n", (str(tmp_path / "poem.txt"),))
    assert load_corpus([Path("poem.txt")]) == loaded


def test_sources_load_the_same_corpus_again_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    loaded = load_corpus(["a.txt", "a", "builtin"])
    monkeypatch.chdir(folder.parent)
    assert load_corpus(loaded.sources) == loaded


def test_several_files_are_joined_in_the_order_given(folder: Path) -> None:
    loaded = load_corpus([folder / "b.txt", folder / "a.txt", folder / "a" / "z.md"])
    assert loaded.text == "two\nthree\none"
    assert loaded.name == "b-and-2-more"


def test_an_empty_file_among_others_adds_nothing(folder: Path) -> None:
    (folder / "empty.txt").touch()
    assert load_corpus([folder / "a.txt", folder / "empty.txt", folder / "b.txt"]).text == "three\ntwo\n"


def test_a_folder_is_its_files_sorted_by_path_without_hidden_ones(folder: Path) -> None:
    loaded = load_corpus(folder)
    assert loaded.text == "one\nthree\ntwo\n"
    assert (loaded.name, loaded.sources) == ("texts", (str(folder),))


def test_a_file_named_like_a_corpus_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "builtin").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert load_corpus(Path("builtin")).text == load_corpus("./builtin").text == "mine"
    with pytest.raises(DataError, match=r"Write \./builtin for yours"):
        load_corpus("builtin")
    assert load_corpus_by_name("builtin").text != "mine"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xef\xbb\xbfmark", "mark"),
        (b"a\r\nb\rc\n\rd", "a\nb\nc\n\nd"),
        ("zero\ufeffwidth".encode(), "zero\ufeffwidth"),
    ],
)
def test_byte_order_mark_and_line_ends(tmp_path: Path, raw: bytes, text: str) -> None:
    (tmp_path / "file").write_bytes(raw)
    assert load_corpus(tmp_path / "file").text == text


# What is refused


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no .*nowhere\.txt.*builtin, shakespeare"):
        load_corpus(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "empty.txt").write_bytes(raw)
    with pytest.raises(CorpusError, match=r"empty\.txt holds none"):
        load_corpus(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"caf\xe9", "byte 3 is 0xE9"),
        (b"\xef\xbb\xbfa\xff", "byte 4 is 0xFF"),
        ("é\0".encode(), "byte 2 is 0x00"),
        ("text".encode("utf-16"), "UTF-16"),
        ("text".encode("utf-16-le"), "byte 1 is 0x00"),
        (gzip.compress(b"text", mtime=0), "compressed with gzip: unpack it first"),
    ],
)
def test_not_utf8_names_file_and_byte(tmp_path: Path, raw: bytes, where: str) -> None:
    (tmp_path / "odd.txt").write_bytes(raw)
    with pytest.raises(CorpusError, match=rf"odd\.txt \({where}\)"):
        load_corpus(tmp_path / "odd.txt")


def test_named_files_that_are_not_text_are_listed(folder: Path) -> None:
    for number in range(7):
        (folder / f"image{number}").write_bytes(b"\x89PNG")
    named = [folder / f"image{number}" for number in range(7)]
    with pytest.raises(CorpusError, match=r"image0 \(byte 0 is 0x89\)"):
        load_corpus(named)


def test_files_of_a_folder_that_are_not_text_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    text = load_corpus(folder).text
    for number in range(7):
        (folder / f"image{number}.png").write_bytes(b"\x89PNG")
    loaded = load_corpus(folder)
    assert loaded.text == text
    assert summary(loaded.left_out) == "7 .png (image0.png, image1.png, image2.png and 4 more)"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"\x89PNG")
    with pytest.raises(CorpusError, match=r"none of the 1 files in .*pictures is UTF-8 text: .*a\.png"):
        load_corpus(tmp_path / "pictures")


def test_the_runs_below_a_folder_are_not_data(folder: Path) -> None:
    text = load_corpus(folder).text
    (folder / "runs/first/checkpoints").mkdir(parents=True)
    (folder / "runs/first/config.json").write_text("{}")
    (folder / "runs/first/samples.txt").write_text("not data")
    assert load_corpus(folder).text == text


def test_a_folder_without_text_files(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("text")
    (tmp_path / "inner").mkdir()
    with pytest.raises(CorpusError, match="at least one text file"):
        load_corpus(tmp_path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text("text")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_io, "read_bytes", refuse)  # permissions do not bind every user who runs the tests
    with pytest.raises(CorpusError, match=r"secret\.txt is not: Permission denied"):
        load_corpus(tmp_path / "secret.txt")


def test_an_unknown_name() -> None:
    with pytest.raises(CorpusError, match="builtin, shakespeare, got 'goethe'"):
        load_corpus_by_name("goethe")


# The split and the checksum


@given(st.text(), st.floats(0, 1, exclude_max=True))
def test_split_parts_together_are_the_text(text: str, fraction: float) -> None:
    training, validation = Corpus("c", text, ()).split(fraction)
    assert training + validation == text
    assert abs(len(validation) - fraction * len(text)) <= 1


@given(st.integers(0, 3000))
def test_split_cuts_where_nanogpt_does(length: int) -> None:
    training, _ = Corpus("c", "x" * length, ()).split()
    assert len(training) == int(length * 0.9)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_split_refuses_a_fraction_outside_its_range(fraction: float) -> None:
    with pytest.raises(RangeError, match="validation fraction"):
        Corpus("c", "text", ()).split(fraction)


def test_sha256_is_that_of_the_utf8_text() -> None:
    assert Corpus("c", "é", ()).sha256 == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_repr_leaves_the_text_out() -> None:
    assert repr(Corpus("c", "x" * 10_000, ("here",))) == "Corpus(name='c', sources=('here',))"


# The download


PLAYS = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"


class Server(ThreadingHTTPServer):
    """Serves one file, or an error status, and counts how often it was asked."""

    content, status, requests = PLAYS, 200, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output of the tests is not the place."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", hashlib.sha256(PLAYS).hexdigest())
    return tmp_path / "cache" / "compyute-transformer" / "tinyshakespeare.txt"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch):
    with Server(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/input.txt")
        thread = Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("load", [load_corpus, load_corpus_by_name])
def test_shakespeare_is_fetched_once_and_then_read_from_the_cache(server: Server, cache: Path, load) -> None:
    loaded = load("shakespeare")
    assert loaded == Corpus("shakespeare", PLAYS.decode(), ("shakespeare",))
    assert cache.read_bytes() == PLAYS
    assert load("shakespeare") == loaded == load_corpus(loaded.sources)
    assert server.requests == 1


def test_a_copy_saved_by_hand_needs_no_network(server: Server, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(PLAYS)
    assert load_corpus("shakespeare").text == PLAYS.decode()
    assert server.requests == 0


def test_a_damaged_copy_in_the_cache_is_fetched_anew(server: Server, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(PLAYS[:-1])
    assert load_corpus("shakespeare").text == PLAYS.decode()
    assert cache.read_bytes() == PLAYS


def test_a_wrong_checksum_leaves_nothing_in_the_cache(server: Server, cache: Path) -> None:
    server.content = PLAYS.upper()
    with pytest.raises(DownloadError, match="what arrived is damaged"):
        load_corpus("shakespeare")
    assert list(cache.parent.iterdir()) == []


def test_an_error_of_the_server_is_told(server: Server, cache: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="HTTP status 503"):
        load_corpus("shakespeare")
    assert not cache.exists()


def test_without_network_the_error_says_what_works(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound but not listening: every connection is refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{bound.getsockname()[1]}/input.txt")
        with pytest.raises(DownloadError) as caught:
            load_corpus("shakespeare")
    message = str(caught.value)
    for part in (corpus.SHAKESPEARE_URL, "ConnectionError", "compyute train FILE", str(cache)):
        assert part in message


def test_a_silent_server_is_given_up_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/input.txt")
        with pytest.raises(DownloadError, match="ReadTimeout"):
            load_corpus("shakespeare")


def test_a_file_is_read_once(folder: Path) -> None:
    """Twice, it would be validated by what was learned."""
    file = folder / "b.txt"
    for sources in ([file, file], [folder, file], [file, os.path.relpath(file)]):
        with pytest.raises(CorpusError, match=r"every file is read once, but .* is given twice"):
            load_corpus(sources)
