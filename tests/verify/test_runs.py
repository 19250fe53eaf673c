"""A user's own trained model, verified on its own text; and a damaged one found."""

import os
from pathlib import Path

import numpy as np
import pytest
from training_helpers import TEXT, tiny

from compyute_transformer.arrays import Array
from compyute_transformer.data import load_pairs
from compyute_transformer.errors import CorpusError, RunError
from compyute_transformer.nn import LayerNorm
from compyute_transformer.training import Settings, load_run, start_run
from compyute_transformer.training.run.config import reload_data
from compyute_transformer.verify.plan import carry_out
from compyute_transformer.verify.runs import batch_of, is_run, model_of, tasks_of_run

pytestmark = pytest.mark.usefixtures("validation_only")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(TEXT)
    return path


def train(corpus: Path, folder: Path, **changes: object) -> Path:
    start_run([str(corpus)], tiny(steps=6, eval_every=0, sample_every=0, **changes), folder)
    return folder


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(corpus, tmp_path_factory.mktemp("runs") / "words")


def test_a_trained_model_is_proven_in_every_parameter(run: Path) -> None:
    outcome = carry_out(tasks_of_run(run))
    assert outcome.passed
    assert not outcome.not_run
    parameters = {path for path, _ in load_run(run).model.named_parameters()}
    by_method = {result.method: set[str]() for result in outcome.results}
    for result in outcome.results:
        by_method[result.method].add(result.argument)
    whole = {f"d{path}" for path in parameters}
    assert by_method == {
        "differences": whole | {"flat buffer"},
        "complex step": whole | {"all parameters"},
        "torch": whole | {"logits", "loss"},
        "implementations": whole | {"logits", "loss"},
        "kernel": whole | {"logits", "loss"},
    }
    assert {result.name for result in outcome.results} == {"run.words"} | parameters
    assert {result.case for result in outcome.results} == {"step 6, best"}


def test_its_text_is_the_validation_text(run: Path) -> None:
    loaded = load_run(run)
    ids, targets = batch_of(loaded, run)
    _, held_out = reload_data(run, loaded.config).split(loaded.settings.data.validation_fraction)
    assert held_out.startswith(loaded.tokenizer.decode(ids.reshape(-1)))
    assert np.array_equal(ids[0, 1:], targets[0, :-1])
    assert ids.shape == (4, 16)


def test_its_weights_are_the_trained_ones_and_its_dropout_is_on(run: Path) -> None:
    loaded = load_run(run)
    model = model_of(loaded, np.float64, 0)
    assert model.training
    assert model.config.dropout == 0.1
    state = model.state_dict()
    assert all(np.array_equal(state[path], array) for path, array in loaded.model.state_dict().items())


def test_with_relu_differences_make_way_for_complex_steps(corpus: Path, tmp_path: Path) -> None:
    outcome = carry_out(tasks_of_run(train(corpus, tmp_path / "relu", activation="relu"), "last"))
    assert outcome.passed
    assert "differences" not in {result.method for result in outcome.results}
    (absent,) = outcome.not_run
    assert (absent.name, absent.method) == ("run.relu", "differences")
    assert "kinks" in absent.reason


def test_a_run_without_validation_text_is_proven_on_what_it_read(corpus: Path, tmp_path: Path) -> None:
    folder = train(corpus, tmp_path / "all", validation_fraction=0.0)
    ids, _ = batch_of(load_run(folder, "last"), folder)
    assert load_run(folder, "last").tokenizer.decode(ids[0]) == TEXT[: ids.shape[1]]


def test_a_damaged_gradient_is_found_and_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LayerNorm.backward

    def wrong(self: LayerNorm, dy: Array) -> Array:
        dx = right(self, dy)
        if self.path == "norm":
            assert self.weight.grad is not None
            self.weight.grad *= 1.01
        return dx

    monkeypatch.setattr(LayerNorm, "backward", wrong)
    failures = carry_out(tasks_of_run(run)).failures
    assert {result.name for result in failures} == {"run.words", "norm.weight"}
    assert {"differences", "complex step", "torch"} == {result.method for result in failures}


def test_a_run_is_told_from_a_filter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_run(str(run))
    monkeypatch.chdir(run.parent)
    assert is_run("words")
    assert not is_run("ops.linear")
    assert is_run(f"runs{os.sep}none")


def test_what_is_no_run_or_has_lost_its_text_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is none in"):
        tasks_of_run(tmp_path / "none")
    text = tmp_path / "gone.txt"
    text.write_text(TEXT)
    folder = train(text, tmp_path / "orphan")
    text.unlink()
    with pytest.raises(CorpusError):
        tasks_of_run(folder)


def test_a_run_of_pairs_is_proven_on_its_first_validation_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{word * n}\t{n} {word}\n" for word in ("ab", "cd", "e") for n in range(1, 5)))
    changes = {"context_length": 12, "embed_dim": 8, "num_heads": 2, "num_layers": 1, "batch_size": 2, "steps": 2}
    settings = Settings.resolve(
        "translation", None, {**changes, "tokenizer": "characters", "validation_fraction": 0.3, "sample_every": 0}
    )
    start_run([str(file)], settings, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    (source, target, source_lengths, target_lengths), labels = batch_of(loaded, tmp_path / "run")
    kept = load_pairs(file).split(0.3)[1][:2]
    for row, pair in enumerate(kept):
        assert loaded.tokenizer.decode(source[row, : source_lengths[row] - 1]) == pair.source
        assert loaded.tokenizer.decode(labels[row, : target_lengths[row] - 1]) == pair.target
    assert len(target) == len(kept) == 2
    outcome = carry_out(tasks_of_run(tmp_path / "run"))
    assert outcome.passed
    assert {result.method for result in outcome.results} == {"complex step", "torch", "implementations", "kernel"}


def test_a_trained_classifier_of_images_is_proven_on_its_own_images(tmp_path: Path) -> None:
    small = {"patch_size": 4, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "steps": 6, "batch_size": 4}
    quick = {"learning_rate": 1e-2, "warmup": 0, "eval_every": 0}
    start_run((), Settings.resolve("digits", None, small | quick), tmp_path / "digits")
    loaded = load_run(tmp_path / "digits", "last")
    images, labels = batch_of(loaded, tmp_path / "digits")
    assert (images.shape, images.dtype, labels.shape) == ((8, 8, 8, 1), np.float32, (8,))
    outcome = carry_out(tasks_of_run(tmp_path / "digits", "last"))
    assert outcome.passed
    assert not outcome.not_run
    compared = {result.argument for result in outcome.results if result.method == "differences"}
    assert compared == {f"d{path}" for path, _ in loaded.model.named_parameters()} | {"flat buffer"}
