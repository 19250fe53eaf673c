import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_helpers import Listener

from compyute_transformer.training import JsonReporter, LineReporter, Reporters, RunResult, reporter_for
from compyute_transformer.training.reporting.events import Advanced, Evaluated, Event, Logged, Sampled, Saved, Started
from compyute_transformer.training.reporting.progress import ProgressReporter
from compyute_transformer.training.reporting.reporters import describe, describe_metrics, duration, printable

FACTS = {"corpus": "words", "characters": 12345, "vocab_size": 65}
STORY: list[Event] = [
    Started(Path("runs/a"), 0, 2000, 804_096, "cpu", "cpu", 768, "tokens", FACTS),
    Evaluated(0, 4.1744, False, {"bits_per_character": 6.0224, "tokens": 1000}, 0.5),
    Saved(0, Path("runs/a/checkpoints/step-00000000")),
    Advanced(1, 4.2),
    Logged(1, 4.2, 1e-5, 2.5, 20_000.4, "tokens", 0.7),
    Sampled(1, "one [bold]line[/bold]\n\ntwo\n"),
    Evaluated(2, 4.0, True, {"bits_per_character": 5.8}, 0.8),
    Evaluated(3, 4.1, False, {"accuracy": 0.5}, 0.9),
    RunResult(Path("runs/a"), 3, 4.2, 4.1, {"accuracy": 0.5}, 2, True, 75.2, 3),
]


def tell(reporter: Any) -> None:
    for event in STORY:
        reporter.report(event)
    reporter.close()


def test_lines() -> None:
    stream = io.StringIO()
    tell(LineReporter(stream))
    assert stream.getvalue() == (
        "run                runs/a\n"
        "corpus             words\n"
        "characters         12,345\n"
        "vocab size         65\n"
        "parameters         804,096\n"
        "device             cpu, kernels\n"
        "tokens per step    768\n"
        "steps              2,000\n"
        "step      0  validation loss 4.1744  6.022 bits per character  untrained\n"
        "step      1  loss 4.2000  learning rate 1.00e-05  gradient norm 2.5  20,000 tokens/s\n"
        "step      1  sample:\n"
        "    one [bold]line[/bold]\n"
        "    \n"
        "    two\n"
        "step      2  validation loss 4.0000  5.800 bits per character  best so far\n"
        "step      3  validation loss 4.1000  accuracy 50.00%\n"
        "stopped at step 3 after 1 min 15 s: runs/a; best checkpoint: step 2\n"
    )


def test_the_head_of_a_resumed_run_says_where_it_goes_on() -> None:
    head = describe(Started(Path("a"), 1500, 2000, 5, "cuda", "reference", 768, "images", {}))
    assert head is not None
    assert "steps              1,500 to 2,000" in head
    assert "device             cuda, reference ops" in head
    assert "images per step    768" in head


def test_json() -> None:
    stream = io.StringIO()
    tell(JsonReporter(stream))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["event"], r["step"]) for r in records] == [
        ("started", 0),
        ("evaluation", 0),
        ("checkpoint", 0),
        ("step", 1),
        ("sample", 1),
        ("evaluation", 2),
        ("evaluation", 3),
        ("finished", 3),
    ]
    assert records[0]["folder"] == "runs/a"
    assert records[0]["characters"] == 12345
    assert records[3] == {
        "event": "step",
        "step": 1,
        "loss": 4.2,
        "learning_rate": 1e-5,
        "gradient_norm": 2.5,
        "rate": 20_000.4,
        "unit": "tokens",
        "seconds": 0.7,
    }
    assert records[-1]["interrupted"] is True
    assert records[-1]["accuracy"] == 0.5


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    stream = Terminal()
    reporter = reporter_for(stream)
    assert isinstance(reporter, ProgressReporter)
    tell(reporter)
    shown = stream.getvalue()
    for text in ("12,345", "validation loss 4.0000", "    one [bold]line[/bold]", "stopped at step 3", "best so far"):
        assert text in shown
    assert "learning rate" not in shown  # steps move the bar, and print nothing
    bar = [line for line in shown.replace("\r", "\n").split("\n") if "/2,000" in line][-1]
    for text in ("step 1/2,000", "loss 4.200", "validation 4.100", "20,000 tokens/s", "left"):
        assert text in bar
    bar_left, _, last = shown.rpartition("\x1b[?25h")  # the cursor is back, and the bar is left for good
    assert "step 1/2,000" in bar_left
    assert last.strip() == "stopped at step 3 after 1 min 15 s: runs/a; best checkpoint: step 2"


