"""Cross-entropy from logits."""

from math import log

import numpy as np
import pytest

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.loss import IGNORE_INDEX, cross_entropy, cross_entropy_backward, cross_entropy_forward

RNG = np.random.default_rng(0)
LOGITS, TARGETS = RNG.normal(size=(2, 3, 7)), RNG.integers(0, 7, (2, 3))


def test_no_opinion_costs_the_logarithm_of_the_vocabulary() -> None:
    assert np.isclose(cross_entropy(np.zeros((4, 65)), np.arange(4)), log(65), rtol=1e-14)


def test_the_loss_is_the_mean_nll_at_the_targets() -> None:
    rows = zip(LOGITS.reshape(-1, 7), TARGETS.reshape(-1), strict=True)
    surprises = [-log(np.exp(z[target]) / np.exp(z).sum()) for z, target in rows]
    assert np.isclose(cross_entropy(LOGITS, TARGETS), np.mean(surprises), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_of_100_is_reported_as_100(dtype: type) -> None:
    """A constant added inside the logarithm would cap it, at 18.42 for 1e-8."""
    logits = np.array([[100.0, 0.0]], dtype)
    loss, saved = cross_entropy_forward(logits, np.array([1]))
    assert loss == 100.0
    assert loss.dtype == dtype
    assert np.allclose(cross_entropy_backward(1.0, saved), [[1.0, -1.0]])


def test_logits_of_thousands_do_not_overflow() -> None:
    assert cross_entropy(np.array([[5000.0, -5000.0]], np.float32), np.array([0])) == 0.0


def test_ignored_rows_do_not_count() -> None:
    targets = TARGETS.copy()
    targets[0] = IGNORE_INDEX
    loss, saved = cross_entropy_forward(LOGITS, targets)
    assert np.isclose(loss, cross_entropy(LOGITS[1], TARGETS[1]), rtol=1e-14)
    dlogits = cross_entropy_backward(1.0, saved)
    assert not dlogits[0].any()
    assert dlogits[1].all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_to_score_gives_zero_and_zero_gradients(smoothing: float) -> None:
    loss, saved = cross_entropy_forward(LOGITS, np.full((2, 3), IGNORE_INDEX), label_smoothing=smoothing)
    assert loss == 0.0
    dlogits = cross_entropy_backward(1.0, saved)
    assert dlogits.shape == LOGITS.shape
    assert not dlogits.any()


def test_each_row_of_the_gradient_sums_to_zero() -> None:
    _, saved = cross_entropy_forward(LOGITS, TARGETS, label_smoothing=0.2)
    assert np.abs(cross_entropy_backward(1.0, saved).sum(-1)).max() < 1e-15


def test_the_gradient_scales_with_dloss_given_as_a_number_or_an_array() -> None:
    _, saved = cross_entropy_forward(LOGITS.astype(np.float32), TARGETS)
    for dloss in (3.0, np.array(3.0, np.float32), np.float32(3.0)):
        dlogits = cross_entropy_backward(dloss, saved)
        assert dlogits.dtype == np.float32
        assert np.allclose(dlogits, 3.0 * cross_entropy_backward(1.0, saved), rtol=1e-6)


@pytest.mark.parametrize("which", ["reference", "cpu"])
def test_the_gradient_may_be_written_over_the_logits(which: str) -> None:
    targets = TARGETS.copy()
    targets[0, 1] = IGNORE_INDEX
    with use_kernels(which):
        _, saved = cross_entropy_forward(LOGITS.astype(np.float32), targets, label_smoothing=0.1)
        logits = saved.logits.copy()
        dlogits = cross_entropy_backward(1.5, saved)
        assert np.array_equal(saved.logits, logits)
        over = cross_entropy_backward(1.5, saved, overwrite=True)
    assert np.shares_memory(over, saved.logits)
    assert np.array_equal(over, dlogits)


def test_logits_that_may_only_be_read_are_left_alone() -> None:
    logits = LOGITS.astype(np.float32)
    logits.flags.writeable = False
    with use_kernels("cpu"):
        _, saved = cross_entropy_forward(logits, TARGETS)
        assert np.isfinite(cross_entropy_backward(1.0, saved)).all()
        dlogits = cross_entropy_backward(1.0, saved, overwrite=True)
    assert np.array_equal(logits, LOGITS.astype(np.float32))
    assert not np.shares_memory(dlogits, logits)
    with use_kernels("reference"):
        _, saved = cross_entropy_forward(logits, TARGETS)
        with pytest.raises(ValueError, match="read-only"):
            cross_entropy_backward(1.0, saved, overwrite=True)


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("target", [-1, 7])
def test_targets_outside_the_vocabulary_are_refused(target: int) -> None:
    with pytest.raises(RangeError, match=rf"cross_entropy: targets lie in \[0, 7\) \(or -100.*got {target} at \(1,\)"):
        cross_entropy(LOGITS[0], np.array([0, target, 1]))


@pytest.mark.usefixtures("validation_only")
def test_wrong_input_is_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"cross_entropy: targets must have shape \(2, 3\), one target a row of logits"
    ):
        cross_entropy(LOGITS, TARGETS[0])  # which would broadcast to a meaningless loss
    with pytest.raises(ShapeError, match="cross_entropy: logits must have a last axis that is not empty"):
        cross_entropy(np.zeros((2, 0)), np.zeros(2, np.int64))
    with pytest.raises(ShapeError, match="cross_entropy: logits must have a last axis"):
        cross_entropy(np.array(1.0), np.array(0))
    with pytest.raises(DtypeError, match="cross_entropy: targets are integers, got float64"):
        cross_entropy(LOGITS, TARGETS.astype(np.float64))
    with pytest.raises(DtypeError, match=r"cross_entropy: .* got logits: int64"):
        cross_entropy(LOGITS.astype(np.int64), TARGETS)
    for smoothing in (-0.1, 1.0, float("nan")):
        with pytest.raises(RangeError, match=rf"cross_entropy: label_smoothing lies in \[0, 1\), got {smoothing}"):
            cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing)
