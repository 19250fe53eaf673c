"""Runs that go on from a model: of all weights, of the last blocks, of LoRA; resumed, evaluated and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import TEXT, digests, tiny

from compyute_transformer.data import train_tokenizer
from compyute_transformer.errors import ConfigError, DataError
from compyute_transformer.exchange import AutoModel, load_adapter, merge_lora, save_adapter
from compyute_transformer.models import Llama, LlamaConfig, ViT, ViTConfig
from compyute_transformer.training import evaluate_run, load_run, resume_run, start_from, start_run
from compyute_transformer.training.run import checkpoint
from compyute_transformer.training.run.start import FROZEN

SMALL: dict[str, Any] = {"context_length": 64, "embed_dim": 12, "num_heads": 2, "num_layers": 3}
FEW: dict[str, Any] = {"steps": 4, "batch_size": 2, "eval_every": 2, "checkpoint_every": 2, "context_length": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published Llama of three blocks whose tokens are characters."""
    folder: Path = tmp_path_factory.mktemp("published") / "base"
    tokenizer = train_tokenizer("characters", TEXT)
    Llama(LlamaConfig(tokenizer.vocab_size + 1, **SMALL), seed=3).eval().save_pretrained(folder, tokenizer=tokenizer)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def weights(folder: Path) -> dict[str, np.ndarray]:
    return checkpoint.read(folder, "last")[1][0]


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, 3 * 7 + 2),
        ({"train_blocks": 1}, 7 + 1),  # the head shares the matrix of the embedding, which stays
        ({"lora_rank": 2, "lora_targets": "q_proj, down_proj"}, 3 * 4),
        ({"lora_rank": 2, "train_blocks": 2, "dropout": 0.1}, 2 * 7 * 2),
    ],
)
def test_it_trains_what_it_is_asked_to(options: dict[str, Any], trained: int, base: Path, text: Path) -> None:
    run, start = text.parent / "run", start_from(base)
    settings = start.resolve("finetune", None, {**FEW, **options})
    result = start_run(str(text), settings, run, model=start)
    assert result.step == 4
    assert len(weights(run)) == trained
    assert (run / FROZEN).exists() is bool(options)
    loaded, published = load_run(run, "last"), AutoModel.from_pretrained(base)
    before, after = published.state_dict(), loaded.model.state_dict()
    for name, array in before.items():
        changes = name in weights(run)
        assert np.array_equal(after[name], array) is not changes, name
    assert loaded.config.settings.model.embed_dim == 12
    assert loaded.model.config.context_length == 64  # windows of 16 tokens are no change of the model
    assert loaded.model.training_length == 16
    assert evaluate_run(run, which="last").metrics["tokens"] > 0
    assert (run / "published" / "chat_template.jinja").exists()


def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(base: Path, text: Path) -> None:
    runs = [text.parent / name for name in ("whole", "parts")]
    options = {"lora_rank": 2, "dropout": 0.2, "decay": "constant", "warmup": 0}
    for run in runs:
        start = start_from(base)
        settings = start.resolve("finetune", None, {**FEW, **options})
        part = settings.with_overrides({"steps": 2})
        start_run(str(text), settings if run.name == "whole" else part, run, model=start)
    resume_run(runs[1], steps=4)
    whole, parts = (digests(run) for run in runs)
    assert len(whole) >= 3
    assert whole == parts
    with pytest.raises(ConfigError, match="lora_rank"):
        resume_run(runs[1], overrides={"lora_rank": 3})


def test_a_run_goes_on_from_a_run(text: Path) -> None:
    first = text.parent / "first"
    start_run(str(text), tiny(steps=2, eval_every=2, checkpoint_every=2, sample_every=0, bias=False), first)
    start = start_from(first)
    settings = start.resolve("finetune", None, {**FEW, "train_blocks": 1})
    start_run(str(text), settings, text.parent / "second", model=start)
    before, after = (load_run(text.parent / name, "last").model for name in ("first", "second"))
    assert np.array_equal(before.blocks[0].attention.in_weight.data, after.blocks[0].attention.in_weight.data)
    assert not np.array_equal(before.blocks[2].attention.in_weight.data, after.blocks[2].attention.in_weight.data)


def test_lora_is_exported_alone_or_merged(base: Path, text: Path) -> None:
    run, start = text.parent / "run", start_from(base)
    start_run(
        str(text), start.resolve("finetune", None, {**FEW, "lora_rank": 2, "precision": "float32"}), run, model=start
    )
    model, ids = load_run(run, "last").model, np.arange(8)[None]
    logits = model(ids)
    save_adapter(model, text.parent / "adapter", base=str(base))
    again = load_adapter(AutoModel.from_pretrained(base), text.parent / "adapter")
    assert np.array_equal(again(ids), logits)
    merge_lora(model).save_pretrained(text.parent / "merged")
    merged = AutoModel.from_pretrained(text.parent / "merged")
    assert merged.config == AutoModel.from_pretrained(base).config
    assert np.allclose(merged(ids), logits, rtol=0, atol=1e-6)


def test_what_the_model_decides_cannot_be_chosen(base: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has its sizes and its tokenizer, got embed_dim"):
        start_from(base).resolve("finetune", None, {"embed_dim": 24})
    with pytest.raises(ConfigError, match=r"context_length is at most that of .*, 64, got 65"):
        start_from(base).resolve("finetune", None, {"context_length": 65})
    start = start_from(base)
    with pytest.raises(ConfigError, match="train_blocks is at most 3"):
        start_run(str(text), start.resolve("finetune", None, {"train_blocks": 4}), tmp_path / "run", model=start)
    with pytest.raises(ConfigError, match="lora_rank is for a run that goes on from another model"):
        start_run(str(text), tiny(lora_rank=2), tmp_path / "run")
    with pytest.raises(ConfigError, match="lora_rank must be given with lora_alpha"):
        start_from(base).resolve("finetune", None, {"lora_alpha": 2.0})
    assert not (tmp_path / "run").exists()


def test_models_that_predict_no_tokens_are_refused(tmp_path: Path) -> None:
    ViT(ViTConfig(8, 8, 3, 5, 4, 12, 2, 1)).save_pretrained(tmp_path / "vit")
    with pytest.raises(ConfigError, match="a model that predicts tokens, got one that learned other answers"):
        start_from(tmp_path / "vit").settings()
    Llama(LlamaConfig(3, **SMALL)).save_pretrained(tmp_path / "few", tokenizer=train_tokenizer("characters", TEXT))
    with pytest.raises(DataError, match=r"the tokenizer of .* and its model 3"):
        _ = start_from(tmp_path / "few").tokenizer


def test_lora_learns_at_a_higher_rate(base: Path) -> None:
    rates = [
        start_from(base).resolve("finetune", None, options).training.learning_rate
        for options in ({}, {"lora_rank": 2}, {"lora_rank": 2, "learning_rate": 3e-3})
    ]
    assert rates == pytest.approx([5e-5, 5e-4, 3e-3])
