"""The start: times of processes of their own, the first with nothing on disk."""

import os
from pathlib import Path

import pytest

from compyute_transformer.bench import startup
from compyute_transformer.bench.startup import bench_startup
from compyute_transformer.errors import CompyuteError


def test_a_process_tells_its_times() -> None:
    times = startup._run("nano", None)
    assert list(times) == ["startup: import", "startup: first step", "startup: second step"]
    assert all(0 < seconds < 600 for seconds in times.values())


def test_the_first_process_finds_an_empty_cache_and_the_others_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(size: str, cache: str) -> dict[str, float]:
        assert os.listdir(cache) == ([] if not seen else ["kernel"])
        Path(cache, "kernel").touch()
        seen.append(cache)
        return {"startup: first step": 30.0 if len(seen) == 1 else float(len(seen))}

    monkeypatch.setattr(startup, "_run", run)
    report = bench_startup("nano", rounds=3)
    assert [(r.mode, r.value, r.unit) for r in report.results] == [("empty cache", 30.0, "s"), ("full cache", 3.0, "s")]
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert not os.path.exists(seen[0])


def test_the_cache_is_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(startup, "CHILD", 'import os; print("{\\"" + os.environ["NUMBA_CACHE_DIR"] + "\\": 1}")')
    assert startup._run("nano", str(tmp_path)) == {str(tmp_path): 1}


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(CompyuteError, match=r"it ended with: .*a preset must be one of"):
        startup._run("huge", None)
