"""Classifiers of texts as directories of Hugging Face Transformers: `LlamaForSequenceClassification` and its like.

    save_classifier(run.model, "DIR", run.encoder.labels)    # AutoModelForSequenceClassification opens it
    model, labels = load_classifier("DIR")

A decoder (GPT, Llama, Mistral, Qwen) has the same head there: a matrix without a bias on the vector of the last token.
A `Bert` has not: here it takes the mean of all tokens, there a pooled first token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..arrays import to_numpy
from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, DataError
from ..exchange.configurations import from_hugging_face
from ..exchange.configurations_write import to_hugging_face
from ..exchange.lora import merge_lora
from ..exchange.names import family_of
from ..exchange.pretrained import assembled, described, read_config, write_directory
from ..exchange.tensors import Tensors, as_floats, read_tensors
from ..nn.quantize import replace_data
from ..ops._checks import shown
from .tasks.classifier import TextClassifier

__all__ = ["is_classifier", "load_classifier", "save_classifier"]

KIND, HEAD = "ForSequenceClassification", "score.weight"
ONE_LABEL = "single_label_classification"
UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}  # which Transformers leaves out


def save_classifier(
    model: TextClassifier,
    folder: str | Path,
    labels: Sequence[str],
    *,
    dtype: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a classifier with its labels as a directory that Transformers opens. LoRA is merged into the model itself.

    Transformers finds the last token of a padded row by the `pad_token_id` of config.json, which a model that was
    published with one keeps; without one it takes a text at a time.

    Raises:
        ConfigError: a classifier on a `Bert`, a trunk that Transformers does not have, or other labels than one of its
        own for each row of the head. DataError: as `save_pretrained`.
    """
    if model.takes_mean:
        raise ConfigError(
            "save_classifier: a BERT of Transformers is classified by its first token, and this one by the mean of all "
            "tokens, so none of its classes is this model. Ask the run itself: compyute predict RUN FILE"
        )
    rows = len(model.trunk.head.weight.data)
    if len(set(labels)) != len(labels) or len(labels) != rows or not all(isinstance(label, str) for label in labels):
        raise ConfigError(
            f"save_classifier: each of the {rows} rows of the head has a label of its own, got {list(labels)!r}. "
            "Give run.encoder.labels."
        )
    trunk = merge_lora(model).trunk
    values, tensors, dtype = described(trunk, dtype, headless=True)
    base = to_hugging_face(trunk.config)["architectures"][0].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    values = {
        **values,
        "architectures": [base + KIND],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    write_directory(folder, values, {**tensors, HEAD: to_numpy(trunk.head.weight.data)}, dtype, tokenizer)


def is_classifier(folder: str | Path) -> bool:
    """Return whether a directory of Transformers holds a classifier of texts."""
    if not (Path(folder) / "config.json").is_file():
        return False
    kinds = read_config(Path(folder)).get("architectures")
    return isinstance(kinds, list) and any(str(kind).endswith(KIND) for kind in kinds)


def load_classifier(folder: str | Path) -> tuple[TextClassifier, tuple[str, ...]]:
    """Return the classifier of a directory, in `eval()`, and its labels.

    Raises:
        DataError: a file is missing or breaks its format, or the labels are not those of the head. ConfigError: the
        directory holds no classifier, one of an architecture that is not a decoder here, or one that gives a text a
        number, or several labels. StateError: tensors that do not fit.
    """
    values = read_config(Path(folder))
    if not is_classifier(folder) or values.get("model_type") == "bert":
        raise ConfigError(
            f"load_classifier: a directory of a GPT-2, Llama, Mistral or Qwen {KIND} is read, got "
            f"{shown(values.get('architectures'))} of {shown(values.get('model_type'))}."
        )
    if (problem := values.get("problem_type")) not in (None, ONE_LABEL):
        raise ConfigError(
            f"load_classifier: a text has one label of several, problem_type {ONE_LABEL!r}, got {shown(problem)}, "
            "which our classifiers do not have."
        )
    config = from_hugging_face(values, tie_word_embeddings=True)  # whose head is no tensor of its own
    tensors = read_tensors(folder)
    labels = _labels(values, tensors, config.embed_dim)
    family = family_of(config)
    assert family is not None
    trunk = assembled(config, family, tensors.without(HEAD), None)
    trunk.hugging_face = values
    model = TextClassifier(trunk, len(labels))
    replace_data(trunk.head.weight, as_floats(tensors[HEAD], trunk.dtype))
    return model.eval(), labels


def _labels(values: dict[str, Any], tensors: Tensors, embed_dim: int) -> tuple[str, ...]:
    """Return the labels of config.json, one for each row of the head. Raises DataError."""
    shape = tensors.shape(HEAD) if HEAD in tensors else None
    if shape is None or len(shape) != 2 or shape[0] < 2 or shape[1] != embed_dim:
        raise DataError(
            f"load_classifier: {HEAD} has shape (labels, {embed_dim}), of at least two labels, got {shape}. "
            "Fetch or copy the directory again."
        )
    given = values.get("id2label", UNNAMED)
    ids = [str(number) for number in range(shape[0])]
    labels = tuple(given[i] for i in ids) if isinstance(given, dict) and set(given) == set(ids) else ()
    if not labels or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise DataError(
            f"load_classifier: id2label in config.json has a label of its own for each of the {shape[0]} rows of "
            f"{HEAD}, got {shown(given)}. Correct config.json, or fetch or copy the directory again."
        )
    return labels
