"""Masked: predict hidden tokens of a text from both sides."""

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

import numpy as np

from ...arrays import to_device, to_numpy
from ...data.sources import summary
from ...data.text.batches import IGNORE_INDEX, validation_windows
from ...data.text.bpe import BytePairTokenizer
from ...data.text.corpus import Corpus
from ...data.text.masked import MaskedBatches, hide_tokens, masked_windows
from ...data.text.tokenizer import Tokenizer
from ...errors import ConfigError
from ...generation.decode import evaluating
from ...ops.loss import cross_entropy
from ...parallel import shared
from ...random import CORPUS, RandomKey
from ..settings.settings import Settings, TrainingSettings
from .language import LanguageRecord, held_out, window_of
from .task import SupervisedTask, TaskEvaluation

__all__ = ["MASKED", "MaskedTask", "evaluate_masked", "mask_of"]

SHOWN = 64  # tokens of a sample
MASK_TOKENS = ("[MASK]", "<mask>")
HIDDEN = "_"  # how a hidden token is shown


def mask_of(tokenizer: Tokenizer) -> int:
    """Return the id of the mask token: the tokenizer's own, or the one after all of its tokens."""
    found = [tokenizer.id_of(name) for name in MASK_TOKENS] if isinstance(tokenizer, BytePairTokenizer) else []
    return next((token for token in found if token is not None), tokenizer.vocab_size)


class MaskedTask(SupervisedTask):
    """Predict hidden tokens: random windows of the training text, evaluated on the validation text.

    model: Bert, or another that turns ids (B, T) and lengths (B) into logits (B, T, V), with a row for the mask token.
    validation_tokens None: there is no validation.

    Raises CorpusError for texts too short.
    """

    unit = "tokens"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        training_tokens: np.ndarray,
        validation_tokens: np.ndarray | None,
        settings: TrainingSettings,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        rows, length = settings.accumulation * settings.batch_size, window_of(model)
        mask, most = mask_of(tokenizer), model.config.vocab_size
        if mask >= most:
            raise ConfigError(
                f"MaskedTask: a mask token has a row in the model, but the tokenizer has none, and the model {most} "
                f"rows for its {tokenizer.vocab_size} tokens. Give a BERT with its own tokenizer."
            )
        batches = MaskedBatches(training_tokens, rows, length, mask, settings.seed, tokenizer.vocab_size)
        super().__init__(model, batches, settings)
        self.tokenizer = tokenizer
        self.units_per_step = rows * length
        self.training_tokens, self.validation_tokens = training_tokens, validation_tokens
        self._facts = dict(facts or {})
        if validation_tokens is not None:
            validation_windows(validation_tokens, length, settings.batch_size)  # refuses one that is too short

    def validate(self) -> Mapping[str, float]:
        """See `evaluate_masked`."""
        if self.validation_tokens is None:
            return {}
        rows, most = self.settings.batch_size, self.settings.eval_tokens
        return evaluate_masked(self.model, self.tokenizer, self.validation_tokens, rows, most, self.settings.seed)

    def sample(self, seed: int) -> str | None:
        """Return a piece of the text with its hidden tokens as "_", and the same with what the model predicts."""
        tokens = self.training_tokens if self.validation_tokens is None else self.validation_tokens
        ids = np.asarray(tokens[: min(SHOWN, window_of(self.model))])[None]
        mask = mask_of(self.tokenizer)
        whole, known = np.array([ids.shape[1]]), self.tokenizer.vocab_size
        inputs, targets = hide_tokens(ids, whole, mask, RandomKey(seed, CORPUS, 0), known)
        with evaluating():
            logits = to_numpy(self.model(to_device(inputs, self.model.device)))
        chosen, predicted = targets[0] != IGNORE_INDEX, logits[0, :, :known].argmax(axis=-1)
        asked = [
            HIDDEN if hidden else self.tokenizer.decode([token]) for token, hidden in zip(ids[0], chosen, strict=True)
        ]
        return "".join(asked) + "\n" + self.tokenizer.decode(np.where(chosen, predicted, ids[0]))

    def facts(self) -> Mapping[str, object]:
        """Return the corpus, and the numbers of tokens and of the vocabulary."""
        validation = 0 if self.validation_tokens is None else len(self.validation_tokens)
        return self._facts | {
            "training_tokens": len(self.training_tokens),
            "validation_tokens": validation,
            "vocab_size": self.model.config.vocab_size,
        }


def evaluate_masked(
    model: Any, tokenizer: Tokenizer, tokens: np.ndarray, batch_size: int, most: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Evaluate a model on a text, in `eval()`, with tokens hidden that depend on the seed alone.

    most: hide tokens in about this many only; see `chosen_windows`.

    Returns loss, the mean negative log-likelihood in nats per hidden token; perplexity, the loss as a number of equally
    likely tokens; accuracy, how many of the most probable tokens were right; tokens, how many were predicted.
    """
    length = window_of(model)
    most = len(tokens) if most is None else most

    def measure(arrays: Sequence[np.ndarray]) -> tuple[float, int, int]:
        ids, lengths, targets = (to_device(array, model.device) for array in arrays)
        logits = model(ids, lengths)
        scored = targets != IGNORE_INDEX
        count = int(scored.sum())
        right = int(((logits.argmax(axis=-1) == targets) & scored).sum())
        return count * float(cross_entropy(logits, targets)), count, right

    with evaluating():
        windows = masked_windows(tokens, length, batch_size, mask_of(tokenizer), most, seed, tokenizer.vocab_size)
        measured = shared(measure, windows)
    count = sum(scored for _, scored, _ in measured)
    loss = sum(nats for nats, _, _ in measured) / count
    accuracy = sum(right for _, _, right in measured) / count
    return {"loss": loss, "perplexity": exp(min(loss, 700.0)), "accuracy": accuracy, "tokens": count}


class MaskedRecord(LanguageRecord):
    """The record of masked tokens: a corpus, its tokenizer with a mask token, the tokens under it."""

    def shape(self, encoder: Any) -> dict[str, Any]:
        """Return the size of the vocabulary, the mask token included."""
        return {"vocab_size": encoder.vocab_size + 1}

    def task(self, model: Any, encoder: Tokenizer, data: Corpus, settings: Settings) -> Any:
        """Split and encode the text."""
        fraction = settings.data.validation_fraction
        training, validation = (encoder.encode(part) for part in data.split(fraction))
        facts: dict[str, object] = {"corpus": data.name, "characters": len(data.text)}
        if data.left_out:
            facts["left out"] = f"{summary(data.left_out)}, not UTF-8 text"
        return MaskedTask(model, encoder, training, validation if fraction else None, settings.training, facts)

    def evaluate(self, model: Any, encoder: Tokenizer, data: Corpus, settings: Settings, whole: bool) -> TaskEvaluation:
        """Evaluate on a text; see `evaluate_masked`."""
        text = held_out(data, settings, whole)
        rows, seed = settings.training.batch_size, settings.training.seed
        return TaskEvaluation(evaluate_masked(model, encoder, encoder.encode(text), rows, seed=seed))


MASKED = MaskedRecord()
