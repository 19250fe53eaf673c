"""y = scale · x aᵀ bᵀ."""

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.lora import lora, lora_backward, lora_forward

RNG = np.random.default_rng(0)
X, A, B = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(2, 5)), RNG.normal(size=(4, 2))


def test_it_is_the_product_with_the_matrix_of_both_factors() -> None:
    assert np.allclose(lora(X, A, B, 1.5), X @ (1.5 * B @ A).T, rtol=1e-13)
    assert np.allclose(lora(X, A, B), X @ (B @ A).T, rtol=1e-13)


def test_while_b_is_zero_only_b_has_a_gradient() -> None:
    y, saved = lora_forward(X, A, np.zeros((4, 2)), 1.5)
    dx, da, db = lora_backward(RNG.normal(size=y.shape), saved)
    assert not y.any()
    assert not dx.any()
    assert not da.any()
    assert db.all()


@pytest.mark.usefixtures("validation_only")
def test_wrong_shapes_dtypes_and_scales_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"lora: a must have shape \(any, 5\), .* got \(5, 2\)"):
        lora(X, A.T, B)
    with pytest.raises(ShapeError, match=r"lora: b must have shape \(any, 2\), .* got \(2, 4\)"):
        lora(X, A, B.T)
    with pytest.raises(DtypeError, match=r"lora: .*b: float32"):
        lora(X, A, B.astype(np.float32))
    with pytest.raises(RangeError, match=r"lora: scale lies in \[-1e\+06, 1e\+06\), got nan"):
        lora(X, A, B, float("nan"))
    y, saved = lora_forward(X, A, B)
    with pytest.raises(ShapeError, match=r"lora_backward: dy must have shape \(2, 3, 4\)"):
        lora_backward(y[:1], saved)
