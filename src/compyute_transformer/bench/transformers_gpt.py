"""The same GPT in Hugging Face's transformers, with our weights, for the benchmark of generation."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import ConfigError, ParityError
from ..models.gpt import GPT

__all__ = ["NO_TRANSFORMERS", "has_transformers", "transformers_writer"]

NO_TRANSFORMERS = (
    "Hugging Face's transformers is not installed, so it was left out: pip install transformers, beside torch"
)
TOLERANCE = 1e-4  # of a logit; float32


def has_transformers() -> bool:
    """Whether transformers and torch are installed."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def transformers_writer(model: GPT, ids: list[int], max_new_tokens: int) -> Callable[[], list[int]]:
    """A function that goes on from ids greedily, with transformers' own `generate` and its cache.

    Raises ParityError unless its logits after ids are ours.
    """
    import torch

    theirs = _with_our_weights(model)
    context = torch.tensor([ids])
    with torch.no_grad():
        logits = theirs(context).logits[0, -1].numpy()
    ours = model(np.array([ids], np.int32), logits_to_keep=1)[0, 0]
    if not (error := float(abs(logits - ours).max())) <= TOLERANCE:
        raise ParityError(
            f"bench generate: candidates have the same logits before they are timed; those of transformers differ by "
            f"{error:.2g}, more than {TOLERANCE:g}. Nothing was timed: one of the two is wrong."
        )

    def write() -> list[int]:
        with torch.no_grad():
            written = theirs.generate(
                context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=max_new_tokens,
                min_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        new: list[int] = written[0, len(ids) :].tolist()
        return new

    return write


def _with_our_weights(model: GPT) -> Any:
    from torch import from_numpy
    from transformers import GPT2Config, GPT2LMHeadModel

    config = model.config
    if config.mlp_dim not in (None, 4 * config.embed_dim) or config.window or not config.tie_word_embeddings:
        raise ConfigError(
            "bench generate: transformers' GPT-2 has a tied head, no window and an mlp_dim of 4 · embed_dim."
        )
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.embed_dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            activation_function="gelu_new" if config.activation == "gelu_tanh" else config.activation,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    ours = model.state_dict()
    state = theirs.state_dict()
    for name, value in state.items():
        array = ours.get(_our_name(name), np.zeros(value.shape, np.float32))  # a bias that ours does without
        matrix = name.endswith("weight") and any(part in name for part in ("c_attn", "c_proj", "c_fc"))
        value.copy_(from_numpy(array.T if matrix else array))
    theirs.load_state_dict(state)
    return theirs


def _our_name(theirs: str) -> str:
    """What GPT-2 names differently; its matrices are the transposes of ours."""
    if theirs == "lm_head.weight":
        return "token_embedding.weight"
    names = {
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position",
        "transformer.ln_f": "norm",
        "transformer.h": "blocks",
        "ln_1": "attention_norm",
        "ln_2": "feed_forward_norm",
        "attn.c_attn.": "attention.in_",
        "attn.c_proj.": "attention.out_",
        "mlp.c_fc": "feed_forward.up",
        "mlp.c_proj": "feed_forward.down",
    }
    for name, our in names.items():
        theirs = theirs.replace(name, our)
    return theirs
