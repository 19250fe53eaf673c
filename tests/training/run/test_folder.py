import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from training_helpers import TEXT, TINY, Listener, digests, dying, task, tiny

from compyute_transformer import use_kernels
from compyute_transformer.data import load_corpus
from compyute_transformer.errors import CheckpointError, ConfigError, CorpusError, RunError
from compyute_transformer.threads import set_threads, threads
from compyute_transformer.training import (
    Settings,
    evaluate_run,
    load_config,
    load_run,
    resume_run,
    start_run,
    trainer,
    unused_name,
)
from compyute_transformer.training.reporting.events import Advanced, Evaluated, Event, Started
from compyute_transformer.training.reporting.journal import read_log
from compyute_transformer.training.reporting.next_steps import next_steps
from compyute_transformer.training.run import checkpoint, folder, lock
from compyute_transformer.training.tasks.language import LANGUAGE


@pytest.fixture(autouse=True)
def reference() -> Iterator[None]:
    with use_kernels("reference"):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text(TEXT)
    return str(path)


def test_a_run_is_what_the_design_says(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "runs/words"
    result = start_run([corpus], tiny(), run)
    assert result.folder == run
    assert sorted(os.listdir(run)) == ["checkpoints", "config.json", "log.jsonl", "samples.txt", "tokenizer.json"]
    assert set(os.listdir(checkpoint.latest(run))) == {
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    }
    config = json.loads((run / "config.json").read_text())
    assert config["sources"] == [corpus]
    assert config["data"] == "words"
    assert config["sha256"] == load_corpus(corpus).sha256
    assert config["shape"] == {"vocab_size": len(set(TEXT))}
    assert Settings.from_dict(config["settings"]) == tiny() == load_config(run).settings
    for file in run.rglob("*.safetensors"):
        assert file.read_bytes()[8:9] == b"{"  # a header of JSON, no pickle


def test_the_facts_are_told(tmp_path: Path, corpus: str) -> None:
    listener = Listener()
    start_run([corpus], tiny(steps=1), tmp_path / "run", listener)
    facts = listener.of(Started)[0].facts
    assert facts == {
        "corpus": "words",
        "characters": len(TEXT),
        "training_tokens": int(len(TEXT) * 0.9),
        "validation_tokens": len(TEXT) - int(len(TEXT) * 0.9),
        "vocab_size": len(set(TEXT)),
    }


@pytest.mark.parametrize("fastest", ["bfloat16", "float32"])
def test_a_run_keeps_what_the_precision_auto_stood_for(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch, fastest: Any
) -> None:
    """Else a run that is resumed on another processor would go on with other numbers."""
    other = {"bfloat16": "float32", "float32": "bfloat16"}[fastest]
    listener, resumed = Listener(), Listener()
    monkeypatch.setattr(folder, "fastest_precision", lambda device: fastest)
    start_run([corpus], tiny(steps=1, precision="auto"), tmp_path / "run", listener)
    monkeypatch.setattr(folder, "fastest_precision", lambda device: other)
    resume_run(tmp_path / "run", resumed, steps=2)
    for heard in (listener, resumed):
        assert ("precision" in heard.of(Started)[0].facts) == (fastest == "bfloat16")
    assert load_config(tmp_path / "run").settings.training.precision == fastest
    assert load_run(tmp_path / "run").model.precision == (None if fastest == "float32" else fastest)
    resume_run(tmp_path / "run", steps=3, overrides={"precision": "auto"})
    assert load_config(tmp_path / "run").settings.training.precision == other


def test_a_precision_that_the_model_has_is_not_replaced(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "fastest_precision", lambda device: "float32")
    made, listener = task(), Listener()
    made.model.precision = "bfloat16"
    start_run([corpus], tiny(steps=1, precision="auto"), tmp_path / "run", listener, task=made)
    assert "bfloat16 products" in listener.of(Started)[0].facts["precision"]


def test_a_run_uses_the_threads_it_is_given_and_ends_the_same(tmp_path: Path, corpus: str) -> None:
    class Counting(Listener):
        def report(self, event: Event) -> None:
            used.append(threads())

    before, used = threads(), list[int]()
    with use_kernels("auto"):
        try:
            start_run([corpus], tiny(threads=1), tmp_path / "one", Counting())
            assert set(used[1:]) == {1}
            assert threads() == before
        finally:
            set_threads(before, override=True)
        start_run([corpus], tiny(threads=before), tmp_path / "all")
    assert digests(tmp_path / "one") == digests(tmp_path / "all")


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_what_was_trained_is_loaded(tmp_path: Path, corpus: str, tokenizer: str) -> None:
    run = tmp_path / "run"
    # A rate that falls apart after some steps makes the best checkpoint another one than the last.
    size = {"vocab_size": 300} if tokenizer == "bpe" else {}
    settings = tiny(tokenizer=tokenizer, learning_rate=100, warmup=0, **size)
    listener = Listener()
    result = start_run([corpus], settings, run, listener)
    losses = {e.step: e.validation_loss for e in listener.of(Evaluated)}
    assert result.best_step is not None
    assert result.best_step < 12
    for which, step in (("best", result.best_step), ("last", 12)):
        loaded = load_run(run, which)  # type: ignore[arg-type]
        assert loaded.step == step
        assert not loaded.model.training
        assert loaded.settings == settings
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("the cat")) == "the cat"
        evaluation = evaluate_run(run, which=which)  # type: ignore[arg-type]
        assert evaluation.metrics["loss"] == losses[step]
        assert evaluation.metrics["characters"] >= evaluation.metrics["tokens"] > 50
    other = tmp_path / "other.txt"
    other.write_text("the mat was on the cat\n")
    evaluation = evaluate_run(run, [str(other)], "last")
    assert evaluation.metrics["tokens"] <= evaluation.metrics["characters"] <= 22
    assert evaluation.metrics["loss"] != losses[12]