def test_closing_a_bar_that_never_began_is_quiet() -> None:
    stream = Terminal()
    ProgressReporter(stream).close()
    assert stream.getvalue().strip() in ("", "\x1b[?25h")


def test_what_suits_a_stream() -> None:
    assert isinstance(reporter_for(io.StringIO()), LineReporter)
    assert isinstance(reporter_for(io.StringIO(), as_json=True), JsonReporter)
    assert isinstance(reporter_for(Terminal(), as_json=True), JsonReporter)


@pytest.mark.parametrize("kind", [LineReporter, JsonReporter])
def test_a_reader_that_goes_away_is_no_error(kind: Any) -> None:
    end, begin = os.pipe()
    with open(begin, "w", encoding="utf-8") as stream:
        reporter = kind(stream)
        reporter.report(STORY[0])
        os.close(end)
        tell(reporter)
        tell(reporter)
        assert os.fstat(stream.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_full_disk_is_an_error() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        tell(LineReporter(Full()))


def test_several_hear_the_same() -> None:
    one, two = Listener(), Listener()
    tell(Reporters([one, two]))
    assert one.events == two.events == STORY
    assert (one.closed, two.closed) == (1, 1)
    tell(Reporters())


def test_text_cannot_hurt_a_stream() -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable("naïve\x1b[2J\ttab\nline \u202e", narrow) == "na?ve?[2J\ttab\nline ?"
    assert printable("naïve\x1b \x07", io.StringIO()) == "naïve\ufffd \ufffd"
    assert printable("5\xa0% 👩\u200d🔬", io.StringIO()) == "5\xa0% 👩\u200d🔬"
    LineReporter(narrow).report(Sampled(1, "§“quoted”"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_pipe_does_not_bring_rich() -> None:
    code = "import sys; import compyute_transformer.training as t; t.reporter_for(); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_metrics_in_words() -> None:
    assert describe_metrics({"loss": 0.5, "tokens": 1200, "bits_per_character": 0.25}) == (
        "loss               0.5000 nats per token\ntokens             1,200\nbits per character 0.2500"
    )
    assert describe_metrics({"loss": 0.5, "accuracy": 0.985, "images": 360}) == (
        "loss               0.5000 nats per image\naccuracy           98.50%\nimages             360"
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (40, ("1/2,000", "loss 4.200")),
        (60, ("step 1/2,000", "loss 4.200", "validation 4.100")),
        (80, ("step 1/2,000", "loss 4.200", "validation 4.100", "20,000 tokens/s", "left")),
        (140, ("━", "step 1/2,000", "loss 4.200", "validation 4.100", "20,000 tokens/s", "left")),
    ],
)
def test_a_narrow_terminal_keeps_the_loss_and_the_time(
    monkeypatch: pytest.MonkeyPatch, columns: int, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    tell(ProgressReporter(stream))
    bar = [line for line in stream.getvalue().replace("\r", "\n").split("\n") if "/2,000" in line][-1]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bar)
    assert all(word in plain for word in words), plain
    assert re.search(r"-:--|\d:\d\d", plain), plain
    assert "…" not in plain
    assert len(plain.rstrip()) <= columns


def test_an_interruption_is_shown_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    stream = Terminal()
    reporter = ProgressReporter(stream)
    listeners = Reporters([reporter, Listener()])
    assert not listeners.interrupted("before the bar")
    listeners.report(STORY[0])
    assert listeners.interrupted("Stopping after this step")
    reporter.close()
    assert "Stopping after this step" in stream.getvalue().rpartition("/2,000")[2]
    assert not Reporters([Listener()]).interrupted("nobody shows it")


def test_a_resumed_bar_shows_the_latest_validation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    (tmp_path / "log.jsonl").write_text('{"event": "evaluation", "step": 5, "validation_loss": 1.25}\n')
    stream = Terminal()
    reporter = ProgressReporter(stream)
    reporter.report(Started(tmp_path, 5, 20, 5, "cpu", "cpu", 768, "tokens", {}))
    reporter.close()
    assert "validation 1.250" in stream.getvalue()


def test_lines_say_how_much_time_is_left() -> None:
    stream = io.StringIO()
    reporter = LineReporter(stream)
    reporter.report(Started(Path("a"), 0, 30, 5, "cpu", "cpu", 768, "tokens", {}))
    for step, seconds in ((1, 20.0), (11, 30.0), (30, 49.0)):
        reporter.report(Logged(step, 1.0, 1e-3, 1.0, 100.0, "tokens", seconds))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("step ") and "loss" in line]
    assert [line.endswith("  19 s left") for line in lines] == [False, True, False]
