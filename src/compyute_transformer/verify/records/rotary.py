"""Records of rotary position: the op and the module."""

from ...nn import RotaryPosition
from ...ops.rotary import rotary_position_backward, rotary_position_forward
from ..record import Arguments, B, ModuleCase, Op, Oracle, Rng, T, Tensor, case
from ..torch.base import import_torch

__all__ = ["MODULES", "OPS", "rotary_position_arguments", "torch_tables"]


def rotary_position_arguments(
    rng: Rng, T: int = 3, D: int = 8, pairs: int = 4, interleaved: bool = False, B: int = 2, H: int = 5
) -> Arguments:
    """Draw tables of any numbers: the gradient is that of a linear map, and may not rely on cos² + sin² = 1."""
    x = rng.normal(size=(B, H, T, D))
    return {"x": x, "cos": rng.normal(size=(T, pairs)), "sin": rng.normal(size=(T, pairs)), "interleaved": interleaved}


def torch_rotary_position(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Multiply each head by a matrix for each position, with a 2 × 2 block for each pair of columns."""
    torch = import_torch()
    (T, P), D = cos.shape, x.shape[3]
    turn = torch.eye(D, dtype=x.dtype).repeat(T, 1, 1)
    for i in range(P):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + P)
        turn[:, a, a], turn[:, a, b], turn[:, b, a], turn[:, b, b] = cos[:, i], -sin[:, i], sin[:, i], cos[:, i]
    return torch.einsum("tij,bhtj->bhti", turn, x)


def torch_rotated_as_complex(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Multiply pairs of columns, as complex numbers, by cos + i sin, as Llama's own code does."""
    torch = import_torch()
    P = cos.shape[1]
    turned, rest = x[..., : 2 * P], x[..., 2 * P :]
    pairs = turned.unflatten(3, (P, 2)) if interleaved else turned.unflatten(3, (2, P)).transpose(3, 4)
    y = torch.view_as_real(torch.complex(pairs[..., 0], pairs[..., 1]) * torch.complex(cos, sin))
    return torch.cat([(y if interleaved else y.transpose(3, 4)).flatten(3), rest], dim=3)


OPS = (
    Op(
        "rotary_position",
        rotary_position_forward,
        rotary_position_backward,
        ("x",),
        (
            case("halves", rotary_position_arguments),
            case("interleaved", rotary_position_arguments, interleaved=True),
            case("part_of_an_odd_width", rotary_position_arguments, D=7, pairs=2),
            case("part_interleaved", rotary_position_arguments, D=7, pairs=2, interleaved=True),
            case("one_position", rotary_position_arguments, T=1, D=2, pairs=1),
            case("large", rotary_position_arguments, T=67, D=35, pairs=17, B=3),
            case("large_interleaved", rotary_position_arguments, T=67, D=35, pairs=17, B=3, interleaved=True),
        ),
        oracles=(
            Oracle("composition", torch_rotary_position),
            Oracle("complex numbers", torch_rotated_as_complex),
        ),
        roundings=lambda a: 4,
        defaults={"interleaved": False},
    ),
)


def torch_tables(start: int, dim: int, theta: float, dtype: object) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (T, dim/2) of T positions from `start` on."""
    torch = import_torch()
    frequencies = torch.tensor([theta ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
    angles = torch.outer(torch.arange(start, start + T, dtype=torch.float64), frequencies)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_position(case: str, start: int, interleaved: bool) -> ModuleCase:
    """Turn four of six columns."""
    return ModuleCase(
        "RotaryPosition",
        case,
        lambda weights, drops: RotaryPosition(4, theta=100.0, interleaved=interleaved),
        lambda w, x, drop: torch_rotary_position(x[0], *torch_tables(start, 4, 100.0, x[0].dtype), interleaved),
        {"x": (B, 3, T, 6)},
        lambda module, x: module(x, start),
    )


MODULES = (rotary_position("halves_from_2", 2, False), rotary_position("interleaved_from_0", 0, True))
