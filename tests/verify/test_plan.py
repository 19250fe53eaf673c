"""What is chosen, what is carried out, and what could not begin."""

import sys

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.models.registry import MODELS
from compyute_transformer.verify import plan
from compyute_transformer.verify.plan import NotRun, Outcome, carry_out, choose, everything
from compyute_transformer.verify.result import Label, Result, Task


def task(name: str, *methods: str, error: float = 0.0) -> Task:
    result = Label(name, "case").result(methods[0], np.float64, "dx", error, 1e-7)  # type: ignore[arg-type]
    return Task(name, methods, lambda: [result])  # type: ignore[arg-type]


TASKS = [task("ops.linear", "differences", "adjoint"), task("ops.linear", "torch"), task("nn.Linear", "torch")]


def names(tasks: list[Task]) -> list[tuple[str, str]]:
    return [(task.name, task.methods[0]) for task in tasks]


def test_filters_are_parts_of_names_and_methods_are_whole() -> None:
    assert choose(TASKS) == TASKS
    assert names(choose(TASKS, ["LINEAR"])) == names(TASKS)
    assert names(choose(TASKS, ["ops."])) == names(TASKS[:2])
    assert names(choose(TASKS, ["nn.", "ops."])) == names(TASKS)
    assert names(choose(TASKS, (), ["adjoint"])) == names(TASKS[:1])
    assert names(choose(TASKS, ["nn"], ["torch"])) == names(TASKS[2:])


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"got 'lineer'\. There are: ops\.linear, nn\.Linear\.$"):
        choose(TASKS, ["lineer"])
    with pytest.raises(ConfigError, match=r"a method is one of differences, complex-step, .*, got 'magic'"):
        choose(TASKS, (), ["magic"])
    with pytest.raises(ConfigError, match="nn has no check by differences"):
        choose(TASKS, ["nn"], ["differences"])
    assert choose([task("ops.x", "complex step")], (), ["complex-step"])


def test_everything_is_every_package() -> None:
    packages = {task.name.partition(".")[0] for task in everything(0)}
    assert packages == {"ops", "nn", "attention", "models"}


def test_the_summary_gathers_and_tells_of_each() -> None:
    told: list[str] = []

    def report(task: Task, results: list[Result], not_run: list[NotRun]) -> None:
        told.append(f"{task.name} {len(results)} {len(not_run)}")

    outcome = carry_out([*TASKS, task("ops.gelu", "torch", error=1.0)], report)
    assert told == ["ops.linear 1 0", "ops.linear 1 0", "nn.Linear 1 0", "ops.gelu 1 0"]
    assert not outcome.passed
    assert [result.name for result in outcome.failures] == ["ops.gelu"]
    assert outcome.seconds > 0.0
    assert carry_out(TASKS).passed


def test_nothing_proven_is_nothing_passed() -> None:
    assert not Outcome().passed
    assert not Outcome(not_run=[NotRun("ops.linear", "torch", "no PyTorch")]).passed


@pytest.mark.usefixtures("validation_only")
def test_without_pytorch_its_checks_have_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = carry_out(choose(everything(0), ["linear", "gelu", "models"], ["torch"]))
    assert not outcome.results
    assert {(absent.name, absent.method) for absent in outcome.not_run} == {
        ("ops.linear", "torch"),
        ("nn.Linear", "torch"),
        ("nn.LoRALinear", "torch"),
        ("ops.gelu", "torch"),
        *((f"models.{record.model.__name__}", "torch") for record in MODELS.values()),
    }
    assert all("pip install 'compyute-transformer[verify]'" in absent.reason for absent in outcome.not_run)
    assert not outcome.passed


def test_without_numba_kernels_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "package_fault", lambda package: f"no {package}")
    outcome = carry_out([task("ops.linear", "kernel"), task("ops.linear", "differences")])
    assert outcome.not_run == [NotRun("ops.linear", "kernel", "no cpu")]
    assert outcome.passed


def test_a_task_may_say_why_it_cannot_be() -> None:
    absent = Task("run.x", ("differences",), lambda: [], absent="kinks")
    assert carry_out([absent]).not_run == [NotRun("run.x", "differences", "kinks")]
