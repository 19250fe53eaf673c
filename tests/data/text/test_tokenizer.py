"""Either kind of tokenizer is made and read back through one validation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compyute_transformer.data import BytePairTokenizer, CharacterTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from compyute_transformer.errors import ConfigError, DataError

TEXT = "to be, or not to be\n" * 50


@pytest.mark.parametrize(("kind", "made"), [("characters", CharacterTokenizer), ("bpe", BytePairTokenizer)])
def test_train_save_and_load(tmp_path: Path, kind: str, made: type) -> None:
    tokenizer: Tokenizer = train_tokenizer(kind, TEXT, vocab_size=262)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded: Tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(tokenizer) is type(loaded) is made
    assert loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.encode(TEXT), tokenizer.encode(TEXT))
    assert loaded.decode(loaded.encode(TEXT)) == TEXT


def test_vocab_size_is_that_of_byte_pairs() -> None:
    assert train_tokenizer("bpe", TEXT, vocab_size=262).vocab_size == 262
    assert train_tokenizer("characters", TEXT, vocab_size=262).vocab_size == len(set(TEXT))


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match='"characters" or "bpe", got \'words\''):
        train_tokenizer("words", TEXT)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "has neither"), ("[]", "holds a list"), ("text", "not JSON"), ("\udcff", "not JSON")],
)
def test_a_file_of_neither_kind(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"load_tokenizer: .*{message}"):
        load_tokenizer(tmp_path / "t.json")


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"load_tokenizer: .*cannot be read"):
        load_tokenizer(tmp_path / name)


def test_importing_the_package_imports_no_heavy_library() -> None:
    script = "import sys, compyute_transformer.data; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"tokenizers", "pooch", "requests", "tqdm", "pydoc_data.topics"} & set(run.stdout.split())
