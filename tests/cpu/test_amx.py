"""Products on AMX's tiles, every instruction executed: by the processor, or by a handler of illegal ones."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer import use_kernels
from compyute_transformer.arrays import Array
from compyute_transformer.cpu import _amx
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.precision import round_to_bfloat16, use_precision
from compyute_transformer.verify.function import randomize

SOURCE = Path(__file__).parent / "amx" / "emulator.c"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("amx") / "emulator.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.count.restype = ctypes.c_uint64
    library.start()
    yield library
    library.stop()


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("turned_w", [False, True])
@pytest.mark.parametrize("turned_x", [False, True])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(32, 32, 32), (33, 5, 70), (129, 97, 31), (1, 64, 300)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_that_of_the_rounded_operands(
    emulator: Any, rows: int, depth: int, columns: int, turned_x: bool, turned_w: bool, has_bias: bool
) -> None:
    x, w, bias = draw(rows, depth), draw(columns, depth), draw(columns) if has_bias else None
    a = _amx.pack_rows(x.T.copy() if turned_x else x, turned_x)
    b = _amx.pack_panels(w.T.copy() if turned_w else w, turned_w)
    y, before = np.full((rows, columns), np.nan, np.float32), emulator.count()
    _amx.multiply(a, b, y, bias)
    exact = round_to_bfloat16(x).astype(np.float64) @ round_to_bfloat16(w).T + (0 if bias is None else bias)
    assert np.abs(y - exact).max() <= 1e-6 * depth**0.5 * np.abs(exact).max()
    assert emulator.count() > before or _amx.fault() is None


def test_operands_are_rounded_as_the_references_round_them() -> None:
    x = np.arange(0, 1 << 32, 65_521, dtype=np.uint32).view(np.float32)[: 32 * 2048].reshape(32, 2048)
    packed = _amx.pack_rows(x)
    expected = round_to_bfloat16(x).view(np.uint32) >> 16
    nan = np.isnan(x)
    np.testing.assert_array_equal(packed[~nan], expected[~nan])
    assert np.isnan((packed[nan].astype(np.uint32) << 16).view(np.float32)).all()
    turned = _amx.pack_rows(np.ascontiguousarray(x.T), turned=True)
    np.testing.assert_array_equal(turned, packed)


def test_rows_and_threads_beside_a_row_change_no_bit(emulator: Any) -> None:
    x, w = draw(200, 64), draw(40, 64)
    whole, some = np.empty((200, 40), np.float32), np.empty((7, 40), np.float32)
    panels = _amx.pack_panels(w)
    _amx.multiply(_amx.pack_rows(x), panels, whole)
    _amx.multiply(_amx.pack_rows(x[150:157].copy()), panels, some)
    np.testing.assert_array_equal(whole[150:157], some)


@pytest.fixture
def on_tiles(emulator: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(_amx, "is_worth", lambda: True)
    with use_kernels("cpu"), use_precision("bfloat16"):
        yield emulator


@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_runs_forward_and_backward_on_tiles(on_tiles: Any, has_bias: bool) -> None:
    x, w, b, dy = draw(3, 19, 70), draw(45, 70), draw(45) if has_bias else None, draw(3, 19, 45)
    before = on_tiles.count()
    y, saved = linear_forward(x, w, b)
    found = y, *linear_backward(dy, saved)
    assert on_tiles.count() - before >= 3 * 8 or _amx.fault() is None
    with use_kernels("reference"):
        y, saved = linear_forward(x, w, b)
        expected = y, *linear_backward(dy, saved)
    for one, two in zip(found, expected, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=2e-5)


def test_a_model_has_the_gradients_of_the_references(on_tiles: Any) -> None:
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


def test_without_tiles_one_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPYUTE_AMX", "0")
    _amx.fault.cache_clear()
    _amx.is_worth.cache_clear()
    try:
        assert _amx.fault() == "COMPYUTE_AMX is 0"
        assert not _amx.is_worth()
    finally:
        monkeypatch.undo()
        _amx.fault.cache_clear()
        _amx.is_worth.cache_clear()
