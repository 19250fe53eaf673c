"""Multi-head attention built several ways on one set of weights: they must be one function."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import relative_error

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.attention import Mask
from compyute_transformer.ops.multi_head import IMPLEMENTATIONS, attention_weights
from compyute_transformer.verify.record import cast, cotangent
from compyute_transformer.verify.records.multi_head import multi_head_arguments
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.torch.base import dense_mask, import_torch

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)


def arguments(**options: Any) -> dict[str, Any]:
    """B = 2, T = 5, C = 12, H = 3, D = 4 unless told otherwise."""
    return multi_head_arguments(np.random.default_rng(0), **options)


def forward(name: str, inputs: dict[str, Any]) -> tuple[Any, Any]:
    return REGISTRY[f"{name}_multi_head"].forward(**inputs)


def gradients(name: str, dy: Any, saved: Any) -> dict[str, Any]:
    return REGISTRY[f"{name}_multi_head"].gradients(dy, saved)


# --- one function ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 6),
    S=st.none() | st.integers(1, 6),
    heads=st.sampled_from([(1, 1), (2, 1), (3, 3), (4, 2), (6, 3)]),
    D=st.integers(1, 4),
    C=st.integers(1, 7),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 4),
    dropout=st.sampled_from([0.0, 0.4]),
    biases=st.tuples(st.booleans(), st.booleans()),
)
def test_all_implementations_give_the_same_outputs_and_gradients(
    B: int,
    T: int,
    S: int | None,
    heads: tuple[int, int],
    D: int,
    C: int,
    causal: bool,
    window: int | None,
    dropout: float,
    biases: tuple[bool, bool],
) -> None:
    (H, K), (in_bias, out_bias), keys = heads, biases, T if S is None else S
    array = np.random.default_rng(1).random((B, H, T, keys)) < 0.8
    mask = Mask(causal, window, np.arange(B) % (keys + 1), array)
    inputs = arguments(
        B=B, T=T, S=S, C=C, H=H, K=K, D=D, in_bias=in_bias, out_bias=out_bias, mask=mask, dropout=dropout
    )
    results = []
    for name in IMPLEMENTATIONS:
        y, saved = forward(name, inputs)
        results.append({"y": y, "weights": attention_weights(saved)} | gradients(name, cotangent(y), saved))
    first = results[0]
    for other in results[1:]:
        for what, wanted in first.items():
            assert (wanted is None) == (other[what] is None)
            if wanted is not None:
                assert other[what].shape == wanted.shape
                largest = max(1.0, np.abs(wanted).max(initial=0.0))
                assert np.abs(other[what] - wanted).max(initial=0.0) <= 1e-12 * largest


@every_implementation
def test_self_attention_is_cross_attention_with_itself_as_the_memory(name: str) -> None:
    alone = arguments(mask=Mask(causal=True))
    both = alone | {"memory": alone["x"]}
    (y, saved), (cross_y, cross_saved) = forward(name, alone), forward(name, both)
    assert np.allclose(y, cross_y, rtol=1e-12, atol=1e-14)
    dx, dcross = gradients(name, cotangent(y), saved), gradients(name, cotangent(y), cross_saved)
    assert dx["memory"] is None
    assert np.allclose(dx["x"], dcross["x"] + dcross["memory"], rtol=1e-11, atol=1e-13)
    assert np.allclose(dx["in_weight"], dcross["in_weight"], rtol=1e-11, atol=1e-13)


# --- attention weights -----------------------------------------------------------------------------------------------


@every_implementation
def test_weights_are_returned_before_dropout_and_sum_to_one(name: str) -> None:
    _, saved = forward(name, arguments(mask=Mask(causal=True), dropout=0.5))
    weights = attention_weights(saved)
    assert weights.shape == (2, 3, 5, 5)
    assert np.abs(weights.sum(-1) - 1.0).max() < 1e-13
    assert not weights[..., ~np.tri(5, dtype=bool)].any()
    without = attention_weights(forward(name, arguments(mask=Mask(causal=True)))[1])
    assert np.allclose(weights, without, rtol=1e-13)


@every_implementation
def test_weights_are_those_of_pytorchs_module(name: str) -> None:
    torch = import_torch()
    inputs = arguments(S=7, mask=Mask(causal=True))
    module = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    names = {
        "in_proj_weight": "in_weight",
        "in_proj_bias": "in_bias",
        "out_proj.weight": "out_weight",
        "out_proj.bias": "out_bias",
    }
    module.load_state_dict({theirs: torch.from_numpy(inputs[ours]) for theirs, ours in names.items()})
    x, memory = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["memory"])
    mask = dense_mask(inputs["mask"], 5, 7, torch.float64)
    _, weights = module(x, memory, memory, attn_mask=mask, average_attn_weights=False)
    ours = attention_weights(forward(name, inputs)[1])
    assert relative_error(ours, weights.detach().numpy()) <= 1e-10


@every_implementation
def test_nothing_is_kept_between_forwards(name: str) -> None:
    """A list of weights that grows with every forward is a leak."""
    for _ in range(3):
        _, saved = forward(name, arguments())
        assert attention_weights(saved).shape == (2, 3, 5, 5)


# --- causality -------------------------------------------------------------------------------------------------------


@every_implementation
def test_a_later_token_cannot_change_an_earlier_output_by_a_bit(name: str) -> None:
    inputs = arguments(T=6, mask=Mask(causal=True))
    y, saved = forward(name, inputs)
    changed = inputs["x"].copy()
    changed[:, 4:] += 10.0
    y2, _ = forward(name, inputs | {"x": changed})
    assert np.array_equal(y2[:, :4], y[:, :4])
    assert not np.allclose(y2[:, 4:], y[:, 4:])
    dy = np.zeros_like(y)
    dy[:, 2] = 1.0
    dx = gradients(name, dy, saved)["x"]
    assert not dx[:, 3:].any()
    assert dx[:, :3].all()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("validation_only")
@every_implementation
@pytest.mark.parametrize("heads", [0, -3])
def test_numbers_of_heads_of_zero_and_less_are_refused(name: str, heads: int) -> None:
    with pytest.raises(RangeError, match=rf"multi_head_attention: num_heads is a whole number .*, got {heads}\."):
        forward(name, arguments() | {"num_heads": heads})
    with pytest.raises(RangeError, match=rf"multi_head_attention: num_kv_heads is a whole number .*, got {heads}\."):
        forward(name, arguments() | {"num_kv_heads": heads})


@pytest.mark.usefixtures("validation_only")
@every_implementation
def test_heads_that_do_not_divide_are_refused(name: str) -> None:
    with pytest.raises(
        ShapeError, match=r"num_heads must divide the width, got width 12 and 5 heads.*1, 2, 3, 4, 6, 12"
    ):
        forward(name, arguments() | {"num_heads": 5})
    with pytest.raises(ShapeError, match="num_kv_heads must divide num_heads, got 3 heads and 2"):
        forward(name, arguments() | {"num_kv_heads": 2})


@pytest.mark.usefixtures("validation_only")
@every_implementation
def test_inputs_of_four_axes_and_of_two_are_refused(name: str) -> None:
    x = np.zeros((2, 3, 5, 12))
    for wrong in (x, x[0, 0]):
        with pytest.raises(ShapeError, match=r"multi_head_attention: x must have shape \(any, any, any\), batch, time"):
            forward(name, arguments() | {"x": wrong})
        with pytest.raises(ShapeError, match=r"multi_head_attention: memory must have shape \(2, any, 12\)"):
            forward(name, arguments() | {"memory": wrong})


@pytest.mark.usefixtures("validation_only")
@every_implementation
def test_no_queries_and_no_keys_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ShapeError, match=r"there must be at least one query, got x of shape \(2, 0, 12\)"):
        forward(name, arguments() | {"x": np.zeros((2, 0, 12))})
    with pytest.raises(ShapeError, match="there must be at least one key"):
        forward(name, arguments() | {"memory": np.zeros((2, 0, 12))})


@pytest.mark.usefixtures("validation_only")
@every_implementation
@pytest.mark.parametrize("shape", [(5, 4), (1, 4, 5, 5), (1, 2, 5, 5), (3, 1, 5, 5), (5, 5, 1), (2, 5, 5)])
def test_a_mask_of_another_shape_is_refused_by_all(name: str, shape: tuple[int, ...]) -> None:
    """A mask of four heads for three must not lose its last head to a loop over heads."""
    with pytest.raises(ShapeError, match=r"mask\.array must have shape \(5, 5\) or \(2 or 1, 3 or 1, 5 or 1, 5 or 1\)"):
        forward(name, arguments(mask=Mask(array=np.ones(shape, bool))))


@pytest.mark.usefixtures("validation_only")
@every_implementation
def test_windows_and_probabilities_outside_their_range_are_refused(name: str) -> None:
    for window in (0, -2):
        with pytest.raises(RangeError, match=f"mask.window is a whole number of at least 1, got {window}"):
            forward(name, arguments(mask=Mask(window=window)))
    for probability in (-0.5, 1.0, 1.5):
        with pytest.raises(RangeError, match=rf"a dropout probability lies in \[0, 1\), got {probability}"):
            forward(name, arguments(dropout=probability))


@pytest.mark.usefixtures("validation_only")
@every_implementation
@pytest.mark.parametrize(
    ("argument", "shape"),
    [
        ("memory", (1, 7, 12)),
        ("memory", (2, 7, 11)),
        ("in_weight", (35, 12)),
        ("in_weight", (36, 1)),
        ("in_bias", (1,)),
        ("out_weight", (11, 12)),
        ("out_bias", (1,)),
    ],
)
def test_weights_of_another_shape_are_refused(name: str, argument: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=rf"multi_head_attention: {argument} must have shape"):
        forward(name, arguments(S=7) | {argument: np.zeros(shape)})


@pytest.mark.usefixtures("validation_only")
@every_implementation
def test_dtypes_that_differ_are_refused(name: str) -> None:
    for argument in ("x", "memory", "in_weight", "in_bias", "out_weight", "out_bias"):
        inputs = arguments(S=7)
        with pytest.raises(DtypeError, match=f"multi_head_attention: .*{argument}: float32"):
            forward(name, inputs | {argument: cast(inputs[argument], np.float32)})
