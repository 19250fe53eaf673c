"""Every op beside PyTorch: y and every gradient, by autograd.

`ORACLES` names, for each op of the registry, the PyTorch functions that compute the same thing: the library's own where
it has one, and a composition written out here where the library cannot say it (our dropout's mask, grouped heads with
dropout, a query that sees no key). PyTorch is given our masks, so parity is tested with dropout on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import MissingExtraError
from ..ops.attention import Mask
from ..ops.multi_head import IMPLEMENTATIONS
from ..random import RandomKey, keep_mask
from .cases import Arguments
from .registry import Case, Op, cotangent
from .result import Label, Result, from_errors, gradient_errors, relative_error

__all__ = ["ORACLES", "Oracle", "compare", "import_torch"]

Tensor = Any  # torch.Tensor, which cannot be named before torch is imported


def import_torch() -> Any:
    """PyTorch, imported when a check first needs it.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "verify: the checks compare with PyTorch, which is not installed: "
            "pip install 'compyute-transformer[verify]'."
        ) from error
    return torch


def functional() -> Any:
    """torch.nn.functional."""
    return import_torch().nn.functional


# --- one PyTorch function for each op --------------------------------------------------------------------------------


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """torch.nn.functional.embedding."""
    return functional().embedding(ids, weight)


def patch_embedding(images: Tensor, weight: Tensor, bias: Tensor | None, patch_size: int) -> Tensor:
    """torch.nn.functional.conv2d, with a stride as long as its kernel; channels first, as it wants them."""
    kernel = weight.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2)
    maps = functional().conv2d(images.permute(0, 3, 1, 2), kernel, bias, stride=patch_size)
    return maps.flatten(2).transpose(1, 2)


def unfolded_patches(images: Tensor, weight: Tensor, bias: Tensor | None, patch_size: int) -> Tensor:
    """Tensor.unfold along both sides, and a linear layer."""
    patches = images.unfold(1, patch_size, patch_size).unfold(2, patch_size, patch_size)  # (B, i, j, channels, P, P)
    return linear(patches.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2), weight, bias)


def class_token(x: Tensor, weight: Tensor) -> Tensor:
    """torch.cat."""
    return import_torch().cat([weight.expand(len(x), 1, -1), x], dim=1)


def learned_position(x: Tensor, weight: Tensor, start: int) -> Tensor:
    """A lookup of the positions, added."""
    return x + functional().embedding(import_torch().arange(start, start + x.shape[1]), weight)


