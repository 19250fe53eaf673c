"""Images by class: digits that are always there, folders as they come, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compyute_transformer.data import load_images
from compyute_transformer.data.images.corpus import holds_images
from compyute_transformer.errors import DataError, MissingExtraError, RangeError

RNG = np.random.default_rng(0)


def draw(path: Path, shape: tuple[int, ...] = (4, 6), mode: str | None = None, **options: Any) -> np.ndarray:
    """Write an image of noise; its bytes."""
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return pixels


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    folder = tmp_path / "animals"
    for name, count in (("dog", 4), ("cat", 3)):
        for number in range(count):
            draw(folder / name / f"{number}.png")
    return folder


def test_digits_are_1797_scans_of_ten_classes() -> None:
    digits = load_images()
    assert digits.classes == tuple("0123456789")
    pixels = digits.pixels()
    assert (pixels.shape, pixels.dtype) == ((1797, 8, 8, 1), np.uint8)
    assert (pixels.min(), pixels.max(), len(np.unique(pixels))) == (0, 255, 17)
    assert np.bincount(digits.labels).min() > 170
    assert load_images(digits.sources).sha256 == digits.sha256 == load_images("digits").sha256


def test_a_folder_has_a_class_for_each_sub_folder(animals: Path) -> None:
    last = draw(animals / "dog" / "deeper" / "9.bmp")
    (animals / "dog" / "notes.txt").write_text("no image")
    draw(animals / "dog" / ".hidden.png")
    (animals / ".git").mkdir()
    images = load_images([animals])
    assert (images.name, images.classes, images.channels) == ("animals", ("cat", "dog"), 1)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert images.pixels().shape == (8, 4, 6, 1)  # not square
    assert np.array_equal(images.pixels()[-1, :, :, 0], last)
    assert holds_images(animals)
    assert not holds_images(animals / "dog" / "deeper")


def test_the_sha_is_that_of_what_the_files_hold(animals: Path) -> None:
    before = load_images(animals).sha256
    assert load_images(animals).sha256 == before
    draw(animals / "cat" / "1.png")
    changed = load_images(animals).sha256
    assert changed != before
    (animals / "cat").rename(animals / "cow")
    assert load_images(animals).sha256 != changed


def test_color_stays_color_and_gray_among_it_is_said_three_times(animals: Path) -> None:
    color = draw(animals / "cat" / "3.png", (4, 6, 3))
    images = load_images(animals)
    assert images.channels == 3
    pixels = images.pixels()
    assert np.array_equal(pixels[3], color)
    assert (pixels[0] == pixels[0, :, :, :1]).all()
    with pytest.raises(DataError, match=r"the images must be gray, but .*3\.png has color"):
        images.pixels(channels=1)


def test_every_kind_of_file_is_read_as_it_looks(tmp_path: Path) -> None:
    wide = np.array([[0, 300, 65535]], dtype=np.uint16)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "16 bits.png")
    seen = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8))
    seen.save(tmp_path / "a" / "transparent.png")
    on_its_side = Image.new("RGB", (2, 5))
    exif = on_its_side.getexif()
    exif[0x0112] = 6
    on_its_side.save(tmp_path / "b" / "turned.png", exif=exif)
    Image.new("P", (2, 2), 3).save(tmp_path / "b" / "palette.gif")
    images = load_images(tmp_path)
    assert [look[:2] for look in images.looks] == [(1, 3), (1, 2), (2, 2), (2, 5)]
    assert [look.channels for look in images.looks] == [1, 3, 3, 3]
    pixels = images.pixels((5, 5))
    assert pixels.shape == (4, 5, 5, 3)
    from compyute_transformer.data.images.files import read_image

    assert read_image(images.files[0], 1).ravel().tolist() == [0, 1, 255]
    assert read_image(images.files[1], 3).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert read_image(images.files[3], 3).shape == (2, 5, 3)


def test_images_of_several_sizes_are_resized_or_refused(animals: Path) -> None:
    draw(animals / "dog" / "large.png", (9, 7))
    images = load_images(animals)
    with pytest.raises(DataError, match=r"one size, but .*0\.png is 4 × 6 pixels and .*large\.png is 9 × 7\. Give"):
        images.pixels()
    assert images.pixels((8, 8)).shape == (8, 8, 8, 1)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_a_split_takes_of_each_class_and_never_overlaps(fraction: float) -> None:
    digits = load_images()
    training, validation = digits.split(fraction)
    assert np.array_equal(np.sort(np.concatenate([training, validation])), np.arange(1797))
    whole, held = np.bincount(digits.labels), np.bincount(digits.labels[validation])
    assert np.abs(held - whole * fraction).max() <= 0.5
    again, other = digits.split(fraction), digits.split(fraction, seed=1)
    assert np.array_equal(again[1], validation)
    assert not np.array_equal(other[1], validation)


def test_small_classes_keep_an_image_to_train_on(tmp_path: Path) -> None:
    for name, count in (("a", 1), ("b", 2), ("c", 3)):
        for number in range(count):
            draw(tmp_path / name / f"{number}.png")
    images = load_images(tmp_path)
    for fraction in (0.01, 0.99):
        training, validation = images.split(fraction)
        assert set(images.labels[training]) == {0, 1, 2}
        assert {1, 2} == set(images.labels[validation])
    assert len(images.split(0.0)[1]) == 0
    with pytest.raises(RangeError, match=r"lies in \[0, 1\), got 1"):
        images.split(1.0)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_broken_files_are_refused_by_name(animals: Path) -> None:
    whole = (animals / "cat" / "1.png").read_bytes()
    (animals / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])  # its head is whole, its pixels are not
    with pytest.raises(DataError, match=r"readable as an image; .*cat/1\.png is not: .*truncated.*Repair it"):
        load_images(animals)
    (animals / "cat" / "1.png").unlink()
    draw(animals / "cat" / "1.jpg", (40, 40))
    whole = (animals / "cat" / "1.jpg").read_bytes()
    (animals / "cat" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    images = load_images(animals)  # which looks at the head of a JPEG alone
    with pytest.raises(DataError, match=r"readable as an image; .*cat/1\.jpg is not: .*truncated"):
        images.pixels((4, 6))
    (animals / "cat" / "1.png").write_bytes(b"not an image at all")
    with pytest.raises(DataError, match=r"readable as an image; .*cat/1\.png is not"):
        load_images(animals)
    (animals / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/1\.png is not"):
        load_images(animals)


def test_numbers_that_bytes_cannot_hold_are_refused(animals: Path) -> None:
    Image.fromarray(np.zeros((4, 6), dtype=np.float32)).save(animals / "cat" / "floats.tiff")
    with pytest.raises(
        DataError, match=r"8 or 16 bits a number, but Pillow reads .*floats\.tiff as another \(mode F\)"
    ):
        load_images(animals)


def test_folders_that_hold_no_classes_of_images_are_refused(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load_images(tmp_path / "nowhere")
    (animals / "emu").mkdir()
    with pytest.raises(DataError, match=r"every class has at least one image, .*there is none of emu"):
        load_images(animals)
    with pytest.raises(DataError, match=r"in the 0 sub-folders of .* there are none"):
        load_images(animals / "cat")
    with pytest.raises(DataError, match=r"at least two classes to tell apart, but .* has one sub-folder, animals"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"one folder with a sub-folder for each class, got 2 sources"):
        load_images([animals, tmp_path])


def test_digits_are_not_resized() -> None:
    with pytest.raises(DataError, match="have 8 × 8 pixels, and are not resized, got 16 × 16"):
        load_images().pixels((16, 16))


@pytest.mark.parametrize(("module", "package"), [("sklearn.datasets", "scikit-learn"), ("PIL.Image", "Pillow")])
def test_without_the_extra_it_is_said_what_to_install(
    module: str, package: str, animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{package}, .* pip install 'compyute-transformer\[images\]'"):
        load_images(() if package == "scikit-learn" else animals)


def test_text_beside_folders_or_a_folder_without_images_are_no_classes(animals: Path) -> None:
    (animals / "notes").mkdir()
    assert not holds_images(animals)
    (animals / "notes").rename(animals / ".notes")
    assert holds_images(animals)
    (animals / "README.md").write_text("animals")
    assert not holds_images(animals)
    (animals / "README.md").unlink()
    (animals / "cat").rename(animals / ".cat")
    assert not holds_images(animals)


def test_copies_of_an_image_are_on_one_side(tmp_path: Path) -> None:
    """Five images, four times each; and one that lies in both classes, which judges nothing."""
    for name in ("cat", "dog"):
        for number in range(5):
            draw(tmp_path / name / f"{number}.png")
            for copy in range(3):
                shutil.copy(tmp_path / name / f"{number}.png", tmp_path / name / f"{number} {copy}.png")
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "dog" / "shared.png")
    images = load_images(tmp_path)
    for seed in range(5):
        training, validation = images.split(0.4, seed)
        assert sorted([*training, *validation]) == list(range(41))
        assert not set(images.contents[training]) & set(images.contents[validation])
        assert not set(images.contents[validation]) & {images.contents[0]}
        assert set(images.labels[training]) == set(images.labels[validation]) == {0, 1}
        assert np.bincount(images.labels[validation]).max() == 8


@pytest.mark.parametrize("most", [65535, 4095])
def test_a_pgm_of_more_than_8_bits_keeps_the_upper_8(tmp_path: Path, most: int) -> None:
    gray = np.array([[0, most // 3, most]])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.pgm").write_bytes(f"P5\n3 1\n{most}\n".encode() + gray.astype(">u2").tobytes())
    images = load_images(tmp_path)
    assert images.looks[0] == (1, 3, 1)
    assert images.pixels()[0, 0, :, 0].tolist() == [0, 85, 255]
