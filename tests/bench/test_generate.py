"""The benchmark of generation: the same ids, with the cache and without, in three kinds of weights and by others."""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from compyute_transformer.bench import generate
from compyute_transformer.bench.candidates import alternate
from compyute_transformer.bench.generate import NO_GGUF, NO_LLAMA, NO_TRANSFORMERS, ONE_TEXT, Texts, bench_generate
from compyute_transformer.bench.writers import Writer, check_writers, llama_writer, our_writer
from compyute_transformer.errors import ConfigError, ParityError, RangeError
from compyute_transformer.exchange import save_gguf, save_pretrained
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.llama import Llama, LlamaConfig

TINY = {"context_length": 12, "embed_dim": 32, "num_heads": 2, "num_layers": 1}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the others, which may be installed, and without waiting between turns."""
    monkeypatch.setattr(generate, "alternate", partial(alternate, turn=1e-4, pause=0.0))
    monkeypatch.setattr(generate, "has_transformers", lambda: False)
    monkeypatch.setattr(generate, "has_llama", lambda: False)


def test_each_is_timed_for_what_it_writes() -> None:
    report = bench_generate("nano", TINY, Texts(batch_sizes=(1, 2)), rounds=1)
    kinds = ["float32", "bfloat16", "int8"]
    assert [r.mode for r in report.results if r.what == "prompt" and r.unit == "ms"] == kinds * 2
    assert [r.mode for r in report.results if r.what == "generate" and r.unit == "ms"] == [
        "float32",
        "anew",
        *kinds[1:],
    ] * 2
    assert [r.mode for r in report.results if r.what == "decode"] == kinds * 2
    assert {r.unit for r in report.results} == {"ms", "× compyute float32", "tokens/s"}
    for batch_size in (1, 2):
        shape = f"6 tokens read, 6 written, B {batch_size}, C 32, 2 heads, 1 blocks, V 65"
        found = {(r.what, r.unit): r.value for r in report.results if r.shape == shape and r.mode == "float32"}
        assert found["prompt", "tokens/s"] == pytest.approx(batch_size * 6 / found["prompt", "ms"] * 1e3)
        assert found["generate", "tokens/s"] == pytest.approx(batch_size * 6 / found["generate", "ms"] * 1e3)
        after = found["generate", "ms"] - found["prompt", "ms"]
        assert found["decode", "tokens/s"] == pytest.approx(batch_size * 5 / after * 1e3)
    assert report.notes == [NO_TRANSFORMERS, NO_LLAMA]


def test_of_one_token_the_prompt_is_all_there_is() -> None:
    report = bench_generate("nano", TINY, Texts(new_tokens=1, anew=False, weights=()), rounds=1)
    assert [(r.what, r.unit) for r in report.results] == [("prompt", "ms"), ("prompt", "tokens/s")]


def test_float32_is_always_there_and_first() -> None:
    report = bench_generate("nano", TINY, Texts(weights=("bfloat16",), anew=False), rounds=1)
    assert [r.mode for r in report.results if r.unit == "ms"] == ["float32", "bfloat16"] * 2


def test_other_ids_without_a_cache_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(GPTConfig(11, 12, 16, 2, 1)).eval()
    ours = our_writer(model, [[1, 2, 3]], "float32")
    anew = our_writer(model, [[1, 2, 3]], "anew", cached=False)
    check_writers([ours, anew], 4)
    assert [len(row) for row in anew.write(4)] == [4]
    with pytest.raises(ParityError, match="the same ids"):
        check_writers([ours, anew._replace(write=lambda count: [[0] * count])], 4)


@pytest.mark.parametrize(
    ("mode", "error", "refused"), [("float32", 1e-3, True), ("bfloat16", 1e-3, False), ("int8", 0.2, True)]
)
def test_other_logits_are_refused(mode: str, error: float, refused: bool) -> None:
    logits = np.array([1.0, -2.0])

    def other() -> Any:
        return logits + 2 * error

    pair = [Writer("compyute", "float32", lambda _: [], lambda: logits), Writer("torch", mode, lambda _: [], other)]
    if not refused:
        check_writers(pair, 1)
        return
    with pytest.raises(ParityError, match=f"the same logits .* those of torch {mode} differ by"):
        check_writers(pair, 1)


def test_what_does_not_fit_the_context_is_refused() -> None:
    with pytest.raises(RangeError, match="the context of 12 tokens, got 10 and 3"):
        bench_generate("nano", TINY, Texts(prompt_tokens=10, new_tokens=3))


def test_sizes_of_a_published_model_are_refused() -> None:
    for size, sizes, given in (("nano", None, "--preset"), (None, {"embed_dim": 8, "num_heads": 2}, "--embed-dim, ")):
        with pytest.raises(ConfigError, match=f"a published model has its own sizes, got {given}"):
            bench_generate(size, sizes, path="anywhere")


LLAMA = LlamaConfig(11, 12, 32, 2, num_layers=1, mlp_dim=32)


def test_a_published_model_goes_to_the_others_as_they_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory as it is, a GGUF file as it is and as a directory, and a preset in a directory of its own."""
    seen = []

    def stand_in(name: str) -> Any:
        def writer(place: Path, *arguments: Any) -> Writer:
            assert place.exists()
            seen.append((name, place.name, arguments[1]))
            prompts = arguments[0] if name == "transformers" else [arguments[0]]
            return our_writer(generate.Pretrained(place).model, prompts, arguments[1])._replace(provider=name)

        return writer

    for name, function in (("transformers", "their_writer"), ("llama", "llama_writer")):
        monkeypatch.setattr(generate, function, stand_in(name))
        monkeypatch.setattr(generate, f"has_{name}", lambda: True)
    monkeypatch.setattr(generate, "use_threads_of", lambda environment: None)
    model = Llama(LLAMA).eval()
    save_pretrained(model, tmp_path / "here")
    save_gguf(model, tmp_path / "file.gguf", dtype="q8_0")
    few = Texts(3, 2, (1, 2), ("float32",), anew=False)
    for path, files, directory in (
        (tmp_path / "here", [("llama", "float16.gguf", "float16"), ("llama", "q8_0.gguf", "q8_0")], "here"),
        (tmp_path / "file.gguf", [("llama", "file.gguf", "its file")], "model"),
    ):
        seen.clear()
        report = bench_generate(texts=few, rounds=1, path=path)
        assert report.notes == [ONE_TEXT]
        assert report.results[0].shape.startswith(f"{path.name}: 3 tokens read, 2 written, B 1, ")
        of_theirs = [("transformers", directory, "float32"), ("transformers", directory, "bfloat16")]
        assert seen == [*of_theirs, *files, *of_theirs]
    seen.clear()
    assert bench_generate("nano", TINY, few, rounds=1).notes == [NO_GGUF]
    assert seen == [("transformers", "model", "float32"), ("transformers", "model", "bfloat16")] * 2


def test_llama_starts_each_text_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that has the same functions: it counts on from the last id."""
    made: Any = ModuleType("llama_cpp")

    class Model:
        ctx = "context"

        def __init__(self, path: str, **options: Any) -> None:
            self.options, self.held = options, [99]

        def reset(self) -> None:
            self.held.clear()

        def eval(self, ids: list[int]) -> None:
            self.held += ids

        def n_vocab(self) -> int:
            return 3

        def generate(self, ids: list[int], **options: Any) -> Any:
            assert self.held == []
            assert options["temp"] == 0.0
            self.eval(ids)
            while True:
                yield self.held[-1] + 1
                self.held.append(self.held[-1] + 1)

    made.Llama, made.llama_get_logits_ith = Model, lambda ctx, index: [0.5, 1.0, 2.0, 7.0]
    monkeypatch.setitem(sys.modules, "llama_cpp", made)
    writer = llama_writer(Path("a.gguf"), [4, 5], "q8_0", 9, 2)
    assert writer.write(3) == writer.write(3) == [[6, 7, 8]]
    assert writer.logits().tolist() == [0.5, 1.0, 2.0]
