"""LOGITS -> TEXT: everything between the numbers a model puts out and what a person reads.

sample    one token drawn from logits: temperature, top-k, top-p
pieces    tokens to text: whole characters, and nothing of a stop text
generate  the prompt is read, then token follows token
"""

from .generate import TextStream, generate, stream
from .sample import probabilities, sample

__all__ = ["TextStream", "generate", "probabilities", "sample", "stream"]
