"""Workload: a model, its data and its optimizer, as a preset and flags describe them; and our training step.

    workload("shakespeare", {"dropout": 0.0}) -> Workload -> OurStep(workload)() -> the loss

The data are random, because the cost of a step does not depend on them. A model is measured once it has a record in
`models.registry`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..arrays import Array, to_device
from ..dispatch import use_kernels
from ..errors import ConfigError
from ..models.bert import BertConfig
from ..models.gpt import GPTConfig
from ..models.registry import MODELS, Task
from ..models.transformer import TransformerConfig
from ..models.vit import ViTConfig
from ..ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from ..optim import AdamW, clip_grad_norm_, decay_groups
from ..optim.clip import global_norm, gradients_of
from ..training.settings.settings import Settings, TrainingSettings

__all__ = ["MODEL_CASES", "SIZES", "STEP_SIZES", "Batch", "ModelCase", "OurStep", "Workload", "workload"]

BATCHES = 4  # made before anything is timed, and used in turn

Batch: TypeAlias = tuple[tuple[Array, ...], Array]  # the inputs of a model's forward, and targets of its logits' rows

# Name -> the preset it starts from, and what is different: a batch that a CPU can take, another shape.
SIZES: dict[str, tuple[str, dict[str, object]]] = {
    "nano": ("nano", {}),
    "cpu": ("cpu", {}),
    "shakespeare": ("shakespeare", {"batch_size": 16}),
    "seed": ("seed", {"batch_size": 16, "dropout": 0.1}),  # as the seed's own benchmark
    "gpt2": (
        "seed",
        {
            "context_length": 1024,
            "embed_dim": 768,
            "num_heads": 12,
            "num_layers": 12,
            "batch_size": 1,
            "dropout": 0.0,
            "clip": 1.0,
            "weight_decay": 0.1,
        },
    ),
}
STEP_SIZES: dict[str, tuple[str, dict[str, object]]] = SIZES | {  # what only a step is timed of
    "vaswani": ("translation", {"batch_size": 16}),
    "vit": ("images", {"embed_dim": 192, "num_heads": 3, "num_layers": 6, "batch_size": 32}),
}
CHARACTERS = 65  # tinyshakespeare's
DATA: dict[str, dict[str, int]] = {
    "gpt2": {"vocab_size": 50257},
    "vaswani": {"vocab_size": 4000},
    "vit": {"image_height": 32, "image_width": 32, "channels": 3, "num_classes": 10},
}


@dataclass(frozen=True)
class Workload:
    """The configuration of the model and the settings of its training."""

    config: Any
    training: TrainingSettings

    @property
    def model_case(self) -> "ModelCase":
        """What the benchmark knows of the model."""
        return MODEL_CASES[type(self.config)]

    @property
    def tokens(self) -> int:
        """The number of tokens in a step; the number of images, for a model of images."""
        return self.training.batch_size * self.model_case.items(self.config)

    @property
    def shape(self) -> str:
        """The size of the work, for a table."""
        c = self.config
        return (
            f"B {self.training.batch_size}, {self.model_case.lengths(c)}, C {c.embed_dim}, {c.num_heads} heads, "
            f"{c.num_layers} blocks, dropout {c.dropout:g}"
        )

    def without_dropout(self) -> "Workload":
        """Return the same work without dropout, and with clipping, whose gradient norm is compared."""
        training = replace(self.training, clip=self.training.clip or 1.0)
        return Workload(replace(self.config, dropout=0.0), training)

    def batches(self) -> list[Batch]:
        """Return random inputs and targets."""
        rng = np.random.default_rng([self.training.seed, 5])
        return [self.model_case.batch(self.config, rng, self.training.batch_size) for _ in range(BATCHES)]


@dataclass(frozen=True)
class ModelCase:
    """What the benchmark knows of a model.

    model: our class. batch: makes a batch from a configuration, a generator and the number of rows. torch: the class of
    the same model in PyTorch, "module:Class" of this package; it is imported only where PyTorch is installed. items,
    unit: how many items of which unit a row holds. lengths: the shape of a row, for a table.
    """

    model: Callable[..., Any]
    torch: str | None
    batch: Callable[[Any, np.random.Generator, int], Batch]
    items: Callable[[Any], int]
    lengths: Callable[[Any], str]
    unit: str = "tokens/s"


def text_batch(config: GPTConfig, rng: np.random.Generator, rows: int) -> Batch:
    """Return ids and targets, (B, T) each."""
    x, y = rng.integers(0, config.vocab_size, (2, rows, config.context_length))
    return (x,), y


def masked_batch(config: BertConfig, rng: np.random.Generator, rows: int) -> Batch:
    """Return ids, and as targets the ids of a seventh of the positions, (B, T) each."""
    x = rng.integers(0, config.vocab_size, (rows, config.context_length))
    return (x,), np.where(rng.random(x.shape) < 1 / 7, x, IGNORE_INDEX)


def pairs_batch(config: TransformerConfig, rng: np.random.Generator, rows: int) -> Batch:
    """Return sources, targets and the lengths of sources, from half the context to all of it. Padding is ignored."""
    L = config.context_length
    source, target, targets = rng.integers(0, config.vocab_size, (3, rows, L))
    source_lengths, target_lengths = rng.integers(L // 2 + 1, L + 1, (2, rows))
    targets[np.arange(L) >= target_lengths[:, None]] = IGNORE_INDEX
    return (source, target, source_lengths), targets


def images_batch(config: ViTConfig, rng: np.random.Generator, rows: int) -> Batch:
    """Return images of noise (B, height, width, channels), and their classes (B)."""
    images = rng.normal(size=(rows, config.image_height, config.image_width, config.channels))
    return (images.astype(np.float32),), rng.integers(0, config.num_classes, rows)


# batch, items, lengths and unit of each task
TASKS: dict[Task, tuple[Any, ...]] = {
    "language": (text_batch, lambda c: c.context_length, lambda c: f"T {c.context_length}, V {c.vocab_size}"),
    "masked": (masked_batch, lambda c: c.context_length, lambda c: f"T {c.context_length}, V {c.vocab_size}"),
    "translation": (
        pairs_batch,
        lambda c: 2 * c.context_length,
        lambda c: f"S {c.context_length}, T {c.context_length}, V {c.vocab_size}",
    ),
    "images": (
        images_batch,
        lambda c: 1,
        lambda c: f"{c.image_height} × {c.image_width} × {c.channels} pixels, patches of {c.patch_size}",
        "images/s",
    ),
}
TORCH = {  # the PyTorch version of a model, by the name of its record
    "gpt": "torch_gpt:TorchGPT",
    "transformer": "torch_vaswani:TorchTransformer",
    "vit": "torch_vit:TorchViT",
}
MODEL_CASES: dict[type, ModelCase] = {
    record.config: ModelCase(record.model, TORCH.get(record.name), *TASKS[record.task]) for record in MODELS.values()
}


def workload(size: str, overrides: Mapping[str, object] | None = None, vocab_size: int | None = None) -> Workload:
    """Return a workload by its name, with some settings changed. Raise ConfigError for an unknown or invalid one."""
    if size not in STEP_SIZES:
        raise ConfigError(f"bench: a preset must be one of {', '.join(STEP_SIZES)}, got {size!r}.")
    preset, changes = STEP_SIZES[size]
    settings = Settings.resolve(preset, overrides={**changes, **(overrides or {})})
    if vocab_size is not None and settings.data.kind == "images":
        raise ConfigError(
            f"bench: {size} reads images and has no vocabulary, got vocab_size {vocab_size}. Leave it out."
        )
    data = DATA.get(size, {"vocab_size": CHARACTERS}) | ({} if vocab_size is None else {"vocab_size": vocab_size})
    return Workload(settings.model.config(data), settings.training)


class OurStep:
    """A training step as the trainer takes it: forward, loss, backward, clip, AdamW. A call returns the loss.

    norm: the norm of the last gradient before clipping. reference: run without kernels.
    """

    def __init__(self, work: Workload, model: Any = None, reference: bool = False) -> None:
        training = work.training
        self.model = (model or work.model_case.model(work.config, training.seed)).to(training.device)
        betas = (training.beta1, training.beta2)
        self.optimizer = AdamW(decay_groups(self.model, training.weight_decay), training.learning_rate, betas)
        self.index = 0
        self.batches = [
            (tuple(to_device(x, training.device) for x in inputs), to_device(targets, training.device))
            for inputs, targets in work.batches()
        ]
        self.clip, self.label_smoothing = training.clip, training.label_smoothing
        self.reference, self.norm = reference, 0.0

    def __call__(self) -> float:
        """Take the step."""
        inputs, targets = self.batches[self.index % BATCHES]
        self.index += 1
        kernels: AbstractContextManager[None] = use_kernels("reference") if self.reference else nullcontext()
        with kernels:
            self.optimizer.zero_grad()
            loss, saved = cross_entropy_forward(self.model(*inputs), targets, label_smoothing=self.label_smoothing)
            self.model.backward(cross_entropy_backward(1.0, saved, overwrite=True))
            parameters = self.optimizer.parameters
            norm = (
                global_norm(*gradients_of(parameters)) if self.clip is None else clip_grad_norm_(parameters, self.clip)
            )
            self.norm = norm
            self.optimizer.step()
        return float(loss)
