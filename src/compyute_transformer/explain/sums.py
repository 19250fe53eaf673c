"""Sums: which sum or formula made each cell of an array, so that the page can show it with its numbers.

A sum is written as the axes of its two factors and of the result: "* i, o i -> * o" is y = x Wᵀ, where * is any number
of leading axes and an axis that the result lacks is summed over. A point is a formula of single numbers.
"""

from typing import NamedTuple

__all__ = ["POINTS", "SUMS", "Point", "Sum"]


class Sum(NamedTuple):
    """result[out] = scale · Σ left[…] right[…] + bias. scale: "D" for 1/√D, or nothing.

    result, left, right, bias: names of values of the op; with d before it, the gradient of one.
    """

    result: str
    left: str
    right: str
    axes: str
    bias: str = ""
    scale: str = ""


class Point(NamedTuple):
    """A formula of single numbers. operands: its names, and the axes that each has of the result's.

    "*c" is the number at the same place, "*" the one of the same row, "c" the one of the same column. A row can also
    give "max", "sum" (of products) or "exp" (the sum of exp(x − max x)).
    """

    result: str
    formula: str
    operands: tuple[tuple[str, str], ...]


SUMS: dict[str, tuple[Sum, ...]] = {
    "linear": (
        Sum("y", "x", "weight", "* i, o i -> * o", bias="bias"),
        Sum("dx", "dy", "weight", "* o, o i -> * i"),
        Sum("dweight", "dy", "x", "* o, * i -> o i"),
        Sum("dbias", "dy", "", "* o -> o"),
    ),
    "attention": (
        Sum("scores", "q", "k", "b h t d, b h s d -> b h t s", scale="D"),
        Sum("y", "weights", "v", "b h t s, b h s d -> b h t d"),
        Sum("dv", "weights", "dy", "b h t s, b h t d -> b h s d"),
        Sum("dweights", "dy", "v", "b h t d, b h s d -> b h t s"),
        Sum("dq", "dscores", "k", "b h t s, b h s d -> b h t d", scale="D"),
        Sum("dk", "dscores", "q", "b h t s, b h t d -> b h s d", scale="D"),
    ),
    "layer_norm": (Sum("dbias", "dy", "", "* c -> c"),),
}

POINTS: dict[str, tuple[Point, ...]] = {
    "layer_norm": (
        Point(
            "y",
            "(x − mean) · rstd · weight + bias",
            (("x", "*c"), ("mean", "*"), ("rstd", "*"), ("weight", "c"), ("bias", "c")),
        ),
    ),
    "rms_norm": (Point("y", "x · rrms · weight", (("x", "*c"), ("rrms", "*"), ("weight", "c"))),),
    "rotary_position": (Point("y", "each pair of columns of x, turned by the angle of its position", (("x", "*c"),)),),
    "silu": (Point("y", "x / (1 + exp(−x))", (("x", "*c"),)),),
    "gated_activation": (Point("y", "activation(gate) · up", (("gate", "*c"), ("up", "*c"))),),
    "gelu": (
        Point("y", "x · Φ(x), or its approximation with tanh", (("x", "*c"),)),
        Point("dx", "dy · (the slope of GELU at x)", (("dy", "*c"), ("x", "*c"))),
    ),
    "relu": (
        Point("y", "max(x, 0)", (("x", "*c"),)),
        Point("dx", "dy where x > 0, else 0", (("dy", "*c"), ("x", "*c"))),
    ),
    "softmax": (
        Point(
            "y", "exp(x − max x) / Σ exp(x − max x)", (("x", "*c"), ("max x", "max:x"), ("Σ exp(x − max x)", "exp:x"))
        ),
        Point("dx", "y · (dy − Σ dy · y)", (("y", "*c"), ("dy", "*c"), ("Σ dy · y", "sum:dy,y"))),
    ),
    "dropout": (Point("y", "x / (1 − p) if kept, else 0", (("x", "*c"),)),),
    "embedding": (Point("y", "the row of the weight that the id names", (("ids", "*"),)),),
    "learned_position": (Point("y", "x + weight of the position", (("x", "*c"),)),),
    "sinusoidal_position": (Point("y", "x + sinusoid of the position", (("x", "*c"),)),),
    "cross_entropy": (
        Point(
            "dlogits",
            "(exp(logits − highest − log_total) − [is the target]) / rows scored",
            (("logits", "*c"), ("highest", "*"), ("log_total", "*"), ("targets", "*")),
        ),
    ),
}
