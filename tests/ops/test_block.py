"""A step through a stack of blocks: the modules' own composition, and what it leaves in keys and values."""

from typing import Any, get_args

import numpy as np
import pytest
from block_helpers import drawn

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.nn import PostNormBlock, PreNormBlock
from compyute_transformer.nn.attention import MultiHeadAttention
from compyute_transformer.nn.dropout import Dropout
from compyute_transformer.nn.feed_forward import Activation, FeedForward
from compyute_transformer.nn.norm import LayerNorm
from compyute_transformer.ops import Mask
from compyute_transformer.ops.block import BlockWeights, blocks_step

C, K = 12, 2
SEEN = np.random.default_rng(4).random((2, 4, 7, 7)) < 0.7
SEEN[..., 0] = True
MASKS = {
    "all": Mask(),
    "causal": Mask(causal=True),
    "window": Mask(causal=True, window=2),
    "lengths": Mask(key_lengths=np.array([7, 4])),
    "array": Mask(causal=True, array=SEEN),
}


def as_module(weights: BlockWeights, given: dict[str, Any]) -> PreNormBlock | PostNormBlock:
    """A block of modules with these weights."""
    F, H = len(weights.up_weight), given["num_heads"]
    bias, kind = weights.up_bias is not None, PreNormBlock if given.get("norm_first", True) else PostNormBlock
    first, last = (LayerNorm(C, norm.eps, bias=bias) for norm in (weights.attention_norm, weights.feed_forward_norm))
    attention = MultiHeadAttention(C, H, K, bias=bias, implementation="parallel")
    feed_forward = FeedForward(C, F, bias=bias, activation=given.get("activation", "gelu_tanh"))
    parts = (
        (first, attention, Dropout(0.5), last, feed_forward, Dropout(0.5))
        if kind is PreNormBlock
        else (attention, Dropout(0.5), first, feed_forward, Dropout(0.5), last)
    )
    module = kind(*parts).to(dtype=np.float64).eval()  # type: ignore[arg-type]
    state = {
        "attention_norm.weight": weights.attention_norm.weight,
        "attention_norm.bias": weights.attention_norm.bias,
        "attention.in_weight": weights.in_weight,
        "attention.in_bias": weights.in_bias,
        "attention.out_weight": weights.out_weight,
        "attention.out_bias": weights.out_bias,
        "feed_forward_norm.weight": weights.feed_forward_norm.weight,
        "feed_forward_norm.bias": weights.feed_forward_norm.bias,
        "feed_forward.up.weight": weights.up_weight,
        "feed_forward.up.bias": weights.up_bias,
        "feed_forward.down.weight": weights.down_weight,
        "feed_forward.down.bias": weights.down_bias,
    }
    module.load_state_dict({name: array for name, array in state.items() if array is not None})
    return module


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_what_the_modules_are(mask: Mask, bias: bool, activation: Activation, norm_first: bool) -> None:
    # heads that are together as wide as the stream, as the module has them
    given = drawn(T=7, D=3, mask=mask, bias=bias, activation=activation, norm_first=norm_first)
    y, expected = blocks_step(**given), given["x"]
    for weights in given["weights"]:
        expected = as_module(weights, given)(expected, mask)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("mask", [mask for mask in MASKS.values() if mask.causal], ids=str)
def test_in_two_parts_it_is_what_it_is_at_once(mask: Mask, norm_first: bool) -> None:
    given = drawn(T=7, mask=mask, norm_first=norm_first)
    whole, kept = blocks_step(**given), [np.copy(x) for x in (*given["keys"], *given["values"])]
    for x in (*given["keys"], *given["values"]):
        x[...] = np.nan  # what is not written must not be read
    for start, end in ((0, 4), (4, 6), (6, 7)):
        held = {name: [x[:, :, :end] for x in given[name]] for name in ("keys", "values")}
        part = mask if mask.array is None else mask._replace(array=mask.array[:, :, start:end, :end])
        y = blocks_step(**{**given, **held, "x": given["x"][:, start:end], "mask": part})
        np.testing.assert_allclose(y, whole[:, start:end], rtol=1e-11, atol=1e-13)
    for now, then in zip((*given["keys"], *given["values"]), kept, strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-11, atol=1e-13)


