"""Attention in every form, GPT, its gradients and its training beside PyTorch, with masks, biases and dropout on."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from tolerances import limit
from torch_checks import broken, torch_errors, training_errors

from compyute_transformer.arrays import Array
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import LayerNorm, Linear, MultiHeadAttention
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops import Mask
from compyute_transformer.random import DROPOUT, Generator
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.torch import modules as torch_modules
from compyute_transformer.verify.torch.attention import compare_attention

SEEN = np.random.default_rng(0).random((2, 1, 5, 7)) < 0.5
SEEN[..., 3] = True
ADDED = np.random.default_rng(1).normal(size=(5, 7))

ATTENTION: dict[str, dict[str, Any]] = {
    "self": {},
    "no biases": {"bias": False},
    "causal": {"mask": Mask(causal=True)},
    "causal window": {"mask": Mask(causal=True, window=2)},
    "cross": {"memory_length": 7},
    "cross causal": {"memory_length": 7, "mask": Mask(causal=True)},
    "key lengths": {"memory_length": 7, "mask": Mask(key_lengths=np.array([7, 3]))},
    "boolean mask": {"memory_length": 7, "mask": Mask(array=SEEN)},
    "added mask": {"memory_length": 7, "mask": Mask(array=ADDED)},
    "one head": {"num_heads": 1},
    "grouped heads": {"num_heads": 6, "num_kv_heads": 2, "memory_length": 7},
    "one key/value head": {"num_kv_heads": 1, "mask": Mask(causal=True)},
    "dropout": {"dropout": 0.3},
    "dropout, everything": {
        "num_heads": 6,
        "num_kv_heads": 3,
        "memory_length": 7,
        "dropout": 0.3,
        "mask": Mask(window=4, key_lengths=np.array([7, 5]), array=SEEN),
    },
}

GPTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "everything": {
        "num_heads": 6,
        "num_kv_heads": 2,
        "mlp_dim": 17,
        "dropout": 0.2,
        "activation": "gelu",
        "window": 3,
        "tie_word_embeddings": False,
    },
}


SMALL: dict[str, Any] = {"vocab_size": 11, "context_length": 7, "embed_dim": 12, "num_heads": 3, "num_layers": 2}


def config(**options: Any) -> GPTConfig:
    return GPTConfig(**(SMALL | options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("case", ATTENTION)
def test_attention_in_every_form_is_that_of_torch(case: str, implementation: Implementation, dtype: type) -> None:
    options = dict(ATTENTION[case])
    mask = options.pop("mask", Mask())
    if mask.array is not None and mask.array.dtype != bool:
        mask = mask._replace(array=mask.array.astype(dtype))
    errors = compare_attention(implementation, dtype, mask=mask, **options)
    expected = {"y", "attention_weights", "dx", "in_weight", "out_weight"}
    expected |= {"in_bias", "out_bias"} if options.get("bias", True) else set()
    expected |= {"dmemory"} if "memory_length" in options else set()
    assert set(errors) == expected
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", GPTS)
def test_logits_loss_and_every_named_gradient_of_gpt_are_those_of_torch(case: str, dtype: type) -> None:
    errors = torch_errors(config(**GPTS[case]), dtype)
    names = {path for path, _ in GPT(config(**GPTS[case])).named_parameters()}
    assert set(errors) == {"logits", "loss"} | {f"d{name}" for name in names}
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", GPTS)
def test_ten_training_losses_are_those_of_torch(case: str, dtype: type, max_norm: float | None) -> None:
    errors = training_errors(config(**GPTS[case]), dtype, max_norm=max_norm)
    losses = {name: error for name, error in errors.items() if name.startswith("loss")}
    assert len(losses) == 10
    assert not broken(losses, 1e-5)


def test_without_clipping_losses_and_weights_in_float64_differ_by_rounding_only() -> None:
    errors = training_errors(config(dropout=0.3))
    assert {f"{path} after 10 steps" for path, _ in GPT(config()).named_parameters()} <= set(errors)
    assert not broken(errors, limit("training", np.float64))


def test_weights_that_differ_after_ten_steps_are_found_where_losses_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MultiHeadAttention.backward

    def wrong(self: MultiHeadAttention, dy: Array) -> Any:
        found = right(self, dy)
        assert self.in_bias is not None
        assert self.in_bias.grad is not None
        self.in_bias.grad[12:24] += 1e-3  # of the keys: the loss does not depend on it
        return found

    monkeypatch.setattr(MultiHeadAttention, "backward", wrong)
    names = broken(training_errors(config()), limit("training", np.float64))
    assert set(names) == {f"blocks.{index}.attention.in_bias after 10 steps" for index in range(2)}


# --- the comparisons themselves can fail -----------------------------------------------------------------------------


def test_a_wrong_gradient_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LayerNorm.backward

    def wrong(self: LayerNorm, dy: Array) -> Array:
        dx = right(self, dy)
        if self.path == "norm":
            assert self.weight.grad is not None
            self.weight.grad[0] *= 1.001
        return dx

    monkeypatch.setattr(LayerNorm, "backward", wrong)
    assert set(broken(torch_errors(config()), 1e-5)) == {"dnorm.weight"}


def test_a_gradient_that_never_arrived_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT, "backward", lambda self, dlogits: None)
    errors = torch_errors(config())
    assert set(broken(errors, 1e-5)) == set(errors) - {"logits", "loss"}


def test_a_nan_is_an_error_that_keeps_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Linear.forward

    def wrong(self: Linear, x: Array) -> Array:
        y: Array = right(self, x)
        if self.path == "head":
            y[0, 0, 0] = np.nan
        return y

    monkeypatch.setattr(Linear, "forward", wrong)
    assert "logits" in broken(torch_errors(config()), 1e-5)


def test_another_dropout_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(generator: Generator) -> Generator:
        return Generator(generator.seed, generator.stream, generator.offset + 1)

    monkeypatch.setattr(torch_modules, "replace", shifted)
    assert "y" in broken(compare_attention("parallel", dropout=0.3), 1e-5)
    assert "logits" in broken(torch_errors(config(dropout=0.3)), 1e-5)


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    torch_errors(config())
    assert torch.get_num_threads() == before


def test_the_draws_of_the_kernel_start_where_those_of_our_model_stand() -> None:
    module = MultiHeadAttention(4, 2, dropout=0.3)
    module.generator = Generator(5, DROPOUT, offset=2)
    drop = torch_modules.TorchDropout(module.generator, 0.3)
    assert drop.generator == module.generator
    assert drop.generator is not module.generator


def test_randomize_leaves_no_weight_at_its_start() -> None:
    model = GPT(config())
    before = model.state_dict()
    randomize(model)
    for path, array in model.state_dict().items():
        assert not (array == before[path]).any(), path
    again = GPT(config(), seed=3)
    randomize(again)
    same = [np.array_equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)]
    assert all(same), "the weights follow the seed of randomize alone"
    randomize(again, seed=1)
    assert not np.array_equal(again.state_dict()["position.weight"], model.state_dict()["position.weight"])
