"""A frozen parameter costs no gradient: the products of a backward are counted, and the other gradients stay."""

from collections import Counter
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.cpu import linear as linear_kernels
from compyute_transformer.cpu import norm as norm_kernels
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.models.registry import MODELS
from compyute_transformer.nn import (
    ClassToken,
    Embedding,
    LayerNorm,
    LearnedPosition,
    Linear,
    Module,
    MultiHeadAttention,
    PatchEmbedding,
)
from compyute_transformer.ops._sums import sum_of_rows
from compyute_transformer.ops.multi_head import IMPLEMENTATIONS
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.modules import ModuleSubject
from compyute_transformer.verify.record import ModuleCase, cotangent
from compyute_transformer.verify.registry import MODULES

linear_ops, norm_ops = (import_module(f"compyute_transformer.ops.{name}") for name in ("linear", "norm"))
RNG = np.random.default_rng(0)
WORK: Counter[str] = Counter()  # multiplications of matrix products, elements summed, rows added by index


class Counted(np.ndarray):
    """An array that counts in WORK what is computed of it."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) if isinstance(x, Counted) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            WORK["products"] += result.size * plain[0].shape[-1]
        elif method == "reduce":
            WORK["sums"] += plain[0].size
        elif method == "at":
            WORK["rows"] += plain[2].size
        if out is not None:
            return out[0]
        return result.view(Counted) if isinstance(result, np.ndarray) else result


@pytest.fixture(autouse=True)
def counted_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the sums over rows as well, which work on a copy that is no `Counted`."""

    def counted(x: Array) -> Array:
        WORK["sums"] += x.size
        return sum_of_rows(np.asarray(x))

    for op in (linear_ops, norm_ops):
        monkeypatch.setattr(op, "sum_of_rows", counted)


def work_of(module: Module, *inputs: Array) -> Counter[str]:
    """Return what a backward of the references computes."""
    module.to(dtype=np.float64)
    for parameter in module.parameters():
        parameter.data = parameter.data.view(Counted)
    with use_kernels("reference"):
        y = module(*(x.view(Counted) if x.dtype.kind == "f" else x for x in inputs))
        WORK.clear()
        module.backward(RNG.normal(size=y.shape).view(Counted))
    return WORK.copy()


def saved_by_freezing(module: Module, *inputs: Array) -> Counter[str]:
    """Return how much less a backward computes where all parameters are frozen."""
    trained = work_of(module, *inputs)
    return trained - work_of(module.requires_grad_(False), *inputs)


N, I, O = 6, 5, 3  # noqa: E741


def test_a_frozen_linear_makes_one_product_of_two() -> None:
    x = RNG.normal(size=(2, 3, I))
    assert work_of(Linear(I, O), x) == {"products": 2 * N * I * O, "sums": N * O}
    assert saved_by_freezing(Linear(I, O), x) == {"products": N * I * O, "sums": N * O}


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_each_parameter_is_frozen_alone(frozen: str) -> None:
    module, x = Linear(I, O), RNG.normal(size=(N, I))
    trained = work_of(module, x)
    getattr(module, frozen).requires_grad = False
    assert trained - work_of(module, x) == ({"products": N * I * O} if frozen == "weight" else {"sums": N * O})


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory", [False, True])
def test_a_frozen_attention_makes_no_product_for_its_weights(implementation: Any, memory: bool) -> None:
    C, T, S = 12, 5, 7 if memory else 5
    module = MultiHeadAttention(C, 3, implementation=implementation)
    x, other = RNG.normal(size=(2, T, C)), RNG.normal(size=(2, S, C))
    saved = saved_by_freezing(module, x, other) if memory else saved_by_freezing(module, x)
    queries, keys, values, out = T, S, S, T
    assert saved["products"] == 2 * C * C * (queries + keys + values + out)
    assert saved["sums"] == 2 * C * (queries + keys + values + out)


def test_a_frozen_norm_sums_no_rows() -> None:
    assert saved_by_freezing(LayerNorm(I), RNG.normal(size=(2, 3, I))) == {"sums": 2 * N * I}


def test_a_frozen_embedding_adds_no_rows() -> None:
    ids = RNG.integers(0, 9, (2, 3))
    assert saved_by_freezing(Embedding(9, I), ids) == {"rows": N * I}


