"""Records of position: learned and sinusoidal. The ops and the modules."""

from ...nn import LearnedPosition, SinusoidalPosition
from ...ops.position import (
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_backward,
    sinusoidal_position_forward,
)
from ..record import Arguments, C, ModuleCase, Op, Oracle, Rng, Tensor, case
from ..torch.base import functional, import_torch

__all__ = ["MODULES", "OPS", "torch_learned_position", "torch_sinusoidal_position"]


def learned_position_arguments(rng: Rng, start: int) -> Arguments:
    """Draw a context of 7 positions, of which 3 are taken from `start` on."""
    return {"x": rng.normal(size=(2, 3, 5)), "weight": rng.normal(size=(7, 5)), "start": start}


def sinusoidal_position_arguments(rng: Rng, width: int, start: int) -> Arguments:
    """Draw three positions from `start` on."""
    return {"x": rng.normal(size=(2, 3, width)), "start": start}


def torch_learned_position(x: Tensor, weight: Tensor, start: int) -> Tensor:
    """Add the embeddings of the positions."""
    return x + functional().embedding(import_torch().arange(start, start + x.shape[1]), weight)


def torch_sinusoidal_position(x: Tensor, start: int) -> Tensor:
    """Add the table written as in the paper, one pair (sine, cosine) of columns after the other."""
    torch = import_torch()
    t = torch.arange(start, start + x.shape[1], dtype=torch.float64)
    C = x.shape[2]
    columns = [(torch.cos if c % 2 else torch.sin)(t / 10000 ** (2 * (c // 2) / C)) for c in range(C)]
    return x + torch.stack(columns, dim=1).to(x.dtype)


OPS = (
    Op(
        "learned_position",
        learned_position_forward,
        learned_position_backward,
        ("x", "weight"),
        (case("from_0", learned_position_arguments, start=0), case("from_4", learned_position_arguments, start=4)),
        oracles=(Oracle("composition", torch_learned_position),),
        by_element=("y", "dx"),
        roundings=lambda a: len(a["x"]) + 1,
        defaults={"start": 0},
    ),
    Op(
        "sinusoidal_position",
        sinusoidal_position_forward,
        sinusoidal_position_backward,
        ("x",),
        (
            case("from_0", sinusoidal_position_arguments, width=4, start=0),
            case("odd_width_from_9", sinusoidal_position_arguments, width=5, start=9),
        ),
        oracles=(Oracle("composition", torch_sinusoidal_position),),
        roundings=lambda a: 1,
        defaults={"start": 0},
    ),
)

MODULES = (
    ModuleCase(
        "LearnedPosition",
        "from_2",
        lambda weights, drops: LearnedPosition(9, C, generator=weights),
        lambda w, x, drop: torch_learned_position(x[0], w["weight"], 2),
        call=lambda module, x: module(x, 2),
    ),
    ModuleCase(
        "SinusoidalPosition",
        "from_0",
        lambda weights, drops: SinusoidalPosition(),
        lambda w, x, drop: torch_sinusoidal_position(x[0], 0),
    ),
)
