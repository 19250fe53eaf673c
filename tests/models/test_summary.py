"""The summary of a model: parameters, operations and memory beside counts by hand, by PyTorch and by tracemalloc."""

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compyute_transformer import GPT, GPTConfig, cli, use_kernels
from compyute_transformer.errors import ConfigError
from compyute_transformer.models.registry import MODELS
from compyute_transformer.models.summary import Layer
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.verify.torch.models import torch_logits
from compyute_transformer.verify.torch.modules import TorchDropout, torch_weights

CASES = [
    pytest.param(record, config, id=f"{name}-{v}")
    for name, record in MODELS.items()
    for v, config in record.small_configs().items()
]


def batch_of(record: Any, config: Any) -> Any:
    return record.batch(config, np.random.default_rng(0), 1)


@pytest.mark.parametrize(("record", "config"), CASES)
def test_parameters_and_operations_are_those_that_pytorch_counts(record: Any, config: Any) -> None:
    model = record.model(config, 0)
    inputs, _ = batch_of(record, config)
    weights = torch_weights(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch_logits(
            model, weights, [torch.from_numpy(x) for x in inputs], TorchDropout(model.generator, config.dropout)
        )
    total = model.summary().total
    assert total.flops == counter.get_total_flops()
    assert total.parameters == sum(w.numel() for w in weights.values())
    assert total.nbytes == sum(w.numel() * w.element_size() for w in weights.values())


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize(("record", "config"), CASES)
def test_what_is_kept_is_what_stays_allocated_after_a_forward(record: Any, config: Any) -> None:
    """NumPy reports its arrays to tracemalloc. The model is wider, since objects of Python would drown small arrays."""
    wide = {"embed_dim": config.embed_dim * 8} | ({"context_length": 48} if hasattr(config, "context_length") else {})
    config = type(config)(**{**vars(config), **wide})
    model = record.model(config, 0)
    inputs, _ = batch_of(record, config)
    with use_kernels("reference"):
        kept = model.summary().total.saved
        model(*inputs)
        model.clear_saved()
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        model(*inputs)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    saved_inputs = sum(x.nbytes for x in inputs)  # counted as kept, and allocated before
    assert kept - saved_inputs <= (after - before) * 1.01
    assert after - before <= kept * 1.02 + 60_000


@pytest.mark.parametrize(("record", "config"), CASES)
def test_the_total_is_the_same_at_every_depth(record: Any, config: Any) -> None:
    model = record.model(config, 0)
    totals = [model.summary(depth).total for depth in range(1, 6)]
    assert totals == [totals[0]] * 5
    assert totals[0].parameters == model.num_parameters


def test_a_gpt_as_it_is_counted_by_hand() -> None:
    V, T, C, H, F = 11, 7, 12, 3, 48
    model = GPT(
        GPTConfig(
            vocab_size=V, context_length=T, embed_dim=C, num_heads=H, num_layers=2, attn_implementation="parallel"
        )
    )
    with use_kernels("reference"):
        layers = {layer.path: layer for layer in model.summary(depth=2).layers}
    size = 4  # bytes of a float32
    assert layers["token_embedding"] == Layer("token_embedding", "Embedding", V * C, V * C * size, 0, T * 8)  # the ids
    for block in ("blocks.0", "blocks.1"):
        norm = layers[f"{block}.attention_norm"]
        assert norm[2:] == (2 * C, 2 * C * size, 0, (T * C + 2 * T) * size)  # x, mean and rstd
        attention = layers[f"{block}.attention"]
        parameters = 3 * C * C + 3 * C + C * C + C
        flops = 2 * T * 4 * C * C + 4 * T * T * C
        saved = (T * C + 3 * T * C + H * T * T + T * C) * size  # x, q k v, weights, heads side by side
        assert attention[2:] == (parameters, parameters * size, flops, saved)
        feed_forward = layers[f"{block}.feed_forward"]
        parameters = 2 * C * F + F + C
        saved = (T * C + 2 * T * F) * size  # x, before and after the activation
        assert feed_forward[2:] == (parameters, parameters * size, 2 * T * 2 * C * F, saved)
    assert layers["head"][2:] == (0, 0, 2 * T * C * V, T * C * size)  # tied: its parameters are the embedding's


def test_fused_attention_keeps_no_weights_of_all_pairs() -> None:
    def kept(implementation: Any) -> int:
        config = GPTConfig(
            vocab_size=11,
            context_length=64,
            embed_dim=12,
            num_heads=3,
            num_layers=1,
            attn_implementation=implementation,
        )
        with use_kernels("reference"):
            layers = {layer.path: layer for layer in GPT(config).summary(depth=2).layers}
        return layers["blocks.0.attention"].saved

    C, H, T, size = 12, 3, 64, 4
    # without the weights (H, T, T); but y, and two numbers a query of each head
    assert kept("parallel") - kept("fused") == size * (H * T * T - T * C - 2 * H * T)


def test_the_model_is_left_as_it_was() -> None:
    config = GPTConfig(vocab_size=11, context_length=7, embed_dim=12, num_heads=3, num_layers=1, dropout=0.5)
    ids = np.arange(7)[None]
    losses = []
    for summarizes in (False, True):
        model, criterion = GPT(config, seed=0), CrossEntropyLoss()
        first = criterion(model(ids), ids)
        if summarizes:
            model.summary()
        model.backward(criterion.backward())
        second = criterion(model(ids), ids)
        losses.append((first, second, model.token_embedding.weight.grad.copy()))
    np.testing.assert_equal(losses[0], losses[1])
    model.eval()
    model.summary()
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_the_table_adds_up_and_says_what_was_read() -> None:
    text = str(GPT(GPTConfig(vocab_size=11, context_length=7, embed_dim=12, num_heads=3, num_layers=2)).summary())
    lines = text.splitlines()
    assert lines[0].split() == [
        "layer",
        "module",
        "parameters",
        "bytes",
        "FLOPs",
        "a",
        "token",
        "kept",
        "for",
        "backward",
    ]
    assert lines[-2].split()[:4] == ["total", "GPT", "4,008", "16,032"]
    assert lines[-1] == "One forward of a text of 7 tokens; a step of training takes about three times the operations."
    with pytest.raises(ConfigError, match=r"GPT\.summary: depth is at least 1, got 0"):
        GPT(GPTConfig(vocab_size=11)).summary(0)


def test_the_command_prints_the_summary_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("the owl and the pussycat went to sea " * 40)
    tiny = ["--steps=1", "--context-length=8", "--embed-dim=8", "--num-heads=2", "--num-layers=1", "--batch-size=2"]
    run = str(tmp_path / "run")
    for arguments in (["train", str(tmp_path / "text.txt"), "--out", run, *tiny], ["summary", run, "--depth", "2"]):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert not left.value.code
        printed = capsys.readouterr().out
    assert "blocks.0.feed_forward_norm" in printed
    with pytest.raises(SystemExit):
        cli.main(["summary", run, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["total"]["parameters"] == sum(layer["parameters"] for layer in facts["layers"])
