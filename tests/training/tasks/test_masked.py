"""A run that learns hidden tokens: its loss falls, it is evaluated and resumed, and what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.data.text.batches import IGNORE_INDEX
from compyute_transformer.data.text.masked import masked_windows
from compyute_transformer.models import Bert, BertConfig
from compyute_transformer.training import load_run
from compyute_transformer.training.tasks.masked import evaluate_masked, mask_of
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.runs import batch_of

TOKENIZER = CharacterTokenizer.train(TEXT)


def test_the_evaluation_is_that_of_each_window_by_hand() -> None:
    model = Bert(BertConfig(TOKENIZER.vocab_size + 1, 16, 12, 3, 1)).to(dtype=np.float64).eval()
    randomize(model)
    tokens, mask = TOKENIZER.encode(TEXT)[:45], mask_of(TOKENIZER)
    nats, right = [], []
    for ids, lengths, targets in masked_windows(tokens, 16, 2, mask, len(tokens), seed=4):
        for row, length, wanted in zip(ids, lengths, targets, strict=True):
            logits = model(row[None, :length])[0]
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            for at in np.flatnonzero(wanted != IGNORE_INDEX):
                nats.append(-log_p[at, wanted[at]])
                right.append(logits[at].argmax() == wanted[at])
    found = evaluate_masked(model, TOKENIZER, tokens, 2, seed=4)
    assert found["tokens"] == len(nats)
    assert found["loss"] == pytest.approx(np.mean(nats), abs=1e-9)
    assert found["accuracy"] == np.mean(right)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nats)))


@pytest.mark.usefixtures("validation_only")  # as at run time
def test_a_run_learns_is_evaluated_resumed_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: Any, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        assert (left.value.code or 0) == code
        captured = capsys.readouterr()
        return captured.out if not code else " ".join(captured.err.replace("│", " ").split())

    (tmp_path / "owl.txt").write_text(TEXT)
    folder, options = tmp_path / "run", ["--preset", "bert", "--learning-rate", 1e-2, "--warmup", 5, *TINY]
    options += ["--precision", "float32"]  # "auto" may be bfloat16 here, and a directory does not keep it
    out = run("train", tmp_path / "owl.txt", "--out", folder, *options, "--steps", 40, "--sample-every", 40)
    assert "_" in out  # a sample
    assert "compyute generate" not in out
    losses = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = [event["validation_loss"] for event in losses if "validation_loss" in event]
    assert measured[-1] < measured[0] - 0.3
    result = json.loads(run("eval", folder, "--json"))
    assert result["loss"] == pytest.approx(min(measured), rel=1e-5)
    assert 0 < result["accuracy"] < 1
    run("train", "--resume", folder, "--steps", 41)
    loaded = load_run(folder)
    assert loaded.model.config.vocab_size == loaded.tokenizer.vocab_size + 1
    (ids, lengths), targets = batch_of(loaded, folder)
    assert ids.shape == targets.shape
    assert len(lengths) == len(ids)
    run("convert", folder, tmp_path / "out")
    assert np.allclose(Bert.from_pretrained(tmp_path / "out")(ids), loaded.model(ids), atol=1e-5)
    for command, words in (
        (["generate", folder], "predicts hidden tokens and generates no text"),
        (["predict", folder], "learned to predict hidden tokens"),
        (["chat", folder], "is no directory with the config.json"),
    ):
        assert words in run(*command, code=2)
    assert "learned hidden tokens" in run("explain", folder, "--prompt", "owl", code=1)
