"""Language: predict the next token of a text."""

from collections.abc import Iterable, Iterator, Mapping
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from ...data.sources import summary
from ...data.text.batches import IGNORE_INDEX, TokenBatches, chosen_windows, validation_windows
from ...data.text.corpus import Corpus, load_corpus
from ...data.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ...errors import RunError, VocabularyError
from ...generation.sampling import Sampling
from ...generation.text import generate
from ..settings.presets import PRESETS
from ..settings.settings import Settings, TrainingSettings
from .task import SupervisedTask, TaskEvaluation, mean_loss

__all__ = ["LANGUAGE", "LanguageTask", "evaluate_language", "held_out", "window_of"]

# The prompts of samples that nobody has chosen.
PROMPTS_OF_PRESETS = {preset["training"].get("sample_prompt") for preset in PRESETS.values()}


class LanguageTask(SupervisedTask):
    """Predict the next token: random windows of the training text, evaluated on the whole validation text.

    model: GPT, or another that turns ids (B, T) into logits (B, T, V). training_tokens, validation_tokens: 1-D
    integers. validation_tokens None: there is no validation.

    A sample prompt of a preset that the tokenizer cannot encode, as for a text of another alphabet, is left out.
    Raises CorpusError for texts too short, VocabularyError for any other prompt that cannot be encoded.
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
        batches = TokenBatches(training_tokens, rows, length, settings.seed)
        super().__init__(model, batches, settings)
        self.tokenizer = tokenizer
        self.units_per_step = rows * length
        self.training_tokens, self.validation_tokens = training_tokens, validation_tokens
        self._facts = dict(facts or {})
        if validation_tokens is not None:
            validation_windows(
                validation_tokens, length, settings.batch_size
            )  # refuses one that is too short before training
        self.prompt = _prompt(tokenizer, settings.sample_prompt)

    def validate(self) -> Mapping[str, float]:
        """See `evaluate_language`."""
        if self.validation_tokens is None:
            return {}
        rows, most = self.settings.batch_size, self.settings.eval_tokens
        return evaluate_language(self.model, self.tokenizer, self.validation_tokens, rows, most, self.settings.seed)

    def sample(self, seed: int) -> str | None:
        """Return the sample prompt and what the model generates after it."""
        length = self.settings.sample_tokens
        return self.prompt + generate(
            self.model, self.tokenizer, self.prompt, max_new_tokens=length, sampling=Sampling(seed=seed)
        )

    def facts(self) -> Mapping[str, object]:
        """Return the corpus, and the numbers of tokens and of the vocabulary."""
        validation = 0 if self.validation_tokens is None else len(self.validation_tokens)
        most = self.settings.eval_tokens
        bound = {"validated on": f"{most:,} of them, chosen by the seed (--eval-tokens)"} if most else {}
        return self._facts | {
            "training_tokens": len(self.training_tokens),
            "validation_tokens": validation,
            **(bound if most and validation > most + 1 else {}),
            "vocab_size": self.model.config.vocab_size,
        }


def window_of(model: Any) -> int:
    """Return how many positions of a text a model is given at a time."""
    length: int = getattr(model, "training_length", None) or model.config.context_length
    return length


def _prompt(tokenizer: Tokenizer, prompt: str) -> str:
    try:
        tokenizer.encode(prompt)
    except VocabularyError:
        if prompt not in PROMPTS_OF_PRESETS:
            raise
        return ""
    return prompt


def evaluate_language(
    model: Any, tokenizer: Tokenizer, tokens: np.ndarray, batch_size: int, most: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Evaluate a model on a text, in `eval()`: every token but the first is predicted exactly once.

    most: predict about this many tokens only, in windows that the seed chooses; see `chosen_windows`.

    Returns loss, the mean negative log-likelihood in nats per token; bits_per_character, which compares models with
    different tokenizers, and bits_per_byte of UTF-8; perplexity, the loss as a number of equally likely tokens; tokens
    and characters, the numbers that were predicted.
    """
    length = window_of(model)
    windows = chosen_windows(tokens, length, batch_size, len(tokens) if most is None else most, seed)
    predicted: list[np.ndarray] = []
    number = min(-(-(len(tokens) - 1) // length), max(1, (len(tokens) if most is None else most) // length))
    loss, count = mean_loss(model, _noting_targets(windows, predicted), -(-number // batch_size))
    characters = num_bytes = 0
    for targets in _joined(predicted, count == len(tokens) - 1):
        text = tokenizer.decode(targets)
        characters, num_bytes = characters + len(text), num_bytes + len(text.encode("utf-8", "surrogatepass"))
    bits = loss * count / log(2)
    return {
        "loss": loss,
        "bits_per_character": bits / characters,
        "bits_per_byte": bits / num_bytes,
        "perplexity": exp(min(loss, 700.0)),  # beyond, a float would overflow
        "tokens": count,
        "characters": characters,
    }


def _noting_targets(batches: Iterable[Any], predicted: list[np.ndarray]) -> Iterator[Any]:
    """Pass batches on, and note the targets of every window."""
    for x, y in batches:
        predicted += [row[row != IGNORE_INDEX] for row in y]
        yield x, y


def _joined(targets: list[np.ndarray], is_whole: bool) -> list[np.ndarray]:
    """Return the targets as they are decoded: in one piece where the windows are the whole text, lest one be cut."""
    return [np.concatenate(targets)] if is_whole else targets


def held_out(data: Corpus, settings: Settings, whole: bool) -> str:
    """Return the text that a run is evaluated on: the whole of it, or its validation part.

    Raises RunError for a run without one.
    """
    text = data.text if whole else data.split(settings.data.validation_fraction)[1]
    if not text:
        raise RunError(
            f"evaluate: the run was trained with validation_fraction 0, so it has no validation split of {data.name}. "
            "Give a text: compyute eval RUN FILE"
        )
    return text


class LanguageRecord:
    """The record of language modeling: a corpus, its tokenizer, the next token."""

    file = "tokenizer.json"

    def load(self, sources: Any) -> Corpus:
        """See `load_corpus`."""
        return load_corpus(sources)

    def encoder(self, data: Corpus, settings: Settings) -> Tokenizer:
        """Train the tokenizer: characters of the whole text, or merges learned from the training text alone."""
        kind = settings.data.tokenizer
        text = data.text if kind == "characters" else data.split(settings.data.validation_fraction)[0]
        return train_tokenizer(kind, text, settings.data.vocab_size)

    def load_encoder(self, path: Path) -> Tokenizer:
        """See `load_tokenizer`."""
        return load_tokenizer(path)

    def shape(self, encoder: Any) -> dict[str, Any]:
        """Return the size of the vocabulary."""
        return {"vocab_size": encoder.vocab_size}

    def task(self, model: Any, encoder: Tokenizer, data: Corpus, settings: Settings) -> LanguageTask:
        """Split and encode the text."""
        fraction = settings.data.validation_fraction
        training, validation = (encoder.encode(part) for part in data.split(fraction))
        facts: dict[str, object] = {"corpus": data.name, "characters": len(data.text)}
        if data.left_out:
            facts["left out"] = f"{summary(data.left_out)}, not UTF-8 text"
        asked = settings.data.vocab_size
        if settings.data.tokenizer == "bpe" and encoder.vocab_size < asked:
            facts["vocabulary"] = f"smaller than the {asked:,} tokens asked for: no other pair occurs twice"
        return LanguageTask(model, encoder, training, validation if fraction else None, settings.training, facts)

    def evaluate(self, model: Any, encoder: Tokenizer, data: Corpus, settings: Settings, whole: bool) -> TaskEvaluation:
        """Evaluate on a text; see `evaluate_language`."""
        text = held_out(data, settings, whole)
        return TaskEvaluation(evaluate_language(model, encoder, encoder.encode(text), settings.training.batch_size))


LANGUAGE = LanguageRecord()
