"""Every query looks at the keys it may see."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.attention import (
    NO_MASK,
    Mask,
    attention,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
    fused_attention_weights,
)
from compyute_transformer.random import DROPOUT, RandomKey

RNG = np.random.default_rng(0)
DRAW = RandomKey(7, DROPOUT, 0)


def inputs(B: int = 2, H: int = 3, T: int = 5, S: int = 7, D: int = 4, K: int | None = None) -> tuple[Any, Any, Any]:
    K = H if K is None else K
    return RNG.normal(size=(B, H, T, D)), RNG.normal(size=(B, K, S, D)), RNG.normal(size=(B, K, S, D))


def weights_of(q: Any, k: Any, v: Any, mask: Mask = NO_MASK, **options: Any) -> np.ndarray:
    return attention_forward(q, k, v, mask, **options)[1].weights


def seen(mask: Mask, T: int, S: int) -> np.ndarray:
    """Where a mask lets a query see a key, of one row and head, as integers to read."""
    return (weights_of(*inputs(1, 1, T, S), mask)[0, 0] > 0).astype(int)


# --- what a mask means -----------------------------------------------------------------------------------------------


def test_without_a_mask_every_key_is_seen() -> None:
    q, k, v = inputs()
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(4)
    wanted = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    y, saved = attention_forward(q, k, v)
    assert np.allclose(saved.weights, wanted, rtol=1e-13)
    assert np.allclose(y, np.einsum("bhts,bhsd->bhtd", wanted, v), rtol=1e-13)


def test_causal_sees_up_to_its_own_position() -> None:
    assert np.array_equal(seen(Mask(causal=True), 3, 3), [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_queries_are_the_last_of_the_positions() -> None:
    assert np.array_equal(seen(Mask(causal=True), 2, 4), [[1, 1, 1, 0], [1, 1, 1, 1]])
    assert np.array_equal(seen(Mask(causal=True), 3, 2), [[0, 0], [1, 0], [1, 1]])


def test_a_causal_window_counts_its_own_position() -> None:
    assert np.array_equal(seen(Mask(causal=True, window=2), 3, 3), [[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert np.array_equal(seen(Mask(causal=True, window=1), 3, 3), np.eye(3))
    assert np.array_equal(seen(Mask(causal=True, window=9), 3, 3), np.tri(3))


def test_a_window_alone_reaches_both_ways() -> None:
    assert np.array_equal(seen(Mask(window=2), 3, 4), [[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]])


def test_everything_a_mask_says_holds() -> None:
    array = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], bool)
    mask = Mask(causal=True, window=3, key_lengths=np.array([3]), array=array)
    assert np.array_equal(seen(mask, 3, 4), [[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]])


def test_flags_equal_the_boolean_array_they_stand_for() -> None:
    q, k, v = inputs(T=6, S=6)
    dense = np.tri(6, dtype=bool) & ~np.tri(6, k=-3, dtype=bool)
    assert np.array_equal(attention(q, k, v, Mask(causal=True, window=3)), attention(q, k, v, Mask(array=dense)))


# --- bugs that stay out ----------------------------------------------------------------------------------------------


def test_a_boolean_mask_is_not_added_as_0_and_1() -> None:
    q, k, v = inputs()
    mask = Mask(array=np.arange(35).reshape(5, 7) % 3 > 0)
    weights = weights_of(q, k, v, mask)
    assert not weights[..., ~mask.array].any()
    hidden = Mask(array=np.where(mask.array, 0.0, -np.inf))
    assert np.array_equal(weights, weights_of(q, k, v, hidden))


@pytest.mark.parametrize(
    "mask",
    [
        Mask(key_lengths=np.array([0, 7])),
        Mask(array=np.arange(2).reshape(2, 1, 1, 1) > 0),
        Mask(array=np.where(np.arange(2).reshape(2, 1, 1, 1) > 0, 0.0, -np.inf)),
    ],
    ids=["key lengths", "boolean", "added"],
)
@pytest.mark.parametrize(
    ("forward", "backward"),
    [(attention_forward, attention_backward), (fused_attention_forward, fused_attention_backward)],
    ids=["attention", "fused_attention"],
)
def test_a_query_that_sees_no_key_gives_zeros_and_zero_gradients(mask: Mask, forward: Any, backward: Any) -> None:
    q, k, v = inputs()
    y, saved = forward(q, k, v, mask)
    gradients = backward(RNG.normal(size=y.shape), saved)
    for array in (y, *gradients):
        assert not array[0].any()
        assert array[1].all()


def test_causal_queries_before_the_first_key_give_zeros() -> None:
    q, k, v = inputs(T=7, S=5)
    y, saved = attention_forward(q, k, v, Mask(causal=True))
    dq, _, _ = attention_backward(y, saved)
    assert not y[:, :, :2].any()
    assert not dq[:, :, :2].any()
    assert y[:, :, 2:].all()


def test_one_query_respects_the_mask() -> None:
    q, k, v = inputs(T=1)
    for mask in (
        Mask(array=np.arange(7) < 4 * np.ones((1, 1))),
        Mask(array=np.where(np.arange(7) < 4, 0.0, -np.inf)[None]),
        Mask(key_lengths=np.array([4, 4])),
    ):
        assert np.array_equal(weights_of(q, k, v, mask)[..., 4:], np.zeros((2, 3, 1, 3)))
        assert np.allclose(attention(q, k, v, mask), attention(q, k[:, :, :4], v[:, :, :4]), rtol=1e-13)
    windowed = attention(q, k, v, Mask(causal=True, window=3))
    assert np.allclose(windowed, attention(q, k[:, :, 4:], v[:, :, 4:]), rtol=1e-13)


def test_one_query_against_many_keys_is_the_last_row_of_all_queries() -> None:
    q, k, v = inputs(T=7, S=7)
    for mask in (Mask(causal=True), Mask(causal=True, window=3), Mask(causal=True, key_lengths=np.array([7, 3]))):
        whole = attention(q, k, v, mask)
        for t in range(7):
            now = t + 1
            lengths = None if mask.key_lengths is None else np.minimum(mask.key_lengths, now)
            step = attention(q[:, :, t:now], k[:, :, :now], v[:, :, :now], mask._replace(key_lengths=lengths))
            assert np.allclose(step[:, :, 0], whole[:, :, t], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("T", "S"), [(3, 7), (7, 3)])
def test_masks_of_cross_lengths_serve(T: int, S: int) -> None:
    array = RNG.random((T, S)) < 0.5
    for mask in (Mask(causal=True), Mask(array=array), Mask(array=np.where(array, 0.0, -np.inf))):
        y, saved = attention_forward(*inputs(T=T, S=S), mask)
        assert y.shape == (2, 3, T, 4)
        assert np.isfinite(y).all()
        assert saved.weights.shape == (2, 3, T, S)


@pytest.mark.parametrize("kind", ["boolean", "added"])
def test_masks_of_each_row_keep_their_batch_axis(kind: str) -> None:
    B, T = 8, 5
    q, k, v = inputs(B=B, T=T, S=T)
    array = RNG.random((B, 1, T, T)) < 0.5
    array = array if kind == "boolean" else np.where(array, RNG.normal(size=array.shape), -np.inf)
    together = attention(q, k, v, Mask(array=array))
    for b in range(B):
        alone = attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], Mask(array=array[b : b + 1]))
        assert np.allclose(together[b], alone[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("window", [0, -3])
@pytest.mark.parametrize("causal", [False, True])
def test_windows_of_zero_and_less_are_refused(window: int, causal: bool) -> None:
    with pytest.raises(RangeError, match=rf"mask.window .* of at least 1, got {window}\. .* Use None for no window"):
        attention(*inputs(), Mask(causal=causal, window=window))


@pytest.mark.parametrize("probability", [-0.5, 1.0, 1.5])
def test_dropout_of_minus_half_and_of_one_and_more_is_refused(probability: float) -> None:
    with pytest.raises(RangeError, match=rf"attention: a dropout probability lies in \[0, 1\), got {probability}"):
        attention(*inputs(), dropout=probability, key=DRAW)


def test_dropout_without_a_draw_is_refused() -> None:
    with pytest.raises(RangeError, match=r"attention: dropout 0\.1 needs a key.*Generator"):
        attention(*inputs(), dropout=0.1)


def test_weights_are_kept_from_before_dropout() -> None:
    q, k, v = inputs()
    weights = weights_of(q, k, v, Mask(causal=True), dropout=0.5, key=DRAW)
    assert np.abs(weights.sum(-1) - 1.0).max() < 1e-14
    assert np.array_equal(weights, weights_of(q, k, v, Mask(causal=True)))
    assert not np.allclose(attention(q, k, v, dropout=0.5, key=DRAW), attention(q, k, v))


def test_a_later_token_cannot_change_an_earlier_output_by_a_bit() -> None:
    q, k, v = inputs(T=6, S=6)
    y, saved = attention_forward(q, k, v, Mask(causal=True))
    for changed in (3, 5):
        k2, v2 = k.copy(), v.copy()
        k2[:, :, changed] += 100.0
        v2[:, :, changed] -= 100.0
        y2 = attention(q, k2, v2, Mask(causal=True))
        assert np.array_equal(y2[:, :, :changed], y[:, :, :changed])
        assert not np.allclose(y2[:, :, changed:], y[:, :, changed:])
    dy = np.zeros_like(y)
    dy[:, :, 2] = 1.0
    _, dk, dv = attention_backward(dy, saved)
    assert not dk[:, :, 3:].any()
    assert not dv[:, :, 3:].any()
    assert dv[:, :, :3].all()


@pytest.mark.parametrize(
    "mask",
    [
        Mask(array=np.arange(7) != 3 * np.ones((5, 1))),
        Mask(array=np.where(np.arange(7) != 3, 0.5, -np.inf) * np.ones((5, 1))),
        Mask(array=(np.arange(7) != 3)[None, None, None]),
    ],
    ids=["boolean", "added", "broadcast"],
)
def test_a_hidden_key_has_exactly_zero_weight_and_gradient(mask: Mask) -> None:
    q, k, v = inputs()
    k[:, :, 3] *= 1000.0
    y, saved = attention_forward(q, k, v, mask, 0.3, DRAW)
    assert not saved.weights[..., 3].any()
    _, dk, dv = attention_backward(RNG.normal(size=y.shape), saved)
    assert not dk[:, :, 3].any()
    assert not dv[:, :, 3].any()
    others = [0, 1, 2, 4, 5, 6]
    assert dk[:, :, others].all()


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (x.astype(np.float32) for x in inputs())
    y, saved = attention_forward(q * 1e4, k, v)
    assert np.isfinite(y).all()
    assert all(np.isfinite(gradient).all() for gradient in attention_backward(y, saved))


# --- grouped heads, dropout and the fused form -----------------------------------------------------------------------


def test_grouped_heads_read_the_key_head_of_their_group() -> None:
    q, k, v = inputs(H=6, K=3)
    y, saved = attention_forward(q, k, v)
    wide, wide_saved = attention_forward(q, k.repeat(2, axis=1), v.repeat(2, axis=1))
    assert np.array_equal(y, wide)
    dy = RNG.normal(size=y.shape)
    _, dk, dv = attention_backward(dy, saved)
    _, wide_dk, wide_dv = attention_backward(dy, wide_saved)
    assert np.allclose(dk, wide_dk[:, 0::2] + wide_dk[:, 1::2], rtol=1e-12, atol=1e-15)
    assert np.allclose(dv, wide_dv[:, 0::2] + wide_dv[:, 1::2], rtol=1e-12, atol=1e-15)


def test_a_head_drawn_alone_drops_what_it_drops_among_all() -> None:
    q, k, v = inputs()
    together = attention(q, k, v, dropout=0.5, key=DRAW)
    for h in range(3):
        part = slice(h, h + 1)
        alone = attention(q[:, part], k[:, part], v[:, part], NO_MASK, 0.5, DRAW.for_head(h))
        assert np.allclose(alone, together[:, part], rtol=1e-13)


def test_the_fused_form_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(H=6, K=3)
    mask = Mask(causal=True, key_lengths=np.array([7, 0]))
    y, saved = attention_forward(q, k, v, mask, 0.3, DRAW)
    fused_y, fused_saved = fused_attention_forward(q, k, v, mask, 0.3, DRAW)
    assert np.allclose(fused_y, y, rtol=1e-13)
    assert np.allclose(fused_attention_weights(fused_saved), saved.weights, rtol=1e-13)
    assert fused_saved.total.shape == (2, 6, 5)
    dy = RNG.normal(size=y.shape)
    for a, b in zip(fused_attention_backward(dy, fused_saved), attention_backward(dy, saved), strict=True):
        assert np.allclose(a, b, rtol=1e-11, atol=1e-14)


# --- a soft cap, and slopes ---


def test_a_soft_cap_keeps_scores_within_it_and_changes_small_ones_little() -> None:
    q, k, v = inputs()
    assert np.allclose(weights_of(q, k, v, Mask(soft_cap=1e5)), weights_of(q, k, v), rtol=1e-8)
    ratios = weights_of(1e4 * q, k, v, Mask(soft_cap=2.0))  # every score is −2 or 2
    assert np.allclose(np.sort(np.unique((ratios / ratios.max(-1, keepdims=True)).round(9))), [np.exp(-4).round(9), 1])


def test_a_soft_cap_comes_before_what_a_mask_adds() -> None:
    q, k, v = inputs(1, 1, 1, 2)
    weights = weights_of(q, k, v, Mask(array=np.array([[100.0, 0.0]]), soft_cap=1.0))
    assert weights[0, 0, 0, 1] < np.exp(-97)


def test_slopes_are_subtracted_for_each_position_between_query_and_key() -> None:
    q, k, v = np.zeros((1, 2, 2, 4)), np.zeros((1, 2, 3, 4)), np.ones((1, 2, 3, 4))
    weights = weights_of(q, k, v, Mask(slopes=np.array([1.0, 0.5])))
    wanted = np.exp([[[-1, 0, -1], [-2, -1, 0]], [[-0.5, 0, -0.5], [-1, -0.5, 0]]])  # queries stand at 1 and 2
    assert np.allclose(weights[0], wanted / wanted.sum(-1, keepdims=True), rtol=1e-13)


def test_each_head_alone_has_its_own_slope() -> None:
    mask = Mask(causal=True, slopes=np.array([1.0, 0.5]), array=np.ones((1, 2, 3, 3), bool))
    assert [mask.for_head(h).slopes.tolist() for h in range(2)] == [[1.0], [0.5]]
    assert mask.for_head(1).array.shape == (1, 1, 3, 3)


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize(
    ("mask", "words", "error"),
    [
        (Mask(soft_cap=0.0), r"mask.soft_cap lies in \[0.001, 1e\+06\), got 0.*Use None", RangeError),
        (Mask(soft_cap=np.nan), "mask.soft_cap lies in", RangeError),
        (Mask(slopes=np.ones(2)), r"mask.slopes must have shape \(3,\), one slope a head", ShapeError),
        (Mask(slopes=np.ones(3, int)), "mask.slopes are floats, got int64", DtypeError),
    ],
)
def test_wrong_caps_and_slopes_are_refused(mask: Mask, words: str, error: type) -> None:
    with pytest.raises(error, match=words):
        attention(*inputs(), mask)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("forward", [attention_forward, fused_attention_forward])
def test_wrong_shapes_and_dtypes_are_refused(forward: Any) -> None:
    q, k, v = inputs()
    with pytest.raises(ShapeError, match=r"attention: q must have shape \(any, any, any, any\), batch, heads"):
        forward(q[0], k, v)
    with pytest.raises(ShapeError, match=r"attention: k must have shape \(2, any, any, 4\), .* got \(1, 3, 7, 4\)"):
        forward(q, k[:1], v[:1])
    with pytest.raises(ShapeError, match=r"attention: v must have shape \(2, 3, 7, 4\), the shape of k"):
        forward(q, k, v[:, :, :1])
    with pytest.raises(ShapeError, match="attention: num_kv_heads must divide num_heads, got 3 heads and 2"):
        forward(q, k[:, :2], v[:, :2])
    with pytest.raises(RangeError, match="attention: num_kv_heads is a whole number of at least 1, got 0"):
        forward(q, k[:, :0], v[:, :0])
    with pytest.raises(ShapeError, match="attention: there must be at least one key, got none"):
        forward(q, k[:, :, :0], v[:, :, :0])
    with pytest.raises(ShapeError, match="attention: the width of all heads together is at least 1, got 0"):
        forward(q[..., :0], k[..., :0], v[..., :0])
    with pytest.raises(DtypeError, match=r"attention: .*q: float64, k: float32"):
        forward(q, k.astype(np.float32), v)


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("backward", [attention_backward, fused_attention_backward])
def test_a_wrong_dy_is_refused(backward: Any) -> None:
    forward = attention_forward if backward is attention_backward else fused_attention_forward
    y, saved = forward(*inputs())
    with pytest.raises(ShapeError, match=r"attention_backward: dy must have shape \(2, 3, 5, 4\), the shape of y"):
        backward(y[:, :1], saved)
    with pytest.raises(DtypeError, match="attention_backward: dy"):
        backward(y.astype(np.float32), saved)


@pytest.mark.parametrize("shape", [(7, 5), (1, 7), (7,), (2, 5, 7), (3, 1, 5, 7), (2, 2, 5, 7), (2, 3, 5, 1, 7)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"attention: mask\.array must have shape \(5, 7\) or \(2 or 1, 3 or 1"):
        attention(*inputs(), Mask(array=np.ones(shape, bool)))


def test_a_mask_of_integers_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"attention: mask\.array is boolean .* got int64.*astype\(bool\)"):
        attention(*inputs(), Mask(array=np.ones((5, 7), np.int64)))


def test_wrong_key_lengths_are_refused() -> None:
    for lengths in ([7, 8], [-1, 7]):
        with pytest.raises(RangeError, match=r"attention: mask\.key_lengths lie in \[0, 7\], the number of keys"):
            attention(*inputs(), Mask(key_lengths=np.array(lengths)))
    with pytest.raises(
        ShapeError, match=r"attention: mask\.key_lengths must have shape \(2,\), one length a batch row"
    ):
        attention(*inputs(), Mask(key_lengths=np.array([7])))
    with pytest.raises(DtypeError, match=r"attention: mask\.key_lengths are integers, got float64"):
        attention(*inputs(), Mask(key_lengths=np.array([7.0, 7.0])))
