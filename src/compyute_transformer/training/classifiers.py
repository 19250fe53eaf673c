"""Classifiers of texts as directories of Hugging Face Transformers: `LlamaForSequenceClassification` and its like.

    save_classifier(run.model, "DIR", run.encoder.labels)    # AutoModelForSequenceClassification opens it
    model, labels = load_classifier("DIR")

A decoder (GPT, Llama, Mistral, Qwen) has the same head there: a matrix without a bias on the vector of the last token.
A `Bert` has not: here it takes the mean of all tokens, there a pooled first token.
"""

from collections.abc import Sequence
from pathlib import Path

from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, DataError
from ..exchange.configurations import from_hugging_face, to_hugging_face
from ..exchange.lora import merge_lora
from ..exchange.names import family_of
from ..exchange.pretrained import assembled, described, read_config, write_directory
from ..exchange.tensors import as_floats, read_tensors
from ..nn.quantize import replace_data
from .tasks.classifier import TextClassifier

__all__ = ["is_classifier", "load_classifier", "save_classifier"]

KIND, HEAD = "ForSequenceClassification", "score.weight"


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
        ConfigError: a classifier on a `Bert`, or a trunk that Transformers does not have; DataError: as
        `save_pretrained`.
    """
    if model.takes_mean:
        raise ConfigError(
            "save_classifier: a BERT of Transformers is classified by its first token, and this one by the mean of all "
            "tokens, so none of its classes is this model. Ask the run itself: compyute predict RUN FILE"
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
    write_directory(folder, values, {**tensors, HEAD: trunk.head.weight.data}, dtype, tokenizer)


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
        directory holds no classifier, or one of an architecture that is not a decoder here. StateError: tensors that do
        not fit.
    """
    values = read_config(Path(folder))
    if not is_classifier(folder) or values.get("model_type") == "bert":
        raise ConfigError(
            f"load_classifier: a directory of a GPT-2, Llama, Mistral or Qwen {KIND} is read, got "
            f"{values.get('architectures')!r} of {values.get('model_type')!r}."
        )
    tensors, labels = read_tensors(folder), values.get("id2label")
    width = tensors.shape(HEAD) if HEAD in tensors else (0, 0)
    if not isinstance(labels, dict) or set(labels) != {str(number) for number in range(width[0])} or width[0] < 2:
        raise DataError(
            f"load_classifier: id2label in config.json has a label for each row of {HEAD}, got {len(labels or ())} and "
            f"{width[0]} rows. Fetch or copy the directory again."
        )
    config = from_hugging_face(values, tie_word_embeddings=True)  # whose head is no tensor of its own
    family = family_of(config)
    assert family is not None
    trunk = assembled(config, family, tensors.without(HEAD), None)
    trunk.hugging_face = values
    model = TextClassifier(trunk, width[0])
    replace_data(trunk.head.weight, as_floats(tensors[HEAD], trunk.token_embedding.weight.dtype))
    return model.eval(), tuple(str(labels[str(number)]) for number in range(width[0]))
