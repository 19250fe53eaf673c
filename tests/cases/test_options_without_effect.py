"""A setting that nothing reads beside the others is refused where it is given."""

import pytest

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
