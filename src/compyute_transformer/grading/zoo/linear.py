"""Linear: mistakes in the two matrix products and the sum over rows of its backward."""

from ...arrays import Array
from ...ops.linear import LinearSaved, linear_backward
from .record import mistaken

__all__: list[str] = []

Gradients = tuple[Array, Array | None, Array | None]

right_backward = linear_backward.reference


@mistaken(
    "transposed-weight-gradient",
    "linear",
    linear_backward,
    wrong="The gradient of the weight is xᵀ dy, which has the shape of the transposed weight.",
    term="dW = dyᵀ x is transposed",
    hint="A gradient has the shape of what it belongs to: W is (outputs, inputs). A square W hides this mistake.",
    answer="dweight = dy_rows.T @ x_rows",
)
def transposed_weight_gradient(dy: Array, saved: LinearSaved) -> Gradients:
    dx, dweight, dbias = right_backward(dy, saved)
    return dx, None if dweight is None else dweight.T, dbias


@mistaken(
    "weight-gradient-without-batch-sum",
    "linear",
    linear_backward,
    wrong="The gradient of the weight is that of the last element of the batch, not the sum over all.",
    term="the sum over the batch in dW = Σ_b dy_bᵀ x_b is missing",
    hint="Every element of the batch used the same weight. What follows for the gradient of something used many times?",
    answer="dweight = dy.reshape(-1, O).T @ x.reshape(-1, I), over all rows of all elements at once",
)
def weight_gradient_without_batch_sum(dy: Array, saved: LinearSaved) -> Gradients:
    x = saved.x
    dx, _, dbias = right_backward(dy, saved)
    if dy.ndim < 2:
        return dx, dy[:, None] @ x[None, :], dbias
    last_dy, last_x = dy[-1].reshape(-1, dy.shape[-1]), x[-1].reshape(-1, x.shape[-1])
    return dx, last_dy.T @ last_x, dbias


@mistaken(
    "bias-gradient-averaged",
    "linear",
    linear_backward,
    wrong="The gradient of the bias is the mean over the rows, not their sum.",
    term="db = Σ_rows dy is divided by the number of rows",
    hint="The bias was added to every row. The mean belongs to the loss, where it is taken once, and nowhere else.",
    answer="dbias = dy.reshape(-1, O).sum(0)",
)
def bias_gradient_averaged(dy: Array, saved: LinearSaved) -> Gradients:
    dx, dweight, dbias = right_backward(dy, saved)
    rows = max(1, dy.size // dy.shape[-1])
    return dx, dweight, None if dbias is None else dbias / rows
