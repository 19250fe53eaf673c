"""Architectures. Each file: a Config, a Model, its forward, and its backward as the mirror image."""

from .gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
