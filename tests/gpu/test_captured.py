"""A captured step computes what eager steps compute, on memory that stays its own."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.stand_in import installed
from gpu.stand_in.stream import Graph, StaleMemoryError
from training_helpers import TEXT, Listener

from compyute_transformer import GPT, AdamW, GPTConfig
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import NonFiniteError
from compyute_transformer.models import BertConfig, LlamaConfig
from compyute_transformer.models.registry import MODELS, build_model
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim import clip_grad_norm_, decay_groups
from compyute_transformer.precision import use_precision
from compyute_transformer.training import Settings, resume_run, start_run, trainer
from compyute_transformer.training.captured import CapturedSteps, capture_fault
from compyute_transformer.training.reporting.events import Advanced
from compyute_transformer.training.tasks.classifier import TextClassifier

CONFIG = GPTConfig(11, context_length=8, embed_dim=16, num_heads=2, num_layers=2, dropout=0.2)


@pytest.fixture
def cupy(any_gpu: Any) -> Iterator[Any]:
    with use_precision("bfloat16"):
        yield any_gpu


@pytest.fixture
def simulated(stand_in: Any) -> Iterator[Any]:
    with use_precision("bfloat16"):
        yield stand_in


def batch(cupy: Any, step: int) -> list[Any]:
    ids, targets = np.random.default_rng(step).integers(0, 11, (2, 3, 8))
    return [cupy.asarray(ids), cupy.asarray(targets)]


def made(dropout: float = 0.2) -> tuple[GPT, AdamW]:
    model = GPT(replace(CONFIG, dropout=dropout), seed=1).to("cuda")
    return model, AdamW(decay_groups(model, 0.1), lr=1e-2, betas=(0.9, 0.99))


def eager(model: GPT, optimizer: AdamW, arrays: list[Any], rate: float) -> tuple[float, float]:
    optimizer.zero_grad()
    loss, saved = cross_entropy_forward(model(arrays[0]), arrays[1], label_smoothing=0.1)
    model.backward(cross_entropy_backward(1.0, saved, overwrite=True))
    norm = clip_grad_norm_(model.parameters(), 0.5)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(loss), norm


def rate(step: int) -> float:
    return 1e-2 / (1 + step)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_captured_steps_are_eager_steps(cupy: Any, dropout: float) -> None:
    expected_model, expected_optimizer = made(dropout)
    expected = [eager(expected_model, expected_optimizer, batch(cupy, step), rate(step)) for step in range(5)]
    model, optimizer = made(dropout)
    steps = CapturedSteps(model, optimizer, label_smoothing=0.1, max_norm=0.5)
    found, taken = [], []
    for step in range(5):
        arrays = batch(cupy, step)
        result = steps.take(arrays, rate(step))
        taken.append(result is not None)
        found.append(result or eager(model, optimizer, arrays, rate(step)))
    assert taken == [False, True, True, True, True]
    assert np.allclose(found, expected, rtol=1e-5)
    assert model.generator.offset == expected_model.generator.offset
    weights = expected_model.state_dict()
    for name, array in model.state_dict().items():
        assert np.allclose(array, weights[name], rtol=1e-3, atol=1e-4), name
    state, expected_state = optimizer.state_dict()["state"], expected_optimizer.state_dict()["state"]
    for number, values in state.items():
        assert values["step"] == expected_state[number]["step"] == 5
        for name in ("first_moment", "second_moment"):
            mine, theirs = values[name].get(), expected_state[number][name].get()
            assert np.abs(mine - theirs).max() <= 1e-2 * np.abs(theirs).max() + 1e-9


def all_models() -> dict[str, Any]:
    """Return each model of the library, and classifiers of texts, with what they are given in a step."""
    rng, found = np.random.default_rng(0), {}
    for name, record in MODELS.items():
        config = next(iter(record.small_configs().values()))
        config = replace(config, embed_dim=8 * config.num_heads)  # which cuDNN attends to
        inputs, targets = record.batch(config, rng, 3)
        found[name] = lambda config=config: build_model(config, 1), (*inputs, targets)
    texts = rng.integers(0, 11, (3, 8)), np.array([8, 3, 5]), np.array([0, 2, 1])
    sizes: Any = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1}
    bert = BertConfig(11, **sizes, masked_head=False)
    for config in (GPTConfig(11, **sizes), LlamaConfig(11, **sizes), bert):
        made = lambda config=config: TextClassifier(build_model(config, 1), 3)  # noqa: E731
        found[f"a classifier with a {type(config).__name__}"] = made, texts
    return found


@pytest.mark.parametrize("name", all_models())
def test_steps_of_every_model_are_captured(simulated: Any, name: str) -> None:
    """During a capture nothing is read from the GPU and nothing copied to it, as tables of positions were."""
    build, arrays = all_models()[name]
    batch, losses = [simulated.asarray(array) for array in arrays], []
    for is_captured in (False, True):
        model = build().to("cuda")
        optimizer = AdamW(model.parameters(), lr=1e-2)
        assert capture_fault(model, optimizer) is None
        steps, found, taken = CapturedSteps(model, optimizer), [], []
        for _ in range(3):
            result = steps.take(batch, 1e-2) if is_captured else None
            taken.append(result is not None)
            if result is None:
                optimizer.zero_grad()
                loss, saved = cross_entropy_forward(model(*batch[:-1]), batch[-1])
                model.backward(cross_entropy_backward(1.0, saved, overwrite=True))
                optimizer.step()
                result = float(loss), 0.0
            found.append(result[0])
        assert taken == [False, is_captured, is_captured]
        losses.append(found)
    assert np.allclose(*losses, rtol=1e-5)
    assert len(set(losses[0])) == 3


def test_what_turns_out_not_to_be_captured_is_taken_eagerly_and_said(
    simulated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Heads of 4 columns are none of cuDNN's, so that CuPy multiplies, which it refuses in a capture."""
    losses = []
    for tries in (False, True):
        model = GPT(replace(CONFIG, num_heads=4), seed=1).to("cuda")
        optimizer = AdamW(decay_groups(model, 0.1), lr=1e-2)
        steps = CapturedSteps(model, optimizer) if tries else None
        losses.append([])
        for step in range(3):
            arrays = batch(simulated, step)
            assert steps is None or steps.take(arrays, rate(step)) is None
            losses[-1].append(eager_plain(model, optimizer, arrays, rate(step))[0])
    assert np.allclose(*losses, rtol=1e-5)
    [said] = caplog.messages
    assert "launch by launch" in said
    assert "cuBLAS" in said


