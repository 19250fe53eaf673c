"""Records of dropout: the op and the module."""

from ...nn import Dropout
from ...ops.dropout import dropout_backward, dropout_forward
from ...random import DROPOUT, RandomKey, keep_mask
from ..record import Arguments, Benchmark, ModuleCase, Op, Oracle, Rng, Tensor, case
from ..torch.base import import_torch

__all__ = ["MODULES", "OPS", "dropout_arguments", "torch_dropout"]


def dropout_arguments(rng: Rng, shape: tuple[int, ...], probability: float) -> Arguments:
    """Draw x; the key is fixed, so that the same elements are dropped each time the forward runs."""
    return {"x": rng.normal(size=shape), "probability": probability, "key": RandomKey(2024, DROPOUT, 3)}


def torch_dropout(x: Tensor, probability: float, key: RandomKey | None) -> Tensor:
    """Multiply with our own mask."""
    if key is None:
        return x
    keep = import_torch().from_numpy(keep_mask(key, probability, tuple(x.shape)))
    return x * keep / (1.0 - probability)


OPS = (
    Op(
        "dropout",
        dropout_forward,
        dropout_backward,
        ("x",),
        (
            case("rows", dropout_arguments, shape=(3, 17), probability=0.3),
            case("heads", dropout_arguments, shape=(2, 3, 4, 5), probability=0.5),
            case("nothing_dropped", dropout_arguments, shape=(3, 5), probability=0.0),
            case("rarely", dropout_arguments, shape=(3, 17), probability=0.001),
            case("large", dropout_arguments, shape=(3, 43, 67), probability=0.1),
        ),
        oracles=(Oracle("composition", torch_dropout),),
        by_element=("y", "dx"),
        roundings=lambda a: 2,
        benchmark=Benchmark(
            lambda rng, s: dropout_arguments(rng, (s.B, s.T, s.C), s.dropout or 0.1),
            lambda s: f"({s.N}, {s.C}), {s.dropout or 0.1:g}",
        ),
    ),
)

MODULES = (
    ModuleCase("Dropout", "rows", lambda weights, drops: Dropout(0.3, generator=drops), lambda w, x, drop: drop(x[0])),
)