def sinusoidal_position(x: Tensor, start: int) -> Tensor:
    """The table written as in the paper, one pair (sine, cosine) of columns after the other, added."""
    torch = import_torch()
    t = torch.arange(start, start + x.shape[1], dtype=torch.float64)
    C = x.shape[2]
    columns = [(torch.cos if c % 2 else torch.sin)(t / 10000 ** (2 * (c // 2) / C)) for c in range(C)]
    return x + torch.stack(columns, dim=1).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch.nn.functional.linear."""
    return functional().linear(x, weight, bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """torch.nn.functional.layer_norm."""
    return functional().layer_norm(x, (x.shape[-1],), weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """torch.nn.functional.rms_norm."""
    return functional().rms_norm(x, (x.shape[-1],), weight, eps)


def rotary_position(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """A matrix for each position, with a 2 × 2 block for each pair of columns, times each head."""
    torch = import_torch()
    (T, P), D = cos.shape, x.shape[3]
    turn = torch.eye(D, dtype=x.dtype).repeat(T, 1, 1)
    for i in range(P):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + P)
        turn[:, a, a], turn[:, a, b], turn[:, b, a], turn[:, b, b] = cos[:, i], -sin[:, i], sin[:, i], cos[:, i]
    return torch.einsum("tij,bhtj->bhti", turn, x)


def rotated_as_complex(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Pairs of columns as complex numbers, times cos + i sin, as Llama's own code does it."""
    torch = import_torch()
    P = cos.shape[1]
    turned, rest = x[..., : 2 * P], x[..., 2 * P :]
    pairs = turned.unflatten(3, (P, 2)) if interleaved else turned.unflatten(3, (2, P)).transpose(3, 4)
    y = torch.view_as_real(torch.complex(pairs[..., 0], pairs[..., 1]) * torch.complex(cos, sin))
    return torch.cat([(y if interleaved else y.transpose(3, 4)).flatten(3), rest], dim=3)


def silu(x: Tensor) -> Tensor:
    """torch.nn.functional.silu."""
    return functional().silu(x)


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """torch.nn.functional's activation of the gate, times up."""
    if activation == "silu":
        return functional().silu(gate) * up
    return functional().gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


def relu(x: Tensor) -> Tensor:
    """torch.nn.functional.relu."""
    return functional().relu(x)


def gelu(x: Tensor, approximate: str) -> Tensor:
    """torch.nn.functional.gelu."""
    return functional().gelu(x, approximate=approximate)


def softmax(x: Tensor) -> Tensor:
    """torch.nn.functional.softmax, and zeros where a row has no finite score (there PyTorch gives NaN)."""
    dead = x.isneginf().all(-1, keepdim=True)
    return functional().softmax(x.masked_fill(dead, 0.0), -1).masked_fill(dead, 0.0)


def drop(x: Tensor, probability: float, key: RandomKey | None) -> Tensor:
    """Multiplication with our own mask."""
    if key is None:
        return x
    keep = import_torch().from_numpy(keep_mask(key, probability, tuple(x.shape)))
    return x * keep / (1.0 - probability)


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Tensor:
    """torch.nn.functional.cross_entropy, on rows."""
    rows = logits.reshape(-1, logits.shape[-1])
    return functional().cross_entropy(
        rows, targets.reshape(-1), ignore_index=ignore_index, label_smoothing=label_smoothing
    )


def dense_mask(mask: Mask, T: int, S: int, dtype: Any) -> Tensor:
    """A mask of ours as numbers to add to the scores, −inf where a key is hidden; it broadcasts to (B, H, T, S).

    Written from the words of `Mask`, without a line of the code that it is held against.
    """
    torch = import_torch()
    steps_back = torch.arange(S - T, S)[:, None] - torch.arange(S)
    hidden = torch.zeros(T, S, dtype=torch.bool)
    if mask.causal:
        hidden = hidden | (steps_back < 0)
    if mask.window is not None:
        hidden = hidden | (steps_back.abs() >= mask.window)
    if mask.key_lengths is not None:
        hidden = hidden | (torch.arange(S) >= torch.from_numpy(mask.key_lengths)[:, None, None, None])
    added = torch.zeros(T, S, dtype=dtype)
    if mask.array is not None and mask.array.dtype.kind == "b":
        hidden = hidden | ~torch.from_numpy(mask.array)
    elif mask.array is not None:
        added = added + torch.from_numpy(mask.array)
    return added.masked_fill(hidden, -torch.inf)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, key: RandomKey | None) -> Tensor:
    """Scores, our mask made dense and added, softmax, our dropout, values."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5 + dense_mask(mask, q.shape[2], k.shape[2], q.dtype)
    return drop(softmax(scores), dropout, key) @ v


def torch_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, key: RandomKey | None) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention, which shares grouped heads out by itself."""
    added = dense_mask(mask, q.shape[2], k.shape[2], q.dtype)
    grouped = q.shape[1] != k.shape[1]
    return functional().scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=grouped)


def multi_head(
    x: Tensor,
    memory: Tensor | None,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    num_heads: int,
    num_kv_heads: int | None,
    mask: Mask,
    dropout: float,
    key: RandomKey | None,
) -> Tensor:
    """Three projections, `attention` above on their heads, and the output projection."""
    D = out_weight.shape[1] // num_heads
    m = x if memory is None else memory
    rows = [heads * D for heads in (num_heads, num_kv_heads or num_heads, num_kv_heads or num_heads)]
    biases = [None, None, None] if in_bias is None else in_bias.split(rows)
    q, k, v = (
        linear(given, weight, bias).unflatten(2, (-1, D)).transpose(1, 2)
        for given, weight, bias in zip((x, m, m), in_weight.split(rows), biases, strict=True)
    )
    heads = attention(q, k, v, mask, dropout, key)
    return linear(heads.transpose(1, 2).flatten(2), out_weight, out_bias)


def torch_multi_head(
    x: Tensor,
    memory: Tensor | None,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    num_heads: int,
    num_kv_heads: int | None,
    mask: Mask,
    dropout: float,
    key: RandomKey | None,
) -> Tensor:
    """torch.nn.MultiheadAttention, with our tensors as its parameters."""
    torch = import_torch()
    m = x if memory is None else memory
    module = torch.nn.MultiheadAttention(
        x.shape[2], num_heads, bias=in_bias is not None, batch_first=True, dtype=x.dtype
    )
    parameters = {"in_proj_weight": in_weight, "out_proj.weight": out_weight}
    if in_bias is not None:
        parameters |= {"in_proj_bias": in_bias, "out_proj.bias": out_bias}
    shape = x.shape[0], num_heads, x.shape[1], m.shape[1]
    added = dense_mask(mask, *shape[2:], x.dtype).expand(shape).flatten(0, 1)
    options = {"attn_mask": added, "need_weights": False}
    return torch.func.functional_call(module, parameters, (x, m, m), options)[0]


# --- the list, and the comparison ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """A PyTorch function that computes what an op computes.

    function: takes the op's arguments by name, arrays as tensors. serves: whether it can express a case.
    """

    name: str
    function: Callable[..., Tensor]
    supports: Callable[[Arguments], bool] = lambda arguments: True


def _plain_heads(a: Arguments) -> bool:
    """What torch.nn.MultiheadAttention can say: no groups, a bias for both or for none, our dropout's mask never."""
    both = (a["in_bias"] is None) == (a["out_bias"] is None)
    square = a["out_weight"].shape[0] == a["out_weight"].shape[1]
    return both and square and a["num_kv_heads"] is None and not a["dropout"]


ATTENTION = (
    Oracle("composition", attention),
    Oracle("functional.scaled_dot_product_attention", torch_attention, lambda a: not a["dropout"]),
)
MULTI_HEAD = (
    Oracle("composition", multi_head),
    Oracle("torch.nn.MultiheadAttention", torch_multi_head, _plain_heads),
)

ORACLES: dict[str, tuple[Oracle, ...]] = {
    "embedding": (Oracle("functional.embedding", embedding),),
    "patch_embedding": (
        Oracle("functional.conv2d", patch_embedding),
        Oracle("Tensor.unfold", unfolded_patches),
    ),
    "class_token": (Oracle("cat", class_token),),
    "learned_position": (Oracle("composition", learned_position),),
    "sinusoidal_position": (Oracle("composition", sinusoidal_position),),
    "rotary_position": (
        Oracle("composition", rotary_position),
        Oracle("complex numbers", rotated_as_complex),
    ),
    "linear": (Oracle("functional.linear", linear),),
    "layer_norm": (Oracle("functional.layer_norm", layer_norm),),
    "rms_norm": (Oracle("functional.rms_norm", rms_norm),),
    "relu": (Oracle("functional.relu", relu),),
    "gelu": (Oracle("functional.gelu", gelu),),
    "silu": (Oracle("functional.silu", silu),),
    "gated_activation": (Oracle("composition", gated_activation),),
    "softmax": (Oracle("functional.softmax", softmax),),
    "dropout": (Oracle("composition", drop),),
    "attention": ATTENTION,
    "fused_attention": ATTENTION,
    **{f"{name}_multi_head": MULTI_HEAD for name in IMPLEMENTATIONS},
    "cross_entropy": (Oracle("functional.cross_entropy", cross_entropy),),
}


def compare(op: Op, case: Case, dtype: Any, seed: int = 0) -> list[Result]:
    """One case beside every PyTorch function that can express it: y, then each gradient.

    What runs is what `use` says: kernels where they serve, or the references in `with use_kernels("reference")`.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    arguments = case.arguments(seed, dtype)
    y, saved = op.forward(*arguments.values())
    dy = cotangent(y, seed)
    gradients = op.gradients(dy, saved)
    results: list[Result] = []
    for oracle in ORACLES[op.name]:
        if not oracle.supports(arguments):
            continue
        their_y, their_gradients = autograd(oracle.function, arguments, dy, op.differentiable)
        errors = {"y": relative_error(y, their_y)} | gradient_errors(gradients, their_gradients)
        results += from_errors(errors, Label(f"ops.{op.name}", case.name), "torch", dtype, oracle.name)
    return results


def autograd(
    function: Callable[..., Tensor], arguments: Arguments, dy: Array, differentiable: tuple[str, ...]
) -> tuple[Array, dict[str, Array | None]]:
    """A PyTorch function's result and its gradients by name, as arrays; None where the argument was None."""
    torch = import_torch()
    tensors = {
        name: torch.from_numpy(np.array(value)).requires_grad_(name in differentiable)
        if hasattr(value, "dtype")
        else value
        for name, value in arguments.items()
    }
    y = function(**tensors)
    y.backward(torch.from_numpy(dy))
    gradients = {name: None if tensors[name] is None else tensors[name].grad.numpy() for name in differentiable}
    return y.detach().numpy(), gradients
