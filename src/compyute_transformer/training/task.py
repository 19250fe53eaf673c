"""Task: what a batch, a loss and a metric are. The trainer knows time, a task knows language, or images.

A step of the trainer is   for part, weight in task.batch(): loss += task.loss_and_gradient(part, weight)
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, Protocol

import numpy as np

from ..backend import Array, to_device
from ..data.batches import IGNORE_INDEX, TokenBatches, validation_windows
from ..data.tokenizer import Tokenizer
from ..generation.generate import generate
from ..generation.read import evaluating
from ..models.gpt import GPT
from ..nn.module import Module
from ..ops.loss import cross_entropy, cross_entropy_backward, cross_entropy_forward
from .settings import TrainingSettings

__all__ = ["LanguageTask", "Parts", "Task", "split_batch", "validate_language"]

Parts = Sequence[tuple[Any, float]]
Pair = tuple[Array, Array]


class Task(Protocol):
    """What the trainer asks of a task. All of it is a function of the settings, the step and `state`."""

    @property
    def model(self) -> Module:
        """What is trained."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """How much a step sees, for the tokens per second."""
        ...

    def batch(self) -> Parts:
        """The next batch in parts, each with its weight in the loss of the step; the weights sum to one."""
        ...

    def loss_and_gradient(self, part: Any, weight: float) -> float:
        """Add weight times the gradient of a part's mean loss to the model's gradients; weight times that loss."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Metrics of the whole validation split, "loss" among them; empty where there is none. Changes no state."""
        ...

    def sample(self, seed: int) -> str | None:
        """Something that shows a person what the model has learned, or None. Changes no state."""
        ...

    def facts(self) -> Mapping[str, object]:
        """What is trained on what, for the head of a report."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values from which `load_state` goes on: where in the data, and where in the random numbers."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class LanguageTask:
    """Predict the next token: a GPT, random windows to train on, the whole validation text to be judged by.

    training_tokens, validation_tokens: 1-D integers. validation_tokens None: nothing is validated.
    A batch has accumulation · batch_size rows, so the data of a step do not depend on how it is cut.

    Raises CorpusError for texts too short, VocabularyError for a sample prompt that the tokenizer cannot encode.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        training_tokens: np.ndarray,
        validation_tokens: np.ndarray | None,
        settings: TrainingSettings,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.context_length = model.config.context_length
        rows = settings.accumulation * settings.batch_size
        self.batches = TokenBatches(training_tokens, rows, self.context_length, settings.seed)
        self.tokens_per_step = rows * self.context_length
        self.validation_tokens = validation_tokens
        self._facts = dict(facts or {})
        if validation_tokens is not None:
            validation_windows(validation_tokens, self.context_length, settings.batch_size)  # refuses a short one now
        tokenizer.encode(settings.sample_prompt)  # likewise

    def batch(self) -> Parts:
        """`accumulation` parts of `batch_size` windows, weighted by how many targets of each are scored."""
        x, y = (to_device(array, self.model.device) for array in self.batches.next())
        return split_batch(x, y, self.settings.accumulation)

    def loss_and_gradient(self, part: Pair, weight: float) -> float:
        """Cross-entropy of the next token, in nats."""
        x, y = part
        loss, saved = cross_entropy_forward(self.model(x), y)
        self.model.backward(cross_entropy_backward(weight, saved))
        return weight * float(loss)

    def validate(self) -> Mapping[str, float]:
        """See `validate_language`."""
        if self.validation_tokens is None:
            return {}
        return validate_language(self.model, self.tokenizer, self.validation_tokens, self.settings.batch_size)

    def sample(self, seed: int) -> str | None:
        """What the model writes after the sample prompt, with the prompt."""
        prompt, length = self.settings.sample_prompt, self.settings.sample_tokens
        return prompt + generate(self.model, self.tokenizer, prompt, max_new_tokens=length, seed=seed)

    def facts(self) -> Mapping[str, object]:
        """Corpus, tokens and vocabulary."""
        validation = 0 if self.validation_tokens is None else len(self.validation_tokens)
        return self._facts | {
            "training_tokens": len(self.batches.tokens),
            "validation_tokens": validation,
            "vocab_size": self.model.config.vocab_size,
        }

    def state(self) -> dict[str, Any]:
        """The index of the next batch, and the next draw of dropout."""
        dropout = self.model.generator
        return {
            "batch": self.batches.cursor,
            "dropout": {"seed": dropout.seed, "stream": dropout.stream, "offset": dropout.offset},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        dropout, self.batches.cursor = self.model.generator, state["batch"]
        dropout.seed, dropout.stream, dropout.offset = (state["dropout"][key] for key in ("seed", "stream", "offset"))


def split_batch(x: Array, y: Array, parts: int) -> Sequence[tuple[Pair, float]]:
    """A batch (B, …) in equal parts, each weighted by the share of the batch's scored targets that it holds.

    The mean over a batch is the mean of its parts' means only where all parts score equally many targets; with these
    weights it always is, and so is the gradient.
    """
    rows = len(x) // parts
    pairs = [(x[start : start + rows], y[start : start + rows]) for start in range(0, len(x), rows)]
    scored = [int((targets != IGNORE_INDEX).sum()) for _, targets in pairs]
    return [(pair, count / max(1, sum(scored))) for pair, count in zip(pairs, scored, strict=True)]


def validate_language(model: GPT, tokenizer: Tokenizer, tokens: np.ndarray, batch_size: int) -> dict[str, float]:
    """How surprised a model is by a text, in `eval()`: every token but the first is predicted exactly once.

    Returns loss, the mean in nats a token; bits_per_character, which compares models with different tokenizers; tokens
    and characters, how many were predicted.
    """
    nats, count = 0.0, 0
    with evaluating(model):
        for x, y in validation_windows(tokens, model.config.context_length, batch_size):
            scored = int((y != IGNORE_INDEX).sum())
            x, y = to_device(x, model.device), to_device(y, model.device)
            nats += scored * float(cross_entropy(model(x), y))
            count += scored
    characters = len(tokenizer.decode(tokens[1:]))
    return {
        "loss": nats / count,
        "bits_per_character": nats / characters / log(2),
        "tokens": count,
        "characters": characters,
    }
