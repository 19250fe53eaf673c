import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import Listener, digests, task, tiny

from compyute_transformer import use_kernels
from compyute_transformer.environment.products import bfloat16_products
from compyute_transformer.errors import CheckpointError, NonFiniteError
from compyute_transformer.training import LanguageTask, RunResult, Trainer
from compyute_transformer.training.reporting.events import Advanced, Evaluated, Logged, Sampled, Saved, Started
from compyute_transformer.training.reporting.journal import read_log
from compyute_transformer.training.run import checkpoint


@pytest.fixture(autouse=True)
def reference() -> Iterator[None]:
    """Time is what is tested here: the readable ops will do, unless a test asks for more."""
    with use_kernels("reference"):
        yield


def trainer(run: Path, resume: bool = False, **changes: object) -> Trainer:
    """A trainer for a tiny language task in a folder."""
    run.mkdir(exist_ok=True)
    made = Trainer(task(**changes), tiny(**changes).training, run)
    if resume:
        made.load(checkpoint.latest(run))
    return made


def train(run: Path, resume: bool = False, listener: Listener | None = None, **changes: object) -> RunResult:
    return trainer(run, resume, **changes).train(listener or Listener())


def story(run: Path) -> list[dict[str, Any]]:
    """A log without its clock."""
    return [{k: v for k, v in e.items() if k not in ("seconds", "rate")} for e in read_log(run)]


