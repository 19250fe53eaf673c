"""A sample of the mutations of `model_fuzz`; `python tests/model_fuzz.py` makes 5,000 of each format."""

import os
from typing import Any

import pytest
from model_fuzz import FORMATS, fuzz_models

from compyute_transformer.errors import MOST_CHARACTERS, ConfigError
from compyute_transformer.exchange.configurations import from_hugging_face, to_hugging_face
from compyute_transformer.models import LlamaConfig


@pytest.mark.skipif(os.name == "nt", reason="needs SIGALRM")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_of_a_model_are_refused_in_words(format: str) -> None:
    assert not fuzz_models(format, mutations=30, seed=1)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("rope_theta", [1, 2], "a finite number"),
        ("rope_theta", 10**400, "a finite number"),
        ("rope_theta", True, "a finite number"),
        ("rms_norm_eps", float("nan"), "a finite number"),
        ("hidden_size", 16.0, "a whole number"),
        ("num_key_value_heads", True, "a whole number"),
        ("hidden_act", ["silu"], "a string"),
        ("layer_types", [1], "a list of strings"),
        ("tie_word_embeddings", "no", "true or false"),
        ("rope_scaling", "linear", "a JSON object"),
        ("rope_scaling", {"rope_type": "linear", "factor": "2"}, "a finite number"),
    ],
)
def test_a_value_of_another_kind_in_config_json_is_named(field: str, value: Any, kind: str) -> None:
    values = to_hugging_face(LlamaConfig(30, 8, 16, num_heads=4, num_layers=1))
    assert from_hugging_face(values).vocab_size == 30
    with pytest.raises(ConfigError, match=rf"(factor|{field}) in config.json is {kind}, got "):
        from_hugging_face(values | {field: value})


def test_a_long_value_is_cut_in_the_message() -> None:
    text = str(ConfigError("model: name is short, got " + "x" * 5000 + ".\nGive another."))
    assert text.startswith("model: name is short, got xxx")
    assert text.endswith("xxx.\nGive another.")
    assert "characters) xxx" in text
    assert max(map(len, text.split("\n"))) <= MOST_CHARACTERS
    assert str(ConfigError("x" * MOST_CHARACTERS)) == "x" * MOST_CHARACTERS
