"""Labels: predict the label of a text, by a model whose head was replaced."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import _io
from ...arrays import to_device, to_numpy
from ...data.text.bpe import BytePairTokenizer
from ...data.text.labels import EncodedText, LabelBatches, LabeledText, LabeledTexts, label_batches, load_labeled_texts
from ...data.text.tokenizer import Tokenizer, load_tokenizer
from ...errors import ConfigError, CorpusError, DataError, RunError
from ...nn.module import evaluating
from ...ops.activation import softmax
from ...ops.loss import cross_entropy
from ...parallel import shared
from ..reporting.confusion import Confusion
from ..settings.settings import Settings, TrainingSettings
from ..watch import watched
from .language import window_of
from .task import SupervisedTask, TaskEvaluation

__all__ = ["LABELS", "LabelEncoder", "LabelTask", "evaluate_labels"]

CONFIG = "config.json"  # of the run, whose shape holds the labels
SHOWN = 3  # texts of a sample, with so many characters each
WIDTH = 70


class LabelEncoder:
    """A tokenizer, and the labels by number."""

    def __init__(self, tokenizer: Tokenizer, labels: Sequence[str]) -> None:
        self.tokenizer, self.labels = tokenizer, tuple(labels)

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return self.tokenizer.vocab_size

    def save(self, path: str | Path) -> None:
        """Write the tokenizer; the labels are in the config.json of the run."""
        self.tokenizer.save(path)

    def encode(self, text: str, most: int) -> np.ndarray:
        """Return the first ids of a text, at most `most`, with the tokens that the tokenizer puts at its ends."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, BytePairTokenizer):
            return tokenizer.encode(text, add_special_tokens=True)[:most]
        return tokenizer.encode(text)[:most]

    def encode_labeled(self, texts: Sequence[LabeledText], most: int) -> list[EncodedText]:
        """Return labeled texts as ids and numbers. Raises DataError for a label that the model does not know."""
        numbers = {label: i for i, label in enumerate(self.labels)}
        if unknown := sorted({each.label for each in texts} - numbers.keys()):
            raise DataError(
                f"LabelEncoder: the labels of the run are {', '.join(self.labels)}, got {', '.join(unknown[:5])}. "
                "Correct the file."
            )
        encoded = [EncodedText(self.encode(text, most), numbers[label]) for text, label in texts]
        if empty := next((text for text, each in zip(texts, encoded, strict=True) if not len(each.ids)), None):
            raise CorpusError(f"LabelEncoder: a text has at least one token, but {empty.text!r} has none. Delete it.")
        return encoded


