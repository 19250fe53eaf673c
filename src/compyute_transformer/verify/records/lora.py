"""Records of LoRA: the op and the modules."""

from math import prod
from typing import Any

from ...nn import Linear, LoRA, LoRAAttention, LoRALinear, Module, MultiHeadAttention, RMSNorm, RotaryPosition
from ...nn.dropout import share_generator
from ...ops.attention import Mask
from ...ops.lora import lora_backward, lora_forward
from ...random import Generator
from ..record import Arguments, Benchmark, C, Drop, ModuleCase, Op, Oracle, Rng, T, Tensor, Weights, case
from ..torch.base import dense_mask, functional, import_torch
from ..torch.llama import torch_rotary
from ..torch.modules import torch_multi_head
from .rotary import torch_tables

__all__ = ["MODULES", "OPS", "lora_arguments", "torch_lora"]


def lora_arguments(
    rng: Rng, rows: tuple[int, ...], inputs: int = 7, outputs: int = 4, rank: int = 3, scale: float = 1.7
) -> Arguments:
    """Draw both factors: with b zero, as it begins, a would have no gradient."""
    return {
        "x": rng.normal(size=(*rows, inputs)),
        "a": rng.normal(size=(rank, inputs)),
        "b": rng.normal(size=(outputs, rank)),
        "scale": scale,
    }


def torch_lora(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Multiply by the matrix that both factors stand for."""
    return functional().linear(x, scale * (b @ a))


def lora_roundings(a: Arguments) -> int:
    """Count y; dx; da and db, sums over the rows; two scalings."""
    (rank, inputs), outputs = a["a"].shape, a["b"].shape[0]
    return inputs + 2 * rank + outputs + prod(a["x"].shape[:-1]) + 2


OPS = (
    Op(
        "lora",
        lora_forward,
        lora_backward,
        ("x", "a", "b"),
        (
            case("one_row", lora_arguments, rows=()),
            case("batch", lora_arguments, rows=(2, 3)),
            case("rank_one", lora_arguments, rows=(5,), rank=1, scale=0.25),
            case("large", lora_arguments, rows=(3, 43), inputs=67, outputs=35, rank=17),
        ),
        oracles=(Oracle("functional.linear", torch_lora),),
        roundings=lora_roundings,
        defaults={"scale": 1.0},
        benchmark=Benchmark(
            lambda rng, s: lora_arguments(rng, (s.B, s.T), s.C, s.F, 8),
            lambda s: f"({s.N}, {s.C}) to {s.F}, rank 8",
            flops=lambda s: 16.0 * s.N * (s.C + s.F),
        ),
    ),
)

RANK, ALPHA = 2, 3.0


def changed(weight: Tensor, weights: Weights, name: str) -> Tensor:
    """Return a weight with its change added."""
    return weight + ALPHA / RANK * weights[f"{name}.b"] @ weights[f"{name}.a"]


def lora_linear(case: str, bias: bool) -> ModuleCase:
    def torch(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        return functional().linear(x[0], changed(w["weight"], w, "lora"), w.get("bias"))

    return ModuleCase(
        "LoRALinear",
        case,
        lambda weights, drops: LoRALinear(Linear(C, 7, bias=bias, generator=weights), RANK, ALPHA, generator=weights),
        torch,
    )


def lora_attention(
    case: str, rows: tuple[tuple[int, int], ...], out: bool, norms: bool = False, rotary: bool = False, **options: Any
) -> ModuleCase:
    """Six query heads, 6 wide, and two key/value heads: rows 0-36 are queries, 36-48 keys, 48-60 values."""
    H, K, D, mask = 6, 2, 6, Mask(causal=True, window=4)

    def build(weights: Generator, drops: Generator) -> Module:
        parts: dict[str, Any] = {"rotary": RotaryPosition(D, theta=100.0)} if rotary else {}
        parts |= {name: RMSNorm(D, 0.1) for name in ("q_norm", "k_norm")} if norms else {}
        plain = MultiHeadAttention(C, H, K, head_dim=D, generator=weights, **parts, **options)
        return share_generator(LoRAAttention(plain, rows, out, RANK, ALPHA, generator=weights), drops)

    def torch(w: Weights, x: list[Tensor], drop: Drop) -> Tensor:
        weights = dict(w)
        for number, (start, stop) in enumerate(rows):
            before, own, after = weights["in_weight"].split([start, stop - start, 10 * D - stop])
            weights["in_weight"] = import_torch().cat([before, changed(own, w, f"lora_in.{number}"), after])
        if out:
            weights["out_weight"] = changed(w["out_weight"], w, "lora_out")
        added = dense_mask(mask, T, T, x[0].dtype)
        if not rotary:
            return torch_multi_head(weights, x[0], x[0], (H, K), added, drop)[0]
        cos, sin = (import_torch().cat((table, table), 1) for table in torch_tables(0, D, 100.0, x[0].dtype))
        return torch_rotary(weights, x[0], (H, K), added, drop, (cos, sin), 0.1)

    return ModuleCase("LoRAAttention", case, build, torch, call=lambda module, x: module(x, None, mask))


MODULES = (
    ModuleCase(
        "LoRA",
        "rows",
        lambda weights, drops: LoRA(C, 7, RANK, ALPHA, generator=weights),
        lambda w, x, drop: torch_lora(x[0], w["a"], w["b"], ALPHA / RANK),
    ),
    lora_linear("bias", bias=True),
    lora_linear("no_bias", bias=False),
    lora_attention("all_rows_dropout", ((0, 60),), True, dropout=0.3),
    lora_attention("queries_and_values_rotary", ((0, 36), (48, 60)), False, rotary=True, norms=True, dropout=0.3),
    lora_attention("sequential_keys_and_values", ((36, 60),), True, bias=False, implementation="sequential"),
)
