"""Start: the model that a run goes on from, a published one or that of another run, and what of it is trained.

    all weights                      by default
    the last blocks                  train_blocks; what stands behind them, but no matrix shared with the embedding
    LoRA beside the frozen weights   lora_rank; with train_blocks, of the last blocks

The folder of the run keeps all that it needs of that model, so that it works without it:

    config.json           the configuration of the model, under "start"
    frozen.safetensors    the weights that are not trained; checkpoints hold the others
    published/            the files beside the weights of a published model, such as its chat template
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ... import _io
from ...arrays import Array, to_numpy
from ...data.text.bpe import BytePairTokenizer
from ...data.text.tokenizer import Tokenizer
from ...errors import CheckpointError, ConfigError, DataError
from ...exchange.complete import Pretrained
from ...exchange.lora import add_lora
from ...models.registry import record_of
from ...nn import init
from ...nn.module import Module
from ..settings.sections import ModelSettings
from ..settings.settings import Settings, TrainingSettings
from ..tasks.chat import PUBLISHED, ChatEncoder
from ..tasks.classifier import TextClassifier, without_head
from ..tasks.labels import LabelEncoder
from .config import RunConfig

__all__ = ["FROZEN", "PUBLISHED", "Start", "adapt", "built", "frozen_weights"]

FROZEN = "frozen.safetensors"
BEHIND = ("norm", "transform", "transform_norm", "head")  # the blocks, in a decoder or in a BERT
CHANGEABLE = ("context_length", "dropout", "attn_implementation")  # of the settings of a model that is there already


class Start:
    """A model to go on from, as `start_from` makes it.

    source: a published model (a directory, a GGUF file, the name of a package) or a run's folder. opened: the same as a
    `Pretrained` or a `LoadedRun`.
    """

    def __init__(self, source: str | Path, opened: Any) -> None:
        self.source, self._opened = str(source), opened

    @property
    def model(self) -> Any:
        """The model."""
        return self._opened.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises DataError for one that has more tokens than the model."""
        tokenizer: Tokenizer = self._opened.tokenizer
        most = getattr(self.model.config, "vocab_size", 0)
        if tokenizer.vocab_size > most:
            raise DataError(
                f"start_run: the tokenizer of {self.source} has {tokenizer.vocab_size} tokens, and its model {most}. "
                "Give the tokenizer.json that belongs to the model."
            )
        return tokenizer

    def encoder(self, record: str, data: Any) -> Any:
        """Return the encoder of a task: the tokenizer, with the chat template or with the labels of the data."""
        if record == "labels":
            return LabelEncoder(self.tokenizer, data.labels)
        if record != "chat":
            return self.tokenizer
        if not isinstance(self._opened, Pretrained):
            raise ConfigError(
                f"start_run: conversations are rendered by the chat template of a published model, got the run "
                f"{self.source}. Give the model that it went on from, or convert the run: compyute convert RUN DIR"
            )
        return ChatEncoder(self.tokenizer, self._opened.chat_template)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the model decides, for `Settings.resolve`."""
        record, config = record_of(self.model.config), self.model.config
        if record.task not in ("language", "masked") or isinstance(self.model, TextClassifier):
            raise ConfigError(
                "start_run: a run goes on from a model that predicts tokens, got one that learned other answers. Give "
                "a GPT, a Llama or a BERT."
            )
        tokens: dict[str, Any] = {"tokenizer": "characters"}
        if isinstance(self.tokenizer, BytePairTokenizer):
            tokens = {"tokenizer": "bpe", "vocab_size": self.tokenizer.vocab_size}
        known = {entry.name for entry in fields(ModelSettings)} & {entry.name for entry in fields(config)}
        sizes = {name: getattr(config, name) for name in known if name not in CHANGEABLE}
        has_head = getattr(config, "masked_head", True)
        return {"architecture": record.name, "task": record.task if has_head else "labels"} | tokens | sizes

    def resolve(self, preset: str, toml_path: Any = None, overrides: Any = None) -> Settings:
        """Return the settings of a run that goes on from this model; see `Settings.resolve`.

        Raises ConfigError for a size that the model has already.
        """
        given, own = dict(overrides or {}), self.settings()
        sizes = {entry.name for entry in fields(ModelSettings)} - set(CHANGEABLE)
        if other := [name for name in given if name in sizes or name in ("tokenizer", "vocab_size")]:
            raise ConfigError(
                f"start_run: a run that goes on from {self.source} has its sizes and its tokenizer, got "
                f"{', '.join(other)}. Leave them out, or start without it."
            )
        most, length = self.model.config.context_length, given.get("context_length")
        if length is not None and length > most:
            raise ConfigError(f"start_run: context_length is at most that of {self.source}, {most}, got {length}.")
        settings = Settings.resolve(preset, toml_path, {**own, **given})
        if settings.data.kind == "masked" and not getattr(self.model.config, "masked_head", True):
            raise ConfigError(
                f"start_run: hidden tokens are predicted by a BERT with a head for them, and {self.source} has none. "
                "Give it labeled texts, or give another model."
            )
        if settings.model.context_length > most:
            settings = settings.with_overrides({"context_length": most})
        return settings

    def describe(self) -> dict[str, Any]:
        """Return what config.json keeps of the model."""
        known = {"hugging_face": getattr(self.model, "hugging_face", {})}
        source = os.path.abspath(self.source) if os.path.exists(self.source) else self.source
        return {"source": source, "config": asdict(self.model.config)} | known

    def prepared(self, config: RunConfig) -> Any:
        """Return the model of a run that begins, with these weights, of which some are frozen."""
        weights = {name: parameter.data for name, parameter in self.model.named_parameters()}
        return built(config, weights)

    def save(self, folder: Path, model: Module) -> None:
        """Write what a run needs beside its checkpoints. model: the one that is trained. Raises OSError."""
        frozen = {name: to_numpy(p.data) for name, p in model.named_parameters() if not p.requires_grad}
        if frozen:
            _io.replace_file(folder / FROZEN, lambda path: path.write_bytes(_io.array_bytes(frozen)))
        if isinstance(self._opened, Pretrained):
            self._opened.save_beside(folder / PUBLISHED)


def adapt(model: Any, settings: TrainingSettings) -> Any:
    """Freeze the weights that are not trained, and add LoRA where the settings say so. Return the model.

    Raises:
        ConfigError: more blocks than the model has, or targets that name no matrix.
    """
    last = settings.train_blocks
    if last is not None and last > len(model.blocks):
        most = len(model.blocks)
        raise ConfigError(f"start_run: train_blocks is at most {most}, the blocks of the model, got {last}.")
    chosen = range(len(model.blocks))[-last:] if last is not None else None
    if settings.lora_rank is not None:
        targets = [name.strip() for name in settings.lora_targets.split(",")]
        return add_lora(model, settings.lora_rank, settings.lora_alpha, targets, blocks=chosen, seed=settings.seed)
    if chosen is not None:
        shared = {id(p) for p in model.token_embedding.parameters()}
        model.requires_grad_(False)
        behind = [getattr(model, name) for name in BEHIND if hasattr(model, name)]
        for part in [*(model.blocks[i] for i in chosen), *behind]:
            for parameter in part.parameters():
                parameter.requires_grad = id(parameter) not in shared
    return model


def built(config: RunConfig, weights: Mapping[str, Array] | None = None) -> Any:
    """Return the model of a run that goes on from another one; without weights, those will be read."""
    own, settings = config.model, config.settings
    learns_labels = settings.data.record == "labels"
    own = without_head(own) if learns_labels else own
    with init.skipped():
        model = record_of(own).model(own, settings.training.seed)
    if weights is not None:
        model.load_state_dict({name: weights[name] for name in model.state_dict()} if learns_labels else weights)
    model.hugging_face = config.start.get("hugging_face", {})
    model = adapt(model, settings.training)
    if learns_labels:
        model = TextClassifier(model, len(config.shape["labels"]), settings.training.seed)
    model.training_length = settings.model.context_length
    return model


def frozen_weights(folder: Path, model: Module) -> dict[str, np.ndarray]:
    """Return the frozen weights of a run. Raises CheckpointError where they are not those of its model."""
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if not names:
        return {}
    try:
        found = safetensors.numpy.load_file(folder / FROZEN)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"load_run: {folder / FROZEN} holds the weights that are not trained; it cannot be read: {error}. "
            "Restore it from a copy."
        ) from error
    if set(found) != names:
        raise CheckpointError(f"load_run: {folder / FROZEN} must hold the frozen weights of the model. Restore it.")
    return found
