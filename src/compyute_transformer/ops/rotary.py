"""Rotary position: queries and keys are turned by angles that grow with their position.

The score of a query and a key then depends on the distance between them alone. Models that were trained on short texts
read longer ones with other frequencies: `rotary_frequencies` has the four published ways to scale them.
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched, output_of
from ..errors import RangeError, ShapeError
from ._checks import check_bool, check_floats, check_gradient, check_integer, check_number, check_saved, check_shape

__all__ = [
    "RotaryPositionSaved",
    "RotaryScaling",
    "Scaling",
    "rotary_frequencies",
    "rotary_position",
    "rotary_position_backward",
    "rotary_position_forward",
    "rotary_tables",
]

Scaling = Literal["linear", "dynamic", "llama3", "yarn"]


class RotaryPositionSaved(NamedTuple):
    """cos, sin: the tables. interleaved: which columns are pairs. shape: of y."""

    cos: Array
    sin: Array
    interleaved: bool
    shape: tuple[int, ...]


def check_rotary_position(x: Any, cos: Any, sin: Any, interleaved: Any = False) -> None:
    op = "rotary_position"
    check_floats(op, x=x)
    check_floats(op, {} if x.dtype.kind == "c" else {"x": x}, cos=cos, sin=sin)  # a complex step moves x alone
    check_shape(op, "x", x, (None, None, None, None), "batch, heads, time, head width")
    check_shape(op, "cos", cos, (x.shape[2], None), "time by pairs of columns")
    check_shape(op, "sin", sin, cos.shape, "the shape of cos")
    if not 1 <= cos.shape[1] <= x.shape[3] // 2:
        raise ShapeError(
            f"{op}: the tables have a column for each pair of columns of x, at least 1 and at most half the head width "
            f"{x.shape[3]}, got {cos.shape[1]}."
        )
    check_bool(op, "interleaved", interleaved)


def pairs_of(x: Array, count: int, interleaved: bool) -> tuple[Array, Array]:
    """Return the first and the second elements of `count` pairs of columns, as views."""
    if interleaved:
        return x[..., 0 : 2 * count : 2], x[..., 1 : 2 * count : 2]
    return x[..., :count], x[..., count : 2 * count]


@dispatched(validate=check_rotary_position)
def rotary_position_forward(
    x: Float[Array, "B H T D"], cos: Float[Array, "T P"], sin: Float[Array, "T P"], interleaved: bool = False
) -> tuple[Float[Array, "B H T D"], RotaryPositionSaved]:
    """Turn each pair of columns by the angle of its position and its frequency.

    (a, b) ← (a cos − b sin, b cos + a sin) for each pair (a, b) of columns, cos and sin of the angle t · ω
    (da, db) = (da cos + db sin, db cos − da sin): turned back, since a rotation's transpose is its inverse

    Pair i is columns i and i + P, the halves of the first 2P columns, as Hugging Face stores Llama; interleaved:
    columns 2i and 2i + 1, as in the paper. Columns past 2P stay as they are. The tables are constants without gradient.

    Shapes:
        x, y (B, H, T, D) float; cos, sin (T, P) like x, P at most D/2, a row for each position; see `rotary_tables`.
    Saves:
        cos and sin, no copies.
    Raises:
        ShapeError: the tables do not fit x. DtypeError: dtypes differ.
    Source:
        Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", equation 34.
    """
    first, second = pairs_of(x, cos.shape[1], interleaved)
    y = x.copy()
    y_first, y_second = pairs_of(y, cos.shape[1], interleaved)
    y_first[...] = first * cos - second * sin
    y_second[...] = second * cos + first * sin
    return y, RotaryPositionSaved(cos, sin, interleaved, x.shape)


def check_rotary_position_backward(dy: Any, saved: Any) -> None:
    check_saved("rotary_position_backward", saved, RotaryPositionSaved)
    check_gradient("rotary_position_backward", dy, saved.cos, saved.shape)


@dispatched(validate=check_rotary_position_backward)
def rotary_position_backward(dy: Float[Array, "B H T D"], saved: RotaryPositionSaved) -> Float[Array, "B H T D"]:
    """Return the gradient of `rotary_position_forward`: dx, which is dy turned back by the same angles.

    Shapes:
        dy, dx as x.
    """
    cos, sin, interleaved, _ = saved
    dy_first, dy_second = pairs_of(dy, cos.shape[1], interleaved)
    dx = dy.copy()
    first, second = pairs_of(dx, cos.shape[1], interleaved)
    first[...] = dy_first * cos + dy_second * sin
    second[...] = dy_second * cos - dy_first * sin
    return dx


rotary_position = output_of("rotary_position", rotary_position_forward)


# --- frequencies and tables ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RotaryScaling:
    """How the frequencies of a model that was trained on short texts are changed for longer ones.

    kind:   "linear" divides all frequencies by factor. "dynamic" raises theta once a text is longer than the original
            length. "llama3" divides the low frequencies by factor and keeps the high ones. "yarn" does the same with a
            ramp over the columns, and multiplies the tables by an attention factor.
    factor: how many times longer the texts may be. original_length: the context length of the training.

    low_frequency_factor, high_frequency_factor: of llama3: a wavelength above original_length / low is divided, one
    below original_length / high is kept. beta_fast, beta_slow: of yarn: how many turns within original_length bound the
    ramp. truncate: whether its ends are whole columns. attention_factor: of yarn; None means 0.1 ln(factor) + 1.

    Source: Chen et al. 2023, "Extending context window ... via positional interpolation" (linear); Peng et al. 2023,
    "YaRN" (yarn, dynamic); Llama 3.1 (llama3). The names are those of Hugging Face Transformers.
    """

    kind: str
    factor: float
    original_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        op = "RotaryScaling"
        if self.kind not in get_args(Scaling):
            raise RangeError(f"{op}: kind is one of {', '.join(get_args(Scaling))}, got {self.kind!r}.")
        check_number(op, "factor", self.factor, 1.0, float("inf"))
        check_integer(op, "original_length", self.original_length, 1)
        for name in ("low_frequency_factor", "high_frequency_factor", "beta_fast", "beta_slow"):
            check_number(op, name, getattr(self, name), 1e-9, float("inf"))
        check_bool(op, "truncate", self.truncate)
        if self.kind == "llama3" and self.low_frequency_factor >= self.high_frequency_factor:
            raise RangeError(
                f"{op}: low_frequency_factor must be below high_frequency_factor, got {self.low_frequency_factor} and "
                f"{self.high_frequency_factor}."
            )
        if self.attention_factor is not None:
            check_number(op, "attention_factor", self.attention_factor, 1e-9, float("inf"))

    @property
    def scale(self) -> float:
        """The number that cos and sin are multiplied by; 1 but for yarn."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def rotary_frequencies(
    width: int, theta: float = 10000.0, scaling: RotaryScaling | None = None, length: int = 0
) -> Float[np.ndarray, "P"]:
    """Return the angle (width/2) in float64 that each pair of columns is turned by from one position to the next.

    ω_i = theta^(−2i/width), changed as `scaling` says. length: that of the text, which "dynamic" looks at.

    Raises:
        RangeError: width is odd, or theta is not above 1.
    """
    check_integer("rotary_frequencies", "width", width, 2)
    check_number("rotary_frequencies", "theta", theta, 1.0 + 1e-9, float("inf"))
    if width % 2:
        raise RangeError(f"rotary_frequencies: width is even, so that columns make pairs, got {width}.")
    if scaling is not None and scaling.kind == "dynamic" and length > scaling.original_length:
        longer = scaling.factor * length / scaling.original_length - (scaling.factor - 1.0)
        theta *= longer ** (width / max(width - 2, 1))
    frequencies = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    kept = _kept_by_llama3(frequencies, scaling) if scaling.kind == "llama3" else _kept_by_yarn(width, theta, scaling)
    return frequencies * kept + frequencies / scaling.factor * (1.0 - kept)


