"""A setting or an option that nothing reads beside the others is refused where it is given."""

from pathlib import Path

import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli
from compyute_transformer.errors import ConfigError
from compyute_transformer.training import Settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vocab_size": 500}, "vocab_size has no effect with tokenizer characters, got 500. Leave it out."),
        ({"vocab_size": 1024}, "vocab_size has no effect with tokenizer characters"),
        ({"momentum": 0.5}, "momentum has no effect with optimizer adamw"),
        ({"optimizer": "sgd", "beta1": 0.5}, "beta1 has no effect with optimizer sgd"),
        ({"decay": "constant", "min_learning_rate": 1e-3}, "min_learning_rate has no effect with decay constant"),
        ({"patch_size": 4}, "patch_size has no effect with the architecture gpt"),
    ],
)
def test_an_option_without_effect_is_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.resolve("nano", None, overrides)
    with pytest.raises(ConfigError, match=message):
        Settings.resolve("nano").with_overrides(overrides)


def test_settings_of_a_preset_may_lose_their_effect() -> None:
    settings = Settings.resolve("nano", None, {"optimizer": "sgd", "decay": "constant", "momentum": 0.5})
    assert {"beta1", "beta2", "min_learning_rate"} <= set(settings.without_effect())
    assert "beta2" not in settings.to_toml()
    assert "momentum = 0.5" in settings.to_toml()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that learned a text, owl, and pairs of texts, pairs."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "owl.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text("".join(f"{'ab' * (i % 4 + 1)}\t{'y' * (i % 5)}{i}\n" for i in range(40)))
    tiny = ["--tokenizer", "characters", "--steps", "1", "--sample-every", "0", *TINY]
    assert not call("train", folder / "owl.txt", "--out", folder / "owl", *tiny)
    assert not call("train", folder / "pairs.tsv", "--out", folder / "pairs", *tiny)
    return folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


CHOICES = ("generate", "owl", "--prompt", "The owl ", "--choices", "and,sea")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHOICES, "--max-new-tokens", "3"), "--max-new-tokens has no effect with --choices"),
        ((*CHOICES, "--attention", "a.png"), "--attention has no effect with --choices"),
        ((*CHOICES, "--no-cache"), "--no-cache has no effect with --choices"),
        ((*CHOICES, "--seed", "0"), "--seed has no effect with --choices, which writes no text: leave it out"),
        ((*CHOICES, "--stride", "2"), "--stride has no effect with --choices"),
        (("generate", "pairs", "--prompt", "ab", "--choices", "y,z"), "pairs learned translation: leave it out"),
        (("generate", "owl", "--prompt", "The", "--beam", "0"), "beam_size is at least 1, got 0"),
        (
            ("verify", "ops.linear", "--method", "linearity", "--checkpoint", "last"),
            "got last and no run. Leave it out, or give the folder of a",
        ),
        (
            ("verify", "ops.linear", "--device", "cuda", "--method", "torch"),
            "one of device, kernel, got torch. Leave out",
        ),
        (
            ("explain", "owl", "--prompt", "The", "--image", "owl.txt"),
            "--image is for a run that learned images, got one",
        ),
        (("train", "owl.txt", "--out", "a", "--runs", "b"), "which --runs would name too: leave one out"),
        (("train", "--resume", "owl", "--runs", "b"), "--resume takes data, model, preset, config and folder from the"),
    ],
)
def test_an_option_of_the_command_without_effect_is_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert call(*arguments)
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.replace("│", " ").split())
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before


def test_an_image_needs_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--embed-dim", 8, "--num-heads", 2, "--num-layers", 1, "--batch-size", 8, "--patch-size", 4]
    assert not call("train", "--task", "digits", "--out", tmp_path / "digits", "--steps", 1, *size)
    assert call("explain", tmp_path / "digits", "--prompt", "5", "--out", tmp_path / "page.html")
    assert "--prompt is for a run that learned text, got one of images. Leave it out." in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_choices_and_defaults_still_have_their_effect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not call("generate", folder / "owl", "--prompt", "The owl ", "--choices", "and,sea", "--checkpoint", "last")
    capsys.readouterr()
    assert not call("generate", folder / "owl", "--prompt", "The owl ")
    assert "200 tokens" in capsys.readouterr().err
