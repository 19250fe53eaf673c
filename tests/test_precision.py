"""Products in bfloat16: the rounding, the ops by references and by kernels, and whole models beside PyTorch's autocast.

Every expectation is computed here, in float64, from operands that `ml_dtypes` rounded.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compyute_transformer import GPT, GPTConfig, TransformerConfig, ViTConfig
from compyute_transformer.cpu import _rounding
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import ConfigError
from compyute_transformer.generation.cache import KeyValueCache
from compyute_transformer.generation.fused_decoder import FusedDecoder
from compyute_transformer.nn.quantize import quantize_weights
from compyute_transformer.nn.recompute import recompute_blocks
from compyute_transformer.ops.attention import (
    Mask,
    attention_backward,
    attention_forward,
    drop_weights,
    fused_attention_backward,
    fused_attention_forward,
    fused_attention_weights,
)
from compyute_transformer.ops.embedding import patch_embedding_backward, patch_embedding_forward
from compyute_transformer.ops.linear import linear, linear_backward, linear_forward
from compyute_transformer.precision import operands, precision, round_to_bfloat16, use_precision
from compyute_transformer.random import Generator
from compyute_transformer.threads import set_threads, threads
from compyute_transformer.verify.models import draw_model, run_model
from compyute_transformer.verify.torch.models import torch_logits, torch_loss
from compyute_transformer.verify.torch.modules import TorchDropout, torch_weights

KERNELS: list[Any] = ["reference", "cpu"]


def rounded(x: np.ndarray) -> np.ndarray:
    """Return float64 numbers that are float32 numbers rounded to bfloat16."""
    return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@contextmanager
def bfloat16(kernels: Any) -> Iterator[None]:
    with use_precision("bfloat16"), use_kernels(kernels):
        yield


# --- rounding ---


@pytest.mark.parametrize("function", [round_to_bfloat16, lambda x: _rounding.operands("bfloat16", x)[0]])
def test_rounding_is_that_of_ml_dtypes(function: Any) -> None:
    """Every upper half, subnormal, infinite and NaN among them, beside lower halves below, at and above a tie."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = ((np.arange(2**16, dtype=np.uint32) << 16)[:, None] | lower).view(np.float32)
    before = x.copy()
    with np.errstate(invalid="ignore", over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    found, is_nan = function(x), np.isnan(expected)
    assert np.isinf(expected[np.isfinite(x)]).any(), "the largest numbers round to infinity"
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])
    np.testing.assert_array_equal(x.view(np.uint32), before.view(np.uint32))
    nan = found[is_nan].view(np.uint32)
    assert function is not round_to_bfloat16 or not (nan & 0xFFFF).any(), "a NaN is a bfloat16 too"


@pytest.mark.parametrize("rounding", [operands, _rounding.operands])
def test_operands_of_other_precisions_are_the_arrays(rounding: Any) -> None:
    (x,) = draw((3, 4))
    for chosen in ("float32", "tf32"):
        assert rounding(chosen, x)[0] is x
    (turned,) = rounding("bfloat16", x.T)
    np.testing.assert_array_equal(turned, rounded(x.T))
    wide = x.astype(np.float64)
    assert operands("bfloat16", wide)[0] is wide


# --- ops ---


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rows", [(3,), (2, 37)])
def test_linear_multiplies_rounded_operands(kernels: Any, rows: tuple[int, ...]) -> None:
    x, weight, bias, dy = draw((*rows, 29), (23, 29), (23,), (*rows, 23))
    with bfloat16(kernels):
        y, saved = linear_forward(x, weight, bias)
    with use_kernels(kernels):  # a backward computes in the precision of its forward
        dx, dweight, dbias = linear_backward(dy, saved)
    x64, weight64, dy64 = rounded(x), rounded(weight), rounded(dy)
    np.testing.assert_allclose(y, x64 @ weight64.T + bias, rtol=0, atol=1e-5)
    np.testing.assert_allclose(dx, dy64 @ weight64, rtol=0, atol=1e-5)
    np.testing.assert_allclose(dweight, dy64.reshape(-1, 23).T @ x64.reshape(-1, 29), rtol=0, atol=3e-5)
    np.testing.assert_allclose(dbias, dy.reshape(-1, 23).sum(0, dtype=np.float64), rtol=0, atol=1e-5)
    assert saved.x is x
    assert saved.precision == "bfloat16"
    assert np.abs(y - (x.astype(np.float64) @ weight.T + bias)).max() > 1e-3, "float32 would be something else"