def _kept_by_llama3(frequencies: np.ndarray, scaling: RotaryScaling) -> np.ndarray:
    """Return how much of each frequency is kept: 1 where it turns often within the original length, 0 where rarely."""
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_length * frequencies / (2.0 * pi)
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def _kept_by_yarn(width: int, theta: float, scaling: RotaryScaling) -> np.ndarray:
    """Return how much of each frequency is kept: 1 before the ramp over the columns, 0 after it."""

    def column(turns: float) -> float:
        """The pair of columns that turns so often within the original length, in between two as a rule."""
        return width * log(scaling.original_length / (turns * 2.0 * pi)) / (2.0 * log(theta))

    start, end = column(scaling.beta_fast), column(scaling.beta_slow)
    if scaling.truncate:
        start, end = float(np.floor(start)), float(np.ceil(end))
    start, end = max(start, 0.0), min(end, width - 1.0)
    if start == end:
        end += 0.001
    return 1.0 - np.clip((np.arange(width // 2) - start) / (end - start), 0.0, 1.0)


def rotary_tables(
    frequencies: Float[np.ndarray, "P"], start: int, length: int, dtype: Any = np.float32, scale: float = 1.0
) -> tuple[Float[np.ndarray, "T P"], Float[np.ndarray, "T P"]]:
    """Return cos and sin (length, P) of the angles of positions start … start + length, times `scale`.

    They are computed in float64 and rounded to dtype: in float32 the angle t · ω loses 3e-4 at t = 8192.

    Raises:
        RangeError: start is negative, or length below 1.
    """
    check_integer("rotary_tables", "start", start, 0)
    check_integer("rotary_tables", "length", length, 1)
    angles = np.arange(start, start + length, dtype=np.float64)[:, None] * frequencies
    return (np.cos(angles) * scale).astype(dtype), (np.sin(angles) * scale).astype(dtype)
