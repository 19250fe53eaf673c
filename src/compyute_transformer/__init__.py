"""Transformers whose every forward and backward pass is written by hand: readable, proven, fast.

The flow, package by package:

    text        corpus = load_corpus()                                   data/
    tokens      ids = tokenizer.encode(corpus.text)                      data/
    embedding   x = embedding(ids, weight)                               ops/, nn/
    blocks      x = x + attention(norm(x)); x = x + feed_forward(norm(x))
    logits      logits = model(ids)                                      models/
    loss        loss, saved = cross_entropy_forward(logits, targets)     ops/loss.py
    gradients   model.backward(cross_entropy_backward(1.0, saved))       every forward's mirror
    weights     AdamW(model.flat).step()                                 optim/, and again from the top: training/
"""

import os

# After a product of NumPy's, the threads of its BLAS look for more work for 2^26 cycles, some 20 ms, on the cores that
# the next kernel needs: a small model's step took three times as long. Read when NumPy loads, so before the first
# import of it; 2^18 cycles are a tenth of a millisecond.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")

from . import errors, models, nn, ops, optim
from ._version import __version__ as __version__
from .dispatch import use_kernels
from .models import GPT, GPTConfig, Transformer, TransformerConfig, TransformerLM, TransformerLMConfig, ViT, ViTConfig
from .nn import Module, MultiHeadAttention
from .ops import Mask
from .optim import SGD, AdamW
from .random import seed

__all__ = [
    "GPT",
    "SGD",
    "AdamW",
    "GPTConfig",
    "Mask",
    "Module",
    "MultiHeadAttention",
    "Transformer",
    "TransformerConfig",
    "TransformerLM",
    "TransformerLMConfig",
    "ViT",
    "ViTConfig",
    "errors",
    "models",
    "nn",
    "ops",
    "optim",
    "seed",
    "use_kernels",
]
