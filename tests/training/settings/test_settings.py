from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from compyute_transformer import GPTConfig
from compyute_transformer.errors import ConfigError
from compyute_transformer.models.registry import MODELS
from compyute_transformer.training import DataSettings, ModelSettings, Settings
from compyute_transformer.training.settings.presets import DESCRIPTIONS, PRESETS
from compyute_transformer.training.settings.sections import TaskName, TrainingSettings
from compyute_transformer.training.settings.settings import SECTIONS


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[training]\nsteps = 7\nlearning_rate = 1\nclip = "none"\n[data]\ntokenizer = "bpe"\n')
    settings = Settings.resolve("cpu", file, {"steps": 9, "mlp_dim": 11})
    assert settings.training.steps == 9  # override over file over preset
    assert settings.training.learning_rate == 1.0
    assert isinstance(settings.training.learning_rate, float)
    assert settings.training.clip is None
    assert settings.data.tokenizer == "bpe"
    assert settings.model.mlp_dim == 11
    assert settings.training.beta2 == 0.99  # the preset's, over the default
    assert settings.training.sample_tokens == 200  # the default


def test_ranges_are_checked_in_the_result_and_not_in_between(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\nlearning_rate = 1e-5\n[model]\nembed_dim = 12\n")
    with pytest.raises(ConfigError, match=r"num_heads must divide embed_dim"):
        Settings.resolve("shakespeare", file, {"num_heads": 5})
    with pytest.raises(ConfigError, match=r"min_learning_rate must be at most learning_rate, here 1e-05, got 0.0001"):
        Settings.resolve("shakespeare", file, {"min_learning_rate": 1e-4})
    settings = Settings.resolve("shakespeare", file, {"min_learning_rate": 0, "num_heads": 3})
    assert (settings.training.min_learning_rate, settings.model.num_heads) == (0.0, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_round_trip_changes_nothing(preset: str) -> None:
    settings = Settings.resolve(preset, None, {"seed": 5})
    assert Settings.from_dict(settings.to_dict()) == settings
    assert Settings.from_dict({}) == Settings()


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_shown_as_toml_is_read_as_the_same(preset: str, tmp_path: Path) -> None:
    prompt = 'tab\t "quoted" \\ \x7f \n ß 🦉'
    kind = DataSettings(**PRESETS[preset]["data"]).kind
    of_text = {"sample_prompt": prompt} if kind in ("language", "translation") else {}
    settings = Settings.resolve(preset, overrides={"weight_decay": 1e-5, **of_text})
    (tmp_path / "shown.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert Settings.resolve("seed" if settings.data.kind == "language" else preset, tmp_path / "shown.toml") == settings


def test_model_settings_are_those_of_the_model() -> None:
    ours = {f.name: (f.type, f.default) for f in fields(ModelSettings)}
    theirs = {f.name: (f.type, f.default) for f in fields(GPTConfig) if f.name != "vocab_size"}
    assert theirs.items() <= ours.items()
    everywhere = {f.name for record in MODELS.values() for f in fields(record.config)}
    assert everywhere >= ours.keys() - {"architecture"}  # no setting that no model has
    config = ModelSettings(embed_dim=8, num_heads=2, bias=False).config({"vocab_size": 5})
    assert (config.vocab_size, config.embed_dim, config.bias) == (5, 8, False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"step": 3}, "no setting 'step'. Did you mean steps?"),
        ({"xyz": 3}, "no setting 'xyz'. The known names are task, tokenizer, "),
        ({"steps": 3.0}, r"steps must be an integer, got 3.0 \(float\)"),
        ({"steps": True}, r"steps must be an integer, got True \(bool\)"),
        ({"steps": None}, "steps must be an integer, got None"),
        ({"steps": 0}, "steps must be at least 1 and at most 1,000,000,000, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"accumulation": -1}, "accumulation must be at least 1"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"bias": 1}, r"bias must be true or false, got 1 \(int\)"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be at least 0, got inf"),
        ({"beta2": 1.0}, r"beta2 must be at least 0 and below 1, got 1.0"),
        ({"clip": 0}, 'clip must be above 0, or "none"'),
        ({"clip": "off"}, "clip must be a number or \"none\", got 'off'"),
        ({"optimizer": "adam"}, 'optimizer must be one of "adamw", "sgd", got \'adam\''),
        ({"decay": "step"}, 'decay must be one of "constant", "linear", "cosine"'),
        ({"device": "gpu"}, 'device must be one of "cpu", "cuda"'),
        ({"seed": -1}, "seed must be at least 0 and below 2⁶⁴"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"num_heads": 5}, "num_heads must divide embed_dim"),
        ({"sample_prompt": 3}, "sample_prompt must be a string"),
    ],
)
def test_a_wrong_override_is_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.resolve("cpu", None, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", r"got 'steps'. It belongs below \[training\]"),
        ("[trainig]\nsteps = 3", "got 'trainig'. Did you mean training?"),
        ("training = 3", "got 'training'"),
        ("[model]\nsteps = 3", r"no setting 'steps'. It belongs below \[training\]"),
        ("[model]\nembed_dims = 3", "no setting 'embed_dims'. Did you mean embed_dim?"),
        ("[model]\nembed_dim = '3'", "embed_dim must be an integer, got '3'"),
        ("model]", "must be a TOML file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Settings.resolve("cpu", file)


def test_a_missing_file_or_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml must be readable; it is not: No such file"):
        Settings.resolve("cpu", tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"no preset 'shakespear'. Did you mean shakespeare\?"):
        Settings.resolve("shakespear")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"architecture": "vit", "context_length": 256},
            'architecture for the task "language" must be gpt or llama or transformer_lm, got vit',
        ),
        ({"task": "digits"}, 'architecture for the task "digits" must be vit, got gpt'),
        (
            {"architecture": "vit", "window": 3},
            "architecture vit has no context_length and no window, got context_length 64",
        ),
        ({"patch_size": 8}, "architecture gpt has no patch_size, got patch_size 8"),
        ({"shift": 0.5}, 'shift has no effect for the task "language", got 0.5. Leave it out.'),
        ({"image_size": 8}, 'image_size has no effect for the task "language"'),
        (
            {"task": "dates", "architecture": "transformer", "shift": 1},
            'shift has no effect for the task "dates"',
        ),
        ({"tokenizer": "bpe"}, 'tokenizer has no effect for the task "digits"'),
        ({"vocab_size": 300}, 'vocab_size has no effect for the task "digits"'),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"precision": "tf32"}, "precision tf32 is of the tensor cores of a GPU; on a CPU choose float32 or bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, object], message: str) -> None:
    preset = "digits" if overrides.keys() & {"tokenizer", "vocab_size"} else "cpu"
    with pytest.raises(ConfigError, match=message):
        Settings.resolve(preset, None, overrides)