@pytest.mark.parametrize("kernels", KERNELS)
def test_float64_stays_float64(kernels: Any) -> None:
    x, weight = (array.astype(np.float64) for array in draw((4, 5), (3, 5)))
    with use_precision("bfloat16"), use_kernels("auto" if kernels == "cpu" else kernels):
        np.testing.assert_allclose(linear(x, weight), x @ weight.T, rtol=1e-14)


def test_patches_are_rounded_too() -> None:
    images, weight, bias, dy = draw((2, 4, 6, 3), (5, 12), (5,), (2, 6, 5))
    with use_precision("bfloat16"):
        y, saved = patch_embedding_forward(images, weight, bias, 2)
    dimages, dweight, dbias = patch_embedding_backward(dy, saved)
    patches = rounded(images).reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 12)
    np.testing.assert_allclose(y, patches @ rounded(weight).T + bias, rtol=0, atol=1e-5)
    dpatches = (rounded(dy) @ rounded(weight)).reshape(2, 2, 3, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    np.testing.assert_allclose(dimages, dpatches.reshape(images.shape), rtol=0, atol=1e-5)
    np.testing.assert_allclose(dweight, np.einsum("bno,bni->oi", rounded(dy), patches), rtol=0, atol=1e-5)
    np.testing.assert_allclose(dbias, dy.sum((0, 1), dtype=np.float64), rtol=0, atol=1e-5)


def attention_by_hand(q: Any, k: Any, v: Any, dy: Any, mask: Mask, keep: Any, fused: bool) -> list[np.ndarray]:
    """Return y, dq, dk and dv, each product a sum in float64 of rounded operands. keep: what dropout multiplies by."""
    group, D, T, S = q.shape[1] // k.shape[1], q.shape[3], q.shape[2], k.shape[2]
    q, k, v, dy = rounded(q), *(rounded(x).repeat(group, axis=1) for x in (k, v)), rounded(dy)
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(D)
    if mask.causal:
        scores[..., np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dropped = rounded(weights * keep)
    y = np.einsum("bhts,bhsd->bhtd", dropped, v)
    dweights = np.einsum("bhtd,bhsd->bhts", dy, v) * keep
    delta = (dy * y).sum(-1, keepdims=True) if fused else (weights * dweights).sum(-1, keepdims=True)
    dscores = rounded(weights * (dweights - delta) / np.sqrt(D))
    gradients = [
        np.einsum("bhts,bhsd->bhtd", dscores, k),
        *(np.einsum("bhts,bhtd->bhsd", left, right) for left, right in ((dscores, q), (dropped, dy))),
    ]
    summed = [x.reshape(x.shape[0], -1, group, S, D).sum(2) for x in gradients[1:]]
    return [y, gradients[0], *summed]


def few_differ(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """All but a few numbers agree as sums in float32 do.

    A weight that lies next to the middle between two bfloat16 numbers rounds to either, which moves a result by a
    hundredth; without rounding nearly all of them would be off by more than the first bound.
    """
    error = np.abs(found - expected)
    assert (error > 1e-5).mean() < 0.05, name
    assert error.max() < 0.03, name


SHAPES = {  # B, H, K, T, S, D, causal, dropout; the kernel has tiles of 32 queries by 256 keys
    "one tile": (2, 4, 2, 30, 41, 8, False, 0.0),
    "several tiles": (1, 2, 1, 70, 300, 16, True, 0.0),
    "dropout": (2, 2, 2, 33, 33, 8, True, 0.25),
    "few queries": (2, 4, 2, 3, 50, 8, True, 0.0),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("way", ["reference", "cpu", "weights"])
def test_attention_multiplies_rounded_operands(way: str, case: str) -> None:
    B, H, K, T, S, D, causal, dropout = SHAPES[case]
    q, k, v, dy = draw((B, H, T, D), (B, K, S, D), (B, K, S, D), (B, H, T, D))
    mask, key = Mask(causal=causal), Generator(3).next() if dropout else None
    keep = drop_weights(np.ones((B, H, T, S), np.float32), dropout, key)
    forward: Any = attention_forward if way == "weights" else fused_attention_forward
    backward: Any = attention_backward if way == "weights" else fused_attention_backward
    kernels: Any = "cpu" if way == "cpu" else "reference"
    with bfloat16(kernels):
        y, saved = forward(q, k, v, mask, dropout, key)
    with use_kernels(kernels):
        found = (y, *backward(dy, saved))
    expected = attention_by_hand(q, k, v, dy, mask, keep, way != "weights")
    for name, ours, theirs in zip(("y", "dq", "dk", "dv"), found, expected, strict=True):
        few_differ(ours, theirs, name)
    assert saved.q is q
    if way != "weights":
        weights = fused_attention_weights(saved)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_hidden_values_that_are_not_finite_have_no_part() -> None:
    q, k, v, dy = draw((1, 2, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8), (1, 2, 40, 8))
    v[:, :, -1], k[:, :, -1] = np.nan, np.inf
    mask = Mask(key_lengths=np.array([39]))
    outcomes = []
    for kernels in KERNELS:
        with bfloat16(kernels), np.errstate(invalid="ignore"):
            y, saved = fused_attention_forward(q, k, v, mask)
            outcomes.append((y, *fused_attention_backward(dy, saved)))
    for reference, kernel in zip(*outcomes, strict=True):
        assert np.isfinite(reference).all()
        few_differ(kernel, reference, "kernel")


def test_the_threads_change_no_bit() -> None:
    x, weight, q, k, v, dy = draw((2, 520, 300), (700, 300), *[(2, 3, 70, 16)] * 4)
    dout, before, found = draw((2, 520, 700))[0], threads(), []
    try:
        for count in (1, before):
            set_threads(count, override=True)
            with bfloat16("cpu"):
                y, saved = linear_forward(x, weight)
                heads, kept = fused_attention_forward(q, k, v)
                found.append([y, *linear_backward(dout, saved)[:2], heads, *fused_attention_backward(dy, kept)])
    finally:
        set_threads(before, override=True)
    for one, several in zip(*found, strict=True):
        np.testing.assert_array_equal(one, several)


# --- modules ---


def gpt(**options: Any) -> GPT:
    options = {"embed_dim": 16, "num_heads": 2, "num_layers": 2} | options
    model = GPT(GPTConfig(11, context_length=12, **options), seed=0)
    rng = np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data += 0.1 * rng.normal(size=parameter.data.shape).astype(np.float32)
    return model


def gradients(model: Any, dlogits: np.ndarray) -> dict[str, np.ndarray]:
    model.zero_grad()
    model.backward(dlogits)
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


def test_a_model_has_a_precision_of_its_own() -> None:
    """As under autocast in PyTorch, the backward stands outside the `with` block."""
    model, ids = gpt(), np.arange(24).reshape(2, 12) % 11
    dlogits = draw((2, 12, 11))[0]
    exact, exact_gradients = model(ids), gradients(model, dlogits)
    with use_precision("bfloat16"):
        expected = model(ids)
    expected_gradients = gradients(model, dlogits)
    for recompute in (False, True):
        recompute_blocks(model, recompute)
        model.precision = "bfloat16"
        assert model.blocks[1].feed_forward.up.precision == "bfloat16"
        found = model(ids)
        model.precision = None
        assert precision() == "float32"
        np.testing.assert_array_equal(found, expected)
        for name, gradient in gradients(model, dlogits).items():
            np.testing.assert_array_equal(gradient, expected_gradients[name])
            error = np.abs(gradient - exact_gradients[name]).max() / np.abs(exact_gradients[name]).max()
            assert error < 0.05
            assert error > 1e-5 or "norm" in name or "position" in name
    assert 1e-4 < np.abs(found - exact).max() < 0.05
    model.precision = "float32"
    with use_precision("bfloat16"):
        np.testing.assert_array_equal(model(ids), exact)


def test_a_precision_that_is_none_is_refused() -> None:
    model = gpt()
    with pytest.raises(ConfigError, match=r"GPT\.precision: a precision is one of (.*), got 'bf16'\.") as refused:
        model.precision = "bf16"  # type: ignore[assignment]
    known = re.findall(r"\w+", str(refused.value).partition("one of ")[2].partition(", got")[0])
    assert known == ["float32", "tf32", "bfloat16", "auto", "None"]
    for name in known:
        model.precision = None if name == "None" else name  # type: ignore[assignment]


@pytest.mark.parametrize("weights", [None, "bfloat16", "int8"])
def test_a_token_is_computed_in_the_precision_of_the_model(weights: Any) -> None:
    model = gpt(embed_dim=32).eval()
    if weights is not None:
        quantize_weights(model, weights)
    ids = np.random.default_rng(1).integers(0, 11, (1, 12)).astype(np.int32)
    found = {}
    for chosen in ("float32", "bfloat16"):
        model.precision = chosen  # type: ignore[assignment]
        decoder, cache = FusedDecoder.from_model(model), KeyValueCache(model)
        assert decoder is not None
        logits = np.stack([decoder(ids[:, t : t + 1], cache)[0, 0] for t in range(12)])  # type: ignore[index]
        with use_kernels("reference"):
            model.precision = chosen  # type: ignore[assignment]
            found[chosen] = model(ids)[0]
        np.testing.assert_allclose(logits, found[chosen], rtol=0, atol=1e-4 * np.abs(found[chosen]).max())
    assert np.abs(found["float32"] - found["bfloat16"]).max() > 1e-3 * np.abs(found["float32"]).max()


def test_a_model_with_parts_in_precisions_of_their_own_runs_its_own_forward() -> None:
    model = gpt().eval()
    assert FusedDecoder.from_model(model) is not None
    model.blocks[1].feed_forward.down.precision = "bfloat16"
    assert FusedDecoder.from_model(model) is None


# --- whole models beside PyTorch's autocast ---

SIZES: dict[str, Any] = {"embed_dim": 32, "num_heads": 4, "num_layers": 2}
CONFIGS = {
    "gpt": GPTConfig(37, context_length=24, **SIZES),
    "transformer": TransformerConfig(37, context_length=16, activation="gelu", **SIZES),
    "vit": ViTConfig(image_height=12, image_width=12, channels=3, num_classes=7, patch_size=4, **SIZES),
}


def autocast_outcome(model: Any, inputs: Any, targets: Any) -> dict[str, np.ndarray | None]:
    """Return logits, loss and every gradient by PyTorch, its forward under autocast."""
    import torch

    weights = torch_weights(model)
    tensors = [torch.from_numpy(x).requires_grad_(x.dtype.kind == "f") for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = torch_logits(model, weights, tensors, TorchDropout(model.generator, 0.0))
        loss = torch_loss(logits, targets)
    loss.backward()
    leaves = weights | dict(zip(["images"], [x for x in tensors if x.requires_grad], strict=False))
    found = {f"d{name}": None if leaf.grad is None else leaf.grad.numpy() for name, leaf in leaves.items()}
    return {"logits": logits.detach().float().numpy(), "loss": loss.detach().float().numpy(), **found}


@pytest.mark.parametrize("name", CONFIGS)
def test_models_are_as_near_to_float64_as_autocast_is(name: str) -> None:
    """Logits, loss and every gradient: within 2% of their norm; altogether at most a third farther than autocast's."""
    exact = run_model(*draw_model(CONFIGS[name], np.float64))
    with use_precision("bfloat16"):
        ours = run_model(*draw_model(CONFIGS[name], np.float32))
    theirs = autocast_outcome(*draw_model(CONFIGS[name], np.float32))
    assert ours.keys() == theirs.keys() == exact.keys()
    squares = np.zeros(2)
    for key, right in exact.items():
        if right is None:
            continue
        size = np.linalg.norm(right)
        errors = [np.linalg.norm(np.float64(found[key]) - right) for found in (ours, theirs)]
        squares += np.square(np.array(errors) / size)
        assert errors[0] <= 0.02 * size, (key, errors[0] / size)
    assert squares[0] <= 1.33**2 * squares[1], "altogether"
    assert np.linalg.norm(ours["logits"] - exact["logits"]) > 5e-4 * np.linalg.norm(exact["logits"])  # type: ignore[operator]
