"""Gradients that lie side by side are seen as the one array that they are, and nothing else is."""

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.cpu.multi_head import side_by_side
from compyute_transformer.ops.attention import fused_attention_backward, fused_attention_forward
from compyute_transformer.ops.multi_head import split_heads

B, T, D = 2, 5, 4


def parts_of(whole: Array, *heads: int) -> tuple[Array, ...]:
    """Views of the columns of (B, T, W), as heads of width D."""
    ends = np.cumsum(heads) * D
    return tuple(split_heads(part, D) for part in np.split(whole, ends[:-1], axis=-1))


def whole(*heads: int) -> Array:
    return np.random.default_rng(0).normal(size=(B, T, sum(heads) * D)).astype(np.float32)


@pytest.mark.parametrize("heads", [(3, 3, 3), (6, 2, 2), (1, 1), (2, 1, 1)])
def test_columns_in_order_are_the_array(heads: tuple[int, ...]) -> None:
    packed = whole(*heads)
    joined = side_by_side(*parts_of(packed, *heads))
    assert joined is not None
    assert joined is packed
    np.testing.assert_array_equal(joined, packed)


def test_what_lies_in_an_array_of_another_shape_or_dtype_is_a_view_of_it() -> None:
    packed = whole(2, 1, 1)
    for memory in (packed.view(np.int32).copy(), packed.reshape(-1).copy(), np.concatenate([packed, packed])):
        around = memory[:B] if memory.ndim == 3 else memory
        viewed = around.view(np.float32).reshape(packed.shape)
        joined = side_by_side(*parts_of(viewed, 2, 1, 1))
        assert joined is not None
        assert joined.dtype == np.float32
        assert np.shares_memory(joined, viewed)
        np.testing.assert_array_equal(joined, packed)


def test_anything_else_is_not() -> None:
    packed = whole(3, 3, 3)
    q, k, v = parts_of(packed, 3, 3, 3)
    others = {
        "another order": (q, v, k),
        "not the whole of the rows": (k, v),
        "the first two": (q, k),
        "another array": (q, k, v.copy()),
        "float64": tuple(x.astype(np.float64) for x in (q, k, v)),
        "not all rows": (q[:, :, :3], k[:, :, :3], v[:, :, :3]),
        "fewer rows of one": (q, k, v[:, :, :3]),
        "narrower heads": (q[..., :2], k[..., :2], v[..., :2]),
        "backwards": parts_of(packed[:, ::-1], 3, 3, 3),
        "an array of its own": tuple(np.ones((1, 1, 1, 4), np.float32) for _ in range(2)),
    }
    for name, parts in others.items():
        assert side_by_side(*parts) is None, name


@pytest.mark.parametrize("S", [T, T + 2])
def test_gradients_of_fused_attention_lie_so_where_there_are_as_many_keys_as_queries(S: int) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, heads, n, D)).astype(np.float32) for heads, n in ((6, T), (2, S), (2, S)))
    y, saved = fused_attention_forward(q, k, v)
    assert (side_by_side(*fused_attention_backward(np.ones_like(y), saved)) is not None) == (S == T)
