"""The benchmark of generation: one text, with the cache and without."""

from typing import Any

import pytest

from compyute_transformer.bench import generate
from compyute_transformer.bench.generate import bench_generate
from compyute_transformer.errors import ParityError, RangeError

TINY = {"context_length": 12, "embed_dim": 16, "num_heads": 2, "num_layers": 1}


def test_both_are_timed_for_what_they_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "has_transformers", lambda: False)  # a third candidate where it is installed
    report = bench_generate("nano", TINY, rounds=1)
    assert [(r.mode, r.unit) for r in report.results] == [
        ("cached", "ms"), ("anew", "ms"), ("anew", "× compyute cached"), ("cached", "tokens/s"), ("anew", "tokens/s")
    ]  # fmt: skip
    assert report.results[3].value == pytest.approx(6 / report.results[0].value * 1e3)
    assert report.results[0].shape.startswith("6 tokens read, 6 written, C 16")


def test_another_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, max_new_tokens: int, cached: bool, **options: Any) -> str:
        return "a" * max_new_tokens if cached else "b" * max_new_tokens

    monkeypatch.setattr(generate, "generate", wrong)
    with pytest.raises(ParityError, match="the same text"):
        bench_generate("nano", TINY, rounds=1)


def test_what_does_not_fit_the_context_is_refused() -> None:
    with pytest.raises(RangeError, match="the context of 12 tokens, got 10 and 3"):
        bench_generate("nano", TINY, prompt_tokens=10, new_tokens=3)
