"""In float32, every op is at most twice as far from the float64 result as PyTorch's, in root mean square.

The table below is the commitment: one line an op and shape, held for references and kernels, all outputs and gradients.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from compyute_transformer.ops.activation import (
    gelu_backward,
    gelu_forward,
    softmax_backward,
    softmax_forward,
)
from compyute_transformer.ops.attention import (
    Mask,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.ops.norm import layer_norm_backward, layer_norm_forward

F = torch.nn.functional
RNG = np.random.default_rng(0)
TIMES = 2.0


def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return (RNG.normal(size=shape) * scale + mean).astype(np.float32)


def their_attention(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


CAUSAL = Mask(causal=True)
IDS = RNG.integers(0, 1000, 512)
# name: our forward, our backward, their forward, the arguments with a gradient, our further arguments
Run: TypeAlias = Callable[..., Any]
TABLE: dict[str, tuple[Run, Run, Run, list[np.ndarray], tuple[Any, ...]]] = {
    "linear (4096, 64)": (
        linear_forward, linear_backward, F.linear, [normal(4096, 64), normal(96, 64), normal(96)], (),
    ),
    "linear (16384, 48)": (
        linear_forward, linear_backward, F.linear, [normal(16384, 48), normal(40, 48), normal(40)], (),
    ),
    "layer norm (16384, 96)": (
        layer_norm_forward, layer_norm_backward, lambda x, w, b: F.layer_norm(x, (96,), w, b),
        [normal(16384, 96, scale=2.0, mean=1.0), normal(96), normal(96)], (),
    ),
    "gelu (1024, 256)": (gelu_forward, gelu_backward, F.gelu, [normal(1024, 256, scale=3.0)], ("none",)),
    "gelu tanh (1024, 256)": (
        gelu_forward, gelu_backward, lambda x: F.gelu(x, approximate="tanh"), [normal(1024, 256, scale=3.0)], ("tanh",),
    ),
    "softmax (1024, 513)": (
        softmax_forward, softmax_backward, lambda x: F.softmax(x, -1), [normal(1024, 513, scale=4.0)], (),
    ),
    "attention (2, 4, 256, 64)": (
        attention_forward, attention_backward, their_attention, [normal(2, 4, 256, 64) for _ in range(3)], (CAUSAL,),
    ),
    "fused attention (2, 4, 256, 64)": (
        fused_attention_forward, fused_attention_backward, their_attention,
        [normal(2, 4, 256, 64) for _ in range(3)], (CAUSAL,),
    ),
    **{
        f"cross-entropy at {offset}": (
            cross_entropy_forward, cross_entropy_backward, lambda z: F.cross_entropy(z, torch.from_numpy(IDS)),
            [normal(512, 1000, scale=3.0, mean=offset)], (IDS,),
        )
        for offset in (0.0, 100.0, 10000.0)
    },
}  # fmt: skip


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def theirs(run: Callable[..., Any], inputs: list[np.ndarray], dy: np.ndarray, dtype: Any) -> list[np.ndarray]:
    leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in inputs]
    y = run(*leaves)
    y.backward(torch.from_numpy(dy).to(dtype))
    return [tensor.double().numpy() for tensor in (y.detach(), *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("name", TABLE)
def test_the_error_is_at_most_twice_pytorchs(name: str) -> None:
    forward, backward, run, inputs, options = TABLE[name]
    y, saved = forward(*inputs, *options)
    dy = np.asarray(np.random.default_rng(1).normal(size=np.shape(y)), np.float32)
    gradients = backward(float(dy) if dy.ndim == 0 else dy, saved)
    ours = [y, *(gradients if isinstance(gradients, tuple) else (gradients,))]
    truth, single = theirs(run, inputs, dy, torch.float64), theirs(run, inputs, dy, torch.float32)
    for what, (mine, their, true) in enumerate(zip(ours, single, truth, strict=True)):
        smallest = np.finfo(np.float32).eps / 8 * rms(true)  # a result that happens to be exact allows no ratio
        assert rms(mine - true) <= TIMES * max(rms(their - true), smallest), f"output {what}"
