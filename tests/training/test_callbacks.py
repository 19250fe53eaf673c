"""Callbacks and early stopping: a clean stop keeps what was learned."""

from pathlib import Path

import pytest
from training_helpers import TEXT, Listener, task, tiny

from compyute_transformer import GPT, use_kernels
from compyute_transformer.errors import ConfigError, RangeError, RunError
from compyute_transformer.training import EarlyStopping, load_run, resume_run, start_run
from compyute_transformer.training.reporting.events import Advanced, Evaluated
from compyute_transformer.training.run import checkpoint


@pytest.fixture(autouse=True)
def reference():
    with use_kernels("reference"):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text(TEXT)
    return str(path)


def test_a_callback_stops_a_run_after_the_current_step(tmp_path: Path, corpus: str) -> None:
    def at_five(trainer, event) -> None:
        if isinstance(event, Advanced) and event.step == 5:
            trainer.stop("five are enough")

    listener = Listener()
    result = start_run(corpus, tiny(), tmp_path / "run", listener, callbacks=[at_five])
    assert (result.step, result.stopped, result.interrupted) == (5, "five are enough", False)
    assert checkpoint.steps(tmp_path / "run")[-1] == 5
    assert listener.of(Evaluated)[-1].step == 5
    assert load_run(tmp_path / "run", "last").step == 5
    assert resume_run(tmp_path / "run").step == 12


VOCABULARY = task().tokenizer.vocab_size


class Worse:
    """A task whose validation loss rises from step to step."""

    def __init__(self) -> None:
        self.inner = task(eval_every=1)
        self.loss = 1.0

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def validate(self) -> dict[str, float]:
        self.loss += 1.0
        return {"loss": self.loss}


def test_early_stopping_ends_a_run_that_does_not_improve(tmp_path: Path) -> None:
    settings = tiny(eval_every=1)
    result = start_run((), settings, tmp_path / "run", task=Worse(), callbacks=[EarlyStopping(patience=3)])
    assert (result.step, result.best_step) == (4, 1)
    assert "has not improved for 3 validations" in result.stopped


def test_the_setting_patience_stops_a_run_and_keeps_the_best(tmp_path: Path) -> None:
    listener = Listener()
    result = start_run((), tiny(eval_every=1, patience=3), tmp_path / "run", listener, task=Worse())
    assert (result.step, result.best_step) == (4, 1)
    assert result.stopped == "the validation loss has not improved for 3 validations"
    assert {1, 4} <= set(checkpoint.steps(tmp_path / "run"))
    assert load_run(tmp_path / "run", "best", model=GPT(tiny().model.config({"vocab_size": VOCABULARY}))).step == 1


def test_patience_without_validations_is_refused() -> None:
    with pytest.raises(ConfigError, match="patience counts validations, so eval_every must be at least 1"):
        tiny(eval_every=0, patience=3)
    with pytest.raises(ConfigError, match=r"patience counts validations, so validation_fraction must be above 0"):
        tiny(validation_fraction=0.0, patience=3)
    with pytest.raises(ConfigError, match="patience must be at least 1"):
        tiny(patience=0)


def test_the_untrained_model_is_never_the_best_of_a_run_that_has_trained(tmp_path: Path) -> None:
    result = start_run((), tiny(eval_every=4), tmp_path / "run", task=Worse())
    assert result.best_step == 4
    settings = tiny()
    model = GPT(settings.model.config({"vocab_size": VOCABULARY}))
    assert load_run(tmp_path / "run", "best", model=model).step == 4


def test_a_run_stopped_before_its_first_validation_answers_with_its_last_weights(tmp_path: Path, corpus: str) -> None:
    settings = tiny(eval_every=0, checkpoint_every=0)
    start_run(
        corpus, settings, tmp_path / "run", callbacks=[lambda trainer, event: trainer.step == 3 and trainer.stop()]
    )
    assert load_run(tmp_path / "run").step == 3


def test_a_custom_model_is_trained_resumed_and_loaded(tmp_path: Path, corpus: str) -> None:
    settings = tiny(steps=4)

    def make(shape) -> GPT:
        return GPT(tiny(num_layers=1).model.config(shape), seed=3)

    start_run(corpus, settings, tmp_path / "run", model=make)
    with pytest.raises(RunError, match=r"started with its own model.*Give it again: resume_run\(folder, model=...\)"):
        resume_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"load_run\(folder, model=...\)"):
        load_run(tmp_path / "run")
    assert resume_run(tmp_path / "run", steps=6, model=make).step == 6
    assert len(load_run(tmp_path / "run", "last", model=make).model.blocks) == 1


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_is_at_least_one(patience: int) -> None:
    with pytest.raises(RangeError, match="patience is at least 1"):
        EarlyStopping(patience)