class Stopper(Listener):
    """Sends a signal after some step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self.step, self.number = step, number

    def report(self, event: Any) -> None:
        super().report(event)
        if isinstance(event, Advanced) and event.step == self.step:
            os.kill(os.getpid(), self.number)


def test_a_run_tells_what_happens(tmp_path: Path) -> None:
    listener = Listener()
    result = train(tmp_path, listener=listener)
    started = listener.of(Started)
    assert [(e.step, e.steps, e.device, e.units_per_step, e.unit) for e in started] == [
        (0, 12, "cpu", 8 * 16, "tokens")
    ]
    assert started[0].path in ("cpu", "reference")
    assert [e.step for e in listener.of(Advanced)] == list(range(1, 13))
    assert [e.step for e in listener.of(Logged)] == [1, 2, 4, 6, 8, 10, 12]
    assert [e.step for e in listener.of(Evaluated)] == [0, 4, 8, 12]
    assert [e.step for e in listener.of(Sampled)] == [4, 8, 12]
    losses = [e.validation_loss for e in listener.of(Evaluated)]
    best = [e.step for e in listener.of(Evaluated) if e.best]
    assert best == [4 * i for i in range(1, 4) if losses[i] == min(losses[1 : i + 1])]  # never the untrained model
    assert {e.step for e in listener.of(Saved)} == {0, 3, 6, 9, 12} | set(best)
    assert listener.events[-1] is result
    assert listener.closed == 1
    assert losses[-1] < losses[0] - 0.3
    assert (result.step, result.interrupted, result.validation_loss, result.best_step) == (
        12,
        False,
        losses[-1],
        best[-1],
    )
    assert result.loss == listener.of(Logged)[-1].loss
    assert checkpoint.steps(tmp_path) == sorted({best[-1], 12})


def test_the_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    listener = Listener()
    train(tmp_path, listener=listener, log_every=1)
    schedule = tiny().training.schedule()
    assert [e.learning_rate for e in listener.of(Logged)] == [schedule(step) for step in range(12)]


@pytest.mark.parametrize(("optimizer", "kernels"), [("adamw", "auto"), ("adamw", "reference"), ("sgd", "reference")])
def test_equal_settings_give_equal_bits(tmp_path: Path, optimizer: str, kernels: Any) -> None:
    with use_kernels(kernels):
        for name in ("one", "two"):
            train(tmp_path / name, optimizer=optimizer)
        train(tmp_path / "other", optimizer=optimizer, seed=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") != {}
    assert story(tmp_path / "one") == story(tmp_path / "two")
    assert (tmp_path / "one/samples.txt").read_bytes() == (tmp_path / "two/samples.txt").read_bytes()
    assert digests(tmp_path / "one") != digests(tmp_path / "other")


@pytest.mark.parametrize("stops", [[1], [5], [8], [3, 4, 11], [12]])
def test_resumed_equals_uninterrupted(tmp_path: Path, stops: Sequence[int]) -> None:
    check_resumed_equals_uninterrupted(tmp_path, stops, "adamw")


def test_resumed_equals_uninterrupted_with_sgd(tmp_path: Path) -> None:
    check_resumed_equals_uninterrupted(tmp_path, [3, 7], "sgd")


def test_resumed_equals_uninterrupted_with_fast_kernels(tmp_path: Path) -> None:
    with use_kernels("auto"):
        check_resumed_equals_uninterrupted(tmp_path, [5], "adamw")


def test_a_run_in_bfloat16_resumes_to_the_same_bits_and_is_another_than_in_float32(tmp_path: Path) -> None:
    with use_kernels("auto"):
        check_resumed_equals_uninterrupted(tmp_path, [5], "adamw", precision="bfloat16")
        exact = train(tmp_path / "exact")
        listener = Listener()
        found = train(tmp_path / "told", listener=listener, precision="bfloat16")
        told = f"bfloat16 products, float32 sums and weights, computed {bfloat16_products()}"
    assert digests(tmp_path / "told") == digests(tmp_path / "whole") != digests(tmp_path / "exact")
    assert exact.loss is not None
    assert found.loss is not None
    assert 0 < abs(found.loss - exact.loss) < 0.01
    assert listener.of(Started)[0].facts["precision"] == told


def test_the_settings_decide_about_the_precision_and_else_the_model(tmp_path: Path) -> None:
    for chosen, expected in (("auto", "bfloat16"), ("float32", "float32")):
        made = task()
        made.model.precision = "bfloat16"
        settings = tiny(precision=chosen).training
        assert Trainer(made, settings, tmp_path).precision == expected
    assert trainer(tmp_path).precision == "float32"


def check_resumed_equals_uninterrupted(tmp_path: Path, stops: Sequence[int], optimizer: str, **changes: object) -> None:
    train(tmp_path / "whole", optimizer=optimizer, **changes)
    run = tmp_path / "cut"
    for number, stop in enumerate([*stops, 99]):
        stopper = Stopper(stop, signal.SIGTERM if number % 2 else signal.SIGINT)
        result = train(run, resume=number > 0, listener=stopper, optimizer=optimizer, **changes)
        assert result.step == min(stop, 12)
        assert result.interrupted == (stop < 12)
        assert checkpoint.latest(run).name == f"step-{result.step:08d}"
        assert stopper.closed == 1
    assert digests(run) == digests(tmp_path / "whole")
    assert story(run) == story(tmp_path / "whole")
    assert (run / "samples.txt").read_bytes() == (tmp_path / "whole/samples.txt").read_bytes()


def test_looking_and_saving_do_not_change_where_it_goes(tmp_path: Path) -> None:
    train(tmp_path / "often", eval_every=1, sample_every=1, checkpoint_every=1, log_every=1)
    train(tmp_path / "never", eval_every=0, sample_every=0, checkpoint_every=0, log_every=100)
    often, never = digests(tmp_path / "often"), digests(tmp_path / "never")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert often[f"step-00000012/{name}"] == never[f"step-00000012/{name}"]
    assert [(e["event"], e["step"]) for e in read_log(tmp_path / "never")] == [
        ("evaluation", 0),
        ("step", 1),
        ("step", 12),
        ("evaluation", 12),
    ]


def test_a_killed_run_forgets_what_it_told_after_its_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "whole")

    class Kill(Listener):
        def report(self, event: Any) -> None:
            if isinstance(event, Sampled) and event.step == 8:  # evaluated and told of, but not saved
                raise SystemExit

    with pytest.raises(SystemExit):
        train(tmp_path / "cut", listener=Kill())
    assert read_log(tmp_path / "cut")[-1]["step"] == 8
    result = train(tmp_path / "cut", resume=True)
    assert story(tmp_path / "cut") == story(tmp_path / "whole")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert result.loss == read_log(tmp_path / "whole")[-3]["loss"]


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    first = train(tmp_path)
    before = digests(tmp_path), (tmp_path / "log.jsonl").read_bytes(), (tmp_path / "samples.txt").read_bytes()
    again = train(tmp_path, resume=True)
    assert (digests(tmp_path), (tmp_path / "log.jsonl").read_bytes(), (tmp_path / "samples.txt").read_bytes()) == before
    assert (again.loss, again.validation_loss, again.best_step) == (first.loss, first.validation_loss, first.best_step)


def test_time_adds_up_over_sittings(tmp_path: Path) -> None:
    listener = Stopper(6)
    first = train(tmp_path, listener=listener)
    second = train(tmp_path, resume=True)
    assert second.seconds > first.seconds > 0
    seconds = [values["seconds"] for values in read_log(tmp_path) if "seconds" in values]
    assert seconds == sorted(seconds)


def test_without_validation_the_last_checkpoint_is_the_best(tmp_path: Path) -> None:
    language = task()
    silent = LanguageTask(language.model, language.tokenizer, language.training_tokens, None, language.settings)
    result = Trainer(silent, tiny().training, tmp_path).train(Listener())
    assert (result.validation_loss, result.metrics, result.best_step) == (None, {}, None)
    assert checkpoint.steps(tmp_path) == [12]
    assert checkpoint.best(tmp_path) == checkpoint.latest(tmp_path)


def test_it_learns_one_batch_by_heart(tmp_path: Path) -> None:
    changes: dict[str, object] = {
        "steps": 150, "dropout": 0.0, "batch_size": 1, "accumulation": 1, "embed_dim": 32, "eval_every": 0,
        "checkpoint_every": 0, "sample_every": 0, "learning_rate": 1e-2, "warmup": 10,
    }  # fmt: skip
    made = trainer(tmp_path, **changes)
    language: Any = made.task
    language.batches.next = lambda: language.batches.batch(0)
    result = made.train(Listener())
    assert result.loss is not None
    assert result.loss < 0.1


# --- when it goes wrong ---


class Poison(Listener):
    """Sets a weight after some step."""

    def __init__(self, made: Trainer, step: int, name: str, value: float) -> None:
        super().__init__()
        self.parameter = dict(made.model.named_parameters())[name].data
        self.step, self.value = step, value

    def report(self, event: Any) -> None:
        super().report(event)
        if isinstance(event, Advanced) and event.step == self.step:
            self.parameter[1] = self.value


def test_a_poisoned_weight_is_named_with_the_way_back(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    listener = Poison(made, 7, "blocks.1.feed_forward.down.weight", np.nan)
    with pytest.raises(NonFiniteError) as caught:
        made.train(listener)
    message = str(caught.value)
    assert "got step 8: loss nan" in message
    assert "the parameter blocks.1.feed_forward.down.weight is not finite" in message
    assert f"Last good checkpoint: step 6, {tmp_path}/checkpoints/step-00000006." in message
    assert message.endswith(f": compyute train --resume {tmp_path} --learning-rate 0.001")
    assert listener.closed == 1
    made = trainer(tmp_path, resume=True)
    assert made.step == 6
    made.train(Listener())


def test_a_weight_that_overflows_names_its_module(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 8: .*first module .* is blocks\.1\.attention \(.*, in its forward"):
        made.train(Poison(made, 7, "blocks.1.attention.in_weight", 3e38))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_too_large_are_told_and_not_saved(tmp_path: Path, optimizer: str) -> None:
    made = trainer(tmp_path, optimizer=optimizer, learning_rate=1e30, warmup=0, clip=None, checkpoint_every=5)
    with pytest.raises(NonFiniteError, match=r"got step 2: .*Last good checkpoint: step 0,.*--learning-rate 1e\+29"):
        made.train(Listener())
    assert checkpoint.steps(tmp_path) == [0]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(NonFiniteError, match=r"after step 6: weights or moments; the parameter norm.weight is not"):
        made.train(Poison(made, 6, "norm.weight", np.inf))  # step 6 is saved and not evaluated
    assert checkpoint.latest(tmp_path).name == "step-00000004"


def test_a_validation_that_is_not_finite_is_told(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(NonFiniteError, match=r"after step 4: validation loss nan; the parameter norm.weight is not"):
        made.train(Poison(made, 4, "norm.weight", np.nan))
    made = trainer(tmp_path / "new")
    made.model.flat.data[:] = np.nan
    with pytest.raises(NonFiniteError, match=r"after step 0: .*Last good checkpoint: none"):
        made.train(Listener())


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    class Twice(Stopper):
        def report(self, event: Any) -> None:
            super().report(event)
            if isinstance(event, Logged) and event.step == 6:
                os.kill(os.getpid(), signal.SIGINT)

    listener = Twice(6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, listener=listener)
    assert listener.closed == 1
    assert checkpoint.latest(tmp_path).name == "step-00000004"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(CheckpointError, match="the one that was saved, adamw, got sgd"):
        trainer(tmp_path / "run", resume=True, optimizer="sgd")
    with pytest.raises(CheckpointError, match=r"must fit the model (.|\n)* other shape: token_embedding.weight"):
        trainer(tmp_path / "run", resume=True, embed_dim=8)
    path = checkpoint.latest(tmp_path / "run")
    shutil.copy(path / "model.safetensors", path / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors is not: its SHA-256"):
        trainer(tmp_path / "run", resume=True)
