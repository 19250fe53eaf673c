"""Blocks that run their forward again in their backward: the same bits, and less memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.models.registry import MODELS
from compyute_transformer.nn import Linear, recompute_blocks
from compyute_transformer.training import Trainer
from compyute_transformer.verify.record import cast, cotangent


def arrays_of(value: Any) -> list[Any]:
    if isinstance(value, tuple | list | dict):
        return [array for item in (value.values() if isinstance(value, dict) else value) for array in arrays_of(item)]
    return [value] if isinstance(value, np.ndarray) else []


def saved_bytes(model: Any) -> int:
    arrays = [array for module in model.modules() for saved in module._saved for array in arrays_of(saved)]
    owners = {id(array if array.base is None else array.base): array for array in arrays}
    known = {id(p.data if p.data.base is None else p.data.base) for p in model.parameters()}
    return sum(array.nbytes for key, array in owners.items() if key not in known)


@pytest.mark.parametrize("record", MODELS.values(), ids=MODELS)
def test_the_gradients_have_the_same_bits_with_dropout(record: Any) -> None:
    config = record.small_configs()["everything"]
    assert config.dropout > 0
    batches = [cast(record.batch(config, np.random.default_rng(i), 2)[0], np.float64) for i in range(2)]
    results = []
    for recompute in (False, True):
        model = record.model(config, 3).to(dtype=np.float64)
        recompute_blocks(model, recompute)
        logits = [model(*batch) for batch in batches]  # two forwards, then their backwards
        for number in (1, 0):
            model.backward(cotangent(logits[number], number))
        assert not any(module._saved for module in model.modules())
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((logits, gradients, model.generator.offset))
    (logits, gradients, offset), (again, others, later) = results
    assert offset == later > 0
    assert all(np.array_equal(one, other) for one, other in zip(logits, again, strict=True))
    assert all(np.array_equal(gradient, others[name]) for name, gradient in gradients.items())


def test_it_keeps_the_inputs_of_blocks_alone() -> None:
    config = GPTConfig(11, context_length=32, embed_dim=16, num_heads=2, num_layers=8)
    ids, sizes = np.arange(64).reshape(2, 32) % 11, []
    for recompute in (False, True):
        model = GPT(config, 1)
        recompute_blocks(model, recompute)
        model(ids)
        sizes.append(saved_bytes(model.blocks))
    assert sizes[1] <= 8 * 2 * 32 * 16 * 4
    assert sizes[0] > 10 * sizes[1]
    recompute_blocks(model, False)
    model.clear_saved()
    model(ids)
    assert saved_bytes(model.blocks) == sizes[0]


def test_it_needs_blocks() -> None:
    with pytest.raises(ConfigError, match=r"recompute_blocks: a model has blocks of this library, and Linear has none"):
        recompute_blocks(Linear(3, 3))
    recompute_blocks(Linear(3, 3), False)


def test_a_run_asks_for_it(tmp_path: Any) -> None:
    from training_helpers import task, tiny

    made = task()
    settings = replace(tiny().training, recompute=True)
    Trainer(made, settings, tmp_path)
    assert all(block.recompute for block in made.model.blocks)
    Trainer(made, tiny().training, tmp_path)
    assert not any(block.recompute for block in made.model.blocks)