def test_eager_steps_and_draws_between_captured_ones_change_nothing(cupy: Any) -> None:
    losses = []
    for order in ("eager", "mixed"):
        model, optimizer = made()
        steps = CapturedSteps(model, optimizer, max_norm=0.5) if order == "mixed" else None
        losses.append([])
        for step in range(6):
            arrays = batch(cupy, step)
            result = steps.take(arrays, rate(step)) if steps and step != 3 else None
            losses[-1].append((result or eager_plain(model, optimizer, arrays, rate(step)))[0])
            model.generator.offset += 5  # as if something else had drawn
    assert np.allclose(losses[0], losses[1], rtol=1e-5)


def eager_plain(model: GPT, optimizer: AdamW, arrays: list[Any], rate: float) -> tuple[float, float]:
    optimizer.zero_grad()
    loss, saved = cross_entropy_forward(model(arrays[0]), arrays[1])
    model.backward(cross_entropy_backward(1.0, saved, overwrite=True))
    norm = clip_grad_norm_(model.parameters(), 0.5)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(loss), norm


def test_each_shape_has_a_graph_and_there_are_not_many(cupy: Any) -> None:
    model, optimizer = made()
    steps = CapturedSteps(model, optimizer)
    taken = []
    for rows in (1, 2, 3, 1, 2, 3, 1, 2, 3):
        arrays = [array[:rows] for array in batch(cupy, rows)]
        result = steps.take(arrays, 1e-3)
        taken.append(result is not None)
        if result is None:
            eager_plain(model, optimizer, arrays, 1e-3)
    assert taken == [False] * 3 + [True] * 6


def test_a_graph_whose_memory_was_given_away_is_noticed(simulated: Any) -> None:
    model, optimizer = made()
    steps = CapturedSteps(model, optimizer)
    for step in range(2):
        if steps.take(batch(simulated, step), 1e-3) is None:
            eager_plain(model, optimizer, batch(simulated, step), 1e-3)
    [(shape, captured)] = steps.captured.items()
    steps.captured[shape] = captured._replace(keeps=())  # its pool goes, and with it the activations
    del captured
    gc.collect()
    with pytest.raises(StaleMemoryError):
        steps.take(batch(simulated, 2), 1e-3)


def test_what_cannot_be_captured_is_said(simulated: Any) -> None:
    model, optimizer = made()
    assert capture_fault(model, optimizer) is None
    with use_precision("float32"):
        assert "choose the precision bfloat16" in str(capture_fault(model, optimizer))
    plain = model.mask
    for mask in (plain._replace(soft_cap=2.0), plain._replace(slopes=np.ones(2))):
        model.mask = mask
        assert "a soft cap or slopes" in str(capture_fault(model, optimizer))
    wrapped = TextClassifier(model, 3).to("cuda")
    assert "a soft cap or slopes" in str(capture_fault(wrapped, AdamW(wrapped.parameters())))
    model, optimizer = made()
    model.mask = np.ones(3)  # of a model of one's own, which calls something else so
    assert capture_fault(model, optimizer) is None
    model.mask = plain
    next(iter(model.parameters())).requires_grad = False
    assert "frozen" in str(capture_fault(model, optimizer))
    assert "not on a GPU" in str(capture_fault(model.to("cpu"), optimizer))
    with installed(), use_precision("bfloat16"):
        model, optimizer = made()
        assert "pip install 'compyute-transformer[gpu]'" in str(capture_fault(model, optimizer))


