"""Architectures. Each file: a Config, a Model, its forward, and its backward as the mirror image."""

from .encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from .gpt import GPT, GPTConfig
from .language import LanguageModel
from .vaswani import VaswaniConfig, VaswaniDecoder
from .vit import ViT, ViTConfig

__all__ = [
    "GPT",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "GPTConfig",
    "LanguageModel",
    "VaswaniConfig",
    "VaswaniDecoder",
    "ViT",
    "ViTConfig",
]
