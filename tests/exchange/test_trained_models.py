"""Trained models that others published in packages, beside their own forward in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer.models import Llama, LlamaConfig

glassllm = pytest.importorskip("glassllm", reason="its two trained decoders come with the extra dev")


def ours_of(theirs: Any) -> Llama:
    """Return the same decoder; theirs has weights (in, out), and turns pairs of columns that lie side by side."""
    config, weights = theirs.cfg, {name: p.data for name, p in theirs.named_parameters().items()}
    C, H, K = config.d_model, config.n_heads, config.n_kv_heads
    model = Llama(
        LlamaConfig(
            config.vocab_size,
            config.max_len,
            C,
            H,
            config.n_layers,
            num_kv_heads=K,
            mlp_dim=int(8 * C / 3),
            norm_eps=config.eps,
            rope_theta=config.rope_base,
        )
    )

    def halves(weight: np.ndarray, heads: int) -> np.ndarray:
        """Return (out, in), with the even columns of each head before the odd ones."""
        return weight.T.reshape(heads, -1, 2, C).swapaxes(1, 2).reshape(-1, C)

    state = {"token_embedding.weight": weights["E"], "norm.weight": weights["norm_f.gamma"]}
    for i in range(config.n_layers):
        of = {name.removeprefix(f"blocks.{i}."): array for name, array in weights.items() if f"blocks.{i}." in name}
        q, k, v = halves(of["attn.W_Q"], H), halves(of["attn.W_K"], K), of["attn.W_V"].T
        block = {
            "attention_norm": of["norm1.gamma"],
            "attention.in": np.concatenate([q, k, v]),
            "attention.out": of["attn.W_O"].T,
            "feed_forward_norm": of["norm2.gamma"],
            "feed_forward.gate": of["ffn.W1"].T,
            "feed_forward.up": of["ffn.W3"].T,
            "feed_forward.down": of["ffn.W2"].T,
        }
        for name, array in block.items():
            state[f"blocks.{i}.{name}{'_' if name.endswith(('.in', '.out')) else '.'}weight"] = array
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize(
    ("language", "text"), [("en", "Alice was beginning to get very tired"), ("pt", "Era uma vez um")]
)
def test_the_trained_decoders_of_glassllm_give_the_logits_of_their_own_forward(language: str, text: str) -> None:
    from glassllm.model import GlassLM
    from glassllm.tokenizer import Tokenizer

    folder = Path(glassllm.__file__).parent / "weights"
    theirs = GlassLM.load(folder / f"{language}.npz")
    model = ours_of(theirs)
    assert model.num_parameters == 852608
    ids = np.array([Tokenizer.load(folder / f"{language}.tokenizer.json").encode(text)])
    ids = np.concatenate([ids, np.random.default_rng(0).integers(0, 1024, (1, 127 - ids.shape[1]))], axis=1)
    expected = theirs(ids).data
    assert np.abs(model(ids) - expected).max() <= 1e-4
    written = model.generate(ids[:, :10], max_new_tokens=30, temperature=0)[0, 10:]
    assert written.tolist() == [step.token for step in theirs.generate(ids[0, :10], 30, greedy=True)]
