"""Products in bfloat16 by each kernel, every instruction executed: by the processor, or by a handler."""

import json
from pathlib import Path
from time import sleep
from typing import Any, get_args

import numpy as np
import pytest

from compyute_transformer import use_kernels
from compyute_transformer.arrays import Array
from compyute_transformer.cpu import _amx, _avx512, _kernel, _measured, _products
from compyute_transformer.cpu._packing import pack_gradient, pack_panels, pack_rows
from compyute_transformer.cpu._quantized_products import multiply_quantized
from compyute_transformer.errors import ShapeError
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import CrossEntropyLoss, FeedForward
from compyute_transformer.nn.fused import fused_kernels
from compyute_transformer.ops.activation import ACTIVATIONS, Activation
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.quantized import QuantizedWeight, quantize, quantized_linear
from compyute_transformer.precision import round_to_bfloat16, use_precision
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("turned_w", [False, True])
@pytest.mark.parametrize("turned_x", [False, True])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(32, 32, 32), (33, 5, 70), (129, 97, 31), (1, 64, 300)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_that_of_the_rounded_operands(
    packed: Any, rows: int, depth: int, columns: int, turned_x: bool, turned_w: bool, has_bias: bool
) -> None:
    x, w, bias = draw(rows, depth), draw(columns, depth), draw(columns) if has_bias else None
    a = pack_rows(x.T.copy() if turned_x else x, turned_x)
    b = pack_panels(w.T.copy() if turned_w else w, turned_w)
    y = np.full((rows, columns), np.nan, np.float32)
    _products.multiply(packed, a, b, y, bias)
    exact = round_to_bfloat16(x).astype(np.float64) @ round_to_bfloat16(w).T + (0 if bias is None else bias)
    assert np.abs(y - exact).max() <= 1e-6 * depth**0.5 * np.abs(exact).max()


