"""The confusion matrix: counted, printed, drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compyute_transformer.errors import MissingExtraError, RangeError
from compyute_transformer.training.reporting.confusion import Confusion

TRUE, SAID = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
ANIMALS = Confusion.of(("cat", "dog", "hippopotamuses"), TRUE, SAID)


def test_pairs_are_counted_true_by_said() -> None:
    assert ANIMALS.counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert ANIMALS.accuracy == pytest.approx(0.5)
    assert ANIMALS.errors() == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert ANIMALS.to_dict() == {"classes": list(ANIMALS.classes), "counts": ANIMALS.counts.tolist()}


def test_a_class_that_never_came_is_no_division_by_nothing() -> None:
    empty = Confusion.of(("a", "b"), np.zeros(0, int), np.zeros(0, int))
    assert empty.accuracy == 0.0
    assert "0.0%" in str(empty)


def test_the_table_has_a_row_for_each_true_class() -> None:
    lines = str(ANIMALS).splitlines()
    assert [line.split() for line in lines] == [
        ["true", "\\", "predicted", "cat", "dog", "hippopotamu…", "recall"],
        ["cat", "1", "2", "·", "33.3%"],
        ["dog", "1", "1", "·", "50.0%"],
        ["hippopotamu…", "·", "·", "1", "100.0%"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_of_many_classes_the_worst_mistakes_are_listed() -> None:
    names = tuple(f"class {number}" for number in range(21))
    many = Confusion.of(names, np.arange(21), np.r_[1, 1, 2:21])
    assert str(many).splitlines() == ["most frequent errors", "class 0 predicted as class 1: 1"]
    assert str(Confusion.of(names, np.arange(21), np.arange(21))).endswith("none")


@pytest.mark.parametrize("number", [3, 40])
def test_the_picture_is_a_file_of_the_format_its_name_says(number: int, tmp_path: Path) -> None:
    classes = tuple(f"$class {index}" for index in range(number))
    confusion = Confusion.of(classes, np.arange(number), np.r_[1, 1, 2:number])
    confusion.draw(tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    with pytest.raises(RangeError, match="the file's ending names its format"):
        confusion.draw(tmp_path / "confusion.text")


def test_a_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"needs Matplotlib, .* pip install"):
        ANIMALS.figure()