def test_a_run_of_bpe_learns_its_merges_from_the_training_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("abcabc " * 200 + "xyzxyz " * 22)
    start_run([str(path)], tiny(steps=1, tokenizer="bpe", vocab_size=280), tmp_path / "run")
    tokenizer = load_run(tmp_path / "run").tokenizer
    assert len(tokenizer.encode(" abcabc")) == 1
    assert len(tokenizer.encode(" xyzxyz")) == 7


def test_names_are_free(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(unused_name(tmp_path, "nano"))
        names[-1].mkdir()
    assert [path.name for path in names] == ["nano", "nano-2", "nano-3"]


def test_a_folder_with_a_run_is_refused(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    start_run([corpus], tiny(steps=1), run)
    before = digests(run)
    with pytest.raises(RunError, match=f"{run} holds a run. Continue it, compyute train --resume {run}, or choose"):
        start_run([corpus], tiny(), run)
    assert digests(run) == before


def test_nothing_is_written_for_what_cannot_begin(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(CorpusError, match="context_length"):
        start_run([corpus], tiny(context_length=5000), tmp_path / "run")
    with pytest.raises(CorpusError, match="there is no"):
        start_run([corpus + "x"], tiny(), tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="must be writable"):
        start_run([corpus], tiny(), tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "words.txt"]


def test_no_run_is_refused(tmp_path: Path) -> None:
    uses: list[Callable[[Path], Any]] = [resume_run, load_run, evaluate_run, load_config]
    for use_run in uses:
        with pytest.raises(RunError, match=r"holds a config.json; there is none in .*/none"):
            use_run(tmp_path / "none")
    unknown = {"settings": {"model": {"depth": 3}}, "shape": {}, "sources": []}
    (tmp_path / "config.json").write_text(json.dumps({**unknown, "data": "", "sha256": "", "version": ""}))
    with pytest.raises(RunError, match=r"config.json must be as the run wrote it; .*no setting 'depth'"):
        resume_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "it is not a JSON object"),
        ("{", "cannot be read: Expecting property name"),
        ('{"data": "x", "version": "1"}', "the fields settings, shape, sources, sha256 are missing"),
        ("MORE", "the fields 'color' are not known to this version"),
        ("WRONG", "settings is an object"),
    ],
)
def test_a_damaged_config_is_told_in_words(tmp_path: Path, corpus: str, text: str, reason: str) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    path = tmp_path / "run/config.json"
    values = json.loads(path.read_text())
    del values["checksum"]
    changed = {"MORE": {**values, "color": 1}, "WRONG": {**values, "settings": 3, "sources": "words"}}
    path.write_text(json.dumps(changed[text]) if text in changed else text)
    with pytest.raises(RunError, match=f"must be as the run wrote it; it cannot be read: .*{reason.split(': ')[-1]}"):
        load_config(tmp_path / "run")


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path, corpus: str) -> None:
    run, free = tmp_path / "run", tmp_path / "free"
    start_run([corpus], tiny(steps=1), run)
    free.mkdir()
    before = digests(run)
    with lock.hold(run), lock.hold(free):
        with pytest.raises(RunError, match=f"another process is training {run}"):
            resume_run(run, steps=2)
        with pytest.raises(RunError, match=f"another process is training {free}"):
            start_run([corpus], tiny(steps=1), free)
    assert digests(run) == before
    assert load_config(run).settings.training.steps == 1
    assert os.listdir(free) == []
    assert resume_run(run, steps=2).step == 2


