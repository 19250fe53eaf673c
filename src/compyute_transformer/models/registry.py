"""The models: one record each, from which everything that lists models is derived.

The settings and the command (`--architecture`), the verification, the benchmarks and the documentation read `MODELS`.
A new decoder-only model is two files: `models/NAME.py`, with a configuration and a model, and its record here.

A record needs:

    name            the word for it in settings, in the command and in saved runs
    config          a frozen dataclass of plain values; the fields that all models share have the names of `GPTConfig`
    model           the class, built as `model(config, seed)`
    task            what it learns: "language", "masked", "translation" or "images", which decides what forward is given
    description     one line for help texts and tables
    variants        options of the small configurations that are verified; by default without and with dropout
    example_batch   a batch for a configuration; by default that of the task
    hugging_face    the name of the same architecture in Hugging Face Transformers (`model_type`), if there is one

A PyTorch version of the same model, to compare with, is optional; `verify/torch/` finds it by the record's name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from ..arrays import Array
from ..errors import ConfigError
from ..ops.loss import IGNORE_INDEX
from .bert import Bert, BertConfig
from .gpt import GPT, GPTConfig
from .llama import Llama, LlamaConfig
from .transformer import Transformer, TransformerConfig
from .transformer_lm import TransformerLM, TransformerLMConfig
from .vit import ViT, ViTConfig

__all__ = ["MODELS", "Batch", "ModelRecord", "Task", "build_model", "record_of"]

Task: TypeAlias = Literal["language", "masked", "translation", "images"]
Batch: TypeAlias = tuple[tuple[Array, ...], Array]  # the inputs of forward, and one target for each row of logits


# --- what a task decides -------------------------------------------------------------------------------------------


def text_batch(config: Any, rng: np.random.Generator, batch_size: int) -> Batch:
    """Return random ids (B, T) as long as the context, and targets (B, T)."""
    ids, targets = rng.integers(0, config.vocab_size, (2, batch_size, config.context_length))
    return (ids,), targets


def masked_batch(config: Any, rng: np.random.Generator, batch_size: int) -> Batch:
    """Return random ids (B, T), the lengths of the texts (B), types (B, T), and targets (B, T) at some positions."""
    T = config.context_length
    ids, targets = rng.integers(0, config.vocab_size, (2, batch_size, T))
    types = rng.integers(0, config.num_token_types, (batch_size, T))
    lengths = T - np.arange(batch_size) % T
    targets[(np.arange(T) >= lengths[:, None]) | (rng.random((batch_size, T)) < 0.4)] = IGNORE_INDEX
    return (ids, lengths, types), targets


def pairs_batch(config: Any, rng: np.random.Generator, batch_size: int) -> Batch:
    """Return random source (B, S), target (B, T) and their lengths; padded targets are ignored by the loss."""
    S, T = config.context_length, config.context_length - 2
    source = rng.integers(0, config.vocab_size, (batch_size, S))
    target, targets = rng.integers(0, config.vocab_size, (2, batch_size, T))
    source_lengths, target_lengths = S - np.arange(batch_size) % S, T - np.arange(batch_size)[::-1] % T
    targets[np.arange(T) >= target_lengths[:, None]] = IGNORE_INDEX
    return (source, target, source_lengths, target_lengths), targets


def images_batch(config: Any, rng: np.random.Generator, batch_size: int) -> Batch:
    """Return random float32 images (B, height, width, channels), and their classes (B)."""
    images = rng.normal(size=(batch_size, config.image_height, config.image_width, config.channels))
    return (images.astype(np.float32),), rng.integers(0, config.num_classes, batch_size)


SMALL_TEXT: dict[str, Any] = {"vocab_size": 11, "context_length": 7, "embed_dim": 12, "num_heads": 3, "num_layers": 2}
SMALL_IMAGES: dict[str, Any] = {
    "image_height": 4,
    "image_width": 6,  # not square
    "channels": 3,
    "num_classes": 5,
    "patch_size": 2,
    "embed_dim": 12,
    "num_heads": 3,
    "num_layers": 2,
}
SMALL: dict[Task, dict[str, Any]] = {
    "language": SMALL_TEXT,
    "masked": SMALL_TEXT,
    "translation": SMALL_TEXT,
    "images": SMALL_IMAGES,
}
BATCHES: dict[Task, Callable[[Any, np.random.Generator, int], Batch]] = {
    "language": text_batch,
    "masked": masked_batch,
    "translation": pairs_batch,
    "images": images_batch,
}


# --- the records ---------------------------------------------------------------------------------------------------


def dropout_variants() -> dict[str, dict[str, Any]]:
    """Return the variants of a model that names none: without and with dropout."""
    return {"plain": {}, "dropout": {"dropout": 0.3}}


@dataclass(frozen=True)
class ModelRecord:
    """Everything that the library must know about a model; the fields are explained at the top of this file."""

    name: str
    config: Any
    model: Any
    task: Task
    description: str
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dropout_variants)
    example_batch: Callable[[Any, np.random.Generator, int], Batch] | None = None
    hugging_face: str | None = None

    def small_configs(self) -> dict[str, Any]:
        """Return small configurations by name, one for each variant, in which every part of the model takes part."""
        return {name: self.config(**(SMALL[self.task] | dict(options))) for name, options in self.variants.items()}

    def batch(self, config: Any, rng: np.random.Generator, batch_size: int) -> Batch:
        """Return a random batch for a configuration."""
        return (self.example_batch or BATCHES[self.task])(config, rng, batch_size)


GROUPED: dict[str, Any] = {
    "num_heads": 6,
    "num_kv_heads": 2,
    "mlp_dim": 17,
    "dropout": 0.2,
    "activation": "gelu",
    "bias": False,
}

RECORDS = (
    ModelRecord(
        "gpt",
        GPTConfig,
        GPT,
        "language",
        "decoder-only language model with pre-norm blocks and learned positions (GPT-2)",
        variants=dropout_variants()
        | {"everything": GROUPED | {"window": 3, "tie_word_embeddings": False, "norm_eps": 1e-3}},
        hugging_face="gpt2",
    ),
    ModelRecord(
        "llama",
        LlamaConfig,
        Llama,
        "language",
        "decoder-only language model with RMS norms, rotary positions and SwiGLU (Llama, Mistral, Qwen)",
        variants=dropout_variants()
        | {
            "everything": {
                "num_heads": 6,
                "num_kv_heads": 2,
                "head_dim": 4,  # not embed_dim / num_heads
                "mlp_dim": 17,
                "dropout": 0.2,
                "gate_activation": "gelu",
                "attn_bias": True,
                "attn_out_bias": True,
                "mlp_bias": True,
                "qk_norm": True,
                "norm_eps": 1e-3,
                "window": 3,
                "tie_word_embeddings": False,
                "rope_theta": 100.0,
                "rope_scaling": "yarn",
                "rope_factor": 2.0,
                "rope_original_length": 20,
                "rope_beta_fast": 3.0,
                "rope_beta_slow": 0.3,
            },
        },
        hugging_face="llama",
    ),
    ModelRecord(
        "transformer_lm",
        TransformerLMConfig,
        TransformerLM,
        "language",
        "decoder-only language model with post-norm blocks and sinusoidal positions (Vaswani et al. 2017)",
        variants={
            "plain": {},
            "dropout": {"dropout": 0.3, "activation": "gelu_tanh"},
            "everything": GROUPED | {"window": 3},
        },
    ),
    ModelRecord(
        "bert",
        BertConfig,
        Bert,
        "masked",
        "encoder of texts that predicts hidden tokens from both sides (BERT)",
        variants={
            "plain": {"norm_eps": 1e-5},
            "dropout": {"dropout": 0.3},
            "everything": {
                "num_heads": 6,
                "mlp_dim": 17,
                "num_token_types": 3,
                "dropout": 0.2,
                "activation": "gelu_tanh",
                "norm_eps": 1e-3,
                "tie_word_embeddings": False,
            },
        },
        hugging_face="bert",
    ),
    ModelRecord(
        "transformer",
        TransformerConfig,
        Transformer,
        "translation",
        "encoder-decoder with post-norm blocks and sinusoidal positions (Vaswani et al. 2017)",
        variants={"plain": {}, "dropout": {"dropout": 0.3, "activation": "gelu_tanh"}, "everything": GROUPED},
    ),
    ModelRecord(
        "vit",
        ViTConfig,
        ViT,
        "images",
        "vision transformer that classifies images by a class token (Dosovitskiy et al. 2021)",
        variants=dropout_variants()
        | {
            "everything": {
                "channels": 1,
                "num_heads": 6,
                "mlp_dim": 17,
                "dropout": 0.2,
                "bias": False,
                "activation": "gelu_tanh",
                "norm_eps": 1e-3,
            }
        },
        hugging_face="vit",
    ),
)
MODELS: dict[str, ModelRecord] = {record.name: record for record in RECORDS}


def record_of(given: Any) -> ModelRecord:
    """Return the record of a configuration or of a model.

    Raises:
        ConfigError: no record names the configuration.
    """
    config = getattr(given, "config", given)
    for record in MODELS.values():
        if record.config is type(config):
            return record
    known = ", ".join(record.config.__name__ for record in MODELS.values())
    raise ConfigError(
        f"models: a configuration is one of {known}, got {type(config).__name__}. Make one of them, or give your model "
        "a record in models/registry.py."
    )


def build_model(config: Any, seed: int = 0) -> Any:
    """Build the model of a configuration. Raises ConfigError for a configuration that no record names."""
    return record_of(config).model(config, seed)