def test_frozen_positions_and_class_tokens_sum_nothing() -> None:
    x = RNG.normal(size=(2, 3, I))
    assert saved_by_freezing(LearnedPosition(4, I), x) == {"sums": N * I}
    assert saved_by_freezing(ClassToken(I), x) == {"sums": 2 * I}


def test_a_frozen_patch_embedding_makes_one_product_of_two() -> None:
    images, patches, pixels = RNG.normal(size=(2, 4, 6, 3)), 2 * 6, 2 * 2 * 3
    assert saved_by_freezing(PatchEmbedding(2, 3, I), images) == {"products": patches * pixels * I, "sums": patches * I}


def test_a_model_with_a_trained_head_makes_one_weight_product() -> None:
    B, T, C, V = 2, 5, 12, 7
    config = GPTConfig(
        vocab_size=V, context_length=T, embed_dim=C, num_heads=3, num_layers=2, tie_word_embeddings=False
    )
    model, ids = GPT(config, seed=0), RNG.integers(0, V, (B, T))
    trained = work_of(model, ids)
    model.requires_grad_(False).head.requires_grad_(True)
    linears = 2 * (4 * C * C + 2 * C * 4 * C)  # of two blocks: the projections of attention, and the feed-forward
    assert (trained - work_of(model, ids))["products"] == B * T * linears


# --- kernels ---------------------------------------------------------------------------------------------------------


def test_the_kernels_compute_no_gradient_of_frozen_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Any] = []
    run = linear_kernels._backward

    def recorded(*given: Any) -> None:
        *_, dx, dweight, sums, _ = given
        shapes.append((dx.shape, dweight.shape, sums.shape))
        run(*given)

    monkeypatch.setattr(linear_kernels, "_backward", recorded)
    monkeypatch.setattr(norm_kernels, "_backward", None)
    x = RNG.normal(size=(N, I)).astype(np.float32)
    for module in (Linear(I, O).requires_grad_(False), LayerNorm(I).requires_grad_(False)):
        with use_kernels("cpu"):
            y = module(x)
            module.backward(y)
    assert shapes == [((N, I), (0, I), (0, O))]


# --- the other gradients stay ----------------------------------------------------------------------------------------


def gradients(module: Module, call: Any) -> tuple[Any, dict[str, Array | None]]:
    for inner in module.modules():
        if hasattr(inner, "generator"):
            inner.generator.offset = 0
    module.zero_grad()
    dinputs = module.backward(cotangent(call(), 3))
    found = {path: None if p.grad is None else p.grad.copy() for path, p in module.named_parameters()}
    return dinputs, found


def are_equal(one: Array | None, other: Array | None) -> bool:
    """Return whether two gradients are equal: bit by bit in float64, and to rounding where kernels run."""
    if one is None or other is None:
        return one is other
    return relative_error(one, other) <= (0.0 if one.dtype == np.float64 else 1e-6)


def check_others_stay(module: Module, call: Any, frozen: set[str]) -> None:
    dinputs, trained = gradients(module, call)
    for path, parameter in module.named_parameters():
        parameter.requires_grad = path not in frozen
    others, found = gradients(module, call)
    module.requires_grad_()
    for path, gradient in found.items():
        assert gradient is None if path in frozen else are_equal(gradient, trained[path]), path
    for one, other in zip(*(d if isinstance(d, tuple) else (d,) for d in (dinputs, others)), strict=True):
        assert are_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("example", MODULES, ids=lambda example: f"{example.name}-{example.case}")
def test_the_other_gradients_of_a_module_stay(example: ModuleCase, dtype: type) -> None:
    module, function = ModuleSubject(example, 0).build(dtype)
    inputs = [function.inputs[name] for name in example.inputs]
    for path, _ in list(module.named_parameters()):
        check_others_stay(module, lambda: example.call(module, *inputs), {path})


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MODELS)
def test_the_other_gradients_of_a_model_stay(name: str, dtype: type) -> None:
    record = MODELS[name]
    config = record.small_configs()["everything"]
    model = record.model(config, 0).to(dtype=dtype)
    randomize(model, 0)
    inputs, _ = record.batch(config, np.random.default_rng(0), 2)
    inputs = tuple(x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs)
    paths = [path for path, _ in model.named_parameters()]
    for frozen in (paths[::2], paths[1::2], paths[: len(paths) // 2], paths[len(paths) // 2 :]):
        check_others_stay(model, lambda: model(*inputs), set(frozen))
