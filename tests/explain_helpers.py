"""What the tests of pages share: small models with numbers in every parameter, and the data of a page."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from compyute_transformer import explain
from compyute_transformer.explain.planes import decode, read_block
from compyute_transformer.explain.trace import trace
from compyute_transformer.models.registry import MODELS

CONFIGURATIONS = [
    pytest.param(record, config, id=f"{record.name}-{name}")
    for record in MODELS.values()
    for name, config in record.small_configs().items()
]


def small(record: Any, config: Any, batch: int = 2) -> tuple[Any, Any, Any]:
    """Return a model, its inputs and targets; biases and norms too are random: no gradient is that of a zero."""
    model, rng = record.model(config, 1), np.random.default_rng(2)
    for parameter in model.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape) * 0.3
    inputs, targets = record.batch(config, rng, batch)
    return model, inputs, targets


@cache
def page_of(name: str, config: Any) -> tuple[str, Any]:
    """Return the page of a small model, and the trace of the same."""
    model, inputs, targets = small(MODELS[name], config)
    return explain.page(model, *inputs, targets=targets), trace(model, *inputs, targets=targets)


class Data:
    """The data of a page."""

    def __init__(self, html: str) -> None:
        (text,) = re.findall(r'id="data">([A-Za-z0-9+/=\s]+)<', html)
        self.about, self.planes = read_block(text)

    def array(self, number: int) -> np.ndarray:
        return decode(self.about, self.planes, number)

    def code(self, number: int) -> str:
        return str(self.about["tensors"][number]["code"])

    def named(self, name: str) -> np.ndarray:
        node, part = self.about["names"][name]
        for value in self.about["nodes"][node]["values"]:
            if value["name"] == part:
                return self.array(value["tensor"])
            if f"d{value['name']}" == part and value["gradient"] is not None:
                return self.array(value["gradient"])
        raise KeyError(name)