@pytest.mark.parametrize(
    ("chosen", "on_cpu", "on_cuda"),
    [
        ("auto", "float32", "bfloat16"),
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("tf32", "float32", "tf32"),
    ],
)
def test_the_precision_of_products_on_a_device(chosen: Any, on_cpu: str, on_cuda: str) -> None:
    settings = TrainingSettings(precision=chosen, device="cuda")
    assert (settings.precision_on("cpu"), settings.precision_on("cuda")) == (on_cpu, on_cuda)


def test_the_kind_is_that_of_the_task() -> None:
    assert [DataSettings(task).kind for task in get_args(TaskName)] == [
        "language",
        "masked",
        "language",
        "labels",
        "translation",
        "translation",
        "images",
        "images",
    ]


def test_every_setting_declares_its_help_and_group() -> None:
    for section in SECTIONS.values():
        for entry in fields(section):
            assert entry.metadata["help"].endswith("."), entry.name
            assert entry.metadata["group"] in ("Data", "Model", "Training", "Output")
            other, values = entry.metadata["only_with"] or ("kind", ())
            assert other == "kind" or set(values) <= set(get_args(get_type_hints(section)[other])), entry.name


def test_every_preset_has_a_description() -> None:
    assert DESCRIPTIONS.keys() == PRESETS.keys()
