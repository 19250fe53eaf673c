"""The whole library runs on CuPy's arrays, and computes on them what it computes on NumPy's.

It runs its references here, on the stand-in for CuPy, whose numbers are NumPy's: results are equal to the last bits
of a sum. Whatever mixes the two kinds of arrays, or takes one for the other, fails.
"""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.stand_in import installed
from training_helpers import TEXT, TINY, Listener

from compyute_transformer import SGD, AdamW, nn, use_kernels
from compyute_transformer.arrays import to_device, to_numpy
from compyute_transformer.errors import DeviceError, StateError
from compyute_transformer.explain.run import Request, explain_run
from compyute_transformer.generation import (
    Sampling,
    attention_maps,
    choose,
    evaluate_ids,
    generate,
    generate_batch,
    generate_ids,
    stream_translation,
    translate,
)
from compyute_transformer.models.registry import MODELS, build_model
from compyute_transformer.optim import clip_grad_norm_, decay_groups
from compyute_transformer.training import Settings, evaluate_run, load_run, predict_texts, resume_run, start_run
from compyute_transformer.verify.kernels import compare_devices, on_device
from compyute_transformer.verify.models import subjects as models
from compyute_transformer.verify.modules import subjects as modules
from compyute_transformer.verify.record import Case, Op, cast
from compyute_transformer.verify.runs import tasks_of_run

CASES = [(record, name) for record in MODELS.values() for name in record.small_configs()]


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with installed() as module, use_kernels("reference"):
        yield module


def test_every_op_computes_the_same_on_both_devices(op: Op, case: Case) -> None:
    results = compare_devices(op, case, np.float32)
    assert results
    assert [str(result) for result in results if not result.passed] == []


def test_every_module_computes_the_same_on_both_devices() -> None:
    results = [result for subject in modules(0) for result in subject.by_devices((np.float32,))]
    assert len(results) > 50
    assert [str(result) for result in results if not result.passed] == []


def test_every_model_computes_the_same_on_both_devices() -> None:
    results = [result for subject in models(0) for result in subject.by_devices((np.float32,))]
    assert len(results) > 100
    assert [str(result) for result in results if not result.passed] == []


# --- training ---


def three_steps(record: Any, config: Any, device: Any, optimizer: type) -> tuple[list[float], dict[str, Any]]:
    """Return losses and norms of three steps, and what is in model and optimizer after them."""
    model = build_model(config, 1).to(dtype=np.float64)  # in float32 AdamW makes a step of the sign of a rounding
    made = optimizer(decay_groups(model, 0.1), lr=1e-2, **({"momentum": 0.9} if optimizer is SGD else {}))
    model.to(device)  # the optimizer follows
    criterion, numbers = nn.CrossEntropyLoss(label_smoothing=0.1), []
    for step in range(3):
        inputs, targets = on_device(cast(record.batch(config, np.random.default_rng(step), 3), np.float64), device)
        made.zero_grad()
        numbers.append(float(criterion(model(*inputs), targets)))
        model.backward(criterion.backward())
        numbers.append(clip_grad_norm_(model.parameters(), 0.5))
        made.step()
    moments = made.state_dict()["state"]
    state = {f"{number}.{name}": to_numpy(array) for number, each in moments.items() for name, array in each.items()}
    return numbers, model.state_dict() | state


@pytest.mark.parametrize(("record", "name"), CASES, ids=[f"{record.name}-{name}" for record, name in CASES])
def test_every_model_is_trained_alike_on_both_devices(record: Any, name: str) -> None:
    config, optimizer = record.small_configs()[name], SGD if name == "plain" else AdamW
    numbers, state = three_steps(record, config, "cuda", optimizer)
    expected, expected_state = three_steps(record, config, "cpu", optimizer)
    assert np.allclose(numbers, expected, rtol=1e-12, atol=0)
    assert state.keys() == expected_state.keys()
    for key, array in state.items():
        assert np.allclose(array, expected_state[key], rtol=1e-9, atol=1e-9), key


def test_models_and_arrays_of_two_devices_are_refused() -> None:
    record = MODELS["gpt"]
    config = record.small_configs()["plain"]
    (ids,), _ = record.batch(config, np.random.default_rng(0), 2)
    with pytest.raises(DeviceError, match="both NumPy and CuPy"):
        build_model(config).to("cuda")(ids)


def test_copies_pickles_and_files_of_a_model_on_a_gpu(tmp_path: Path, cupy: Any) -> None:
    model = build_model(MODELS["gpt"].small_configs()["plain"], 1).to("cuda")
    model.save(tmp_path / "model.safetensors")
    loaded = build_model(model.config, 2).to("cuda")
    loaded.load(tmp_path / "model.safetensors")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, model.to("cpu").to("cuda")):
        assert other.device == "cuda"
        for name, array in model.state_dict().items():
            assert np.array_equal(other.state_dict()[name], array)
    assert all(type(parameter.data) is cupy.ndarray for parameter in model.parameters())


def test_gradients_of_a_gpu_that_someone_holds_stay(cupy: Any) -> None:
    layer = nn.Linear(3, 2).to("cuda")
    optimizer = AdamW(layer.parameters(), lr=0.1)
    held = []
    for factor in (1.0, 2.0, 4.0):
        optimizer.zero_grad()
        layer(cupy.ones((1, 3), dtype=np.float32))
        layer.backward(cupy.full((1, 2), factor, dtype=np.float32))
        held.append(layer.bias.grad)
        optimizer.step()
    assert [array.tolist() for array in held] == [[1, 1], [2, 2], [4, 4]]