def test_a_run_on_a_gpu_takes_captured_steps_and_resumes(
    simulated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []
    launch = Graph.launch
    monkeypatch.setattr(Graph, "launch", lambda self, stream=None: launched.append(launch(self)))
    (tmp_path / "text.txt").write_text(TEXT)
    given = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 4, "warmup": 0}
    given |= {"decay": "constant", "eval_every": 0, "checkpoint_every": 4, "sample_every": 0, "clip": 1.0}
    losses = {}
    for device, precision in (("cuda", "auto"), ("cuda", "float32"), ("cpu", None)):
        chosen = given | {"device": device, "steps": 4} | ({"precision": precision} if precision else {})
        run = tmp_path / f"{device}-{precision}"
        with use_kernels("reference" if device == "cpu" else "auto"):
            start_run([str(tmp_path / "text.txt")], Settings.resolve("cpu", None, chosen), run, Listener())
            losses[device, precision] = resume_run(run, Listener(), 6).loss
        assert len(launched) == (4 if precision == "auto" else 0)  # of 4 and of 2 steps all but the first
        launched.clear()
    assert losses["cuda", "float32"] == pytest.approx(losses["cpu", None], rel=1e-4)
    assert losses["cuda", "auto"] == pytest.approx(losses["cpu", None], rel=2e-2)


def test_the_loss_of_an_eager_step_waits_for_nothing(cupy: Any) -> None:
    """The number of scored rows stays on the GPU; during a capture the CPU could not read it."""
    logits, targets = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32), np.array([0, 4, -100, 2, 2, 1])
    given, ids = cupy.asarray(logits), cupy.asarray(targets)
    cross_entropy_backward(1.0, cross_entropy_forward(given, ids)[1])  # compiles
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        loss, saved = cross_entropy_forward(given, ids)
        dlogits = cross_entropy_backward(1.0, saved)
        graph = stream.end_capture()
    graph.launch()
    expected, expected_saved = cross_entropy_forward(logits, targets)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    with use_kernels("reference"):  # which takes what a kernel saved
        others = cross_entropy_backward(1.0, expected_saved), cross_entropy_backward(1.0, saved).get()
    for other in others:
        assert np.allclose(dlogits.get(), other, atol=1e-7)


@pytest.mark.parametrize("fault", ["product", "gradient"])
def test_a_captured_step_that_is_not_finite_changes_nothing_and_names_the_same_module(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Weights whose products overflow; others behind which the loss is finite and a gradient is not."""
    (tmp_path / "text.txt").write_text(TEXT)
    given = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 2, "batch_size": 4, "warmup": 0}
    given |= {"decay": "constant", "eval_every": 0, "checkpoint_every": 2, "sample_every": 0, "device": "cuda"}
    planted: dict[str, Any] = {}

    def plant(trainer: Any, event: Any) -> None:
        if isinstance(event, Advanced) and event.step == 3:
            block = trainer.model.blocks[1]
            if fault == "product":
                block.feed_forward.up.weight.data[:, 0] = np.float32(3e38)
            else:  # the products are 0, and the gradient of a weight of 0 is not
                block.feed_forward_norm.weight.data[...] = np.float32(1e6)
                block.feed_forward.up.weight.data[...] = np.float32(0)
                block.feed_forward.down.weight.data[...] = np.float32(1e38)
            planted.update(trainer=trainer, weights=trainer.model.state_dict())

    found = []
    for name in ("captured", "eager"):
        if name == "eager":
            monkeypatch.setattr(trainer, "capture_fault", lambda *_: "not here")
        run = tmp_path / name
        settings = Settings.resolve("cpu", None, given | {"steps": 6})
        with pytest.raises(NonFiniteError) as caught:
            start_run([str(tmp_path / "text.txt")], settings, run, Listener(), callbacks=[plant])
        made = planted["trainer"]
        assert (made._captured is False) == (name == "eager")
        for key, array in made.model.state_dict().items():
            np.testing.assert_array_equal(array, planted["weights"][key], key)
        found.append((str(caught.value).replace(str(run), "RUN"), made.optimizer.steps, made.model.generator.offset))
    assert "step 4: " in found[0][0]
    assert f"blocks.1.feed_forward.up (Linear), in its {'forward' if fault == 'product' else 'backward'}" in found[0][0]
    assert found[0] == found[1]
