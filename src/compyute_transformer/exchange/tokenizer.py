"""Tokenizers as a directory of Hugging Face Transformers holds them: tokenizer.json and tokenizer_config.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from .. import _io
from ..data.text.bpe import BytePairTokenizer
from ..data.text.characters import CharacterTokenizer
from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError

__all__ = ["of_characters", "save_tokenizer"]


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files. Raises ConfigError for a tokenizer that has no tokenizer.json, and OSError."""
    if isinstance(tokenizer, CharacterTokenizer):
        tokenizer = of_characters(tokenizer.characters)
    if not isinstance(tokenizer, BytePairTokenizer):
        raise ConfigError(
            "save_pretrained: a tokenizer is a CharacterTokenizer or a BytePairTokenizer, got "
            f"{type(tokenizer).__name__}. Leave it out, and save it by its own method."
        )
    _io.replace_file(folder / "tokenizer.json", tokenizer.save)
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _io.replace_text(folder / "tokenizer_config.json", json.dumps(values, indent=2) + "\n")


def of_characters(characters: Sequence[str]) -> BytePairTokenizer:
    """Return a tokenizer of the `tokenizers` library with a token for each character, of which none are merged.

    A character that the vocabulary lacks is left out by that library, where `CharacterTokenizer` refuses it.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models

    library = Library(models.BPE({character: i for i, character in enumerate(characters)}, []))
    library.decoder = decoders.Fuse()
    return BytePairTokenizer(library)
