"""A sample of the mutations of `model_fuzz`; `python tests/model_fuzz.py` makes 5,000 of each format."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from model_fuzz import FORMATS, fuzz_models

from compyute_transformer.errors import MOST_CHARACTERS, ConfigError, StateError
from compyute_transformer.exchange import AutoModel, save_pretrained
from compyute_transformer.exchange.configurations import from_hugging_face
from compyute_transformer.exchange.configurations_write import to_hugging_face
from compyute_transformer.models import Llama, LlamaConfig


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


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"])
def test_a_size_beyond_the_file_is_refused_before_anything_is_made_of_it(field: str, tmp_path: Path) -> None:
    model = Llama(LlamaConfig(30, 8, 16, num_heads=4, num_layers=1, tie_word_embeddings=False))
    save_pretrained(model, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | {field: 1 << 40}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(StateError, match=r"asks for \w+ 1,099,511,627,776, and the file holds 12 tensors"):
        AutoModel.from_pretrained(tmp_path)


def test_a_head_has_a_width_that_a_head_can_have() -> None:
    with pytest.raises(ConfigError, match="a head is at most 65,536 wide, got 65,538"):
        LlamaConfig(30, 8, 16, num_heads=4, head_dim=65_538)
    assert LlamaConfig(30, 8, 16, num_heads=4, head_dim=65_536).head_width == 65_536


def test_a_long_value_is_cut_in_the_message() -> None:
    text = str(ConfigError("model: name is short, got " + "x" * 5000 + ".\nGive another."))
    assert text.startswith("model: name is short, got xxx")
    assert text.endswith("xxx.\nGive another.")
    assert "characters) xxx" in text
    assert max(map(len, text.split("\n"))) <= MOST_CHARACTERS
    assert str(ConfigError("x" * MOST_CHARACTERS)) == "x" * MOST_CHARACTERS
