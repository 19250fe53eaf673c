"""The mathematics: every op a forward directly over its backward, pure functions of arrays, for any array library."""

from .activation import gated_activation, gelu, relu, silu, softmax
from .attention import Mask, attention
from .dropout import dropout
from .embedding import class_token, embedding, patch_embedding
from .linear import linear
from .lora import lora
from .loss import cross_entropy
from .norm import layer_norm, rms_norm
from .position import learned_position, sinusoidal_position, sinusoids
from .rotary import rotary_position

__all__ = [
    "Mask",
    "attention",
    "class_token",
    "cross_entropy",
    "dropout",
    "embedding",
    "gated_activation",
    "gelu",
    "layer_norm",
    "learned_position",
    "linear",
    "lora",
    "patch_embedding",
    "relu",
    "rms_norm",
    "rotary_position",
    "silu",
    "sinusoidal_position",
    "sinusoids",
    "softmax",
]
