"""Parameters and an op: modules know weights, and no mathematics of their own."""

from .attention import MultiHeadAttention
from .block import CrossBlock, PostNormBlock, PreNormBlock
from .dropout import Dropout, share_generator
from .embedding import ClassToken, Embedding, PatchEmbedding
from .feed_forward import FeedForward
from .linear import Linear
from .loss import CrossEntropyLoss
from .module import Module, ModuleList, evaluating
from .norm import LayerNorm
from .observer import Observer, observe
from .parameter import Parameter
from .position import LearnedPosition, SinusoidalPosition

__all__ = [
    "ClassToken",
    "CrossBlock",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "FeedForward",
    "LayerNorm",
    "LearnedPosition",
    "Linear",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "Observer",
    "Parameter",
    "PatchEmbedding",
    "PostNormBlock",
    "PreNormBlock",
    "SinusoidalPosition",
    "evaluating",
    "observe",
    "share_generator",
]
