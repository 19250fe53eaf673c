"""Images as a task: training, evaluation, and a run from its folder to its accuracy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compyute_transformer.errors import RunError
from compyute_transformer.models import ViT
from compyute_transformer.ops import cross_entropy
from compyute_transformer.training import Settings, evaluate_run, load_run, resume_run, start_run
from compyute_transformer.training.tasks.images import IMAGES, ImageTask, evaluate_images
from compyute_transformer.training.tasks.registry import preset_for
from compyute_transformer.training.tasks.task import split_batch

TINY: dict[str, object] = {
    "patch_size": 4, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "steps": 6, "batch_size": 8, "eval_every": 3,
    "checkpoint_every": 3, "warmup": 0,
}  # fmt: skip


def digits(dtype: Any = np.float32, **changes: object) -> ImageTask:
    settings = Settings.resolve("digits", None, TINY | changes)
    data = IMAGES.load(())
    encoder = IMAGES.encoder(data, settings)
    model = ViT(settings.model.config(IMAGES.shape(encoder)), settings.training.seed).to(dtype=dtype)
    return IMAGES.task(model, encoder, data, settings)


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """Two classes that differ in brightness, not square, of two sizes."""
    rng = np.random.default_rng(0)
    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for number in range(10):
            noise = rng.integers(0, 40, (6 + 2 * (number % 2), 8, 3))
            Image.fromarray((noise + shade).astype(np.uint8)).save(tmp_path / "shades" / name / f"{number}.png")
    return tmp_path / "shades"


def test_two_half_batches_give_the_gradient_of_one() -> None:
    """A class token whose gradient is set, not added to, would be half of it."""
    task = digits(np.float64, dropout=0.0)
    x, labels = task.batches.next()
    gradients = []
    for parts in (1, 2, 4):
        task.model.zero_grad()
        cut = split_batch([x.astype(np.float64), labels], parts)
        assert len(cut) == parts
        for part, weight in cut:
            task.loss_and_gradient(part, weight)
        gradients.append(task.model.flat.grad.copy())
    assert np.abs(task.model.class_token.weight.grad).max() > 1e-6
    for gradient in gradients[1:]:
        assert np.abs(gradient - gradients[0]).max() <= 1e-14


def test_what_is_validated_is_never_trained_on() -> None:
    task = digits()
    assert task.validation is not None
    assert (len(task.training.labels), len(task.validation.labels)) == (1438, 359)
    seen = {pixels.tobytes() for pixels in task.training.pixels}
    assert not seen & {pixels.tobytes() for pixels in task.validation.pixels}
    facts = task.facts()
    assert (facts["training_images"], facts["validation_images"], facts["classes"]) == (1438, 359, 10)


def test_validation_is_the_mean_over_every_image_however_batched() -> None:
    task = digits(np.float64)
    assert task.validation is not None
    images, model = task.validation, task.model.eval()
    logits = model(task.encoder.normalize(images.pixels).astype(np.float64))
    model.to(dtype=np.float32)
    for batch_size in (50, 1000):
        evaluated = evaluate_images(model, task.encoder, images, batch_size)
        assert evaluated.metrics["images"] == 359
        assert evaluated.metrics["loss"] == pytest.approx(float(cross_entropy(logits, images.labels)), rel=1e-5)
        assert evaluated.metrics["accuracy"] == (logits.argmax(1) == images.labels).mean()
        assert evaluated.confusion is not None
        assert evaluated.confusion.counts.sum() == 359


def test_looking_changes_nothing() -> None:
    task = digits(dropout=0.3)
    before = task.state()
    sample = task.sample(0)
    assert task.validate()["images"] == 359
    assert task.state() == before
    assert task.model.training
    assert sample is not None
    assert "true \\ predicted" in sample
    assert "predicted as" not in sample  # the table says so already


def test_a_sample_after_a_validation_evaluates_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, evaluated = digits(), []
    monkeypatch.setattr(
        "compyute_transformer.training.tasks.images.evaluate_images",
        lambda *given: evaluated.append(given) or evaluate_images(*given),
    )
    task.validate()
    after = task.sample(0)
    assert len(evaluated) == 1
    task.batch()
    assert task.sample(0) == after
    assert len(evaluated) == 2


def test_without_a_validation_part_nothing_is_validated() -> None:
    task = digits(validation_fraction=0.0)
    assert task.validation is None
    assert task.validate() == {}
    assert task.sample(0)


def test_digits_are_learned_in_a_run_that_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = Settings.resolve("digits", None, TINY | {"shift": 0.5, "dropout": 0.1})
    whole = start_run((), settings, tmp_path / "whole")
    start_run((), settings.with_overrides({"steps": 3, "decay": "constant"}), tmp_path / "cut")
    constant = start_run((), settings.with_overrides({"decay": "constant"}), tmp_path / "constant")
    resume_run(tmp_path / "cut", steps=6)
    weights = [load_run(tmp_path / name, "last").model.flat.data for name in ("cut", "constant")]
    assert np.array_equal(*weights)
    assert whole.step == constant.step == 6
    assert whole.metrics["accuracy"] >= 0.0
    evaluated = evaluate_run(tmp_path / "whole", which="last")
    assert evaluated.metrics["accuracy"] == whole.metrics["accuracy"]
    assert evaluated.metrics["loss"] == whole.validation_loss


def test_a_folder_of_images_is_trained_on_and_others_are_evaluated(shades: Path, tmp_path: Path) -> None:
    assert preset_for(None, [str(shades)]) == "images"
    settings = Settings.resolve("images", None, TINY | {"image_size": 8, "steps": 30, "learning_rate": 3e-3})
    start_run([str(shades)], settings, tmp_path / "run")
    run = load_run(tmp_path / "run", "last")
    assert run.encoder.classes == ("dark", "light")
    assert (run.encoder.height, run.encoder.width, run.encoder.channels) == (8, 8, 3)
    assert evaluate_run(tmp_path / "run", which="last").metrics["accuracy"] == 1.0
    assert evaluate_run(tmp_path / "run", [str(shades)], "last").metrics["images"] == 2  # its own: the validation part
    (shades / "dark" / "0.png").rename(shades / "dark" / "other.png")
    evaluated = evaluate_run(tmp_path / "run", [str(shades)], "last")
    assert evaluated.metrics["images"] == 20
    assert evaluated.metrics["accuracy"] == 1.0
    assert evaluated.confusion is not None
    assert evaluated.confusion.counts.tolist() == [[10, 0], [0, 10]]


def test_a_run_that_kept_no_images_is_evaluated_by_others_alone(shades: Path, tmp_path: Path) -> None:
    changes = {"image_size": 8, "steps": 1, "validation_fraction": 0.0}
    start_run([str(shades)], Settings.resolve("images", None, TINY | changes), tmp_path / "run")
    with pytest.raises(RunError, match=r"it has no validation split of shades\. Give images"):
        evaluate_run(tmp_path / "run", which="last")
    (shades / "dark" / "0.png").rename(shades / "dark" / "other.png")
    assert evaluate_run(tmp_path / "run", [str(shades)], "last").metrics["images"] == 20
