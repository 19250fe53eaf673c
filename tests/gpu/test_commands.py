"""The command with `--device cuda`, and what it says where the memory of the GPU is too small."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu.stand_in import installed
from training_helpers import TEXT

from compyute_transformer import use_kernels
from compyute_transformer.arrays import memory_fault
from compyute_transformer.cli import main

SIZES = ["--context-length=16", "--embed-dim=16", "--num-heads=2", "--num-layers=1", "--batch-size=4"]


@pytest.fixture
def cupy() -> Iterator[Any]:
    with installed() as module, use_kernels("reference"):
        yield module


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def test_the_commands_that_compute_do_so_on_a_gpu(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    settings = ["--steps=2", "--warmup=0", "--eval-every=0", "--sample-every=0"]
    on_gpu = ["--device", "cuda"]
    assert command("train", "text.txt", *SIZES, *settings, *on_gpu, "--out", "run") == 0
    assert command("generate", "run", "--prompt", "the cat", "--max-new-tokens", "5", *on_gpu) == 0
    assert command("eval", "run", *on_gpu) == 0
    assert command("explain", "run", "--prompt", "the cat", *on_gpu) == 0
    assert Path("page.html").stat().st_size > 1000
    capsys.readouterr()
    assert command("verify", "ops.sum", *on_gpu) == 1  # nothing is called so
    assert "ops.linear" in capsys.readouterr().err
    assert cupy.get_default_memory_pool().count > 1000  # all of it was on the device


def test_out_of_memory_is_one_sentence_with_the_sizes(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    pool = cupy.get_default_memory_pool()
    monkeypatch.setattr(pool, "limit", pool.used_bytes() + 100_000)
    assert command("train", "text.txt", *SIZES, "--steps=2", "--warmup=0", "--device=cuda", "--out=run") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Error: out of memory on the GPU: 0.00 GiB more were asked for" in said
    assert "of the 80.00 GiB it has" in said
    assert "Lower the batch (--batch-size, with as much more --accumulation)" in said


def test_out_of_memory_of_the_cpu_says_what_it_knows() -> None:
    assert memory_fault(MemoryError("Unable to allocate 9 GiB")) == "out of memory: Unable to allocate 9 GiB"


def test_without_a_gpu_the_commands_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("verify", "--device", "cuda") == 1
    assert "pip install 'compyute-transformer[gpu]'" in " ".join(capsys.readouterr().err.split())
