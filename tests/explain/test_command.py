"""`compyute explain`: the page of a run with its checkpoints and its curve; and one sentence for what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_helpers import TEXT, TINY
from explain_helpers import Data

from compyute_transformer import cli, load_run


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    (folder / "owl.txt").write_text(TEXT)
    assert call("train", folder / "owl.txt", "--out", folder / "owl", "--steps", "6", *TINY) == 0
    return folder / "owl"


def test_the_page_of_a_run_has_its_first_weights_its_checkpoints_and_its_curve(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("explain", run, "--prompt", TEXT[:6], "--out", tmp_path / "page.html", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert told["bytes"] == len(html.encode()) < 5_000_000
    data, loaded = Data(html), load_run(run)
    labels = [frame["label"] for frame in data.about["frames"]]
    assert labels[0] == "before training"
    assert labels[data.about["current"]] == f"step {loaded.step}"
    assert data.about["frames"][data.about["current"]]["loss"] == data.about["loss"]
    assert data.about["curve"]["training"]
    ids = loaded.tokenizer.encode(TEXT[:6])[None]
    np.testing.assert_array_equal(data.named("ids"), ids)
    np.testing.assert_array_equal(data.named("token_embedding.weight"), loaded.model.token_embedding.weight.data)
    assert list(data.about["axes"].values()) == [list(TEXT[:6])]


def test_a_target_alone_is_scored(run: Path, tmp_path: Path) -> None:
    assert call("explain", run, "--prompt", TEXT[:4], "--target", TEXT[4:7], "--out", tmp_path / "p.html") == 0
    predictions = Data((tmp_path / "p.html").read_text(encoding="utf-8")).about["frames"][-1]["predictions"]
    assert [prediction["target"] is not None for prediction in predictions] == [False] * 3 + [True] * 3 + [False]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "needs a text to explain"),
        (["--prompt", "x"], 1, "2 to"),
        (["--prompt", TEXT[0] * 500], 1, "Shorten it"),
        (["--prompt", "ab", "--out", "nowhere/page.html"], 2, "folder that exists"),
        (["--prompt", "ab", "--image", "none.png"], 2, "there is no file"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(
    run: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if "--out" in arguments else ["--out", tmp_path / "page.html"]
    arguments = [TEXT[0] if argument == "x" else argument for argument in arguments]
    assert call("explain", run, *arguments, *out) == code
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", tmp_path, "--prompt", "ab", "--out", tmp_path / "page.html") == 1
    assert str(tmp_path) in capsys.readouterr().err.replace("\n", "")
