"""Names of other libraries and of earlier versions are taken, or refused in one sentence that has ours."""

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import compyute_transformer as ct
from compyute_transformer import GPT, AdamW, GPTConfig, generate, nn, optim
from compyute_transformer.cli.terminal import for_users
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.errors import CompyuteError, ConfigError
from compyute_transformer.generation import Sampling, generate_batch, stream

CONFIG = GPTConfig(5, context_length=8, embed_dim=16, num_heads=2, num_layers=1)
TOKENIZER = CharacterTokenizer("abcde")
X = np.zeros((1, 3, 8), np.float32)
IDS = np.zeros((1, 3), np.int32)


@pytest.mark.parametrize(
    ("call", "ours"),
    [
        (lambda: GPTConfig(5, n_embd=16), "embed_dim"),
        (lambda: GPTConfig(5, d_model=16, nhead=2), "embed_dim. Ours for nhead is num_heads"),
        (lambda: GPTConfig(5, block_size=16), "context_length"),
        (lambda: GPTConfig(5, tie_head=False), "tie_word_embeddings"),
        (lambda: GPTConfig(5, attention="fused"), "attn_implementation"),
        (lambda: nn.Embedding(3, embedding_dim=4), "embed_dim"),
        (lambda: nn.LayerNorm(normalized_shape=4), "dim"),
        (lambda: nn.MultiHeadAttention(8, 2, batch_first=True), "none: the batch is the first axis"),
        (lambda: nn.MultiHeadAttention(8, 2)(X, attn_mask=None), r"mask=Mask\(array=\.\.\.\)"),
        (lambda: nn.CrossEntropyLoss(reduction="sum"), "none: the loss is the mean"),
        (lambda: AdamW(nn.Linear(2, 3).parameters(), learning_rate=0.1), "lr"),
        (lambda: AdamW(nn.Linear(2, 3).parameters(), fused=True), "none: every step is one sweep"),
    ],
)
def test_the_refusal_has_our_name(call: Callable[[], Any], ours: str) -> None:
    with pytest.raises(CompyuteError, match=f"Ours for [a-z_]+ is {ours}"):
        call()


@pytest.mark.parametrize(
    "call",
    [lambda: nn.Linear(3, 4, True), lambda: nn.Linear(3), lambda: nn.Linear(3, 4)(X, X), lambda: AdamW()],
)
def test_other_calls_that_do_not_fit_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises((CompyuteError, TypeError), match=r"argument"):
        call()


def test_targets_do_not_go_into_the_model() -> None:
    with pytest.raises(ConfigError, match=r"Targets belong to the loss: nn\.CrossEntropyLoss"):
        GPT(CONFIG)(IDS, IDS)


def test_checked_classes_are_copied_and_pickled() -> None:
    model = GPT(CONFIG)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(again.eval()(IDS), model.eval()(IDS))
    assert copy.deepcopy(CONFIG) == pickle.loads(pickle.dumps(CONFIG)) == CONFIG


def test_a_type_error_of_a_forward_is_its_own() -> None:
    class Mine(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + "text"

    with pytest.raises(TypeError, match="unsupported operand"):
        Mine()(1)


def test_options_of_sampling_are_taken_one_by_one() -> None:
    model = GPT(CONFIG).eval()
    whole = generate(model, TOKENIZER, "ab", max_new_tokens=9, sampling=Sampling(temperature=0.7, top_k=3, seed=5))
    assert generate(model, TOKENIZER, "ab", max_new_tokens=9, temperature=0.7, top_k=3, seed=5) == whole
    assert "".join(stream(model, TOKENIZER, "ab", max_new_tokens=9, temperature=0.7, top_k=3, seed=5)) == whole
    assert generate_batch(model, TOKENIZER, ["ab"], max_new_tokens=9, temperature=0.7, top_k=3, seed=5) == [whole]
    ids = model.generate(IDS, max_new_tokens=4, temperature=0.0)
    assert np.array_equal(ids, model.generate(IDS, max_new_tokens=4, sampling=Sampling(temperature=0.0)))
    with pytest.raises(ConfigError, match=r"got do_sample\. Give temperature=0"):
        generate(model, TOKENIZER, "ab", max_new_tokens=9, do_sample=False)


def test_numbers_of_numpy_are_numbers() -> None:
    model = GPT(CONFIG).eval()
    want = generate(model, TOKENIZER, "ab", max_new_tokens=4, seed=3)
    assert generate(model, TOKENIZER, "ab", max_new_tokens=np.int64(4), seed=np.int32(3)) == want
    texts = generate_batch(model, TOKENIZER, ["ab", "b"], max_new_tokens=np.uint8(4), seed=np.arange(3, 5))
    assert texts[0] == want
    assert model.generate(IDS, max_new_tokens=np.int64(2)).shape == (1, 5)


def test_the_same_prompt_four_times_gives_four_texts() -> None:
    model = GPT(CONFIG).eval()
    texts = generate_batch(model, TOKENIZER, ["ab", "c", "ab", "ab", "ab"], max_new_tokens=20, temperature=1.0)
    assert len({texts[0], *texts[2:]}) == 4
    assert texts[2] == generate(model, TOKENIZER, "ab", max_new_tokens=20, temperature=1.0, seed=1)


def test_an_optimizer_takes_the_flat_buffer() -> None:
    model = GPT(CONFIG)
    assert len(AdamW(model.flat, 0.1).parameters) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("compyute_transformer", "use", "dispatch.use_kernels"),
        ("compyute_transformer", "EncoderDecoder", "models.Transformer"),
        ("compyute_transformer.models", "VaswaniDecoder", "models.TransformerLM"),
        ("compyute_transformer.optim", "clip_by_global_norm", "optim.clip.clip_by_global_norm"),
        ("compyute_transformer.generation", "draw_attention", "plotting.plot_attention"),
        ("compyute_transformer.backend", "set_threads", "threads.set_threads"),
    ],
)
def test_earlier_names_are_found_with_a_warning(module: str, name: str, now: str) -> None:
    place, _, present = now.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{name} is called"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(f"compyute_transformer.{place}"), present)


def test_the_earlier_module_of_backends_is_found() -> None:
    assert ct.backend is importlib.import_module("compyute_transformer.backend")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ct.backend.nothing


def test_one_array_of_gradients_is_clipped() -> None:
    gradient = np.full(4, 3e19, np.float32)
    with pytest.warns(DeprecationWarning, match="clip_by_global_norm"):
        norm = optim.clip_by_global_norm(gradient, 1.0)
    assert norm == pytest.approx(6e19, rel=1e-5)
    assert gradient == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("load_config: the folder holds a config.json; x: y", "the folder holds a config.json; x: y"),
        ("Trainer.load: it must fit. TokenBatches: a seed lies in", "it must fit. a seed lies in"),
        ("Settings: steps must be at least 1, got 0.", "steps must be at least 1, got 0."),
        ("the folder of my_run: it is empty", "the folder of my_run: it is empty"),
        ("evaluate: the run has no validation split", "evaluate: the run has no validation split"),
    ],
)
def test_names_of_functions_do_not_reach_users_of_the_command(message: str, shown: str) -> None:
    assert for_users(ConfigError(message)) == shown
    assert for_users(OSError(message)) == message
