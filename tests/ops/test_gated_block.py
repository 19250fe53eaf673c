"""A step through a stack of Llama's blocks: the reference, its kernel, and what is refused."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import DtypeError, InputError, RangeError, ShapeError
from compyute_transformer.ops import Mask
from compyute_transformer.ops.gated_block import GatedBlockWeights, RotaryTables, gated_blocks_step, gated_shapes
from compyute_transformer.ops.quantized import quantize
from compyute_transformer.precision import use_precision
from compyute_transformer.verify.result import relative_error
from compyute_transformer.verify.tolerances import limit

SEEN = np.random.default_rng(4).random((2, 1, 3, 7)) < 0.7


def drawn(
    bias: bool = True, dtype: Any = np.float32, T: int = 3, widths: Any = (6, 12, 21), **options: Any
) -> dict[str, Any]:
    (B, S, H, K), (D, C, F) = (2, 7, 4, 2), widths
    rng = np.random.default_rng(0)
    names = GatedBlockWeights._fields[:-1]

    def weights() -> GatedBlockWeights:
        arrays = [0.5 * rng.normal(size=shape).astype(dtype) for shape in gated_shapes(C, H, K, D, F)]
        return GatedBlockWeights(
            *(a if bias or not n.endswith("bias") else None for n, a in zip(names, arrays, strict=True)), (1e-2, 0.1)
        )

    keys, values = ([rng.normal(size=(B, K, S, D)).astype(dtype) for _ in range(3)] for _ in range(2))
    given = {"x": rng.normal(size=(B, T, C)).astype(dtype), "weights": [weights() for _ in range(3)]}
    tables = RotaryTables(*rng.normal(size=(2, T, 2)).astype(dtype))  # of any numbers, and of a part of the columns
    given |= {"keys": keys, "values": values, "mask": Mask(causal=True), "num_heads": H, "tables": tables}
    return given | options


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("mask", [Mask(causal=True, window=2), Mask(causal=True, array=SEEN)], ids=["window", "array"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_kernel_equals_the_reference(activation: str, mask: Mask, bias: bool) -> None:
    given, results = drawn(bias, activation=activation, mask=mask), []
    for which in ("reference", "cpu"):
        held = {name: [array.copy() for array in given[name]] for name in ("keys", "values")}
        with use_kernels(which):  # type: ignore[arg-type]
            results.append((gated_blocks_step(**{**given, **held}), *held["keys"], *held["values"]))
    for expected, got in zip(*results, strict=True):
        assert not float(relative_error(got, expected)) > limit("kernel", np.float32)
        assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "widths"), [(None, (6, 12, 21)), ("bfloat16", (6, 12, 21)), ("int8", (8, 32, 64))], ids=str
)
def test_in_bfloat16_the_kernel_rounds_what_the_reference_rounds(kind: Any, widths: Any) -> None:
    given, results = drawn(widths=widths), []
    matrices = "in_weight", "out_weight", "gate_weight", "up_weight", "down_weight"
    if kind is not None:
        given["weights"] = [
            w._replace(**{name: quantize(getattr(w, name), kind) for name in matrices}) for w in given["weights"]
        ]
    for which in ("reference", "cpu"):
        held = {name: [array.copy() for array in given[name]] for name in ("keys", "values")}
        with use_kernels(which), use_precision("bfloat16"):  # type: ignore[arg-type]
            results.append(gated_blocks_step(**{**given, **held}))
    assert not float(relative_error(*reversed(results))) > limit("kernel", np.float32)
    held = {name: [array.copy() for array in given[name]] for name in ("keys", "values")}
    assert float(relative_error(gated_blocks_step(**{**given, **held}), results[0])) > limit("kernel", np.float32)


def test_positions_one_by_one_are_those_together() -> None:
    together, alone = drawn(dtype=np.float64), drawn(dtype=np.float64)
    whole = gated_blocks_step(**together)
    for t in range(3):
        part = alone | {"x": alone["x"][:, t : t + 1], "tables": RotaryTables(*(a[t : t + 1] for a in alone["tables"]))}
        part |= {name: [array[:, :, : 5 + t] for array in alone[name]] for name in ("keys", "values")}
        assert np.allclose(gated_blocks_step(**part)[:, 0], whole[:, t], rtol=0, atol=1e-12)
    for name in ("keys", "values"):
        assert all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(together[name], alone[name], strict=True))


@pytest.mark.usefixtures("validation_only")
def test_wrong_arguments_are_refused() -> None:
    given = drawn()
    for change, error, message in (
        ({"activation": "relu"}, RangeError, "an activation is one of silu, gelu, gelu_tanh"),
        ({"weights": given["weights"][:2]}, ShapeError, "got 2 weights, 3 keys and 3 values"),
        ({"weights": given["weights"][0]}, ShapeError, "got 13 weights, 3 keys"),
        ({"tables": (1, 2)}, InputError, "tables are RotaryTables, got tuple"),
        ({"x": given["x"].astype(np.float64)}, DtypeError, "gated_blocks_step"),
        ({"weights": [w._replace(up_weight=None) for w in given["weights"]]}, ShapeError, "got None as up_weight"),
        ({"weights": [w._replace(down_weight=w.up_weight) for w in given["weights"]]}, ShapeError, "down_weight"),
    ):
        with pytest.raises(error, match=message):
            gated_blocks_step(**{**given, **change})
