"""LOGITS -> TEXT: everything between the numbers a model puts out and what a person reads.

cache      keys and values of what has been read
read       what the model is shown: prefill, step, and the window past the context's end
sample     one token drawn from logits: repetition penalty, temperature, top-k, top-p, min-p
pieces     tokens to text: whole characters, and nothing of a stop text
generate   the prompt is read, then token follows token
batch      several prompts at once
beam       which beginnings of an answer go on, and which answer wins
translate  answers to sources, by greedy or beam search, or drawn
attention  who looked at whom, as arrays and as a picture
"""

from .attention import attention_maps, draw_attention, named_attention_maps
from .batch import generate_batch
from .cache import KeyValueCache
from .decode import prefill, step
from .sampling import probabilities, sample
from .text import TextStream, generate, stream
from .translation import Answer, stream_translation, translate

__all__ = [
    "Answer",
    "KeyValueCache",
    "TextStream",
    "attention_maps",
    "draw_attention",
    "generate",
    "generate_batch",
    "named_attention_maps",
    "prefill",
    "probabilities",
    "sample",
    "step",
    "stream",
    "stream_translation",
    "translate",
]
