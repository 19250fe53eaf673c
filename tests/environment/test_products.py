"""What "auto" stands for, and which kernel computes products in bfloat16: on any machine one sentence says it."""

from typing import Any

import pytest

from compyute_transformer import use_kernels
from compyute_transformer.cpu import _products, attention
from compyute_transformer.environment.machine import examine
from compyute_transformer.environment.products import (
    attention_products,
    bfloat16_kernel,
    bfloat16_products,
    fastest_precision,
)
from compyute_transformer.models import GPT, GPTConfig

TILES = _products.KERNELS["tiles"]


@pytest.fixture(params=[TILES, None], ids=["tiles", "float32"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_products, "chosen", lambda times=1: request.param)
    return request.param


def test_auto_is_bfloat16_where_it_is_faster(chosen: Any) -> None:
    expected = "float32" if chosen is None else "bfloat16"
    assert fastest_precision("cpu") == expected
    assert bfloat16_kernel() == ("float32" if chosen is None else "tiles")
    assert fastest_precision("cuda") == "bfloat16"
    with use_kernels("reference"):
        assert fastest_precision("cpu") == "float32", "references compute both at one speed"
    model = GPT(GPTConfig(5, context_length=4, embed_dim=4, num_heads=1, num_layers=1))
    model.precision = "auto"
    assert model.precision == expected
    assert {module.precision for module in model.modules()} == {expected}


def test_a_sentence_says_which_kernel_it_is(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {name: kernel._replace(fault=lambda: None) for name, kernel in _products.KERNELS.items()}
    monkeypatch.setattr(_products, "KERNELS", kernels)
    monkeypatch.setattr(_products, "kept", lambda file, names: None)
    assert bfloat16_products().startswith("by AMX tiles or AVX-512 (vdpbf16ps), if ")
    expected = "in float32, of rounded operands, which is the fastest here" if chosen is None else "by AMX tiles"
    assert bfloat16_products(measure=True) == expected
    monkeypatch.setattr(_products, "kept", lambda file, names: {"float32": 1.0, "tiles": 0.5, "vdpbf16ps": 2.0})
    assert bfloat16_products() == expected
    with use_kernels("reference"):
        assert "references" in bfloat16_products()


def test_without_the_instructions_the_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter(["COMPYUTE_AMX is 0", "this processor has no AVX512_BF16"])
    kernels = {}
    for name, kernel in _products.KERNELS.items():
        fault = next(faults)
        kernels[name] = kernel._replace(fault=lambda fault=fault: fault)
    monkeypatch.setattr(_products, "KERNELS", kernels)
    said = "in float32, of rounded operands: COMPYUTE_AMX is 0, this processor has no AVX512_BF16"
    assert bfloat16_products() == examine().bfloat16 == said
    assert _products.chosen.__wrapped__() is None
    monkeypatch.setattr("compyute_transformer.environment.products.package_fault", lambda device: "no Numba")
    assert bfloat16_products() == "in float32, of rounded operands: no Numba"


def test_whose_products_attention_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for ours, name in ((True, "ours"), (False, "BLAS")):
        monkeypatch.setattr(attention, "multiplies_by_ours", lambda ours=ours: ours)
        assert attention_products() == name
    with use_kernels("reference"):
        assert attention_products() == "reference"
