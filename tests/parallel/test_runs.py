"""Whole runs by threads that play processes: the same weights, optimizer and log for 1, 2 and 4 of them.

In float32 they take fifty steps, in bfloat16 ten. `COMPYUTE_PROCESSES=1,2,4,8` names other numbers of processes, and
`COMPYUTE_STEPS=50` the steps of all.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from compyute_transformer.optim import clip
from compyute_transformer.parallel import Communicator, buckets, run_in_threads
from compyute_transformer.training import Settings, start_run
from compyute_transformer.training.run.checkpoint import latest

PROCESSES = [int(number) for number in os.environ.get("COMPYUTE_PROCESSES", "1,2,4").split(",")]
TEXT = "The owl and the pussycat went to sea in a beautiful pea green boat.\n" * 40
PAIRS = "".join(f"{a} plus {b}\tis {a + b}\n" for a in range(9) for b in range(9))
COMMON: dict[str, Any] = {
    **{"steps": 50, "batch_size": 8, "accumulation": 2, "dropout": 0.2, "clip": 0.5, "weight_decay": 0.1},
    **{"embed_dim": 16, "num_heads": 2, "num_layers": 1, "learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup": 5},
    **{"eval_every": 25, "checkpoint_every": 20, "log_every": 1, "leaves": max(PROCESSES) // 2},
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt": {"task": "language", "context_length": 8, "sample_every": 0, "eval_tokens": 64},
    "transformer": {"task": "translation", "context_length": 16, "tokenizer": "characters", "sample_every": 0},
    "vit": {"task": "digits", "validation_fraction": 0.02, "image_size": None},
}
SOURCES = {"gpt": "text.txt", "transformer": "pairs.tsv"}
CLOCK = ("seconds", "rate")
STEPS = {
    precision: int(os.environ.get("COMPYUTE_STEPS", few)) for precision, few in (("float32", 50), ("bfloat16", 10))
}


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a tiny model as a large one: into several buckets, which processes share."""
    monkeypatch.setattr(clip, "PIECE", 64)
    monkeypatch.setattr(buckets, "PIECE", 64)
    monkeypatch.setattr(buckets, "BUCKET", 1024)


def settings_of(model: str, **changes: Any) -> Settings:
    preset = {"gpt": "cpu", "transformer": "translation", "vit": "images"}[model]
    return Settings.resolve(preset, None, COMMON | MODELS[model] | changes)


def digest(run: Path, steps: int) -> str:
    """Return that of the last weights, of the optimizer, and of the log without its clock."""
    arrays = b"".join((latest(run) / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert sum("loss" in record for record in log) == steps
    told = [{key: value for key, value in record.items() if key not in CLOCK} for record in log]
    return sha256(arrays + json.dumps(told).encode()).hexdigest()


@pytest.mark.parametrize("precision", STEPS)
@pytest.mark.parametrize("model", MODELS)
def test_the_number_of_processes_changes_no_bit(model: str, precision: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text(PAIRS, encoding="utf-8")
    sources = [tmp_path / SOURCES[model]] if model in SOURCES else ()
    settings = settings_of(model, precision=precision, steps=STEPS[precision])
    digests = []
    for size in PROCESSES:
        folder = tmp_path / str(size)

        def process(communicator: Communicator, folder: Path = folder) -> None:
            start_run(sources, settings, folder, communicator=communicator)

        run_in_threads(size, process)
        digests.append(digest(folder, STEPS[precision]))
    assert len(set(digests)) == 1
