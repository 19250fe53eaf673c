"""The learning rate reaches its peak in short runs of every preset, and a longer warm-up is refused."""

import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.training import Settings
from compyute_transformer.training.settings.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("steps", [2, 3, 40, 10**6])
def test_fewer_steps_shorten_the_warmup_of_a_preset(preset: str, steps: int) -> None:
    usual, training = Settings.resolve(preset).training, Settings.resolve(preset, None, {"steps": steps}).training
    assert training.warmup == min(usual.warmup, max(1, steps // 4))
    assert max(map(training.schedule(), range(min(steps, 2000)))) == training.learning_rate


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup must be at most steps, here 40, got 50: the learning rate"):
        Settings.resolve("nano", None, {"steps": 40, "warmup": 50})
