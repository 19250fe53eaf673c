"""Record of the feed-forward: the module."""

from ...nn import FeedForward
from ...nn.feed_forward import Activation
from ..record import SLOPES, C, ModuleCase
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


MODULES = (feed_forward("gelu_tanh"), feed_forward("gelu", bias=False), feed_forward("relu"))