def test_a_run_is_held_while_it_trains(tmp_path: Path, corpus: str) -> None:
    refused = 0

    class Second(Listener):
        def report(self, event: Event) -> None:
            nonlocal refused
            if isinstance(event, Advanced):
                with pytest.raises(RunError, match="another process is training"):
                    resume_run(tmp_path / "run")
                refused += 1

    start_run([corpus], tiny(steps=1), tmp_path / "run", Second())
    resume_run(tmp_path / "run", Second(), steps=2)
    assert refused == 2


def test_a_run_that_began_while_the_data_were_read_is_not_overwritten(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    load = LANGUAGE.load

    def load_late(sources: Any) -> Any:
        monkeypatch.undo()
        start_run([corpus], tiny(steps=1), run)
        return load(sources)

    monkeypatch.setattr(type(LANGUAGE), "load", lambda self, sources: load_late(sources))
    with pytest.raises(RunError, match=f"{run} holds a run"):
        start_run([corpus], tiny(steps=3), run)
    assert load_config(run).settings.training.steps == 1


def test_a_start_killed_at_any_call_can_be_repeated_or_resumed(tmp_path: Path, corpus: str) -> None:
    settings = tiny(steps=1, num_layers=1, embed_dim=4, accumulation=1, sample_every=0)
    start_run([corpus], settings, tmp_path / "whole")
    for moment in range(1, 100):
        run = tmp_path / f"run-{moment}"
        with dying(moment) as made:
            start_run([corpus], settings, run)
        if (run / "config.json").exists():
            resume_run(run)
        else:
            start_run([corpus], settings, run)
        assert digests(run) == digests(tmp_path / "whole")
        assert [e["step"] for e in read_log(run)] == [0, 1, 1]
        assert not list(run.rglob(".*"))
        if "killed" not in made:
            break
    assert moment == len(made) + 1 > 30


# --- resuming ---


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_anew(tmp_path: Path, corpus: str) -> None:
    run, listener = tmp_path / "run", Listener()
    start_run([corpus], tiny(steps=4), run, listener)
    shutil.rmtree(run / "checkpoints")
    resume_run(run, listener)
    resume_run(run, listener, steps=5)
    told = [event.facts.get("begins anew") for event in listener.of(Started)]
    assert told == [None, "there is no checkpoint of the 4 steps in log.jsonl", None]


def test_a_second_signal_says_where_it_stopped_and_how_to_go_on(tmp_path: Path, corpus: str) -> None:
    class Impatient(Listener):
        def report(self, event: Event) -> None:
            super().report(event)
            if isinstance(event, Advanced) and event.step == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    run, listener = tmp_path / "run", Impatient()
    with pytest.raises(KeyboardInterrupt) as stop:
        start_run([corpus], tiny(checkpoint_every=3, eval_every=0), run, listener)
    assert str(stop.value) == (
        f"Stopped at once, after step 5. Last checkpoint: step 3, {run / 'checkpoints/step-00000003'}. "
        f"Continue from it with:\n  compyute train --resume {run}"
    )
    assert listener.closed == 1
    assert resume_run(run).step == 12


def test_more_steps_extend_a_run(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    start_run([corpus], tiny(), run)
    result = resume_run(run, steps=20)
    assert result.step == 20
    assert load_config(run).settings == tiny(steps=20)
    assert [e["step"] for e in read_log(run) if e["event"] == "step"] == [1, *range(2, 21, 2)]
    schedule = tiny(steps=20).training.schedule()
    rates = {e["step"]: e["learning_rate"] for e in read_log(run) if e["event"] == "step"}
    assert rates[14] == schedule(13)
    with pytest.raises(ConfigError, match="got 19 for a run that has taken 20"):
        resume_run(run, steps=19)


def test_a_resume_that_takes_no_step_changes_no_setting(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    start_run([corpus], tiny(), run)
    before = load_config(run)
    result = resume_run(run, overrides={"learning_rate": 1e-4, "min_learning_rate": 1e-5})
    assert result.taken == 0
    assert load_config(run) == before
    assert "No setting was changed" in next_steps(result)


@pytest.mark.parametrize("is_written", [True, False], ids=["now", "earlier"])
def test_a_run_that_changes_its_precision_says_so(
    tmp_path: Path, corpus: str, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numerics = trainer.Trainer._numerics

    def of_an_earlier_version(self: trainer.Trainer) -> dict[str, str]:
        return {name: value for name, value in numerics(self).items() if is_written or name != "products"}

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_numerics", of_an_earlier_version)
        start_run([corpus], tiny(steps=2, precision="float32", decay="constant"), tmp_path)
    written = checkpoint.load_state(checkpoint.latest(tmp_path)).versions
    assert written.get("products") == ("float32" if is_written else None)
    resume_run(tmp_path, listener := Listener(), 3, {"precision": "bfloat16"})
    (said,) = [event.facts["last bits"] for event in listener.of(Started)]
    assert said.startswith("not those of an uninterrupted run: products float32 is now bfloat16 by ")
    resume_run(tmp_path, listener := Listener(), 4, {"precision": "float32"})
    (said,) = [event.facts["last bits"] for event in listener.of(Started)]
    assert said.startswith("not those of an uninterrupted run: products bfloat16 by ")
    assert said.endswith(" is now float32")


def test_a_resumed_run_says_what_its_last_bits_depend_on_and_has_changed(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run([corpus], tiny(steps=2, decay="constant"), tmp_path)
    written = checkpoint.load_state(checkpoint.latest(tmp_path)).versions
    named = {"numpy", "scipy", "numba", "BLAS of scipy", "processor", "kernels", "compyute-transformer"}
    assert named | {"products of attention"} <= set(written)
    listener = Listener()
    resume_run(tmp_path, listener, 3)
    assert "last bits" not in listener.events[0].facts  # type: ignore[union-attr]
    monkeypatch.setattr(trainer, "numerics", lambda: {**written, "scipy": "9.9"})
    resume_run(tmp_path, listener := Listener(), 4)
    expected = f"not those of an uninterrupted run: scipy {written['scipy']} is now 9.9"
    assert [event.facts.get("last bits") for event in listener.events if isinstance(event, Started)] == [expected]


def test_a_run_in_bfloat16_says_that_another_kernel_goes_on(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run([corpus], tiny(steps=2, precision="bfloat16"), tmp_path)
    monkeypatch.setattr(trainer, "bfloat16_kernel", lambda: "tiles")
    resume_run(tmp_path, listener := Listener(), 3)
    expected = "not those of an uninterrupted run: products bfloat16 by float32 is now bfloat16 by tiles"
    assert [event.facts.get("last bits") for event in listener.of(Started)] == [expected]


def test_only_how_the_training_goes_on_can_change(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    start_run([corpus], tiny(), run)
    for override in ({"embed_dim": 8}, {"validation_fraction": 0.2}, {"seed": 3}, {"optimizer": "sgd"}):
        with pytest.raises(
            ConfigError,
            match=f"only settings of .training. but optimizer, seed, .* can change, got {next(iter(override))}",
        ):
            resume_run(run, overrides=override)
    with pytest.raises(ConfigError, match="Did you mean learning_rate"):
        resume_run(run, overrides={"learning_rates": 1})
    assert load_config(run).settings == tiny()
    resume_run(run, steps=14, overrides={"learning_rate": 1e-3, "seed": 0})
    assert load_config(run).settings == tiny(steps=14, learning_rate=1e-3, min_learning_rate=1e-4)


def test_the_place_in_an_epoch_keeps_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("".join(f"{n}\t{n + 1}\n" for n in range(40)))
    changes = {name: TINY[name] for name in ("context_length", "embed_dim", "num_heads")}
    changes |= {"num_layers": 1, "tokenizer": "characters", "steps": 2, "batch_size": 4, "sample_every": 0}
    settings = Settings.resolve("translation", None, changes)
    start_run([tmp_path / "pairs.tsv"], settings, tmp_path / "run")
    for override in ({"batch_size": 2}, {"accumulation": 2}):
        with pytest.raises(ConfigError, match=r"batch_size · accumulation must stay 4 .* counted in batches, got [28]"):
            resume_run(tmp_path / "run", steps=3, overrides=override)
    assert resume_run(tmp_path / "run", steps=3, overrides={"batch_size": 2, "accumulation": 2}).step == 3


def test_a_text_may_go_on_with_another_batch_size(tmp_path: Path, corpus: str) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    assert resume_run(tmp_path / "run", steps=2, overrides={"batch_size": 3}).step == 2


def test_the_runs_own_data_are_evaluated_by_their_validation_part(tmp_path: Path, corpus: str) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    own = evaluate_run(tmp_path / "run").metrics
    assert evaluate_run(tmp_path / "run", corpus).metrics == own
    (tmp_path / "other.txt").write_text(TEXT + TEXT[:50])
    assert evaluate_run(tmp_path / "run", tmp_path / "other.txt").metrics["tokens"] == len(TEXT) + 49


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match=r"run is not\. Copy it"):
        resume_run(tmp_path / "run")


def test_a_changed_corpus_is_refused(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    start_run([corpus], tiny(), run)
    Path(corpus).write_text(TEXT.replace("cat", "dog"))
    other = f"can still be evaluated on other data: compyute eval {run} FILE"
    for again in (lambda: resume_run(run, steps=20), lambda: evaluate_run(run)):
        with pytest.raises(CheckpointError, match=f"data of {run} .*{corpus} has changed since: SHA-256.*{other}"):
            again()
    load_run(run)  # needs no corpus
    Path(corpus).unlink()
    for again in (lambda: resume_run(run, steps=20), lambda: evaluate_run(run)):
        with pytest.raises(CorpusError, match=f"the run {run} needs the data .* there is no {corpus}.*{other}"):
            again()


def test_another_tokenizer_is_refused(tmp_path: Path, corpus: str) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    Path(corpus).write_text(TEXT + "Z")
    start_run([corpus], tiny(steps=1), tmp_path / "other")
    tokenizer = tmp_path / "run/tokenizer.json"
    tokenizer.write_bytes((tmp_path / "other/tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"Its SHA-256 is not the one in config.json"):
        load_run(tmp_path / "run")
    tokenizer.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer.json must be as the run wrote it"):
        load_run(tmp_path / "run")


def test_the_weights_of_another_model_are_refused(tmp_path: Path, corpus: str) -> None:
    start_run([corpus], tiny(steps=1), tmp_path / "run")
    start_run([corpus], tiny(steps=1, embed_dim=8), tmp_path / "other")
    os.replace(tmp_path / "other/config.json", tmp_path / "run/config.json")
    with pytest.raises(CheckpointError, match=r"must fit the model of .*config.json"):
        load_run(tmp_path / "run")


def test_a_run_without_validation_cannot_be_evaluated_on_its_own_data(tmp_path: Path, corpus: str) -> None:
    run = tmp_path / "run"
    assert start_run([corpus], tiny(steps=1, validation_fraction=0), run).validation_loss is None
    with pytest.raises(RunError, match=r"has no validation split of words"):
        evaluate_run(run)
    other = tmp_path / "other.txt"
    other.write_text(TEXT[:100])
    assert evaluate_run(run, [str(other)]).metrics["tokens"] == 99


# --- other processes ---

SCRIPT = """
import sys
from compyute_transformer import use_kernels
from compyute_transformer.training import JsonReporter, Settings, resume_run, start_run

run, corpus, overrides = sys.argv[1], sys.argv[2], eval(sys.argv[3])
with use_kernels("reference"):
    if corpus:
        result = start_run([corpus], Settings.resolve("cpu", None, overrides), run, JsonReporter())
    else:
        result = resume_run(run, JsonReporter())
sys.exit(130 if result.interrupted else 0)
"""


def process(run: Path, corpus: str = "", **changes: object) -> "subprocess.Popen[str]":
    """Start a run in another process, or resume it where no corpus is given. Its events come as lines of JSON."""
    settings = {**TINY, **changes}
    if settings.get("decay") == "constant":
        settings.pop("min_learning_rate")  # which has no effect then
    arguments = [sys.executable, "-c", SCRIPT, str(run), corpus, repr(settings)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_step(running: "subprocess.Popen[str]", steps: int) -> None:
    """Read events until so many steps were taken by this process."""
    assert running.stdout is not None
    taken = 0
    while taken < steps:
        line = running.stdout.readline()
        assert line, running.communicate()
        taken += json.loads(line)["event"] == "step"


def test_ten_kills_leave_no_trace(tmp_path: Path, corpus: str) -> None:
    changes = {"steps": 80, "log_every": 1, "checkpoint_every": 2, "eval_every": 5, "sample_tokens": 5}
    start_run([corpus], tiny(**changes), tmp_path / "whole")
    rng, run = random.Random(0), tmp_path / "killed"
    for kill in range(10):
        with process(run, "" if (run / "config.json").exists() else corpus, **changes) as running:
            until_step(running, rng.randint(1, 7))
            running.send_signal(signal.SIGKILL) if kill % 2 else kill_after(running, rng.uniform(0, 0.02))
        assert running.returncode == -signal.SIGKILL
    with process(run) as running:
        out, err = running.communicate()
    assert running.returncode == 0, err
    assert json.loads(out.splitlines()[0])["step"] > 0  # the first event: where it went on
    assert digests(run) == digests(tmp_path / "whole")
    assert (run / "samples.txt").read_bytes() == (tmp_path / "whole/samples.txt").read_bytes()
    assert not list(run.rglob(".*"))


def kill_after(running: "subprocess.Popen[str]", seconds: float) -> None:
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_so(tmp_path: Path, corpus: str, number: signal.Signals) -> None:
    # A rate that stays does not depend on how many steps there shall be.
    changes = {"steps": 500, "log_every": 1, "checkpoint_every": 0, "eval_every": 0, "decay": "constant"}
    run = tmp_path / "run"
    with process(run, corpus, **changes) as running:
        until_step(running, 5)
        running.send_signal(number)
        out, err = running.communicate()
    assert running.returncode == 130
    assert "Stopping after this step" in err
    assert "Traceback" not in err
    result = json.loads(out.splitlines()[-1])
    assert result["event"] == "finished"
    assert result["interrupted"] is True
    assert 5 <= result["step"] < 500
    assert checkpoint.latest(run).name == f"step-{result['step']:08d}"
    changes["steps"] = result["step"] + 5
    resume_run(run, steps=result["step"] + 5)
    start_run([corpus], tiny(**changes), tmp_path / "whole")
    assert digests(run) == digests(tmp_path / "whole")
