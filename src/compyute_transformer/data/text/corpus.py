"""Corpus: one text, and a note of where it came from.

    names, files, folders -> UTF-8 text with LF line ends -> Corpus -> (training part, validation part)

The built-in corpus is the Python language reference, which every Python carries, so a first run needs no network. The
text of a corpus depends only on its files, not on the order in which a file system lists them.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from ... import _io
from ...errors import CorpusError, DownloadError, RangeError
from ..images.files import SUFFIXES
from ..sources import Name, fixed_part, is_name, is_pattern, refuse_twice, why_no_text

__all__ = ["Corpus", "load_corpus", "load_corpus_by_name"]

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_FILE = "tinyshakespeare.txt"
TIMEOUT_SECONDS = 30
LISTED = 5  # the refused files that an error names


@dataclass(frozen=True)
class Corpus:
    """A text, its short name, and the sources from which `load_corpus` reads it again.

    sources: absolute paths, as given (a folder stays a folder), or the name of a built-in corpus. `sha256` tells
    whether the text is the same when it is read again. left_out: the files of folders that are not text.
    """

    name: str
    text: str = field(repr=False)
    sources: tuple[str, ...]
    left_out: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the UTF-8 text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def split(self, validation_fraction: float = 0.1) -> tuple[str, str]:
        """Split the text into (training part, validation part) after ⌊length · (1 − fraction)⌋ characters.

        The parts do not overlap, and together are the text. Raises RangeError for a fraction outside [0, 1).
        Source: nanoGPT, data/shakespeare_char/prepare.py, which splits at 90%.
        """
        if not 0 <= validation_fraction < 1:
            raise RangeError(
                f"Corpus.split: a validation fraction lies in [0, 1), got {validation_fraction}. "
                "0.1 keeps a tenth of the text for validation."
            )
        cut = int(len(self.text) * (1 - validation_fraction))
        return self.text[:cut], self.text[cut:]


def load_corpus(sources: str | Path | Sequence[str | Path] = ()) -> Corpus:
    """Read a corpus from names, UTF-8 files and folders, one after the other; without a source, the built-in one.

    A `str` that is exactly "builtin" or "shakespeare" is that corpus; a file of such a name is `Path("shakespeare")`.
    A folder is every text file below it, sorted by path, without hidden files and folders and without the folders of
    runs; a pattern, "src/**/*.py", is those that match. Files in a folder that are not UTF-8 text are left out; see
    `Corpus.left_out`. A byte order mark is dropped, CR LF and CR become LF, and where one file ends without a line end
    the next starts on a new line.

    Raises CorpusError for a missing path, a named file that is not UTF-8 text, a folder without text files and a text
    without characters; DataError for a name that is also a path; DownloadError if a corpus cannot be fetched.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    given = [_known(source) for source in listed] or ["builtin"]
    left_out: list[str] = []
    paths = [source for source in given if isinstance(source, Path)]
    files = {path: _files(path) for path in paths}
    refuse_twice("load_corpus", (file for path in paths for file in files[path]))
    text = _join(text for source in given for text in _texts(source, files, left_out))
    if not text:
        raise CorpusError(
            f"load_corpus: a corpus has at least one character, but {_enumerate(given)} holds none. "
            "Give a text file with text in it."
        )
    name = fixed_part(given[0]).stem + (f"-and-{len(given) - 1}-more" if len(given) > 1 else "")
    return Corpus(name, text, tuple(str(source) for source in given), tuple(left_out))


def load_corpus_by_name(name: str) -> Corpus:
    """Load "builtin" (the Python language reference) or "shakespeare" (tinyshakespeare, fetched once)."""
    if name not in NAMED:
        raise CorpusError(
            f"load_corpus_by_name: the corpora that have a name are {_enumerate(sorted(NAMED))}, got {name!r}. "
            "Any UTF-8 text file works by its path."
        )
    return load_corpus(Name(name))


def _known(source: str | Path) -> str | Path:
    """Return a name as it is, anything else as an absolute path, so that a run can be resumed from any folder."""
    return str(source) if is_name(source, NAMED, "load_corpus") else Path(os.path.abspath(source))


def _texts(source: str | Path, files_of: Mapping[Path, list[Path]], left_out: list[str]) -> list[str]:
    if isinstance(source, str):
        return [NAMED[source]()]
    files = files_of[source]
    if not source.is_dir() and not is_pattern(source):
        return _read(files)
    texts = _read(files, left_out)
    if not texts:
        images = sum(file.suffix.lower() in SUFFIXES for file in files)
        raise CorpusError(
            f"load_corpus: a folder holds at least one text file, but none of the {len(files)} files in {source} is "
            f"UTF-8 text: {_enumerate(left_out)}. "
            + (
                "To learn images, give a folder that has one sub-folder of images for each class."
                if images
                else "Save them as UTF-8, or give another folder."
            )
        )
    return texts


