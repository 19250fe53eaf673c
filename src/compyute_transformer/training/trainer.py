"""Trainer: the training loop.

What a step does is a function of (settings, step, state). Validation, samples and checkpoints change none of them, so a
run that is interrupted and resumed, however often, ends with the same bits as one that is not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from hashlib import sha256
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..arrays import to_numpy
from ..environment.numerics import numerics
from ..environment.products import attention_products, bfloat16_kernel, bfloat16_products
from ..errors import CheckpointError, NonFiniteError, StateError
from ..nn.module import Module
from ..nn.recompute import Block, recompute_blocks
from ..ops.linear import linear_forward
from ..optim.adamw import AdamW
from ..optim.clip import clip_grad_norm_, get_total_norm
from ..optim.optimizer import Optimizer, decay_groups
from ..optim.sgd import SGD
from ..parallel import Communicator, DataParallel, Single, sharing
from ..precision import Precision, use_precision
from ..threads import on_threads, threads
from .captured import CapturedSteps, capture_fault
from .early_stopping import EarlyStopping
from .finite import all_finite, first_non_finite
from .interrupt import Interrupt, interruptible
from .mixed import rounded_weights
from .reporting.events import Advanced, Evaluated, Event, Logged, RunResult, Sampled, Saved, Started
from .reporting.journal import LOG, Journal, read_log
from .reporting.reporters import Reporter
from .run import checkpoint
from .run.checkpoint import MODEL, OPTIMIZER, TrainerState
from .settings.settings import TrainingSettings
from .tasks.task import Parts, SupervisedTask, Task
from .watch import watching

__all__ = ["Callback", "Trainer"]

EVALUATED = {"event", *(field.name for field in fields(Evaluated))}  # the fields of a log record that are not metrics

Callback = Callable[["Trainer", Event], object]


class Trainer:
    """Trains the model of a task by some settings, in the folder of a run.

    callbacks: functions, or objects with `__call__`, that are called with (trainer, event) after each event of
    `reporting.events`. A callback may read the trainer and call `stop`.

    step: optimizer steps taken. best_step, best_loss: of the lowest validation loss since training began. loss,
    metrics: the latest training loss and the latest validation metrics that were logged.

    communicator: the processes that train the model together. Each of them has such a trainer; process 0 writes,
    reports and calls the callbacks. trained_only: checkpoints leave the frozen weights out.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainingSettings,
        run: Path,
        callbacks: Sequence[Callback] = (),
        communicator: Communicator | None = None,
        trained_only: bool = False,
    ) -> None:
        self.trained_only = trained_only
        self.task, self.settings, self.run = task, settings, run
        if settings.precision != "auto":
            task.model.precision = None  # the settings decide
        patience = settings.patience
        self.callbacks = (*callbacks, *(() if patience is None else (EarlyStopping(patience),)))
        self.model = task.model
        if settings.recompute or any(isinstance(module, Block) for module in self.model.modules()):
            recompute_blocks(self.model, settings.recompute)
        self.communicator = communicator or Single()
        self.leads = self.communicator.rank == 0
        self.parallel = DataParallel(self.model, self.communicator, fast_sums=settings.fast_sums)
        _ = self.model.flat  # laid before the first step, so that the norm of a resumed run is the same sum
        self.optimizer = _optimizer(settings, self.model)
        if settings.shard_optimizer:
            self.optimizer = self.parallel.shard(self.optimizer)
        self.schedule = settings.schedule()
        self.step = 0
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self.loss: float | None = None
        self.metrics: dict[str, float] = {}
        self.stopped: str | None = None
        self._changed: list[str] = []  # libraries since the checkpoint that was loaded
        self._first = 0  # the step at which this session began
        self._evaluated: int | None = None  # the step of the latest validation
        self._window = (0, 0.0)  # steps and seconds since the last logged step
        self._captured: Any = None  # `CapturedSteps`, or False where steps cannot be captured

    @property
    def precision(self) -> Precision:
        """The precision of matrix products: that of the settings; for "auto" the model's own, where it has one."""
        return self.model.precision or self.settings.precision_on(self.model.device)

    def train(self, reporter: Reporter) -> RunResult:
        """Take the remaining steps, report the events, and close the reporter.

        Raises NonFiniteError for a loss or gradient that is NaN or infinite, and CheckpointError if the disk refuses.
        """
        new = self.communicator.from_first(not checkpoint.steps(self.run))
        self.reporter, self._first, self.stopped = reporter, self.step, None
        started = self._started(new)  # before the journal is cut back
        show = getattr(reporter, "interrupted", None)
        with closing(reporter), closing(self._journal(new)), interruptible(show) as interrupt, self._environment():
            self._tell(started)
            if new:
                self._evaluate()
                self._save()
            ends = self._ends(interrupt)
            while not ends:
                self._step()
                improved = self._due(self.settings.eval_every) and self._evaluate()
                if self.settings.sample_every and self._due(self.settings.sample_every):
                    self._sample()
                ends = self._ends(interrupt)  # asked once a step: a signal after this line waits for the next step
                if ends and self.stopped is not None and self._evaluated != self.step:
                    improved = self._evaluate()
                if improved or ends or self._due(self.settings.checkpoint_every):
                    self._save()
            result = self._finish(interrupt)
        return result

    def stop(self, reason: str = "a callback asked to stop") -> None:
        """End the run after the current step, with a validation and a checkpoint. `resume_run` can continue it."""
        self.stopped = reason

    def load(self, path: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError if it does not fit the model or the optimizer."""
        state = checkpoint.load_state(path)
        if state.optimizer != self.settings.optimizer:
            raise CheckpointError(
                f"Trainer.load: the optimizer must be the one that was saved, {state.optimizer}, got "
                f"{self.settings.optimizer}. Start a new run to change it."
            )
        try:
            weights = checkpoint.load_arrays(path, state, MODEL)
            self.model.load_state_dict(weights, strict=not self.trained_only)
            self._require_trained(weights)
            checkpoint.restore_optimizer(self.optimizer, checkpoint.load_arrays(path, state, OPTIMIZER))
        except StateError as error:
            raise CheckpointError(
                f"Trainer.load: {path} must fit the model of the run's config.json; it does not. {error}"
            ) from error
        try:
            self.task.load_state(state.task)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"Trainer.load: the state of the task in {path} must be as it was written; it is not: {error}. "
                "Restore it from a copy, or start a new run."
            ) from error
        self.step = state.step
        now, before = self._numerics(), dict(state.versions)
        if self.model.device == "cpu":  # earlier versions wrote it of bfloat16 alone
            before.setdefault("products", "float32")
        changes = ((name, old, now.get(name, "none")) for name, old in before.items())
        self._changed = [f"{name} {old[:60]} is now {new}" for name, old, new in changes if old != new]
        if state.best_step:  # earlier versions could call step 0, the untrained model, the best
            self.best_step, self.best_loss = state.best_step, state.best_loss

    def validations_since_best(self) -> int:
        """Return how many validations the log holds after the best one."""
        validations = [values["step"] for values in self.journal.records if "validation_loss" in values]
        return sum(step > self.best_step for step in validations) if self.best_step is not None else 0

    def last_checkpoint(self) -> str:
        """Return the step and the folder of the last checkpoint, in words."""
        steps = checkpoint.steps(self.run)
        return f"step {steps[-1]:,}, {checkpoint.folder_of(self.run, steps[-1])}" if steps else "none"

    # --- the loop ---

    def _ends(self, interrupt: Interrupt) -> bool:
        if self.communicator.size > 1:  # a signal, or a callback, reaches one process; all of them stop after one step
            requests = self.communicator.gather([interrupt.requested, self.stopped])
            interrupt.requested = any(requested for requested, _ in requests)
            self.stopped = next((reason for _, reason in requests if reason is not None), None)
        return self.step >= self.settings.steps or self.stopped is not None or interrupt.requested

    def _step(self) -> None:
        """Batch, loss, gradient, clip, update."""
        task = self.task
        began, before = perf_counter(), task.state()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.step)
        batch = task.batch()
        captured = self._take_captured(batch)
        loss, norm = captured or self._gradient(batch)
        if not (isfinite(loss) and isfinite(norm)):
            raise self._non_finite(f"step {self.step + 1}: loss {loss:g}, gradient norm {norm:g}", before)
        if captured is None:
            self.optimizer.step()
        self.step += 1
        self._log(loss, norm, perf_counter() - began)

    def _gradient(self, batch: Parts) -> tuple[float, float]:
        """Compute the gradient of a batch and clip it. Return the loss, and the norm before."""
        self.optimizer.zero_grad()
        with rounded_weights(self.model):
            loss = self.parallel.accumulate(batch, self.task.loss_and_gradient)
        return loss, self._clip()

    def _take_captured(self, batch: Parts) -> tuple[float, float] | None:
        """Take the whole step on a GPU as one launch, where it can be captured. Return the loss and the norm."""
        own_loss = getattr(type(self.task), "loss_and_gradient", None)
        if self.model.device == "cpu" or len(batch) > 1 or own_loss is not SupervisedTask.loss_and_gradient:
            return None
        if self._captured is None:
            fault = capture_fault(self.model, self.optimizer)
            smoothing, clip = self.settings.label_smoothing, self.settings.clip
            made = CapturedSteps(self.model, self.optimizer, smoothing, clip) if fault is None else False
            self._captured = made
        if self._captured is False:
            return None
        return self._captured.take(batch[0][0], self.schedule(self.step))

    def _finish(self, interrupt: Interrupt) -> RunResult:
        """Delete old checkpoints, report the end, and return the result."""
        if self.leads:
            checkpoint.prune(self.run, self._state({}))
        interrupted = interrupt.requested and self.step < self.settings.steps
        if interrupted and self.best_step is None and self._evaluated != self.step:
            self._report_validation()
        result = self._result(interrupted)
        self._tell(result)
        return result

    def _clip(self) -> float:
        """Clip the gradient, if the settings say so, and return its norm before."""
        parameters, clip = self.optimizer.parameters, self.settings.clip
        return get_total_norm(parameters) if clip is None else clip_grad_norm_(parameters, clip)

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
        """Validate, and return whether the loss is the lowest since training began.

        The untrained model of step 0 is validated too, but is never the best: a run that has trained does not answer
        with its untrained weights.
        """
        metrics = self._validate()
        if not metrics:
            return False
        loss = metrics["loss"]
        best = self.step > 0 and (self.best_loss is None or loss < self.best_loss)
        if best:
            self.best_step, self.best_loss = self.step, loss
        self._tell(self._evaluation(metrics, best))
        return best

    def _report_validation(self) -> None:
        """Validate an interrupted run that was never validated since it began to train.

        Only the reporter hears of it: log and checkpoint stay those of a run that is not interrupted.
        """
        if (metrics := self._validate()) and self.leads:
            self.reporter.report(self._evaluation(metrics, best=False))

    def _validate(self) -> dict[str, float]:
        bar = getattr(self.reporter, "validating", None)
        with sharing(self.communicator), watching(bar), rounded_weights(self.model):
            metrics = dict(self.task.validate())
        if metrics and not isfinite(metrics["loss"]):
            raise self._non_finite(f"after step {self.step}: validation loss {metrics['loss']:g}", self.task.state())
        if metrics:
            self.metrics, self._evaluated = metrics, self.step
        return metrics

    def _evaluation(self, metrics: dict[str, float], best: bool) -> Evaluated:
        others = {name: value for name, value in metrics.items() if name != "loss"}
        return Evaluated(self.step, metrics["loss"], best, others, self._seconds())

    def _sample(self) -> None:
        seed = (self.settings.seed + self.step) % 2**64  # another text at each step, the same in every run
        text = self.task.sample(seed) if self.leads else None
        if text is not None:
            self._tell(Sampled(self.step, text))

    def _save(self) -> None:
        optimizer = checkpoint.optimizer_arrays(self.optimizer)
        if not all(all_finite(array) for array in (self.model.flat.data, *optimizer.values())):
            raise self._non_finite(f"after step {self.step}: weights or moments", self.task.state())
        if self.communicator.size > 1:
            self.communicator.agree(weights=sha256(self.model.flat.data.tobytes()).hexdigest())
        if self.leads:
            self.journal.sync()
            path = checkpoint.save(self.run, self._weights(), optimizer, self._state)
            self._tell(Saved(self.step, path))

    def _weights(self) -> dict[str, Any]:
        """Return the weights of a checkpoint."""
        if not self.trained_only:
            return self.model.state_dict()
        return {name: np.array(to_numpy(p.data)) for name, p in self.model.named_parameters() if p.requires_grad}

    def _require_trained(self, weights: dict[str, Any]) -> None:
        """Raise StateError unless exactly the weights of a checkpoint are there."""
        names = {name for name, p in self.model.named_parameters() if p.requires_grad or not self.trained_only}
        if other := sorted(names ^ set(weights)):
            raise StateError(f"The trained weights differ: {', '.join(other[:9])}.")

    def _state(self, sha256: dict[str, str]) -> TrainerState:
        return TrainerState(
            step=self.step,
            task=self.task.state(),
            optimizer=self.settings.optimizer,
            optimizer_steps=self.optimizer.steps,
            best_step=self.best_step,
            best_loss=self.best_loss,
            versions=self._numerics(),
            sha256=sha256,
        )

    def _numerics(self) -> dict[str, str]:
        """Return what the last bits of the run depend on."""
        found = {**numerics(), "kernels": linear_forward.runs(self.model.device)}
        if self.model.device == "cpu":
            found |= {"products of attention": attention_products(), "products": self.products()}
        return found

    @property
    def _rounds_on_cpu(self) -> bool:
        return self.precision == "bfloat16" and self.model.device == "cpu"

    def products(self) -> str:
        """Return what computes the matrix products: the precision, and in bfloat16 on a CPU the kernel as well."""
        return f"bfloat16 by {bfloat16_kernel()}" if self._rounds_on_cpu else self.precision

    # --- reporting ---

    def _journal(self, new: bool) -> Journal:
        """Return the run's journal, cut back to this step, and continue from the losses it holds."""
        self.journal = Journal(self.run, -1 if new else self.step, writes=self.leads)
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
        if not self.leads:
            return
        self.journal.report(event)
        self.reporter.report(event)
        for callback in self.callbacks:
            callback(self, event)

    def _started(self, new: bool) -> Started:
        device, facts = self.model.device, dict(self.task.facts())
        if self.precision != "float32":
            how = f", computed {bfloat16_products(measure=True)}" if self._rounds_on_cpu else ""
            facts["precision"] = f"{self.precision} products, float32 sums and weights{how}"
        if self.trained_only:
            facts["trained"] = f"{sum(p.size for p in self.model.parameters() if p.requires_grad):,} of the parameters"
        if self.communicator.size > 1:
            facts["processes"] = f"{self.communicator.size}, by {self.communicator.engine}"
            if self.settings.fast_sums:
                facts["sums"] = "by Allreduce: the last bits depend on the number of processes"
        lost = max((values["step"] for values in read_log(self.run)), default=0) if new else 0
        if lost:
            facts["begins anew"] = f"there is no checkpoint of the {lost:,} steps in {LOG}"
        if self._changed:
            facts["last bits"] = f"not those of an uninterrupted run: {'; '.join(self._changed)}"
        return Started(
            folder=self.run,
            step=self.step,
            steps=self.settings.steps,
            parameters=self.model.num_parameters,
            device=device,
            path=linear_forward.runs(device),  # where most of the time is spent
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
            stopped=self.stopped,
        )

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Set the number of threads, and silence NumPy's overflow warnings: our own check says more, and stops."""
        count = self.settings.threads
        if count is None and self.communicator.neighbors > 1:
            count = max(1, threads() // self.communicator.neighbors)
        products = use_precision(self.precision)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"), on_threads(count), products:
            yield

    def _non_finite(self, what: str, state: dict[str, Any]) -> NonFiniteError:
        """Return the error that names the step, the module and the remedy. state: of the task, before the step."""
        culprit = first_non_finite(self.task, state)
        rate = self.settings.learning_rate / 10
        flags = f"--learning-rate {rate:g}"
        if self.settings.min_learning_rate > rate:
            flags += f" --min-learning-rate {rate:g}"
        return NonFiniteError(
            f"Trainer: loss, gradient and weights must be finite, got {what}; {culprit}. Last good checkpoint: "
            f"{self.last_checkpoint()}. Continue from it with a smaller learning rate: "
            f"{checkpoint.resume_command(self.run, flags)}"
        )


def _optimizer(settings: TrainingSettings, model: Module) -> Optimizer:
    groups = decay_groups(model, settings.weight_decay)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, settings.momentum)
    return AdamW(groups, settings.learning_rate, (settings.beta1, settings.beta2))
