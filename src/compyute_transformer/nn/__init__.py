"""Parameters and an op: modules know weights, and no mathematics of their own."""

from .attention import MultiHeadAttention
from .block import CrossBlock, PostNormBlock, PreNormBlock
from .dropout import Dropout, share_generator
from .embedding import ClassToken, Embedding, PatchEmbedding
from .feed_forward import FeedForward, GatedFeedForward
from .linear import Linear
from .lora import LoRA, LoRAAttention, LoRALinear
from .loss import CrossEntropyLoss
from .module import Module, ModuleList, evaluating
from .norm import LayerNorm, RMSNorm
from .observer import Observer, observe
from .parameter import Parameter
from .position import LearnedPosition, RotaryPosition, SinusoidalPosition
from .recompute import Block, recompute_blocks

__all__ = [
    "Block",
    "ClassToken",
    "CrossBlock",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "LearnedPosition",
    "Linear",
    "LoRA",
    "LoRAAttention",
    "LoRALinear",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "Observer",
    "Parameter",
    "PatchEmbedding",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "RotaryPosition",
    "SinusoidalPosition",
    "evaluating",
    "observe",
    "recompute_blocks",
    "share_generator",
]