def test_only_the_end_of_keys_and_values_is_written_and_nothing_else() -> None:
    given = drawn()
    before = [np.copy(x) for x in (given["x"], *given["keys"], *given["values"])]
    blocks_step(**given)
    x, *after = (given["x"], *given["keys"], *given["values"])
    np.testing.assert_array_equal(x, before[0])
    for now, then in zip(after, before[1:], strict=True):
        np.testing.assert_array_equal(now[:, :, :-3], then[:, :, :-3])
        assert (now[:, :, -3:] != then[:, :, -3:]).all()


def without(given: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The arguments with some fields of the last block's weights changed."""
    return {**given, "weights": [*given["weights"][:-1], given["weights"][-1]._replace(**changed)]}


@pytest.mark.usefixtures("validation_only")
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_what_does_not_fit_is_refused(kernels: Any) -> None:
    given = drawn(dtype=np.float32)
    k, v, w = given["keys"], given["values"], given["weights"][-1]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({**given, "x": given["x"][0]}, ShapeError, "x must have shape"),
        ({**given, "keys": k[:2]}, ShapeError, "got 3 weights, 2 keys and 3 values"),
        ({**given, "weights": [], "keys": [], "values": []}, ShapeError, "there is at least one block, got 0"),
        ({**given, "keys": [x[:1] for x in k]}, ShapeError, "keys must have shape"),
        ({**given, "values": [*v[:2], v[2][:, :, 1:]]}, ShapeError, "values must have shape"),
        ({**given, "keys": [x[:, :, :2] for x in k], "values": [x[:, :, :2] for x in v]}, RangeError, "got 3 and 2"),
        ({**given, "x": given["x"][:, :0]}, RangeError, "at least one position"),
        ({**given, "num_heads": 3}, ShapeError, "num_kv_heads must divide num_heads"),
        (drawn(H=3, K=2, dtype=np.float32), ShapeError, "num_kv_heads must divide num_heads"),
        ({**given, "num_heads": 0}, RangeError, "num_heads is a whole number of at least 1"),
        ({**given, "num_heads": 6}, ShapeError, "in_weight must have shape"),
        ({**given, "activation": "swish"}, RangeError, "gelu_tanh, gelu, relu, got 'swish'"),
        ({**given, "mask": Mask(window=0)}, RangeError, "mask.window is a whole number of at least 1"),
        ({**given, "mask": Mask(array=np.ones((3, 6), bool))}, ShapeError, "mask.array must have shape"),
        ({**given, "num_heads": 4.0}, RangeError, "num_heads is a whole number"),
        (without(given, in_weight=None), ShapeError, "only biases may be None, got None as in_weight"),
        (without(given, up_weight=None), ShapeError, "only biases may be None, got None as up_weight"),
        (without(given, down_weight=None), ShapeError, "only biases may be None, got None as down_weight"),
        (
            without(given, feed_forward_norm=w.feed_forward_norm._replace(weight=None)),
            ShapeError,
            "got None as feed_forward_norm.weight",
        ),
        (without(given, up_bias=w.up_bias[1:]), ShapeError, "up_bias must have shape"),
        (without(given, down_weight=w.down_weight[:, 1:]), ShapeError, "down_weight must have shape"),
        (without(given, out_weight=w.out_weight.T), ShapeError, "out_weight must have shape"),
        (without(given, attention_norm=w.feed_forward_norm._replace(weight=w.up_bias)), ShapeError, "attention_norm"),
        (without(given, in_bias=w.in_bias.astype(np.float64)), DtypeError, "in_bias: float64"),
        ({**given, "keys": [*k[:2], k[2].astype(np.float64)]}, DtypeError, "keys: float64"),
        ({**given, "x": given["x"].astype(np.float64)}, DtypeError, "x: float64"),
    ]
    for arguments, kind, message in wrong:
        before = [np.copy(x) for x in (*k, *v)]
        with use_kernels(kernels), pytest.raises(kind, match=message):
            blocks_step(**arguments)
        for now, then in zip((*k, *v), before, strict=True):
            np.testing.assert_array_equal(now, then, err_msg=message)
