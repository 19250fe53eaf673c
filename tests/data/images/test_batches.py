"""Images in batches: epochs without replacement, moved a little; and the encoder that makes floats of bytes."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compyute_transformer.data import ImageBatches, ImageEncoder, load_images, ordered_batches
from compyute_transformer.data.images.batches import moved
from compyute_transformer.errors import DataError, RangeError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(10)


def as_they_are(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32)


def batches(batch_size: int = 4, seed: int = 0, shift: float = 0.0) -> ImageBatches:
    return ImageBatches(PIXELS, LABELS, batch_size, as_they_are, seed, shift)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
def test_every_image_comes_once_an_epoch(batch_size: int) -> None:
    made = batches(batch_size)
    seen = np.concatenate([made.next()[1] for _ in range(-(-30 // batch_size))])[:30].reshape(3, 10)
    assert np.array_equal(np.sort(seen, axis=1), np.tile(LABELS, (3, 1)))
    assert not np.array_equal(seen[0], seen[1])


def test_an_image_keeps_its_label() -> None:
    x, labels = batches(10).next()
    assert x.dtype == np.float32
    assert np.array_equal(x, PIXELS[labels])


def test_the_cursor_is_the_whole_state() -> None:
    first, second = batches(shift=1.5), batches(shift=1.5)
    drawn = [first.next() for _ in range(7)]
    second.cursor = 5
    for wanted, found in zip(drawn[5:], (second.next(), second.next()), strict=True):
        assert all(map(np.array_equal, wanted, found))
    assert second.cursor == 7
    assert all(map(np.array_equal, second.batch(0), drawn[0]))
    assert not np.array_equal(batches(seed=1).next()[1], drawn[0][1])


def test_whole_moves_move_whole_pixels() -> None:
    by = moved(PIXELS[:2], np.array([[1, -2], [0, 0]], dtype=np.float32))
    assert by.dtype == np.float32
    assert np.array_equal(by[0, 1:, :-2], PIXELS[0, :-1, 2:])
    assert not by[0, 0].any()
    assert not by[0, :, -2:].any()
    assert np.array_equal(by[1], PIXELS[1])


def test_between_two_pixels_there_is_some_of_both() -> None:
    by = moved(PIXELS[:1], np.array([[0.25, 0.0]], dtype=np.float32))[0]
    wanted = 0.75 * PIXELS[0].astype(float)
    wanted[1:] += 0.25 * PIXELS[0, :-1]
    assert np.allclose(by, wanted, atol=1e-3)


def test_training_images_are_moved_another_way_each_epoch() -> None:
    made = batches(10, shift=1.0)
    (first, labels), (second, again) = made.next(), made.next()
    order = np.argsort(labels), np.argsort(again)
    assert (first[order[0]] != second[order[1]]).any(axis=(1, 2, 3)).all()
    assert np.abs(first[order[0]] - PIXELS).max() > 50


def test_in_order_every_image_comes_once() -> None:
    found = list(ordered_batches(PIXELS, LABELS, 4, as_they_are))
    assert [len(x) for x, _ in found] == [4, 4, 2]
    assert np.array_equal(np.concatenate([x for x, _ in found]), PIXELS)
    assert np.array_equal(np.concatenate([labels for _, labels in found]), LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is at least 1, .* got 0"),
        ({"seed": -1}, "a seed lies in"),
        ({"shift": 4.0}, r"shift lies in \[0, 4\), the shorter side"),
        ({"shift": -1.0}, r"shift lies in \[0, 4\)"),
    ],
    ids=str,
)
def test_batches_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        batches(**options)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match=r"\[0, 2³²\), got -1"):
        batches().batch(-1)


# --- the encoder -----------------------------------------------------------------------------------------------------


def test_training_images_become_mean_0_and_variance_1() -> None:
    digits = load_images()
    encoder = ImageEncoder.measure(digits, validation_fraction=0.2)
    training, validation = digits.split(0.2)
    x = encoder.normalize(encoder.pixels(digits)[training])
    assert x.dtype == np.float32
    assert abs(x.mean()) < 1e-5
    assert x.std() == pytest.approx(1, abs=1e-5)
    assert abs(encoder.normalize(encoder.pixels(digits)[validation]).mean()) > 1e-5, "others are not measured"


def test_a_saved_encoder_is_read_back(tmp_path: Path) -> None:
    encoder = ImageEncoder.measure(load_images())
    encoder.save(tmp_path / "images.json")
    assert ImageEncoder.load(tmp_path / "images.json") == encoder


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": 2}, {"mean": []}, {"classes": 3}, {"more": 1}])
def test_another_file_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    ImageEncoder.measure(load_images()).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"ImageEncoder\.load: .*images\.json does not"):
        ImageEncoder.load(path)
    for text in ("[1]", "no JSON"):
        path.write_text(text)
        with pytest.raises(DataError, match="does not"):
            ImageEncoder.load(path)
    with pytest.raises(DataError, match="does not"):
        ImageEncoder.load(tmp_path / "missing.json")


def folder(path: Path, names: tuple[str, ...], shape: tuple[int, ...]) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
        Image.fromarray(np.full(shape, 7, dtype=np.uint8)).save(path / name / "1.png")
    return path


def test_other_images_are_shown_as_the_model_was_trained(tmp_path: Path) -> None:
    encoder = ImageEncoder.measure(load_images(folder(tmp_path / "first", ("a", "b", "c"), (4, 6))))
    others = load_images(folder(tmp_path / "others", ("b", "c"), (4, 6)))
    assert encoder.labels(others).tolist() == [1, 2]  # by name
    large = load_images(folder(tmp_path / "large", ("a", "b"), (8, 6)))
    with pytest.raises(DataError, match="images of 4 × 6 pixels, got large with 8 × 6"):
        encoder.pixels(large)
    assert replace(encoder, resize=True).pixels(large).shape == (2, 4, 6, 1)
    colored = load_images(folder(tmp_path / "colored", ("a", "b"), (4, 6, 3)))
    with pytest.raises(DataError, match="the images must be gray"):
        encoder.pixels(colored)
    foreign = load_images(folder(tmp_path / "foreign", ("a", "z"), (4, 6)))
    with pytest.raises(DataError, match="knows the classes a, b, c, got z in foreign"):
        encoder.labels(foreign)


def test_images_of_one_shade_are_not_divided_by_nothing(tmp_path: Path) -> None:
    encoder = ImageEncoder.measure(load_images(folder(tmp_path, ("a", "b"), (4, 6))))
    assert np.abs(encoder.normalize(np.full((1, 4, 6, 1), 7, np.uint8))).max() < 1e-3


def test_the_statistics_are_exact_and_need_no_floats_of_all_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 40, 40, 3), dtype=np.uint8)
    images: Any = SimpleNamespace(
        classes=("a", "b"), pixels=lambda size: pixels, split=lambda fraction: (np.arange(400), np.arange(400, 500))
    )
    tracemalloc.start()
    encoder = ImageEncoder.measure(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seen = pixels[:400].reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(encoder.mean, seen.mean(0), rtol=1e-13)
    np.testing.assert_allclose(encoder.std, seen.std(0), rtol=1e-12)
    assert peak < pixels.nbytes / 8