class LabelTask(SupervisedTask):
    """Predict the label of a text: shuffled epochs, evaluated on texts that were held out.

    model: turns ids (B, T) and lengths (B) into logits (B, number of labels).
    """

    unit = "texts"

    def __init__(
        self,
        model: Any,
        encoder: LabelEncoder,
        training: Sequence[LabeledText],
        validation: Sequence[LabeledText],
        settings: TrainingSettings,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        rows, length = settings.accumulation * settings.batch_size, window_of(model)
        encoded = encoder.encode_labeled(training, length)
        super().__init__(model, LabelBatches(encoded, rows, settings.seed), settings)
        self.encoder, self.units_per_step = encoder, rows
        self.validation = encoder.encode_labeled(validation, length)
        self._texts = list(validation or training)[:SHOWN]
        cut = sum(len(each.ids) == length for each in encoded)
        self._facts = dict(facts or {}) | {"texts": len(encoded), "validation": len(self.validation)}
        self._facts["labels"] = ", ".join(encoder.labels)
        if cut:
            self._facts["cut"] = f"{cut} texts that fill the {length} tokens"

    def validate(self) -> Mapping[str, float]:
        """See `evaluate_labels`."""
        if not self.validation:
            return {}
        return evaluate_labels(self.model, self.encoder, self.validation, self.settings.batch_size).metrics

    def sample(self, seed: int) -> str | None:
        """Return the start of a few texts, each with the label that the model gives it."""
        shown = ""
        for text, _ in self._texts:
            label, probability = classify(self.model, self.encoder, [text])[0]
            shown += f"{label} ({probability:.0%}): {' '.join(text.split())[:WIDTH]}\n"
        return shown

    def facts(self) -> Mapping[str, object]:
        """Return the data and their sizes."""
        return self._facts


def shares_of(model: Any, encoder: LabelEncoder, texts: Sequence[str]) -> np.ndarray:
    """Return the probability of each label for each text, (number of texts, number of labels)."""
    given = encoder.encode_labeled([LabeledText(text, encoder.labels[0]) for text in texts], window_of(model))
    ids, lengths, _ = next(label_batches(given, len(given)))
    with evaluating():
        logits = model(to_device(ids, model.device), to_device(lengths, model.device))
    return to_numpy(softmax(logits)).astype(np.float64)


def classify(model: Any, encoder: LabelEncoder, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Return the most probable label of each text, and its probability."""
    rows = shares_of(model, encoder, texts)
    return [(encoder.labels[int(row.argmax())], float(row.max())) for row in rows]


def evaluate_labels(model: Any, encoder: LabelEncoder, texts: Sequence[EncodedText], batch_size: int) -> TaskEvaluation:
    """Evaluate a model on labeled texts, in `eval()`: loss in nats per text, accuracy, and the number of texts."""

    def measure(batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[float, list[int]]:
        ids, lengths, labels = (to_device(array, model.device) for array in batch)
        logits = model(ids, lengths)
        return len(labels) * float(cross_entropy(logits, labels)), to_numpy(logits.argmax(axis=1)).tolist()

    with evaluating():
        measured = shared(measure, watched(label_batches(texts, batch_size), -(-len(texts) // batch_size)))
    predicted = np.array([label for _, labels in measured for label in labels])
    confusion = Confusion.of(encoder.labels, np.array([text.label for text in texts]), predicted)
    loss = sum(nats for nats, _ in measured) / len(texts)
    return TaskEvaluation({"loss": loss, "accuracy": confusion.accuracy, "texts": len(texts)}, confusion)


class LabelRecord:
    """The record of labeled texts: files of JSON lines, the tokenizer of a model, the label of a text."""

    file = "tokenizer.json"

    def load(self, sources: Any) -> LabeledTexts:
        """See `load_labeled_texts`."""
        return load_labeled_texts(sources)

    def encoder(self, data: LabeledTexts, settings: Settings) -> LabelEncoder:
        """Refuse a model that begins with random weights."""
        raise ConfigError(
            "start_run: the task labels replaces the head of a model that was trained on texts. Give that model: "
            "compyute train FILE.jsonl --from MODEL"
        )

    def load_encoder(self, path: Path) -> LabelEncoder:
        """Read the tokenizer, and the labels from the config.json beside it. Raises DataError where there are none."""
        values = _io.read_json(path.parent / CONFIG)
        labels = values.get("shape", {}).get("labels")
        if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
            raise DataError(f"Its labels must be in the {CONFIG} beside it. Restore {CONFIG} from a copy.")
        return LabelEncoder(load_tokenizer(path), labels)

    def shape(self, encoder: LabelEncoder) -> dict[str, Any]:
        """Return the size of the vocabulary, and the labels."""
        return {"vocab_size": encoder.vocab_size, "labels": list(encoder.labels)}

    def task(self, model: Any, encoder: LabelEncoder, data: LabeledTexts, settings: Settings) -> LabelTask:
        """Split and encode the texts."""
        training, validation = data.split(settings.data.validation_fraction)
        return LabelTask(model, encoder, training, validation, settings.training, {"data": data.name})

    def evaluate(
        self, model: Any, encoder: LabelEncoder, data: LabeledTexts, settings: Settings, whole: bool
    ) -> TaskEvaluation:
        """Evaluate on labeled texts; see `evaluate_labels`."""
        texts = list(data.texts) if whole else data.split(settings.data.validation_fraction)[1]
        if not texts:
            raise RunError("evaluate: the run has no validation split. Give labeled texts: compyute eval RUN FILE")
        encoded = encoder.encode_labeled(texts, window_of(model))
        return evaluate_labels(model, encoder, encoded, settings.training.batch_size)


LABELS = LabelRecord()
