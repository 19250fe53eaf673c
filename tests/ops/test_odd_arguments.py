"""Odd arguments: a kernel and its reference refuse the same calls with the same words, or compute the same."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.errors import CompyuteError
from compyute_transformer.ops.attention import Mask
from compyute_transformer.random import RandomKey
from compyute_transformer.verify.registry import REGISTRY, Op, cotangent

pytestmark = pytest.mark.usefixtures("validation_only")

X = np.ones((2, 3), np.float32)
NAN, HUGE = float("nan"), 1 << 64
ODD: list[Any] = [
    *(None, [1.0, 2.0], [[1, 2], [3, 4]], (), "no", 1, -1, 2.5, True, NAN, np.inf, HUGE, -HUGE, 1j, {}, object()),
    *(np.float32(1.0), np.int64(3), np.float64(NAN), np.bool_(True)),
    *(np.array(1.0, np.float32), np.zeros(0, np.float32), np.zeros((2, 0), np.float32), X, X.T, X.astype(np.float64)),
    *(X.astype(np.float16), X.astype(int), X.astype(bool), X.astype(complex), X.astype(object), np.array(["a"])),
    np.ma.masked_array(X, X > 0),
    *(Mask(causal="no"), Mask(window=2.5), Mask(window=NAN), Mask(window=0), Mask(window=True), Mask(window=HUGE)),  # type: ignore[arg-type]
    *(Mask(key_lengths=[1, 2]), Mask(key_lengths=np.array([1.0, 2.0])), Mask(array=[[True]]), Mask(array=X)),  # type: ignore[arg-type]
    *(
        RandomKey(HUGE, 1, 0),
        RandomKey(-1, 1, 0),
        RandomKey(0, 1, 1 << 32),
        RandomKey(0, 1 << 16, 0),
        RandomKey(0, 1, -1),
    ),
    *(RandomKey(1.5, 1, 0), RandomKey(0, 1, 0), (0, 1, 0, 0)),  # type: ignore[arg-type]
]


def outcome(call: Any, *args: Any) -> Any:
    with np.errstate(all="ignore"):
        try:
            return call(*args)
        except CompyuteError as error:
            return type(error), str(error)


def assert_same(mine: Any, theirs: Any, what: str) -> None:
    if isinstance(mine, tuple) and not isinstance(mine, str):
        assert type(mine) is type(theirs), what
        assert len(mine) == len(theirs), what
        for one, other in zip(mine, theirs, strict=True):
            assert_same(one, other, what)
    elif isinstance(mine, (np.ndarray, np.generic)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=what)


def refused(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], type)


def check(function: Any, args: list[Any], what: str) -> int:
    """Hold a function and its reference equal; a bare error of Python's escapes `outcome` and fails the test."""
    by_reference = outcome(getattr(function, "reference", function), *args)
    with use_kernels("auto"):
        by_kernel = outcome(function, *args)
    if refused(by_reference) or refused(by_kernel):
        assert by_reference == by_kernel, what
        assert len(by_reference[1]) < 700, what
        return 1
    y, their_y = (result[0] if isinstance(result, tuple) else result for result in (by_kernel, by_reference))
    assert_same(y, their_y, what)
    return 0


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_a_forward_and_its_reference_agree_about_odd_arguments(op: Op) -> None:
    arguments = list(op.cases[0].arguments(dtype=np.float32).values())
    num_refused = 0
    for place in range(len(arguments)):
        for number, odd in enumerate(ODD):
            args = [*arguments[:place], odd, *arguments[place + 1 :]]
            num_refused += check(op.forward, args, f"{op.name}: argument {place}, odd value {number}")
    assert num_refused > len(ODD) // 2


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_a_backward_and_its_reference_agree_about_odd_arguments(op: Op) -> None:
    y, saved = op.forward(*op.cases[0].arguments(dtype=np.float32).values())
    for number, odd in enumerate(ODD):
        check(op.backward, [odd, saved], f"{op.name}_backward: dy, odd value {number}")
        if isinstance(op.backward, Dispatched):
            assert check(op.backward, [cotangent(y), odd], f"{op.name}_backward: saved, odd value {number}")
