"""The config.json of an earlier version is read with the names of this one."""

import pytest

from compyute_transformer.training.run.config import _renamed


@pytest.mark.parametrize(
    ("old", "new"),
    [("encoder_decoder", "transformer"), ("vaswani", "transformer_lm"), ("vaswani_decoder", "transformer_lm")],
)
def test_old_names_are_replaced(old: str, new: str) -> None:
    model = {"architecture": old, "attention": "fused", "tie_head": False}
    assert _renamed({"model": model}) == {
        "model": {"architecture": new, "attn_implementation": "fused", "tie_word_embeddings": False}
    }