def _files(path: Path) -> list[Path]:
    if is_pattern(path):
        matches = sorted(Path(name) for name in glob(str(path), recursive=True))
        files = [file for file in matches if file.is_file() and not any(map(_is_run, file.parents))]
        if not files:
            raise CorpusError(f"load_corpus: a pattern matches at least one file, but none matches {path}. Check it.")
        return files
    if not path.exists():
        raise CorpusError(
            f"load_corpus: a source is a file or a folder that exists; there is no {path}. "
            f"Check the path; the corpora that have a name are {_enumerate(sorted(NAMED))}."
        )
    if not path.is_dir():
        return [path]
    files = sorted(_files_below(path), key=lambda file: file.relative_to(path).parts)
    if not files:
        raise CorpusError(
            f"load_corpus: a folder holds at least one text file, but there is none in {path} "
            "(hidden files do not count). Give a folder with UTF-8 text files."
        )
    return files


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        if _is_run(Path(parent)):  # not data
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]  # os.walk enters those that stay
        files = (Path(parent, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def _read(files: Sequence[Path], left_out: list[str] | None = None) -> list[str]:
    """Return the text of each file. Files that are not text go to `left_out`; without it, one error names them all."""
    texts, refused = [], []
    for file in files:
        try:
            raw = _io.read_bytes(file)
        except OSError as error:
            raise CorpusError(
                f"load_corpus: every file must be readable; {file} is not: {error.strerror}. "
                "Change its permissions or leave it out."
            ) from error
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            refused.append(str(file) if left_out is not None else f"{file} ({why_no_text(raw, error.start)})")
            continue
        if "\0" in text:  # valid UTF-8, but the mark of a binary file, or of UTF-16
            refused.append(str(file) if left_out is not None else f"{file} ({why_no_text(raw, raw.index(0))})")
            continue
        texts.append(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    if left_out is not None:
        left_out += refused
    elif refused:
        raise CorpusError(
            f"load_corpus: a corpus is UTF-8 text, which is not true of {_enumerate(refused)}. "
            "Save as UTF-8, or name only the files that are text."
        )
    return texts


def _join(texts: Iterable[str]) -> str:
    parts: list[str] = []
    for text in filter(None, texts):
        if parts and not parts[-1].endswith("\n"):
            parts.append("\n")
        parts.append(text)
    return "".join(parts)


def _enumerate(items: Sequence[object]) -> str:
    rest = len(items) - LISTED
    return ", ".join(str(item) for item in items[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _builtin() -> str:
    """The Python language reference as the `help()` of this Python shows it, its topics in alphabetical order."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # a few distributions strip it from their smallest Python
        raise CorpusError(
            "load_corpus: the built-in corpus is pydoc_data.topics of the standard library, "
            "which this Python lacks. Give a text file: compyute train FILE"
        ) from error
    return "\n\n".join(topics[topic].strip("\n") for topic in sorted(topics)) + "\n"


def _shakespeare() -> str:
    """Tinyshakespeare, 1 115 394 characters: from the cache, else fetched into it and checked."""
    import pooch

    cache = Path(pooch.os_cache("compyute-transformer"))
    bar = sys.stderr.isatty() and find_spec("tqdm") is not None
    try:
        path = pooch.retrieve(
            SHAKESPEARE_URL,
            known_hash=f"sha256:{SHAKESPEARE_SHA256}",
            fname=SHAKESPEARE_FILE,
            path=cache,
            downloader=pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT_SECONDS),
        )
    except (OSError, ValueError) as error:  # the network and the disk raise the first, the checksum the second
        raise DownloadError(
            f"load_corpus: tinyshakespeare must come whole from {SHAKESPEARE_URL}; {_reason(error)}. "
            "Any text file works as it is: compyute train FILE. Or download the address by other means "
            f"and save it as {cache / SHAKESPEARE_FILE}"
        ) from error
    return _read([Path(path)])[0]


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"what arrived is damaged, its SHA-256 is not {SHAKESPEARE_SHA256}"
    response = getattr(error, "response", None)  # of a server that answered, but with an error
    if response is not None:
        return f"the server answered with HTTP status {response.status_code}"
    return f"that failed: {getattr(error, 'strerror', None) or type(error).__name__}"


NAMED: dict[str, Callable[[], str]] = {"builtin": _builtin, "shakespeare": _shakespeare}
