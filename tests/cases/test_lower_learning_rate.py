"""A lower learning rate is accepted with every preset: it lowers the preset's minimum in proportion."""

import pytest

from compyute_transformer.training import Settings
from compyute_transformer.training.settings.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_a_lower_learning_rate_lowers_its_minimum_in_proportion(preset: str) -> None:
    usual = Settings.resolve(preset).training
    lower = Settings.resolve(preset, None, {"learning_rate": usual.learning_rate / 8}).training
    higher = Settings.resolve(preset, None, {"learning_rate": usual.learning_rate * 8}).training
    assert lower.min_learning_rate == pytest.approx(usual.min_learning_rate / 8)
    assert higher.min_learning_rate == usual.min_learning_rate
    assert Settings.resolve(preset).with_overrides({"learning_rate": usual.learning_rate / 8}).training == lower
