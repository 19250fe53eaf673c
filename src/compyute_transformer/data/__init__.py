"""TEXT -> TOKENS -> BATCHES: everything between files on disk and the arrays a model reads. Knows no gradients.

corpus      text from a built-in source, a name, files or folders; cut into a training and a validation part
characters  one token per distinct character
bpe         byte pair encoding: one token per frequent run of bytes
tokenizer   what the two have in common; train and load either
batches     (x, y) arrays of shape (B, T): random windows to train on, every window once to validate on
"""

from .batches import IGNORE_INDEX, TokenBatches, validation_windows
from .bpe import BytePairTokenizer
from .characters import CharacterTokenizer
from .corpus import Corpus, load_corpus, load_corpus_by_name
from .tokenizer import Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
    "IGNORE_INDEX",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "Corpus",
    "TokenBatches",
    "Tokenizer",
    "load_corpus",
    "load_corpus_by_name",
    "load_tokenizer",
    "train_tokenizer",
    "validation_windows",
]
