"""The models that are proven: for each its configurations, a batch to show it, and its kernel in PyTorch.

A model added here is proven by every method of `models`, and beside PyTorch by `torch_models`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..arrays import Array
from ..errors import ConfigError
from ..models.gpt import GPT, GPTConfig
from ..models.transformer import Transformer, TransformerConfig
from ..models.transformer_lm import TransformerLM, TransformerLMConfig
from ..models.vit import ViT, ViTConfig
from ..ops.loss import IGNORE_INDEX
from .torch_modules import Tensor, torch_gpt
from .torch_vaswani import torch_encoder_decoder, torch_vaswani
from .torch_vit import random_images, torch_vit

__all__ = ["SUBJECTS", "Batch", "Subject", "subject_of"]

Batch: TypeAlias = tuple[tuple[Array, ...], Array]  # the inputs of a model's forward, and targets of its logits' rows


@dataclass(frozen=True)
class Subject:
    """A model to prove.

    model: built from a configuration and a seed. cases: configurations by name. batch: from a configuration, a
    generator, how many rows, and the model's dtype. kernel: the logits, from weights by path, a configuration, the inputs
    as tensors, and last what drops as the model will.
    """

    model: Callable[..., Any]
    cases: Mapping[str, Any]
    batch: Callable[[Any, np.random.Generator, int, Any], Batch]
    kernel: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """What its results are called."""
        return f"models.{self.model.__name__}"


def text_batch(config: Any, rng: np.random.Generator, batch_size: int, dtype: Any) -> Batch:
    """Random ids (B, T) as long as the context, and targets."""
    ids, targets = rng.integers(0, config.vocab_size, (2, batch_size, config.context_length))
    return (ids,), targets


def pairs_batch(config: TransformerConfig, rng: np.random.Generator, batch_size: int, dtype: Any) -> Batch:
    """Random source (B, S) and target (B, T), of different widths, and their lengths; padding is not scored."""
    S, T = config.context_length, config.context_length - 2
    source = rng.integers(0, config.vocab_size, (batch_size, S))
    target, targets = rng.integers(0, config.vocab_size, (2, batch_size, T))
    source_lengths, target_lengths = S - np.arange(batch_size) % S, T - np.arange(batch_size)[::-1] % T
    targets[np.arange(T) >= target_lengths[:, None]] = IGNORE_INDEX
    return (source, target, source_lengths, target_lengths), targets


SMALL: dict[str, Any] = {"vocab_size": 11, "context_length": 7, "embed_dim": 12, "num_heads": 3, "num_layers": 2}
GROUPED: dict[str, Any] = SMALL | {
    "num_heads": 6,
    "num_kv_heads": 2,
    "mlp_dim": 17,
    "dropout": 0.2,
    "activation": "gelu",
    "bias": False,
}

IMAGES: dict[str, Any] = {
    "image_height": 4,
    "image_width": 6,  # not square
    "channels": 3,
    "num_classes": 5,
    "patch_size": 2,
    "embed_dim": 12,
    "num_heads": 3,
    "num_layers": 2,
}

SUBJECTS: dict[type, Subject] = {
    GPTConfig: Subject(
        GPT,
        {
            "plain": GPTConfig(**SMALL),
            "dropout": GPTConfig(**SMALL, dropout=0.3),
            "everything": GPTConfig(**GROUPED, window=3, tie_word_embeddings=False),
        },
        text_batch,
        torch_gpt,
    ),
    TransformerLMConfig: Subject(
        TransformerLM,
        {
            "plain": TransformerLMConfig(**SMALL),
            "dropout": TransformerLMConfig(**SMALL, dropout=0.3, activation="gelu_tanh"),
            "everything": TransformerLMConfig(**GROUPED, window=3),
        },
        text_batch,
        torch_vaswani,
    ),
    TransformerConfig: Subject(
        Transformer,
        {
            "plain": TransformerConfig(**SMALL),
            "dropout": TransformerConfig(**SMALL, dropout=0.3, activation="gelu_tanh"),
            "everything": TransformerConfig(**GROUPED),
        },
        pairs_batch,
        torch_encoder_decoder,
    ),
    ViTConfig: Subject(
        ViT,
        {
            "plain": ViTConfig(**IMAGES),
            "dropout": ViTConfig(**IMAGES, dropout=0.3),
            "everything": ViTConfig(
                **IMAGES | {"channels": 1, "num_heads": 6},
                mlp_dim=17,
                dropout=0.2,
                bias=False,
                activation="gelu_tanh",
            ),
        },
        random_images,
        torch_vit,
    ),
}


def subject_of(given: Any) -> Subject:
    """The subject of a configuration, or of a model.

    Raises ConfigError for a model that has no kernel.
    """
    config = getattr(given, "config", given)
    if type(config) not in SUBJECTS:
        known = ", ".join(subject.name for subject in SUBJECTS.values())
        raise ConfigError(
            f"verify: a model is held against its kernel in PyTorch, and {type(config).__name__} names none. There are "
            f"{known}."
        )
    return SUBJECTS[type(config)]
