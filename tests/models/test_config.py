"""Configurations are checked alike, each under its own name, when they are made."""

import re
from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.models import GPTConfig, TransformerConfig, TransformerLMConfig
from compyute_transformer.models.registry import build_model

LANGUAGE = [GPTConfig, TransformerLMConfig]
ALL = [*LANGUAGE, TransformerConfig]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("wrong", [0, -1, 2.0, "3", None, True, np.float64(2.0)])
@pytest.mark.parametrize("field", ["vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"])
def test_sizes_are_whole_numbers_of_at_least_one(kind: Any, field: str, wrong: object) -> None:
    with pytest.raises(
        ConfigError, match=f"^{kind.__name__}: {field} is a whole number of at least 1, got {re.escape(repr(wrong))}"
    ):
        kind(**{"vocab_size": 5, field: wrong})


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("field", ["num_kv_heads", "mlp_dim", "window"])
def test_what_has_a_default_may_be_left_out_but_not_be_zero(kind: Any, field: str) -> None:
    if kind is TransformerConfig and field == "window":
        with pytest.raises(TypeError, match="window"):
            kind(5, window=3)
        return
    assert getattr(kind(5), field) is None
    with pytest.raises(ConfigError, match=f"^{kind.__name__}: {field} is .* or None for its default, got 0"):
        kind(5, **{field: 0})


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, "num_heads must divide embed_dim"),
        ({"num_kv_heads": 4}, "num_kv_heads num_heads, got .*num_heads 6, num_kv_heads 4"),
        ({"dropout": 1.0}, r"dropout lies in \[0, 1\), got 1\.0"),
        ({"dropout": "0.1"}, r"dropout lies in \[0, 1\), got '0\.1'"),
        ({"activation": "swish"}, "activation is one of gelu_tanh, gelu, relu, got 'swish'"),
        ({"attn_implementation": "flash"}, "attn_implementation is one of auto, sequential, .*, got 'flash'"),
    ],
    ids=str,
)
def test_values_that_cannot_go_together_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{kind.__name__}: .*{message}"):
        kind(5, **options)


@pytest.mark.parametrize("kind", ALL)
def test_numbers_of_numpy_are_whole_numbers_too(kind: Any) -> None:
    assert kind(np.int64(65), mlp_dim=np.int32(8)).vocab_size == 65
    with pytest.raises(ConfigError, match=r"mlp_dim is .* or None for its default, got True"):
        kind(65, mlp_dim=True)


def test_only_a_configuration_makes_a_model() -> None:
    with pytest.raises(ConfigError, match=r"models: a configuration is one of GPTConfig, .*, got dict"):
        build_model({"vocab_size": 5})
