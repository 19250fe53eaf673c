"""A weight that lies in Fortran order is saved and loaded as the same matrix."""

from pathlib import Path

import numpy as np

from compyute_transformer import nn


def test_a_fortran_ordered_weight_comes_back_right(tmp_path: Path) -> None:
    module, other = nn.Linear(3, 5), nn.Linear(3, 5)
    weight = np.asfortranarray(np.arange(module.weight.data.size, dtype=np.float32).reshape(module.weight.data.shape))
    module.weight.data = weight
    module.save(tmp_path / "linear.safetensors")
    other.load(tmp_path / "linear.safetensors")
    assert np.array_equal(other.weight.data, weight)
