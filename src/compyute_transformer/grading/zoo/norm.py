"""Norm: mistakes in the statistics of layer norm, and in the two means of its backward."""

from ...arrays import Array
from ...ops.norm import LayerNormSaved, layer_norm_backward, layer_norm_forward
from .record import mistaken

__all__: list[str] = []

Output = tuple[Array, LayerNormSaved]
Gradients = tuple[Array, Array | None, Array | None]

right_forward, right_backward = layer_norm_forward.reference, layer_norm_backward.reference


def normalized(saved: LayerNormSaved) -> tuple[Array, Array]:
    """Return x̂ and rstd, with an axis of length one for the width."""
    rstd = saved.rstd[..., None]
    return (saved.x - saved.mean[..., None]) * rstd, rstd


def scaled(x: Array, weight: Array, bias: Array | None, rstd: Array) -> Output:
    """Return the output of layer norm for a rstd of its own."""
    mean = x.mean(-1, keepdims=True)
    y = (x - mean) * rstd * weight
    return y if bias is None else y + bias, LayerNormSaved(x, weight, mean[..., 0], rstd[..., 0], bias is not None)


@mistaken(
    "norm-eps-outside-root",
    "layer_norm",
    layer_norm_forward,
    wrong="eps is added to the standard deviation instead of the variance.",
    term="rstd = 1/√(var + eps): eps stands outside the root",
    hint="Look at a row whose variance is as small as eps: √(var + eps) and √var + eps differ most there.",
    answer="rstd = (variance + eps) ** -0.5",
)
def norm_eps_outside_root(x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5) -> Output:
    return scaled(x, weight, bias, 1.0 / (x.std(-1, keepdims=True) + eps))


@mistaken(
    "norm-unbiased-variance",
    "layer_norm",
    layer_norm_forward,
    wrong="The variance is divided by C − 1.",
    term="var(x) = Σ (x − mean)²/C is divided by C − 1",
    hint="Layer norm does not estimate the variance of a population from a sample. By which number does it divide?",
    answer="variance = ((x - mean) ** 2).mean(-1, keepdims=True)",
)
def norm_unbiased_variance(x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5) -> Output:
    variance = ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1, keepdims=True) / max(1, x.shape[-1] - 1)
    return scaled(x, weight, bias, (variance + eps) ** -0.5)


@mistaken(
    "norm-gradient-without-mean",
    "layer_norm",
    layer_norm_backward,
    wrong="The gradient of x lacks the part that comes through the mean.",
    term="the term −mean(dx̂) in dx is missing",
    hint="x appears three times in the formula: itself, in the mean, and in the variance. Add 1 to all of x: y stays "
    "the same, so the sum of dx over a row is zero. Is yours?",
    answer="dx = rstd * (dxhat - dxhat.mean(-1) - xhat * (dxhat * xhat).mean(-1)), with keepdims=True",
)
def norm_gradient_without_mean(dy: Array, saved: LayerNormSaved) -> Gradients:
    (xhat, rstd), (_, dweight, dbias) = normalized(saved), right_backward(dy, saved)
    dxhat = dy * saved.weight
    return rstd * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdims=True)), dweight, dbias


@mistaken(
    "norm-gradient-without-variance",
    "layer_norm",
    layer_norm_backward,
    wrong="The gradient of x lacks the part that comes through the variance.",
    term="the term −x̂ · mean(dx̂ · x̂) in dx is missing",
    hint="Multiply all of x by 2: y stays almost the same, so dx is orthogonal to x̂ in every row. Is yours?",
    answer="dx = rstd * (dxhat - dxhat.mean(-1) - xhat * (dxhat * xhat).mean(-1)), with keepdims=True",
)
def norm_gradient_without_variance(dy: Array, saved: LayerNormSaved) -> Gradients:
    (_, rstd), (_, dweight, dbias) = normalized(saved), right_backward(dy, saved)
    dxhat = dy * saved.weight
    return rstd * (dxhat - dxhat.mean(-1, keepdims=True)), dweight, dbias


@mistaken(
    "norm-weight-outside-means",
    "layer_norm",
    layer_norm_backward,
    wrong="The weight multiplies the result of the two means instead of standing inside them.",
    term="dx̂ = dy · weight: the weight stands outside the means",
    hint="The weight differs from column to column, so it cannot be taken out of a mean over the columns.",
    answer="dxhat = dy * weight comes first, and the means are means of dxhat",
)
def norm_weight_outside_means(dy: Array, saved: LayerNormSaved) -> Gradients:
    (xhat, rstd), (_, dweight, dbias) = normalized(saved), right_backward(dy, saved)
    dx = rstd * (dy - dy.mean(-1, keepdims=True) - xhat * (dy * xhat).mean(-1, keepdims=True))
    return dx * saved.weight, dweight, dbias


@mistaken(
    "norm-weight-gradient-of-x",
    "layer_norm",
    layer_norm_backward,
    wrong="The gradient of the weight uses x instead of the normalized x̂.",
    term="dweight = Σ_rows dy · x̂ has x in place of x̂",
    hint="The gradient of a factor is dy times the other factor. What was the weight multiplied by?",
    answer="dweight = (dy * xhat).reshape(-1, C).sum(0)",
)
def norm_weight_gradient_of_x(dy: Array, saved: LayerNormSaved) -> Gradients:
    dx, _, dbias = right_backward(dy, saved)
    return dx, (dy * saved.x).reshape(-1, dy.shape[-1]).sum(0), dbias
