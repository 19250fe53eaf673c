import json
from pathlib import Path

from compyute_transformer.training.reporting.events import Advanced, Evaluated, Logged, Sampled, Saved
from compyute_transformer.training.reporting.journal import LOG, SAMPLES, Journal, read_log


def write(run: Path, step: int, until: int) -> None:
    journal = Journal(run, step)
    for now in range(step + 1, until + 1):
        journal.report(Advanced(now, 1.0))
        journal.report(Logged(now, 1.0 / now, 0.1, 2.0, 1000.0, "tokens", float(now)))
        if now % 2 == 0:
            journal.report(Evaluated(now, 0.5, True, {"bits_per_character": 0.7}, now + 0.5))
            journal.report(Sampled(now, f"text\n--- step {now} ---\nof {now} é\n"))
        journal.report(Saved(now, run))
    journal.sync()
    journal.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    rates = {"learning_rate": 0.1, "gradient_norm": 2.0, "rate": 1000.0, "unit": "tokens"}
    evaluation = {"validation_loss": 0.5, "best": True, "bits_per_character": 0.7, "seconds": 2.5}
    assert read_log(tmp_path) == [
        {"event": "step", "step": 1, "loss": 1.0, **rates, "seconds": 1.0},
        {"event": "step", "step": 2, "loss": 0.5, **rates, "seconds": 2.0},
        {"event": "evaluation", "step": 2, **evaluation},
        {"event": "sample", "step": 2, "text": "text\n--- step 2 ---\nof 2 é\n"},
    ]
    assert (tmp_path / SAMPLES).read_text(encoding="utf-8") == "--- step 2 ---\ntext\n--- step 2 ---\nof 2 é\n\n\n"


def test_going_on_forgets_what_came_after(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    log, samples = (tmp_path / LOG).read_bytes(), (tmp_path / SAMPLES).read_bytes()
    for step in (4, 3, 1, 0):
        write(tmp_path, step, 5)
        assert (tmp_path / LOG).read_bytes() == log
        assert (tmp_path / SAMPLES).read_bytes() == samples
    Journal(tmp_path, 2).close()
    assert [values["step"] for values in read_log(tmp_path)] == [1, 2, 2, 2]
    assert (tmp_path / SAMPLES).read_text(encoding="utf-8").count("of 2") == 1
    nothing = Journal(tmp_path, -1)
    nothing.close()
    assert nothing.records == []
    assert (tmp_path / LOG).read_bytes() == (tmp_path / SAMPLES).read_bytes() == b""


def test_time_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    journal = Journal(tmp_path, 4)
    journal.close()
    assert journal.seconds == 4.5


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 0, 3)
    whole = read_log(tmp_path)
    with open(tmp_path / LOG, "ab") as log:
        log.write(b'{"event": "step", "step": 4, "lo')
    assert read_log(tmp_path) == whole
    with open(tmp_path / LOG, "ab") as log:
        log.write(b'\n\x00\x00\xff\n[1]\n{"step": "x"}\n')
    assert read_log(tmp_path) == whole
    write(tmp_path, 3, 4)
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()] == [1, 2, 2, 2, 3, 4, 4, 4]


def test_no_log_is_no_events(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
