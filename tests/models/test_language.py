"""What is common to decoder-only language models: padded rows, the algorithm of every attention, refusals."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError, ShapeError
from compyute_transformer.models import (
    GPT,
    GPTConfig,
    LanguageModel,
    Transformer,
    TransformerConfig,
    TransformerLM,
    TransformerLMConfig,
)
from compyute_transformer.models.language import check_ids, mask_padding, use_attention
from compyute_transformer.nn import MultiHeadAttention
from compyute_transformer.nn.position import check_evaluating, positions_of
from compyute_transformer.ops import Mask

SMALL: dict[str, Any] = {"vocab_size": 5, "context_length": 6, "embed_dim": 8, "num_heads": 2, "num_layers": 2}


def test_both_are_language_models_and_the_encoder_decoder_is_none() -> None:
    assert isinstance(GPT(GPTConfig(**SMALL)), LanguageModel)
    assert isinstance(TransformerLM(TransformerLMConfig(**SMALL)), LanguageModel)
    assert not issubclass(Transformer, LanguageModel)
    for method in ("forward", "embed", "unembed"):
        with pytest.raises(NotImplementedError, match=f"LanguageModel has no {method}"):
            getattr(LanguageModel(), method)(np.zeros((1, 1), int))


def test_positions_count_from_the_first_token_and_padding_is_masked() -> None:
    padding = np.array([0, 2])
    assert positions_of(padding, 1, 3).tolist() == [[1, 2, 3], [0, 0, 1]]
    mask = mask_padding(Mask(causal=True, window=4), padding, 4)
    assert mask._replace(array=None) == Mask(causal=True, window=4)
    assert mask.array is not None
    assert mask.array[:, 0, 0].tolist() == [[True, True, True, True], [False, False, True, True]]
    assert mask_padding(Mask(causal=True), None, 4) == Mask(causal=True)


@pytest.mark.parametrize("model", [GPT(GPTConfig(**SMALL)), Transformer(TransformerConfig(**SMALL))], ids=repr)
def test_every_attention_is_switched(model: Any) -> None:
    use_attention(model, "sequential")
    found = [m.implementation for _, m in model.named_modules() if isinstance(m, MultiHeadAttention)]
    assert set(found) == {"sequential"}
    assert len(found) == (2 if isinstance(model, GPT) else 6)


def test_refusals_name_the_model_and_what_came() -> None:
    with pytest.raises(ShapeError, match=r"Thing: source are an integer array .* got \(3,\)"):
        check_ids("Thing", "source", np.zeros(3, int))
    with pytest.raises(ShapeError, match=r"Thing: ids .* got list"):
        check_ids("Thing", "ids", [[1]])  # type: ignore[arg-type]
    check_evaluating("Thing", "cache", training=False)
    with pytest.raises(ConfigError, match=r"^Thing: cache is supported in eval\(\) only"):
        check_evaluating("Thing", "cache", training=True)
