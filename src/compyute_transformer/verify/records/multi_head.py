"""Records of multi-head attention: its four algorithms, and the module that chooses among them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array
from ...nn import Module, MultiHeadAttention, RMSNorm, RotaryPosition, share_generator
from ...ops.attention import NO_MASK, Mask
from ...ops.multi_head import IMPLEMENTATIONS, MultiHeadOptions
from ...random import DROPOUT, Generator, RandomKey
from ..record import Arguments, B, C, Drop, ModuleCase, Op, Oracle, Rng, S, T, Tensor, Weights, beside, case
from ..torch.base import dense_mask, import_torch
from ..torch.llama import torch_rotary
from ..torch.modules import torch_multi_head as torch_multi_head_module
from .attention import (
    DEFAULTS,
    MakeMask,
    added,
    attention_roundings,
    everything,
    falling,
    lengths,
    torch_attention,
    visible,
)
from .linear import torch_linear
from .rotary import torch_tables

__all__ = ["MODULES", "OPS", "multi_head_arguments"]


class Lengths(NamedTuple):
    """As of `attention`, with width C outside the heads; a memory of S positions, or none."""

    B: int = 2
    T: int = 5
    S: int | None = None
    C: int = 12
    H: int = 3
    K: int | None = None
    D: int = 4


def multi_head_arguments(
    rng: Rng,
    in_bias: bool = True,
    out_bias: bool = True,
    mask: Mask | MakeMask = NO_MASK,
    dropout: float = 0.0,
    **given: int | None,
) -> Arguments:
    """Draw x, a memory, weights and biases of these `Lengths`."""
    B, T, S, C, H, K, D = Lengths(**given)  # type: ignore[arg-type]
    rows = (H + 2 * (K or H)) * D
    return {
        "x": rng.normal(size=(B, T, C)),
        "memory": None if S is None else rng.normal(size=(B, S, C)),
        "in_weight": rng.normal(size=(rows, C)) * C**-0.5,
        "in_bias": rng.normal(size=rows) if in_bias else None,
        "out_weight": rng.normal(size=(C, H * D)) * (H * D) ** -0.5,
        "out_bias": rng.normal(size=C) if out_bias else None,
        "num_heads": H,
        "num_kv_heads": K,
        "mask": mask if isinstance(mask, Mask) else mask(rng),
        "dropout": dropout,
        "key": RandomKey(2024, DROPOUT, 7) if dropout else None,
    }


def torch_multi_head(x: Tensor, memory: Tensor | None, **a: Any) -> Tensor:
    """Compute three projections, `torch_attention` on their heads, and the output projection."""
    H, K = a["num_heads"], a["num_kv_heads"] or a["num_heads"]
    D = a["out_weight"].shape[1] // H
    m = x if memory is None else memory
    rows = [H * D, K * D, K * D]
    biases = [None, None, None] if a["in_bias"] is None else a["in_bias"].split(rows)
    q, k, v = (
        torch_linear(given, weight, bias).unflatten(2, (-1, D)).transpose(1, 2)
        for given, weight, bias in zip((x, m, m), a["in_weight"].split(rows), biases, strict=True)
    )
    heads = torch_attention(q, k, v, a["mask"], a["dropout"], a["key"])
    return torch_linear(heads.transpose(1, 2).flatten(2), a["out_weight"], a["out_bias"])


def torch_own_multi_head(x: Tensor, memory: Tensor | None, **a: Any) -> Tensor:
    """Call torch.nn.MultiheadAttention, with our tensors as its parameters."""
    torch = import_torch()
    m, H = x if memory is None else memory, a["num_heads"]
    module = torch.nn.MultiheadAttention(x.shape[2], H, bias=a["in_bias"] is not None, batch_first=True, dtype=x.dtype)
    parameters = {"in_proj_weight": a["in_weight"], "out_proj.weight": a["out_weight"]}
    if a["in_bias"] is not None:
        parameters |= {"in_proj_bias": a["in_bias"], "out_proj.bias": a["out_bias"]}
    shape = x.shape[0], H, x.shape[1], m.shape[1]
    mask = dense_mask(a["mask"], *shape[2:], x.dtype).expand(shape).flatten(0, 1)
    options = {"attn_mask": mask, "need_weights": False}
    return torch.func.functional_call(module, parameters, (x, m, m), options)[0]


def is_plain(a: Arguments) -> bool:
    """Say whether torch.nn.MultiheadAttention can: no groups, no cap, none of our dropout, a bias for both or none."""
    both = (a["in_bias"] is None) == (a["out_bias"] is None)
    square = a["out_weight"].shape[0] == a["out_weight"].shape[1]
    return both and square and a["num_kv_heads"] is None and not a["dropout"] and a["mask"].soft_cap is None


def roundings(a: Arguments) -> int:
    """Count those of attention on heads, and of the projections: in and out, y and dx; weights over all rows."""
    B, T, C = a["x"].shape
    S = T if a["memory"] is None else a["memory"].shape[1]
    H, K = a["num_heads"], a["num_kv_heads"] or a["num_heads"]
    D = a["out_weight"].shape[1] // H
    projections = 2 * C + (H + 2 * K) * D + H * D + B * (T + S) + 4
    return attention_roundings(H, K, T, S, D) + projections


CASES = (
    case("self", multi_head_arguments),
    case("no_biases", multi_head_arguments, in_bias=False, out_bias=False),
    case("one_bias", multi_head_arguments, out_bias=False),
    case("cross", multi_head_arguments, S=7),
    case("cross_no_biases", multi_head_arguments, S=7, in_bias=False, out_bias=False),
    case("causal", multi_head_arguments, mask=Mask(causal=True)),
    case("causal_window_dropout", multi_head_arguments, mask=Mask(causal=True, window=3), dropout=0.3),
    case("cross_key_lengths_dropout", multi_head_arguments, S=7, mask=lengths(7, 4), dropout=0.4),
    case("one_head_cross", multi_head_arguments, H=1, S=7, D=12),
    case("one_column", multi_head_arguments, C=1),
    case("boolean_matrix", multi_head_arguments, mask=visible(5, 5)),
    case("boolean_of_each_head", multi_head_arguments, mask=visible(2, 3, 5, 5)),
    case("boolean_of_each_row", multi_head_arguments, S=7, mask=visible(2, 1, 5, 7)),
    case("added", multi_head_arguments, mask=added(1, 3, 5, 5)),
    case("cap_slopes_and_array_of_each_head", multi_head_arguments, H=2, mask=falling(2, 0.9, visible(1, 2, 5, 5))),
    case("grouped", multi_head_arguments, H=6, K=3, C=10),
    case("multi_query_key_lengths", multi_head_arguments, K=1, S=7, C=10, mask=lengths(4, 0)),
    case("everything", multi_head_arguments, H=6, K=3, S=7, C=10, mask=everything, dropout=0.3),
    case("large", multi_head_arguments, T=67, S=131, C=35, D=17, mask=Mask(causal=True), dropout=0.1),
    case("one_query", multi_head_arguments, T=1, S=7, mask=Mask(causal=True, window=3)),
)
ORACLES = (
    Oracle("composition", torch_multi_head),
    Oracle("torch.nn.MultiheadAttention", torch_own_multi_head, is_plain),
)


def with_options(forward: Callable[..., tuple[Array, Any]]) -> Callable[..., tuple[Array, Any]]:
    """Return a multi-head forward that takes each of its options by its own name, as the cases state them."""

    @wraps(forward)
    def call(x: Array, memory: Any, *arguments: Any, **named: Any) -> tuple[Array, Any]:
        weights, options = arguments[:4], arguments[4:]
        by_name = [named.pop(name) for name in WEIGHTS[len(weights) :]]
        return forward(x, memory, *weights, *by_name, MultiHeadOptions(*options, **named))

    own = list(inspect.signature(forward).parameters.values())[:-1]
    fields = inspect.signature(MultiHeadOptions).parameters.values()
    call.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    return call


WEIGHTS = ("in_weight", "in_bias", "out_weight", "out_bias")
OPS = tuple(
    Op(
        f"{name}_multi_head",
        with_options(forward),
        backward,
        ("x", "memory", *WEIGHTS),
        CASES,
        ORACLES,
        roundings,
        {"num_kv_heads": None, **DEFAULTS},
    )
    for name, (forward, backward) in IMPLEMENTATIONS.items()
)


def module(case: str, mask: Mask = NO_MASK, memory: bool = False, H: int = 3, K: int = 3, **options: Any) -> ModuleCase:
    def torch(w: Weights, inputs: list[Tensor], drop: Drop) -> Tensor:
        x, m = inputs[0], inputs[-1]
        return torch_multi_head_module(w, x, m, (H, K), dense_mask(mask, T, m.shape[1], x.dtype), drop)[0]

    return ModuleCase(
        "MultiHeadAttention",
        case,
        lambda weights, drops: share_generator(MultiHeadAttention(C, H, K, generator=weights, **options), drops),
        torch,
        {"x": (B, T, C)} | ({"memory": (B, S, C)} if memory else {}),
        lambda module, x, memory=None: module(x, memory, beside(mask, module)),
    )


def rotary_module(case: str, mask: Mask, H: int, K: int, norms: bool, **options: Any) -> ModuleCase:
    """Turn and, with `norms`, normalize queries and keys that are 6 wide, which is not C / H."""

    def build(weights: Generator, drops: Generator) -> Module:
        parts: dict[str, Any] = {"rotary": RotaryPosition(6, theta=100.0)}
        parts |= {name: RMSNorm(6, 0.1) for name in ("q_norm", "k_norm")} if norms else {}
        attention = MultiHeadAttention(C, H, K, head_dim=6, generator=weights, **parts, **options)
        return share_generator(attention, drops)

    def torch(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        cos, sin = (import_torch().cat((table, table), 1) for table in torch_tables(0, 6, 100.0, x[0].dtype))
        return torch_rotary(w, x[0], (H, K), dense_mask(mask, T, T, x[0].dtype), drop, (cos, sin), 0.1)

    return ModuleCase(
        "MultiHeadAttention", case, build, torch, call=lambda module, x: module(x, None, beside(mask, module))
    )


PADDED = Mask(window=4, key_lengths=np.array([7, 5]))
CAUSAL_PADDED = Mask(causal=True, window=3, key_lengths=np.array([5, 3]))
MODULES = tuple(
    made
    for name in ("auto", *IMPLEMENTATIONS)
    for made in (
        module(f"{name}_causal_dropout", Mask(causal=True), implementation=name, dropout=0.3),
        module(f"{name}_cross_grouped_no_bias", PADDED, memory=True, H=6, K=2, implementation=name, bias=False),
        rotary_module(f"{name}_rotary_dropout", Mask(causal=True), 3, 3, False, implementation=name, dropout=0.3),
        rotary_module(f"{name}_rotary_norms", CAUSAL_PADDED, 6, 2, True, implementation=name, out_bias=False),
    )
)