def test_parameters_that_share_memory_of_a_gpu_are_refused() -> None:
    one, other = nn.Linear(3, 3).to("cuda"), nn.Linear(3, 3).to("cuda")
    other.weight.data = one.weight.data
    for layer in (one, other):
        layer.weight.grad = layer.weight.data * 0
    with pytest.raises(StateError, match="memory of its own"):
        AdamW([one.weight, other.weight], lr=0.1).step()


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_the_norm_of_gradients_of_a_gpu_is_exact_where_squares_are_not(cupy: Any, scale: float) -> None:
    given = np.random.default_rng(0).normal(size=70_000).astype(np.float32) * np.float32(scale)
    layer = nn.Linear(700, 100, bias=False).to("cuda")
    layer.weight.grad = cupy.asarray(given.reshape(100, 700))
    norm = clip_grad_norm_(layer.parameters(), scale)
    assert norm == pytest.approx(np.linalg.norm(given.astype(np.float64)), rel=1e-6)
    clipped = layer.weight.grad.get().astype(np.float64)
    assert np.linalg.norm(clipped) == pytest.approx(scale, rel=1e-5)


# --- runs: one of each kind ---

KINDS: dict[str, dict[str, object]] = {
    "cpu": {"context_length": 16, "dropout": 0.1, "sample_every": 2, "sample_tokens": 8},
    "llama": {"context_length": 16, "sample_every": 2, "sample_tokens": 8},
    "bert": {"context_length": 16, "sample_every": 0},
    "dates": {"context_length": 16, "sample_every": 2},
    "digits": {},
}
SHARED = ("embed_dim", "num_heads", "batch_size", "eval_every", "checkpoint_every", "log_every")


def settings(preset: str, device: str, steps: int) -> Settings:
    chosen = {name: TINY[name] for name in SHARED} | {"num_layers": 1, "accumulation": 2, "warmup": 0}
    given = {"steps": steps, "device": device, "decay": "constant"}  # which does not depend on the number of steps
    given["precision"] = "float32"  # on a GPU it is bfloat16 unless it is said
    return Settings.resolve(preset, None, chosen | given | KINDS[preset])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A run of each kind on the GPU, begun, interrupted and resumed, beside one on the CPU, which it equals."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text("".join(f"{a} {b}\t{b} {a}\n" for a in "abcdefgh" for b in "ijklmnop"))
    found = {}
    with installed(), use_kernels("reference"):
        for preset in KINDS:
            source = {"dates": [str(folder / "pairs.tsv")], "digits": ["digits"]}.get(
                preset, [str(folder / "text.txt")]
            )
            run = folder / preset
            start_run(source, settings(preset, "cuda", 2), run, Listener())
            resumed = resume_run(run, Listener(), 4)
            expected = start_run(source, settings(preset, "cpu", 4), folder / f"{preset}-cpu", Listener())
            assert resumed.loss == pytest.approx(expected.loss, rel=1e-6)
            assert resumed.validation_loss == pytest.approx(expected.validation_loss, rel=1e-6)
            found[preset] = run
    return found


@pytest.mark.parametrize("preset", KINDS)
def test_a_run_of_a_gpu_is_evaluated_and_verified_on_either_device(runs: dict[str, Path], preset: str) -> None:
    found, expected = (evaluate_run(runs[preset], device=device).metrics for device in ("cuda", "cpu"))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    task = next(task for task in tasks_of_run(runs[preset]) if task.methods == ("device",))
    results = list(task.run())
    assert results
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize("preset", ["cpu", "llama"])
def test_texts_generated_on_a_gpu_are_those_of_a_cpu(runs: dict[str, Path], preset: str) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        run = load_run(runs[preset], device=device)
        model, tokenizer = run.model, run.tokenizer
        ids = to_device(np.array([[1, 2, 3], [3, 2, 1]]), device)
        sampling = Sampling(temperature=0.9, top_k=9, repetition_penalty=1.2)
        found[device] = [
            generate(model, tokenizer, "the cat", max_new_tokens=24, sampling=sampling),
            generate(model, tokenizer, "the cat", max_new_tokens=4, cached=False),
            generate_batch(model, tokenizer, ["the cat", "a"], max_new_tokens=20),
            to_numpy(generate_ids(model, ids, max_new_tokens=5)).tolist(),
            round(evaluate_ids(model, tokenizer, list(range(10)) * 4)["loss"], 5),
            [choice.text for choice in choose(model, tokenizer, "the", [" cat", " mat"])],
            [to_numpy(weights).round(5).tolist() for weights in attention_maps(model, ids)],
        ]
    assert found["cuda"] == found["cpu"]


def test_translations_on_a_gpu_are_those_of_a_cpu(runs: dict[str, Path]) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        run = load_run(runs["dates"], device=device)
        best = [
            [each.ids for each in translate(run.model, run.tokenizer, ["a i", "b j"], beam_size=3, cached=cached)]
            for cached in (True, False)
        ]
        found[device] = (
            best,
            "".join(stream_translation(run.model, run.tokenizer, "a i")),
            [each.output for each in predict_texts(run, ["a i"])],
        )
    assert found["cuda"] == found["cpu"]


@pytest.mark.parametrize(("preset", "prompt"), [("cpu", "the cat"), ("dates", "a i"), ("digits", "")])
def test_the_page_of_a_gpu_is_that_of_a_cpu(runs: dict[str, Path], preset: str, prompt: str) -> None:
    found, expected = (explain_run(runs[preset], Request(prompt, device=device)) for device in ("cuda", "cpu"))
    assert found == expected