@pytest.mark.parametrize("shape", [(32, 32), (33, 1), (1, 70), (97, 65), (5, 1024), (64, 2048)])
def test_operands_lie_as_the_kernels_read_them(shape: tuple[int, int]) -> None:
    x = draw(*shape)
    x[0, 0], x[-1, -1] = np.nan, -np.inf
    for turned in (False, True):
        source = x.T if turned else x
        rows, panels = pack_rows(x, turned), pack_panels(x, turned)
        (length, depth), whole = source.shape, rows.shape[1]
        assert len(rows) % 32 == whole % 32 == 0
        assert 2 * whole % 2048 != 0, "rows that share places of a cache"
        expected = np.zeros(rows.shape, np.uint16)
        expected[:length, :depth] = round_to_bfloat16(np.ascontiguousarray(source)).view(np.uint32) >> 16
        np.testing.assert_array_equal(rows, expected)
        pairs = expected.reshape(-1, 32, whole // 2, 2).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(panels, pairs)


@pytest.mark.parametrize("shape", [(32, 32), (33, 5), (1, 70), (129, 65), (1000, 40)])
def test_a_gradient_is_packed_for_both_products_and_summed_at_once(shape: tuple[int, int]) -> None:
    dy = draw(*shape)
    rows, turned, sums = pack_gradient(dy)
    np.testing.assert_array_equal(rows, pack_rows(dy))
    np.testing.assert_array_equal(turned, pack_rows(dy, turned=True))
    strips, tasks = turned.shape[1] // 32, len(sums)
    for task in range(tasks):
        part = dy[32 * (strips * task // tasks) : 32 * (strips * (task + 1) // tasks)]
        np.testing.assert_allclose(sums[task], part.sum(0, dtype=np.float64), rtol=0, atol=1e-5)


def test_operands_are_rounded_as_the_references_round_them() -> None:
    x = np.arange(0, 1 << 32, 65_521, dtype=np.uint32).view(np.float32)[: 32 * 2048].reshape(32, 2048)
    packed = pack_rows(x)[:, :2048]
    expected = round_to_bfloat16(x).view(np.uint32) >> 16
    nan = np.isnan(x)
    np.testing.assert_array_equal(packed[~nan], expected[~nan])
    assert np.isnan((packed[nan].astype(np.uint32) << 16).view(np.float32)).all()


def test_rows_and_threads_beside_a_row_change_no_bit(packed: Any) -> None:
    x, w = draw(200, 64), draw(40, 64)
    whole, some = np.empty((200, 40), np.float32), np.empty((7, 40), np.float32)
    panels = pack_panels(w)
    _products.multiply(packed, pack_rows(x), panels, whole)
    _products.multiply(packed, pack_rows(x[150:157].copy()), panels, some)
    np.testing.assert_array_equal(whole[150:157], some)


@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_runs_forward_and_backward(packed: Any, has_bias: bool, needs: tuple[bool, bool]) -> None:
    x, w, b, dy = draw(3, 19, 70), draw(45, 70), draw(45) if has_bias else None, draw(3, 19, 45)
    y, saved = linear_forward(x, w, b)
    found = y, *linear_backward(dy, saved, *needs)
    with use_kernels("reference"):
        y, saved = linear_forward(x, w, b)
        expected = y, *linear_backward(dy, saved, *needs)
    for one, two in zip(found, expected, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=2e-5)


def lines_of(module: FeedForward, x: Array, dy: Array) -> dict[str, Array]:
    """Return what a feed-forward network computes, by the references, with slopes of the activation rounded."""
    forward, backward = ACTIVATIONS[module.activation]
    weights = [(part.weight.data, part.bias.data if part.bias else None) for part in (module.up, module.down)]
    with use_kernels("reference"):
        hidden, up_saved = linear_forward(x, *weights[0])
        activated, saved = forward(hidden)
        slopes = round_to_bfloat16(backward(np.ones_like(hidden), saved))
        y, down_saved = linear_forward(activated, *weights[1])
        dactivated, ddown, ddown_bias = linear_backward(dy, down_saved)
        dx, dup, dup_bias = linear_backward(dactivated * slopes, up_saved)
    found = {"y": y, "dx": dx, "up.weight": dup, "down.weight": ddown}
    return found | ({"up.bias": dup_bias, "down.bias": ddown_bias} if module.up.bias else {})


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("rows", "wide"), [((3, 19), 70), ((64,), 33), ((2, 67), 300)])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_feed_forward_network_computes_its_activation_on_rows_in_cache(
    packed: Any, activation: Activation, rows: tuple[int, ...], wide: int, has_bias: bool
) -> None:
    module = FeedForward(37, wide, bias=has_bias, activation=activation)
    randomize(module)
    x, dy, found = draw(*rows, 37), draw(*rows, 37), []
    for kernels in ("auto", "reference"):
        with use_kernels(kernels):
            assert (fused_kernels(module, x) is None) == (kernels == "reference")
            module.zero_grad()
            y, dx = module(x), module.backward(dy)
            found.append({"y": y, "dx": dx} | {name: p.grad.copy() for name, p in module.named_parameters()})
    # a number beside a tie is rounded the other way, here or there, and moves a sum by up to 2⁻⁷ of what it adds to it
    for expected, bound in ((lines_of(module, x, dy), 0.005), (found[1], 0.01)):
        assert expected.keys() == found[0].keys()
        for name, array in found[0].items():
            assert array.shape == expected[name].shape
            assert np.abs(array - expected[name]).max() <= bound * np.abs(expected[name]).max(), name
    for part in (module.up, module.down):
        part.weight.requires_grad = False
    module.zero_grad()
    assert np.array_equal(module(x), found[0]["y"])
    assert np.array_equal(module.backward(dy), found[0]["dx"])
    assert all((p.grad is None) == name.endswith("weight") for name, p in module.named_parameters())


def test_a_feed_forward_network_runs_its_lines_where_it_must(packed: Any) -> None:
    x = draw(40, 8)
    assert fused_kernels(FeedForward(8, 16), x) is not None
    assert fused_kernels(FeedForward(8, 16), x[:3]) is None, "few rows"
    assert fused_kernels(FeedForward(8, 16), draw(40, 9)) is None, "the width does not fit, which the ops refuse"
    assert fused_kernels(FeedForward(8, 16), x.astype(np.float64)) is None
    assert fused_kernels(FeedForward(8, 16).eval(), x) is None
    with use_precision("float32"):
        assert fused_kernels(FeedForward(8, 16), x) is None
    module = FeedForward(8, 16)
    module(x)
    with pytest.raises(ShapeError, match=r"dy must have shape \(40, 8\), the shape of y"):
        module.backward(x[:39])
    module.up.bias.data = np.zeros(15, np.float32)  # type: ignore[union-attr]
    with pytest.raises(ShapeError, match="16 outputs, got float32 of shape"):
        module(x)


def test_a_model_has_the_gradients_of_the_references(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = ACTIVATIONS["gelu_tanh"]

    def with_rounded_slopes(dy: Array, saved: Any) -> Array:
        slopes: Array = dy * round_to_bfloat16(backward(np.ones_like(dy), saved))
        return slopes

    monkeypatch.setitem(ACTIVATIONS, "gelu_tanh", (forward, with_rounded_slopes))  # which the kernels do not run
    model = GPT(GPTConfig(31, context_length=20, embed_dim=24, num_heads=3, num_layers=1, dropout=0.0))
    randomize(model)
    ids, losses, gradients = RNG.integers(0, 31, (2, 21)), [], []
    for kernels in ("auto", "reference"):
        with use_kernels(kernels):
            criterion = CrossEntropyLoss()
            losses.append(float(criterion(model(ids[:, :-1]), ids[:, 1:])))
            model.zero_grad()
            model.backward(criterion.backward())
            gradients.append({name: parameter.grad.copy() for name, parameter in model.named_parameters()})
    assert abs(losses[0] - losses[1]) < 1e-4
    for name, gradient in gradients[0].items():
        assert np.abs(gradient - gradients[1][name]).max() <= 0.01 * np.abs(gradients[1][name]).max(), name


@pytest.mark.parametrize(
    ("pair", "bias", "expected"),
    [
        ((1.0, 2.0**100), -(2.0**100), 1.0),  # the upper half of a pair is added first, and rounded on its own
        ((2.0**-126, 0.0), 0.0, 2.0**-126),
        ((2.0**-127, 0.0), 0.0, 0.0),  # below the normal numbers
        ((2.0**-126, 0.0), -(2.0**-127), 2.0**-126),
    ],
)
def test_a_pair_is_added_as_the_manual_of_avx512_says(
    emulator: Any, pair: tuple[float, float], bias: float, expected: float
) -> None:
    x, w, y = np.float32([pair]), np.ones((1, 2), np.float32), np.full((1, 1), np.nan, np.float32)
    _products.multiply(_products.KERNELS["vdpbf16ps"], pack_rows(x), pack_panels(w), y, np.float32([bias]))
    assert y[0, 0] == np.float32(expected)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("kind", "inputs"), [("int8", 96), ("bfloat16", 64), ("bfloat16", 43)])
def test_many_rows_and_a_quantized_weight_are_as_exact_as_in_float32(
    packed: Any, kind: Any, inputs: int, has_bias: bool
) -> None:
    weight: Any = quantize(draw(45, inputs), kind)
    x, bias = draw(3, 13, inputs), draw(45) if has_bias else None
    with use_precision("float32"):
        y = quantized_linear(x, weight, bias)
        exact = x.astype(np.float64) @ weight.widened().astype(np.float64).T + (0 if bias is None else bias)
        assert np.abs(y - exact).max() <= 1e-6 * np.abs(exact).max()
        x[0, 1, 0] = np.inf
        np.testing.assert_array_equal(quantized_linear(x, weight, bias)[0, 0], y[0, 0], "what is infinite beside a row")


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("outputs", "rows"), [(45, 39), (320, 70), (64, 32)])
@pytest.mark.parametrize(("kind", "inputs"), [("int8", 96), ("bfloat16", 64), ("bfloat16", 43), ("bfloat16", 1024)])
def test_in_bfloat16_x_is_rounded_and_a_quantized_weight_is_not(
    packed: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, inputs: int, outputs: int, rows: int, has_bias: bool
) -> None:
    monkeypatch.setattr(_kernel, "WORTH_THREADS", 0)  # so that all threads have work
    weight: Any = quantize(draw(outputs, inputs), kind)
    x, bias = draw(rows, inputs), draw(outputs) if has_bias else None
    exact = round_to_bfloat16(x).astype(np.float64) @ weight.widened().astype(np.float64).T
    exact += 0 if bias is None else bias
    y = quantized_linear(x, weight, bias)
    assert np.abs(y - exact).max() <= 1e-6 * np.abs(exact).max()
    few = quantized_linear(x[:3], weight, bias)  # by another kernel
    assert np.abs(few - exact[:3]).max() <= 1e-6 * np.abs(exact).max()


def test_a_number_is_the_sum_of_its_parts(emulator: Any) -> None:
    """Also at the edges of float32: a quantized weight of ones shows them."""
    x = np.zeros((20, 32), np.float32)
    x[0, 3], x[1, 0], x[2, 5], x[3, 31], x[4, 2] = np.finfo(np.float32).max, np.inf, -np.inf, np.nan, 1 + 2.0**-23
    y, kernel = np.empty((20, 2), np.float32), _products.KERNELS["tiles"]
    weight = QuantizedWeight(np.ones((2, 32), np.int8), np.ones((2, 1), np.float32))
    multiply_quantized(kernel, x, weight, np.zeros(2, np.float32), y)
    expected = [x[0, 3], np.inf, -np.inf, np.nan, x[4, 2], *[0.0] * 15]
    np.testing.assert_array_equal(y, np.stack([expected] * 2, 1).astype(np.float32))


# --- which kernel is chosen ---


@pytest.mark.parametrize("value", ["0", "no", "Off", "false"])
@pytest.mark.parametrize(("module", "variable"), [(_amx, "COMPYUTE_AMX"), (_avx512, "COMPYUTE_AVX512")])
def test_a_variable_masks_each_kernel_and_a_sentence_says_so(
    module: Any, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert module.fault.__wrapped__() == f"{variable} is {value}"
    monkeypatch.setenv(variable, "1")
    assert module.fault.__wrapped__() != f"{variable} is 1"


class Machine:
    """A machine that has both kernels, with times that are given, and counts what is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Any) -> None:
        self.seconds, self.wrong, self.measured = {"float32": 3e-3, "tiles": 1e-3, "vdpbf16ps": 2e-3}, set(), 0
        kernels = {name: kernel._replace(fault=lambda: None) for name, kernel in _products.KERNELS.items()}
        monkeypatch.setattr(_products, "KERNELS", kernels)
        monkeypatch.setattr(_products, "_is_right", lambda kernel: kernel.name not in self.wrong)
        monkeypatch.setattr(_measured, "time_of", self.time)
        monkeypatch.setattr(_products, "_file", lambda: file)

    def time(self, product: Any) -> float:
        self.measured += 1
        is_packed = product.func is _products._product
        return self.seconds[product.args[0].name if is_packed else "float32"]

    def chosen(self) -> str:
        kernel = _products.chosen.__wrapped__()
        return "float32" if kernel is None else kernel.name


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Machine:
    return Machine(monkeypatch, tmp_path / "products.json")


@pytest.mark.parametrize(
    ("seconds", "wrong", "expected"),
    [
        ({}, set(), "tiles"),
        ({"vdpbf16ps": 0.5e-3}, set(), "vdpbf16ps"),
        ({"float32": 0.5e-3}, set(), "float32"),
        ({}, {"tiles"}, "vdpbf16ps"),
        ({}, {"tiles", "vdpbf16ps"}, "float32"),
    ],
)
def test_the_fastest_kernel_that_is_right_is_chosen(machine: Machine, seconds: Any, wrong: Any, expected: str) -> None:
    machine.seconds |= seconds
    machine.wrong = wrong
    assert machine.chosen() == expected


def test_a_kernel_that_computes_three_products_for_one_must_be_three_times_as_fast(machine: Machine) -> None:
    assert _products.chosen.__wrapped__(times=2) is _products.KERNELS["tiles"]
    assert _products.chosen.__wrapped__(times=3) is None, "as long as float32 takes"


def test_times_are_kept_and_a_wrong_kernel_is_not_chosen_for_them(machine: Machine) -> None:
    assert (machine.chosen(), machine.measured) == ("tiles", 3)
    machine.seconds["tiles"] = 9.0
    assert (machine.chosen(), machine.measured) == ("tiles", 3), "what was measured is kept"
    machine.wrong = {"tiles"}
    assert (machine.chosen(), machine.measured) == ("vdpbf16ps", 3)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"machine": "', '"machine": "another '),
        lambda text: text.replace("0.001", "-0.001"),
        lambda text: text.replace("0.001", '"0.001"'),
        lambda text: text.replace('"tiles"', '"other"'),
        lambda text: "\x00" * 2000,
    ],
)
def test_a_file_that_is_damaged_or_of_another_machine_is_measured_anew(machine: Machine, edit: Any) -> None:
    machine.chosen()
    file = _products._file()
    assert file is not None
    before = file.read_text()
    assert set(json.loads(before)) == {"machine", "seconds"}
    file.write_text(edit(before))
    assert file.read_text() != before
    machine.seconds["tiles"] = 9.0
    assert (machine.chosen(), machine.measured) == ("vdpbf16ps", 6)
    assert machine.chosen() == "vdpbf16ps"
    assert machine.measured == 6


def test_without_a_folder_each_start_measures(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_products, "_file", lambda: None)
    assert [machine.chosen(), machine.chosen(), machine.measured] == ["tiles", "tiles", 6]


def test_a_kernel_is_right_where_its_product_is(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _products._is_right(packed)
    product = _products._product
    monkeypatch.setattr(_products, "_product", lambda *given: product(*given) * np.float32(1.001))
    assert not _products._is_right(packed)
    monkeypatch.setattr(_products, "_product", lambda *given: product(*given) * np.float32(np.nan))
    assert not _products._is_right(packed)


def test_times_lie_beside_the_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    file = _products._file()
    assert file is not None
    assert file.parent == Path(_products._multiply.kernel._cache.cache_path)  # type: ignore[attr-defined]
    monkeypatch.setattr(_products, "_file", lambda: file.with_name(f"test-{file.name}"))
    try:
        measured = _measured.seconds_of(_products._file(), {"float32": lambda: sleep(1e-3)})
        assert 1e-3 < measured["float32"] < 1
        assert _measured.kept(_products._file(), ["float32"]) == measured
        assert _measured.kept(_products._file(), ["float32", "tiles"]) is None
    finally:
        _products._file().unlink()  # type: ignore[union-attr]


def test_a_product_is_timed_at_least_twice_and_for_a_moment_only() -> None:
    products: list[Any] = []
    assert _measured.time_of(lambda: products.append(1)) < 0.02
    assert 2 <= len(products) <= _measured.TRIALS
