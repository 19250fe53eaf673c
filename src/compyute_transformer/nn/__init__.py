"""Parameters and an op: modules know weights, and no mathematics of their own."""

from .._earlier_names import earlier_names
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
from .quantize import quantize_weights
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
    "quantize_weights",
    "recompute_blocks",
    "share_generator",
]

__getattr__ = earlier_names(
    __name__,
    {},
    elsewhere={
        **dict.fromkeys(("GELU", "ReLU", "SiLU", "Softmax"), "a function of ops, and an option of FeedForward"),
        **dict.fromkeys(("Sequential", "ModuleDict"), "ModuleList, and a forward of your own that calls its modules"),
        **dict.fromkeys(("TransformerEncoderLayer",), "PostNormBlock, or PreNormBlock"),
        **dict.fromkeys(("TransformerDecoderLayer",), "CrossBlock"),
        **dict.fromkeys(("Transformer", "TransformerDecoder", "TransformerEncoder"), "models.Transformer"),
        "DataParallel": "parallel.DataParallel, or compyute train --processes",
        "MultiheadAttention": "MultiHeadAttention",
        "ParameterList": "a Parameter for each, assigned to a name of its own",
        "functional": "ops: every op a forward above its backward",
        "utils": "optim.clip_grad_norm_ for the norm of gradients, data for batches",
    },
)
