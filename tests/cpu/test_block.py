"""A step through all blocks in one kernel: the numbers of the reference, for every kind of block, mask and batch."""

from typing import Any, get_args

import numpy as np
import pytest
from block_helpers import drawn

from compyute_transformer.cpu.linear import FEW_ROWS
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops import Mask
from compyute_transformer.ops.activation import Activation
from compyute_transformer.ops.block import blocks_step
from compyute_transformer.ops.quantized import quantize
from compyute_transformer.precision import use_precision
from compyute_transformer.threads import set_threads, threads
from compyute_transformer.verify.result import relative_error
from compyute_transformer.verify.tolerances import limit

RNG = np.random.default_rng(1)
SEEN = RNG.random((2, 1, 3, 7)) < 0.5
SEEN[1, 0, 2] = False  # a query that sees no key
ADDED = np.where(SEEN, RNG.normal(size=(1, 4, 3, 7)), -np.inf).astype(np.float32)
MASKS = {
    "all": Mask(),
    "causal": Mask(causal=True),
    "window": Mask(causal=True, window=2),
    "lengths": Mask(key_lengths=np.array([7, 4])),
    "boolean": Mask(causal=True, array=SEEN),
    "added": Mask(array=ADDED),
}


def results(given: dict[str, Any]) -> list[Any]:
    """Return what the reference and the kernel give, each with keys and values of its own, and what they wrote."""
    found, x = [], given["x"].copy()
    for which in ("reference", "cpu"):
        held = {name: [x.copy() for x in given[name]] for name in ("keys", "values")}
        with use_kernels(which):  # or an error
            found.append((blocks_step(**{**given, **held}), *held["keys"], *held["values"]))
        np.testing.assert_array_equal(given["x"], x)
    return found


def check(given: dict[str, Any]) -> None:
    """The kernel and the reference agree in y and in what they wrote."""
    for expected, got in zip(*results(given), strict=True):
        assert not float(relative_error(got, expected)) > limit("kernel", np.float32)
        assert np.isfinite(got).all()
        assert got.dtype == np.float32


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_kind_of_block_equals_the_reference(
    mask: Mask, bias: bool, activation: Activation, norm_first: bool
) -> None:
    check(drawn(mask=mask, bias=bias, activation=activation, norm_first=norm_first, dtype=np.float32))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kind", [None, "bfloat16", "int8"])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (2, 3), (3, 5)])
def test_in_bfloat16_it_rounds_what_the_reference_rounds(B: int, T: int, kind: Any, norm_first: bool) -> None:
    """In most draws: where one of the two rounds a number up and the other down, the rest of a draw differs."""
    errors, matrices = [], ("in_weight", "out_weight", "up_weight", "down_weight")
    for seed in range(5):
        shape: dict[str, Any] = {"B": B, "T": T, "H": 4, "K": 2, "D": 16, "C": 32, "F": 96, "blocks": 2}
        given = drawn(**shape, norm_first=norm_first, dtype=np.float32, seed=seed)
        if kind is not None:
            given["weights"] = [
                w._replace(**{name: quantize(getattr(w, name), kind) for name in matrices}) for w in given["weights"]
            ]
        with use_precision("bfloat16"):
            expected, got = results(given)
        errors.append(float(relative_error(got[0], expected[0])))
        assert float(relative_error(results(given)[1][0], expected[0])) > 1e-3  # in float32
    assert np.median(errors) <= limit("kernel", np.float32)
    assert max(errors) < 1e-2


@pytest.mark.parametrize(("B", "T"), [(1, 1), (5, 1), (1, 5), (3, 4), (FEW_ROWS, 1), (1, FEW_ROWS), (4, 4)])
@pytest.mark.parametrize(("H", "K"), [(4, 4), (6, 3), (5, 1), (1, 1)])
@pytest.mark.parametrize("S", [16, 65])
def test_rows_heads_and_lengths(B: int, T: int, H: int, K: int, S: int) -> None:
    check(drawn(B=B, T=T, S=S, H=H, K=K, D=3, C=17, F=31, blocks=2, dtype=np.float32, seed=S))


def test_wide_blocks_on_all_threads() -> None:
    check(drawn(B=1, T=1, S=70, H=8, K=4, D=64, C=512, F=2048, blocks=2, dtype=np.float32))


@pytest.mark.parametrize("B", [1, 3, 4, 7])
def test_the_threads_do_not_change_a_bit(B: int) -> None:
    given, before, found = drawn(B=B, T=1, H=8, K=4, D=63, C=501, F=1999, dtype=np.float32), threads(), []
    try:
        for count in (1, before):
            set_threads(count, override=True)
            with use_kernels("cpu"):
                found.append(blocks_step(**given))
    finally:
        set_threads(before, override=True)
    np.testing.assert_array_equal(*found)


def test_what_is_not_finite_stays_so_in_its_own_row() -> None:
    given = drawn(B=4, T=1, activation="relu", dtype=np.float32)
    given["x"][1, 0, 3], given["x"][2, 0, 0] = np.nan, np.inf
    with use_kernels("cpu"), np.errstate(invalid="ignore"):
        y = blocks_step(**given)
    assert np.isfinite(y[[0, 3]]).all()
    assert np.isnan(y[[1, 2]]).all()


def test_what_it_does_not_serve_is_left_to_the_reference() -> None:
    plain = drawn(dtype=np.float32)
    many, none = drawn(B=1, T=FEW_ROWS + 1, S=FEW_ROWS + 1, dtype=np.float32), drawn()
    turned = {**plain, "weights": [w._replace(up_weight=np.asfortranarray(w.up_weight)) for w in plain["weights"]]}
    w = drawn(F=23, dtype=np.float32)["weights"][0]
    unlike = {**plain, "weights": [w, *plain["weights"][1:]]}
    fixed = [x.copy() for x in plain["values"]]
    for x in fixed:
        x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        blocks_step(**{**plain, "keys": [x.copy() for x in plain["keys"]], "values": fixed})
    other_steps = {**plain, "keys": [*plain["keys"][:2], plain["keys"][2].copy()]}
    assert blocks_step.kernel_of(*plain.values()) is not None
    for given in (many, none, turned, unlike, other_steps):
        assert blocks_step.kernel_of(*given.values()) is None
        y = blocks_step(**given)
        with use_kernels("reference"):
            expected = blocks_step(**given)
        assert not float(relative_error(y, expected)) > limit("kernel", np.float32)
