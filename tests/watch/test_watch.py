"""The local page follows the logs of runs: it reads what is new, and answers browsers of this machine alone."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compyute_transformer.cli import main
from compyute_transformer.errors import RunError
from compyute_transformer.watch import Watcher
from compyute_transformer.watch.followed import BINS, FollowedRun, find_runs, histogram
from compyute_transformer.watch.server import page

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def step(number: int, loss: float = 2.5) -> str:
    values = {"event": "step", "step": number, "loss": loss, "learning_rate": 0.1, "gradient_norm": 1.5}
    return json.dumps(values | {"rate": 10.0, "unit": "tokens", "seconds": 0.5 * number}) + "\n"


def evaluation(number: int, loss: float, best: bool = True) -> str:
    values = {"event": "evaluation", "step": number, "validation_loss": loss, "best": best, "seconds": 1.0}
    return json.dumps(values) + "\n"


def sample(number: int, text: str) -> str:
    return json.dumps({"event": "sample", "step": number, "text": text}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "owl"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text(step(1, 4.25) + evaluation(1, 4.5) + sample(1, "<b>who</b>"))
    return folder


@pytest.fixture
def watcher(run: Path) -> Iterator[Watcher]:
    made = Watcher([run.parent])
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.close()
    thread.join()


def get(watcher: Watcher, path: str, host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = HTTPConnection(watcher.url.removeprefix("http://").removesuffix("/"), timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def news(watcher: Watcher, have: str = "") -> list[dict[str, Any]]:
    status, text, _ = get(watcher, f"/runs?have={have}")
    assert status == 200
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_the_page_is_told_what_is_new_and_nothing_twice(watcher: Watcher, run: Path) -> None:
    [first] = news(watcher)
    assert (first["name"], first["story"], first["first"], first["steps"]) == ("owl", 1, 0, None)
    assert first["records"] == [
        ["step", 1, 4.25, 0.1, 1.5, 10.0, 0.5],
        ["evaluation", 1, 4.5, True],
        ["sample", 1, "<b>who</b>"],
    ]
    assert first["idle"] >= 0
    with open(run / "log.jsonl", "a") as log:
        log.write(step(2) + step(3)[:20])  # a line and a half
    [second] = news(watcher, "1:3")
    assert (second["first"], second["records"]) == (3, [["step", 2, 2.5, 0.1, 1.5, 10.0, 1.0]])
    with open(run / "log.jsonl", "a") as log:
        log.write(step(3)[20:])
    [third] = news(watcher, "1:4")
    assert [values[:2] for values in third["records"]] == [["step", 3]]
    assert news(watcher, "1:5")[0]["records"] == []
    assert len(news(watcher, "0:0")[0]["records"]) == 5


@pytest.mark.parametrize("replaced", [False, True], ids=["cut", "replaced"])
def test_a_log_that_begins_anew_is_told_anew(watcher: Watcher, run: Path, replaced: bool) -> None:
    news(watcher)
    log = run / "log.jsonl"
    if replaced:  # as a run that goes on does: a new file of the same name, here a longer one
        other = run / "other"
        other.write_text(step(7) * 9)
        other.replace(log)
    else:
        log.write_text(step(7))
    [found] = news(watcher, "1:3")
    assert (found["story"], found["first"]) == (2, 0)
    assert [values[1] for values in found["records"]] == [7] * (9 if replaced else 1)


def test_damaged_lines_and_runs_without_a_log_are_passed_over(run: Path) -> None:
    with open(run / "log.jsonl", "ab") as log:
        log.write(
            b"\xff\n[1]\n" + b'{"event": "step", "step": -1}\n' + b'{"event": "other", "step": 2}\n' + b"[" * 5000
        )
    followed = FollowedRun(run)
    followed.read()
    assert len(followed.records) == 3
    empty = FollowedRun(run.parent / "none")
    empty.read()
    assert (empty.records, empty.story, empty.idle_seconds(0.0), empty.weights()) == ([], 0, None, None)


def test_a_long_sample_is_shortened_and_says_so(run: Path) -> None:
    (run / "log.jsonl").write_text(sample(1, "x" * 20_000))
    followed = FollowedRun(run)
    followed.read()
    [[_, _, text]] = followed.records
    assert text == "x" * 10_000 + "… (20,000 characters)"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", None, 200),
        ("/", "localhost:1234", 200),
        ("/", "owl.example", 403),
        ("/runs", "owl.example:80", 403),
        ("/weights?run=0", "127.0.0.1.owl.example", 403),
        ("/favicon.ico", None, 204),
        ("/log.jsonl", None, 404),
        ("/../../etc/passwd", None, 404),
    ],
)
def test_only_browsers_of_this_machine_are_answered(watcher: Watcher, path: str, host: str | None, status: int) -> None:
    found, text, headers = get(watcher, path, host)
    assert found == status
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (status == 200) == ("compyute watch" in text)
    assert watcher.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("have", ["", "x", "1:x", "1", "-1:2", "1:999999", "1:2,3:4,5:6", "9" * 40 + ":1"])
def test_whatever_a_page_claims_to_have_is_answered_in_full(watcher: Watcher, have: str) -> None:
    [found] = news(watcher, have)
    assert found["first"] + len(found["records"]) == 3


@pytest.mark.parametrize("index", ["", "-1", "1", "x", "9" * 30])
def test_weights_of_no_run_are_none(watcher: Watcher, index: str) -> None:
    assert get(watcher, f"/weights?run={index}")[:2] == (200, "null")


def test_a_histogram_counts_every_finite_element() -> None:
    array = np.array([[-2.0, -0.1, 0.0, 0.1], [2.0, np.nan, np.inf, 1.0]], np.float32)
    found = histogram("owl", array)
    counts = found.pop("counts")
    assert len(counts) == BINS
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 6)
    assert counts[BINS // 2] == 1  # 0; a bin is 4/41 wide, and ±0.1 lie in the next ones
    finite = array[np.isfinite(array)].astype(np.float64)
    assert found == {
        "name": "owl",
        "shape": [2, 4],
        "most": 2.0,
        "mean": pytest.approx(finite.mean()),
        "std": pytest.approx(finite.std()),
        "not_finite": 2,
    }
    assert sum(histogram("zeros", np.zeros((3, 0)))["counts"]) == 0
    assert sum(histogram("zeros", np.zeros(5))["counts"]) == 5


def test_the_weights_are_those_of_the_last_checkpoint_in_order(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, reads = [10], []

    def read(folder: Path, which: str) -> tuple[Any, list[dict[str, np.ndarray]]]:
        reads.append((folder, which))
        return SimpleNamespace(step=steps[-1]), [{"b.10.w": np.ones(2), "b.2.w": np.zeros(3), "a": np.ones(1)}]

    monkeypatch.setattr("compyute_transformer.watch.followed.checkpoint.steps", lambda folder: steps)
    monkeypatch.setattr("compyute_transformer.watch.followed.checkpoint.read", read)
    followed = FollowedRun(run)
    for _ in range(2):
        found = followed.weights()
        assert found is not None
        assert (found["step"], [array["name"] for array in found["arrays"]]) == (10, ["a", "b.2.w", "b.10.w"])
    steps.append(20)
    assert followed.weights()["step"] == 20  # type: ignore[index]
    assert reads == [(run, "last")] * 2  # once for each checkpoint


def test_folders_without_runs_are_refused(run: Path, tmp_path: Path) -> None:
    assert find_runs([run.parent, run]) == [run]
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(RunError, match=r"watch: a run is a folder with .* is neither"):
            find_runs([path])


def test_a_port_that_is_taken_and_a_folder_without_a_run_end_the_command_with_one_sentence(
    watcher: Watcher, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = watcher.url.rsplit(":", 1)[1].removesuffix("/")
    for arguments, code, message in (
        ((str(run), "--port", port), 2, f"--port names a free port, and {port} is not"),
        ((str(run / "none"),), 1, "is neither"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["watch", *arguments])
        assert stop.value.code == code
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = page()
    assert "@@" not in text
    assert "connect-src 'self'; script-src 'sha256-" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_shows_the_numbers_and_a_sample_as_text(watcher: Watcher, run: Path, tmp_path: Path) -> None:
    with open(run / "log.jsonl", "a") as log:
        log.write(step(20, 1.125) + evaluation(20, 1.375))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    shown = subprocess.run(
        [str(BROWSER), *options, "--virtual-time-budget=5000", "--dump-dom", watcher.url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert ">1.125</td>" in shown
    assert ">1.375 at 20</td>" in shown
    assert "owl training 1.125, owl validation 1.375" in shown
    assert "&lt;b&gt;who&lt;/b&gt;" in shown
    assert "There is no checkpoint yet." in shown
