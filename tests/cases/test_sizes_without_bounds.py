"""Sizes that no machine holds are refused before anything is allocated."""

import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.training import Settings


@pytest.mark.parametrize("number", [10**exponent for exponent in range(8, 21)])
@pytest.mark.parametrize("name", ["embed_dim", "num_layers", "num_heads", "context_length", "batch_size", "mlp_dim"])
def test_sizes_without_bounds_are_refused_before_anything_is_made(name: str, number: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1 and at most .*, got {number}"):
        Settings.resolve("nano", None, {name: number})


def test_a_model_that_no_machine_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1e\\+11 parameters, got embed_dim 65536, num_layers 4096"):
        Settings.resolve("nano", None, {"embed_dim": 65536, "num_layers": 4096})
