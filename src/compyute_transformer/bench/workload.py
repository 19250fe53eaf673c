"""Workload: a model, its data and its optimiser, as a preset and flags describe them; and our step of training.

    workload("shakespeare", {"dropout": 0.0}) -> Workload -> OurStep(workload)() -> the loss

The tokens are random: what a step costs does not depend on what the text says.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from ..backend import Array, use
from ..errors import ConfigError
from ..models.gpt import GPT, GPTConfig
from ..ops.loss import cross_entropy_backward, cross_entropy_forward
from ..optim import AdamW, clip_by_global_norm
from ..optim.clip import global_norm
from ..training.settings import Settings, TrainingSettings

__all__ = ["SIZES", "OurStep", "Workload", "workload"]

BATCHES = 4  # drawn before the race and used in turn, so that drawing them is no part of it

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
VOCABULARIES = {"gpt2": 50257}  # tinyshakespeare's otherwise
CHARACTERS = 65


@dataclass(frozen=True)
class Workload:
    """The shape of the model, and how it is trained. seed: of weights and tokens."""

    config: GPTConfig
    training: TrainingSettings

    @property
    def tokens(self) -> int:
        """How many a step sees."""
        return self.training.batch_size * self.config.context_length

    @property
    def shape(self) -> str:
        """In a few words, for a table."""
        c = self.config
        return (
            f"B {self.training.batch_size}, T {c.context_length}, C {c.embed_dim}, {c.num_heads} heads, "
            f"{c.num_layers} blocks, V {c.vocab_size}, dropout {c.dropout:g}"
        )

    def without_dropout(self) -> "Workload":
        """The same, and nothing dropped. Clipped in any case: the norm that clipping measures is compared."""
        training = replace(self.training, clip=self.training.clip or 1.0)
        return Workload(replace(self.config, dropout=0.0), training)

    def batches(self) -> list[tuple[Array, Array]]:
        """Random ids and targets, (B, T) each."""
        rng = np.random.default_rng([self.training.seed, 5])
        shape = (BATCHES, 2, self.training.batch_size, self.config.context_length)
        return [(x, y) for x, y in rng.integers(0, self.config.vocab_size, shape)]


def workload(size: str, overrides: Mapping[str, object] | None = None, vocab_size: int | None = None) -> Workload:
    """A size by its name, with some settings changed. Raises ConfigError for one that there is not, or cannot be."""
    if size not in SIZES:
        raise ConfigError(f"bench: a size is one of {', '.join(SIZES)}, got {size!r}.")
    preset, changes = SIZES[size]
    settings = Settings.resolve(preset, overrides={**changes, **(overrides or {})})
    return Workload(
        settings.model.config({"vocab_size": vocab_size or VOCABULARIES.get(size, CHARACTERS)}), settings.training
    )


class OurStep:
    """One step of training, as the trainer takes it: forward, loss, backward, clip, AdamW. Returns the loss.

    norm: the length of the last gradient, before it was clipped. twins: as `backend.use` has it.
    """

    def __init__(self, work: Workload, model: GPT | None = None, reference: bool = False) -> None:
        training = work.training
        self.model = model or GPT(work.config, training.seed)
        betas = (training.beta1, training.beta2)
        self.optimizer = AdamW(self.model.flat, training.learning_rate, betas, weight_decay=training.weight_decay)
        self.batches, self.index = work.batches(), 0
        self.clip, self.reference, self.norm = training.clip, reference, 0.0

    def __call__(self) -> float:
        """Take the step."""
        x, y = self.batches[self.index % BATCHES]
        self.index += 1
        twins: AbstractContextManager[None] = use("reference") if self.reference else nullcontext()
        with twins:
            self.model.zero_grad()
            loss, saved = cross_entropy_forward(self.model(x), y)
            self.model.backward(cross_entropy_backward(1.0, saved))
            gradient = self.model.flat.grad
            self.norm = global_norm(gradient) if self.clip is None else clip_by_global_norm(gradient, self.clip)
            self.optimizer.step()
        return float(loss)
