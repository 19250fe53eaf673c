"""TEXT -> TOKENS -> BATCHES: everything between files on disk and the arrays a model reads. Knows no gradients.

corpus      text from a built-in source, a name, files or folders; cut into a training and a validation part
characters  one token per distinct character
bpe         byte pair encoding: one token per frequent run of bytes
tokenizer   what the two have in common; train and load either
batches     (x, y) arrays of shape (B, T): random windows to train on, every window once to validate on
dates       a made corpus of pairs: dates written many ways, and the same in ISO form
pairs       sources and targets from files, a tab between the two; cut like a corpus
pair_batches  padded arrays with their lengths, and the special tokens that a target begins and ends with
images      scans of digits, or a folder with a sub-folder for each class; cut class by class
image_files  how an image file is found, looked at and read
image_batches  bytes of images become floats: shuffled epochs, and what is fixed before training
"""

from .images.batches import ImageBatches, ImageEncoder, ordered_batches
from .images.corpus import Images, load_images
from .pairs.batches import EncodedPairs, PairBatch, PairBatches, SpecialTokens, pair_batches, special_tokens
from .pairs.corpus import Pair, Pairs, load_pairs
from .pairs.dates import date_pairs
from .text.batches import IGNORE_INDEX, TokenBatches, validation_windows
from .text.bpe import BytePairTokenizer
from .text.characters import CharacterTokenizer
from .text.corpus import Corpus, load_corpus, load_corpus_by_name
from .text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
    "IGNORE_INDEX",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "Corpus",
    "EncodedPairs",
    "ImageBatches",
    "ImageEncoder",
    "Images",
    "Pair",
    "PairBatch",
    "PairBatches",
    "Pairs",
    "SpecialTokens",
    "TokenBatches",
    "Tokenizer",
    "date_pairs",
    "load_corpus",
    "load_corpus_by_name",
    "load_images",
    "load_pairs",
    "load_tokenizer",
    "ordered_batches",
    "pair_batches",
    "special_tokens",
    "train_tokenizer",
    "validation_windows",
]
