"""Trainer: the loop. Batch, loss, gradient, clip, step; and now and then it looks at itself, and saves.

What a step does is a function of (settings, step, state): looking changes nothing, so a run that was interrupted and
resumed, wherever and however often, ends with the bits of one that was not.
"""

from contextlib import closing
from dataclasses import fields
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import CheckpointError, NonFiniteError, StateError
from ..nn.module import Module
from ..ops.linear import linear_forward
from ..optim.adamw import AdamW
from ..optim.clip import clip_grad_norm_, global_norm, gradients_of
from ..optim.optimizer import decay_groups
from ..optim.sgd import SGD
from ..threads import on_threads
from .finite import all_finite, first_non_finite
from .interrupt import interruptible
from .reporting.events import Advanced, Evaluated, Event, Logged, RunResult, Sampled, Saved, Started
from .reporting.journal import LOG, Journal, read_log
from .reporting.reporters import Reporter
from .run import checkpoint
from .run.checkpoint import MODEL, OPTIMIZER, TrainerState
from .settings.settings import TrainingSettings
from .tasks.task import Task

__all__ = ["Trainer"]

EVALUATED = {"event", *(field.name for field in fields(Evaluated))}  # what a record has beside its metrics


class Trainer:
    """Trains a task's model by some settings, in the folder of a run.

    step: optimizer steps taken. best_step, best_loss: of the lowest validation loss so far. loss, metrics: the latest
    of the training and of the validation that were logged.
    """

    def __init__(self, task: Task, settings: TrainingSettings, run: Path) -> None:
        self.task, self.settings, self.run = task, settings, run
        self.model = task.model
        self.optimizer = _optimizer(settings, self.model)
        self.schedule = settings.schedule()
        self.step = 0
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self.loss: float | None = None
        self.metrics: dict[str, float] = {}
        self._first = 0  # the step at which this sitting began
        self._window = (0, 0.0)  # steps and seconds since the last was logged

    def train(self, reporter: Reporter) -> RunResult:
        """Take the steps that are left, tell of them, and close the reporter.

        Raises NonFiniteError for a loss or gradient that is NaN or infinite, and CheckpointError when the disk refuses.
        """
        task, settings = self.task, self.settings
        # NumPy's warnings about overflow would come before our own check, which says more, and stops.
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        new = not checkpoint.steps(self.run)
        self.reporter, self._first = reporter, self.step
        started = self._started(new)  # before the journal is cut back
        with (
            closing(reporter),
            closing(self._journal(new)),
            interruptible() as interrupt,
            quiet,
            on_threads(settings.threads),
        ):
            self._tell(started)
            if new:
                self._evaluate()
                self._save()
            stop = interrupt.requested
            while self.step < settings.steps and not stop:
                began, before = perf_counter(), task.state()
                self.optimizer.zero_grad()
                loss = sum(task.loss_and_gradient(part, weight) for part, weight in task.batch())
                norm = self._clip()
                if not (isfinite(loss) and isfinite(norm)):
                    raise self._non_finite(f"step {self.step + 1}: loss {loss:g}, gradient norm {norm:g}", before)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.schedule(self.step)
                self.optimizer.step()
                self.step += 1
                self._log(loss, norm, perf_counter() - began)
                improved = self._due(settings.eval_every) and self._evaluate()
                if settings.sample_every and self._due(settings.sample_every):
                    self._sample()
                stop = interrupt.requested  # asked once a step: a signal after this line waits for the next
                if improved or stop or self._due(settings.checkpoint_every):
                    self._save()
            result = self._result(interrupted=self.step < settings.steps)
            self._tell(result)
        return result

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it does not fit the model or the optimizer."""
        state = checkpoint.load_state(path)
        if state.optimizer != self.settings.optimizer:
            raise CheckpointError(
                f"Trainer.load: the optimizer must be the one that was saved, {state.optimizer}, got "
                f"{self.settings.optimizer}. Start a new run to change it."
            )
        try:
            self.model.load_state_dict(checkpoint.load_arrays(path, state, MODEL))
            checkpoint.restore_optimizer(self.optimizer, checkpoint.load_arrays(path, state, OPTIMIZER))
        except StateError as error:
            raise CheckpointError(
                f"Trainer.load: {path} must fit the model of the run's config.json; it does not. {error}"
            ) from error
        self.task.load_state(state.task)
        checkpoint.prune(self.run, state)  # only now that the one to go on from is known to be whole
        self.step, self.best_step, self.best_loss = state.step, state.best_step, state.best_loss

    def last_checkpoint(self) -> str:
        """The step and the folder of the last checkpoint, in words."""
        steps = checkpoint.steps(self.run)
        return f"step {steps[-1]:,}, {checkpoint.folder_of(self.run, steps[-1])}" if steps else "none"

    # --- what a step consists of ---

    def _clip(self) -> float:
        """Shorten the gradient, if the settings say so; its length as it was."""
        parameters, clip = self.optimizer.parameters, self.settings.clip
        return global_norm(*gradients_of(parameters)) if clip is None else clip_grad_norm_(parameters, clip)

    def _due(self, every: int) -> bool:
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _log(self, loss: float, norm: float, seconds: float) -> None:
        self.loss = loss
        self._window = (self._window[0] + 1, self._window[1] + seconds)
        self._tell(Advanced(self.step, loss))
        if self.step == 1 or self._due(self.settings.log_every):
            steps, taken = self._window
            rate, unit = steps * self.task.units_per_step / taken, self.task.unit
            self._tell(Logged(self.step, loss, self.optimizer.param_groups[0]["lr"], norm, rate, unit, self._seconds()))
            self._window = (0, 0.0)

    def _evaluate(self) -> bool:
        """Validate; whether the loss is the lowest so far."""
        metrics = dict(self.task.validate())
        if not metrics:
            return False
        loss = metrics["loss"]
        if not isfinite(loss):
            raise self._non_finite(f"after step {self.step}: validation loss {loss:g}", self.task.state())
        best = self.best_loss is None or loss < self.best_loss
        if best:
            self.best_step, self.best_loss = self.step, loss
        self.metrics = metrics
        others = {name: value for name, value in metrics.items() if name != "loss"}
        self._tell(Evaluated(self.step, loss, best, others, self._seconds()))
        return best

    def _sample(self) -> None:
        seed = (self.settings.seed + self.step) % 2**64  # another text at each step, the same in each run
        text = self.task.sample(seed)
        if text is not None:
            self._tell(Sampled(self.step, text))

    def _save(self) -> None:
        optimizer = checkpoint.optimizer_arrays(self.optimizer)
        if not all(all_finite(array) for array in (self.model.flat.data, *optimizer.values())):
            raise self._non_finite(f"after step {self.step}: weights or moments", self.task.state())
        self.journal.sync()
        path = checkpoint.save(self.run, self.model.state_dict(), optimizer, self._state)
        self._tell(Saved(self.step, path))

    def _state(self, sha256: dict[str, str]) -> TrainerState:
        return TrainerState(
            step=self.step,
            task=self.task.state(),
            optimizer=self.settings.optimizer,
            optimizer_steps=self.optimizer.steps,
            best_step=self.best_step,
            best_loss=self.best_loss,
            versions={"compyute-transformer": __version__, "numpy": np.__version__},
            sha256=sha256,
        )

    # --- what is told ---

    def _journal(self, new: bool) -> Journal:
        """The run's journal, cut back to this step; what it says of the steps before is taken up."""
        self.journal = Journal(self.run, -1 if new else self.step)
        for values in self.journal.records:
            self.loss = values.get("loss", self.loss)
            if "validation_loss" in values:
                self.metrics = {name: value for name, value in values.items() if name not in EVALUATED}
                self.metrics["loss"] = values["validation_loss"]
        self._epoch = perf_counter() - self.journal.seconds
        return self.journal

    def _seconds(self) -> float:
        return perf_counter() - self._epoch

    def _tell(self, event: Event) -> None:
        self.journal.report(event)
        self.reporter.report(event)

    def _started(self, new: bool) -> Started:
        device, facts = self.model.device, dict(self.task.facts())
        lost = max((values["step"] for values in read_log(self.run)), default=0) if new else 0
        if lost:
            facts["begins anew"] = f"there is no checkpoint of the {lost:,} steps that {LOG} tells of"
        return Started(
            folder=self.run,
            step=self.step,
            steps=self.settings.steps,
            parameters=self.model.num_parameters,
            device=device,
            path=linear_forward.runs(device),  # most of the time goes there
            units_per_step=self.task.units_per_step,
            unit=self.task.unit,
            facts=facts,
        )

    def _result(self, interrupted: bool) -> RunResult:
        return RunResult(
            folder=self.run,
            step=self.step,
            loss=self.loss,
            validation_loss=self.metrics.get("loss"),
            metrics={name: value for name, value in self.metrics.items() if name != "loss"},
            best_step=self.best_step,
            interrupted=interrupted,
            seconds=self._seconds(),
            taken=self.step - self._first,
        )

    def _non_finite(self, what: str, state: dict[str, Any]) -> NonFiniteError:
        """The error that names the step, the culprit and the way on. state: the task's, before the step."""
        culprit = first_non_finite(self.task, state)
        rate = self.settings.learning_rate / 10
        flags = f"--learning-rate {rate:g}"
        if self.settings.min_learning_rate > rate:
            flags += f" --min-learning-rate {rate:g}"
        return NonFiniteError(
            f"Trainer: loss, gradient and weights must be finite, got {what}; {culprit}. Last good checkpoint: "
            f"{self.last_checkpoint()}. Go on from it in smaller steps: {checkpoint.resume_command(self.run, flags)}"
        )


def _optimizer(settings: TrainingSettings, model: Module) -> AdamW | SGD:
    groups = decay_groups(model, settings.weight_decay)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, settings.momentum)
    return AdamW(groups, settings.learning_rate, (settings.beta1, settings.beta2))
