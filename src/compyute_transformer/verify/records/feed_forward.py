"""Records of the feed-forwards: the modules."""

from ...nn import FeedForward, GatedFeedForward
from ...nn.feed_forward import Activation, Gate
from ..record import SLOPES, C, ModuleCase
from ..torch.llama import torch_gated_feed_forward
from ..torch.modules import torch_feed_forward

__all__ = ["MODULES"]


def feed_forward(activation: Activation, bias: bool = True) -> ModuleCase:
    return ModuleCase(
        "FeedForward",
        activation,
        lambda weights, drops: FeedForward(C, 17, bias=bias, activation=activation, generator=weights),
        lambda w, x, drop: torch_feed_forward(w, x[0], activation),
        # a difference would step over the kink of some hidden unit; a complex step stays where it is
        slopes=("complex step", "adjoint") if activation == "relu" else SLOPES,
    )


def gated_feed_forward(activation: Gate, bias: bool = False) -> ModuleCase:
    return ModuleCase(
        "GatedFeedForward",
        activation,
        lambda weights, drops: GatedFeedForward(C, 17, bias=bias, activation=activation, generator=weights),
        lambda w, x, drop: torch_gated_feed_forward(w, x[0], activation),
    )


MODULES = (
    feed_forward("gelu_tanh"),
    feed_forward("gelu", bias=False),
    feed_forward("relu"),
    gated_feed_forward("silu"),
    gated_feed_forward("gelu", bias=True),
    gated_feed_forward("gelu_tanh"),
)
