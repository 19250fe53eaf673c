"""`compyute predict` answers for single images, folders without classes, and lines of text."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from command_helpers import TINY, shell, without_notice

from compyute_transformer.training import load_run, predict_images

TINY_IMAGES = "--patch-size 2 --embed-dim 16 --num-heads 2 --num-layers 1 --steps 30 --learning-rate 1e-2 --warmup 0"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells black from white, and images without classes."""
    images = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, shade in (("black", 0), ("white", 200)):
        for number in range(6):
            for place in (folder / "data" / name, folder / "new"):
                place.mkdir(parents=True, exist_ok=True)
                pixels = (shade + rng.integers(0, 50, (4, 4))).astype(np.uint8)
                images.fromarray(pixels).save(place / f"{name}{number}.png")
    done = shell(f'"$@" train data {TINY_IMAGES} --out run', folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_folder_without_classes_and_one_image(pictures: Path) -> None:
    done = shell('"$@" predict run new', pictures)
    assert (done.returncode, without_notice(done.stderr)) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["input"] for row in rows] == [f"new/{name}{i}.png" for name in ("black", "white") for i in range(6)]
    assert [row["prediction"] for row in rows] == ["black"] * 6 + ["white"] * 6
    assert all(float(row["black"]) + float(row["white"]) == pytest.approx(1, abs=1e-5) for row in rows)
    [one] = predict_images(load_run(pictures / "run"), [pictures / "new" / "white3.png"])
    assert one.output == "white"
    assert one.probability == one.probabilities["white"] == pytest.approx(float(rows[9]["probability"]), abs=1e-5)


def test_paths_from_the_standard_input_as_json(pictures: Path) -> None:
    done = shell('ls new/*2.png | "$@" predict run --json', pictures)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["input"], line["prediction"]) for line in lines] == [
        ("new/black2.png", "black"),
        ("new/white2.png", "white"),
    ]
    assert list(lines[0]["probabilities"]) == ["black", "white"]


@pytest.mark.parametrize(
    ("files", "message"),
    [("nothing.png", "there is no nothing.png"), ("run", "none in run"), ("run/config.json", "readable as an image")],
)
def test_what_is_no_image_is_refused(pictures: Path, files: str, message: str) -> None:
    done = shell(f'"$@" predict run {files}', pictures)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())


def test_labels_of_texts(tmp_path: Path) -> None:
    pairs = "".join(f"{'good' if i % 2 else 'bad'} {i % 7}\t{'+' if i % 2 else '-'}\n" for i in range(200))
    (tmp_path / "pairs.tsv").write_text(pairs)
    options = "--tokenizer characters --learning-rate 1e-2 --warmup 1 --steps 60 --sample-every 0 --out run"
    done = shell(f'"$@" train pairs.tsv {" ".join(TINY)} {options}', tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "new.txt").write_text("good 3\n\nbad 2\n")
    done = shell('cat new.txt | "$@" predict run new.txt - --json', tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["input"] for line in lines] == ["good 3", "bad 2"] * 2
    assert [line["prediction"] for line in lines] == ["+", "-"] * 2
    assert all(0.2 < line["probability"] <= 1 for line in lines)


def test_a_language_model_has_no_answers(tmp_path: Path) -> None:
    (tmp_path / "owl.txt").write_text("an owl\n" * 60)
    assert shell(f'"$@" train owl.txt --steps 1 {" ".join(TINY)} --out run', tmp_path).returncode == 0
    done = shell('"$@" predict run owl.txt', tmp_path)
    assert done.returncode == 2
    assert "compyute generate run" in " ".join(done.stderr.replace("│", " ").split())
