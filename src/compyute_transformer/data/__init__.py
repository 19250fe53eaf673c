"""Data: everything between files on disk and the arrays a model reads. No gradients here.

text/    corpora, tokenizers, batches of tokens
pairs/   source and target texts, padded batches
images/  images by class, normalized batches

The public names of all three are importable from here.
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
