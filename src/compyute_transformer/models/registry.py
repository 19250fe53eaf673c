"""Architectures: every model by the name that settings and runs know it by, with its configuration."""

from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ..nn.module import Module
from .gpt import GPT, GPTConfig
from .transformer import Transformer, TransformerConfig
from .transformer_lm import TransformerLM, TransformerLMConfig
from .vit import ViT, ViTConfig

__all__ = ["ARCHITECTURES", "build_model"]

ARCHITECTURES: dict[str, tuple[Any, Callable[..., Module]]] = {
    "gpt": (GPTConfig, GPT),
    "vaswani": (TransformerLMConfig, TransformerLM),
    "encoder_decoder": (TransformerConfig, Transformer),
    "vit": (ViTConfig, ViT),
}


def build_model(config: Any, seed: int = 0) -> Any:
    """The model of a configuration. Raises ConfigError for anything else."""
    for kind, model in ARCHITECTURES.values():
        if kind is type(config):
            return model(config, seed)
    known = ", ".join(kind.__name__ for kind, _ in ARCHITECTURES.values())
    raise ConfigError(f"build_model: a configuration is one of {known}, got {type(config).__name__}. Make one of them.")
