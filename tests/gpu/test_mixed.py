"""Mixed precision in training on a GPU: one rounded copy of the weights a step, and bfloat16 within the blocks."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gpu.stand_in import cublaslt, cudnn, installed, memory

from compyute_transformer import GPT, AdamW, GPTConfig, nn
from compyute_transformer.arrays import to_device
from compyute_transformer.dispatch import intercept, use_kernels
from compyute_transformer.errors import RangeError
from compyute_transformer.models.registry import MODELS, build_model
from compyute_transformer.nn.fused import fused_kernels
from compyute_transformer.nn.observer import observe
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.precision import rounded_results, use_precision
from compyute_transformer.random import Generator
from compyute_transformer.training.captured import CapturedSteps
from compyute_transformer.training.mixed import gradient_in_pieces, rounded_weights

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(params=["fused", "no algorithm"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    library, products = cublaslt.make()
    if request.param == "no algorithm":
        library.refused |= {4, 160, 164, 192, 512}
    with installed(products | cudnn.make()) as module, use_precision("bfloat16"):
        yield module


@pytest.fixture
def cupy() -> Iterator[Any]:
    with installed(cublaslt.make()[1] | cudnn.make()) as module, use_precision("bfloat16"):
        yield module


def numbers(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(BF16).astype(np.float64)


def worst(found: Any, expected: np.ndarray) -> float:
    difference = np.abs(found.get().astype(np.float64) - expected).max()
    return float(difference / max(np.abs(expected).max(), 1e-30))


# --- products ---


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dy_dtype", [np.float32, BF16])
def test_a_product_of_bfloat16_and_its_gradients(gpu: Any, has_bias: bool, dy_dtype: Any) -> None:
    x, weight, dy = numbers(0, 2, 5, 8, dtype=BF16), numbers(1, 7, 8), numbers(2, 2, 5, 7, dtype=dy_dtype)
    bias = numbers(3, 7) if has_bias else None
    y, saved = linear_forward(gpu.asarray(x), gpu.asarray(weight), None if bias is None else gpu.asarray(bias))
    dx, dweight, dbias = linear_backward(gpu.asarray(dy), saved)
    assert y.dtype == dx.dtype == BF16
    assert dweight.dtype == np.float32
    expected = rounded(x) @ rounded(weight).T + (0 if bias is None else rounded(bias))
    assert worst(y, expected) < 4e-3
    rows, dy_rows = rounded(x).reshape(-1, 8), rounded(dy).reshape(-1, 7)
    assert worst(dx, (dy_rows @ rounded(weight)).reshape(x.shape)) < 4e-3
    assert worst(dweight, dy_rows.T @ rows) < 1e-6
    assert (dbias is None) == (bias is None)
    if dbias is not None:
        assert dbias.dtype == np.float32
        assert worst(dbias, dy_rows.sum(0)) < 1e-6


def test_arrays_of_two_dtypes_are_refused_where_products_are_float32(cupy: Any) -> None:
    x, weight = cupy.asarray(numbers(0, 3, 8, dtype=BF16)), cupy.asarray(numbers(1, 7, 8))
    with use_precision("float32"), pytest.raises(TypeError, match=r"all arrays hold floats of one dtype"):
        linear_forward(x, weight)
    with pytest.raises(TypeError, match=r"all arrays hold floats of one dtype"):
        linear_forward(x.astype(np.float16), weight)


# --- the copy of the weights ---


def small(name: str = "gpt", config: str = "plain") -> Any:
    return build_model(MODELS[name].small_configs()[config], 1)


def test_products_read_the_copy_within_a_block_and_round_outside(cupy: Any) -> None:
    narrowed = import_module("compyute_transformer.gpu._rounded").narrowed
    model = small().to("cuda")
    for seed, parameter in enumerate(model.parameters()):
        parameter.data[...] = cupy.asarray(numbers(seed, *parameter.shape))
    other = cupy.asarray(numbers(0, 4, 4))
    with rounded_weights(model):
        for parameter in model.parameters():
            copy = narrowed(parameter.data)
            assert copy.dtype == BF16
            assert np.array_equal(copy.get(), parameter.data.get().astype(BF16))
            assert narrowed(parameter.data) is copy
        matrix = next(p.data for p in model.parameters() if p.ndim == 2)
        assert np.array_equal(narrowed(matrix[1:]).get(), matrix[1:].get().astype(BF16))
        assert np.array_equal(narrowed(matrix.T).get(), matrix.T.get().astype(BF16))
        assert narrowed(other) is not narrowed(other)
        assert np.array_equal(narrowed(other).get(), other.get().astype(BF16))
    assert narrowed(matrix) is not narrowed(matrix)


def change_by_state(model: Any, optimizer: AdamW) -> None:
    model.load_state_dict({name: -array for name, array in model.state_dict().items()})


def change_in_place(model: Any, optimizer: AdamW) -> None:
    model.blocks[0].feed_forward.up.weight.data[...] *= np.float32(-3)


def change_by_an_optimizer(model: Any, optimizer: AdamW) -> None:
    for parameter in model.parameters():
        parameter.grad = parameter.data * 1
    optimizer.step()


def change_by_another_array(model: Any, optimizer: AdamW) -> None:
    weight = model.blocks[0].feed_forward.up.weight
    weight.data = weight.data * np.float32(-3)


CHANGES = [change_by_state, change_in_place, change_by_an_optimizer, change_by_another_array]


@pytest.mark.parametrize("change", CHANGES)
def test_the_copy_is_never_that_of_older_weights(cupy: Any, change: Callable[[Any, AdamW], None]) -> None:
    """The loss of a captured step after the weights were changed is that of an eager one of the same weights."""
    model = GPT(GPTConfig(11, context_length=8, embed_dim=16, num_heads=2, num_layers=1), 1).to("cuda")
    optimizer = AdamW(model.parameters(), lr=1e-1)
    (ids,), targets = MODELS["gpt"].batch(model.config, np.random.default_rng(0), 2)
    batch = [cupy.asarray(ids), cupy.asarray(targets)]
    steps = CapturedSteps(model, optimizer)
    assert steps.take(batch, 1e-1) is None
    losses = [steps.take(batch, 1e-1) for _ in range(2)]
    assert all(losses)
    before = float(cross_entropy_forward(model(batch[0]), batch[1])[0])
    change(model, optimizer)
    with rounded_weights(model):
        expected, _ = cross_entropy_forward(model(batch[0]), batch[1])
    assert abs(float(expected) - before) > 1e-3
    model.clear_saved()
    with rounded_weights(model):  # as the trainer does
        again = float(cross_entropy_forward(model(batch[0]), batch[1])[0])
    taken = steps.take(batch, 1e-1)
    assert (taken is None) == (change is change_by_another_array)  # whose buffer is another by now
    assert (again if taken is None else taken[0]) == pytest.approx(float(expected), rel=1e-5)


# --- the feed-forward network at once ---


def of_feed_forward(bias: bool, precision: Any, dtype: Any, at_once: bool) -> tuple[dict[str, Any], set[int]]:
    """Return the output and all gradients of a feed-forward network, and the epilogues that ran."""
    layer = nn.FeedForward(8, 24, bias=bias, generator=Generator(3))
    for parameter in layer.parameters():
        parameter.data = numbers(parameter.size, *parameter.shape, dtype=dtype) / 2
    x, dy = numbers(0, 2, 5, 8, dtype=dtype), numbers(1, 2, 5, 8, dtype=dtype)
    library, products = cublaslt.make()
    with installed(products) as cupy, use_precision(precision):
        layer.to("cuda")
        for frozen in ((), (layer.up.weight, layer.down.weight), (layer.up.weight, layer.down.bias)):
            layer.requires_grad_(True)
            layer.zero_grad()
            for parameter in filter(None, frozen):
                parameter.requires_grad = False
            with nullcontext() if at_once else observe(layer, nn.Observer()):
                y = layer(cupy.asarray(x))
                assert bool(layer.up._saved) != at_once
                dx = layer.backward(cupy.asarray(dy))
            found = {"y": y.get(), "dx": dx.get()} if not frozen else found
            for name, parameter in layer.named_parameters():
                if frozen and parameter.requires_grad:
                    assert np.allclose(parameter.grad.get(), found[name], rtol=1e-2, atol=1e-2), name
                elif not frozen:
                    found[name] = parameter.grad.get()
                assert (parameter.grad is None) == (not parameter.requires_grad)
    return found, {epilogue for epilogue, _ in library.calls}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("precision", "dtype", "most"),
    [("float32", np.float64, 1e-12), ("float32", np.float32, 3e-6), ("bfloat16", np.float32, 1e-2)],
)
def test_a_feed_forward_network_at_once_is_that_of_its_layers(
    bias: bool, precision: Any, dtype: Any, most: float
) -> None:
    found, epilogues = of_feed_forward(bias, precision, dtype, at_once=True)
    expected, others = of_feed_forward(bias, precision, dtype, at_once=False)
    assert epilogues == ({4, 164, 192, 512, 1} if bias else {1, 160, 192})
    assert not others & {160, 164, 192}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == dtype, name
        assert np.abs(found[name] - array).max() <= most * np.abs(array).max(), name


def test_what_is_no_plain_layer_with_tanh_gelu_in_training_runs_layer_by_layer(cupy: Any) -> None:
    x = cupy.asarray(numbers(0, 3, 8))
    layer = nn.FeedForward(8, 24).to("cuda")
    assert fused_kernels(layer, x) is not None
    for other in (nn.FeedForward(8, 24, activation="gelu").to("cuda"), nn.FeedForward(8, 24).to("cuda").eval()):
        assert fused_kernels(other, x) is None
    with use_kernels("reference"):
        assert fused_kernels(layer, x) is None
    with intercept(lambda op, args, kwargs: op.run(*args, **kwargs)):
        assert fused_kernels(layer, x) is None
    assert fused_kernels(layer, x.astype(np.float16)) is None
    layer.down = nn.LoRALinear(layer.down)
    assert fused_kernels(layer, x) is None


# --- the head in pieces ---


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 4, 7, 24])
def test_a_head_in_pieces_is_the_head_at_once(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, rows: int, precision: Any
) -> None:
    """Pieces that divide the rows and that do not, of an odd vocabulary, with ignored rows, smoothing and a bias."""
    head = import_module("compyute_transformer.gpu.head")
    monkeypatch.setattr(head, "MOST_LOGITS", rows * 13 + 5)
    assert head.rows_of_piece(13) == rows
    x, weight, bias = (gpu.asarray(numbers(i, *shape)) for i, shape in enumerate([(2, 11, 8), (13, 8), (13,)]))
    targets = np.random.default_rng(0).integers(0, 13, (2, 11))
    targets[1, 3:9] = -100
    ids = gpu.asarray(targets)
    with use_precision(precision):
        logits, kept = linear_forward(x, weight, bias)
        loss, saved = cross_entropy_forward(logits, ids, label_smoothing=0.1)
        expected = linear_backward(cross_entropy_backward(0.7, saved), kept)
        found, gradients = head.head_in_pieces(x, weight, bias, ids, 0.1, 0.7)
        assert head.head_in_pieces(x, weight, None, ids, needs=(False, True))[1][1:] == (None, None)
    assert float(found) == pytest.approx(float(loss), rel=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        assert one.dtype == np.float32
        assert worst(one, other.get()) < (2e-6 if precision == "float32" else 5e-3)


def step_of(record: Any, name: str, cupy: Any) -> tuple[float, dict[str, np.ndarray], int]:
    """Return the loss and the gradients of a step, and the offset of the generator after it."""
    config = record.small_configs()[name]
    model = build_model(config, 1).to("cuda")
    arrays, last = record.batch(config, np.random.default_rng(0), 3)
    inputs, targets = [cupy.asarray(array) for array in arrays], cupy.asarray(last)
    with rounded_weights(model):
        loss = gradient_in_pieces(model, inputs, targets, 0.1)
        if loss is None:
            loss, saved = cross_entropy_forward(model(*inputs), targets, label_smoothing=0.1)
            model.backward(cross_entropy_backward(1.0, saved))
    return float(loss), {key: p.grad.get() for key, p in model.named_parameters()}, model.generator.offset


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "transformer_lm"])
def test_a_model_whose_head_is_cut_learns_the_same(cupy: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    head, calls = import_module("compyute_transformer.gpu.head"), []
    in_pieces = head.head_in_pieces
    monkeypatch.setattr(head, "head_in_pieces", lambda *given: calls.append(given) or in_pieces(*given))
    for config in MODELS[name].small_configs():
        loss, expected, offset = step_of(MODELS[name], config, cupy)
        assert not calls
        with monkeypatch.context() as patch:
            patch.setattr(head, "MOST_LOGITS", 40)
            found, gradients, after = step_of(MODELS[name], config, cupy)
        assert bool(calls) == hasattr(build_model(MODELS[name].small_configs()[config]), "head")
        del calls[:]
        assert found == pytest.approx(loss, rel=1e-6)
        assert after == offset
        for key, gradient in gradients.items():
            assert np.abs(gradient - expected[key]).max() <= 5e-3 * np.abs(expected[key]).max() + 1e-6, key


def test_the_logits_are_never_held_whole(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by an eager step nor by a captured one, whose losses are those of steps that hold them."""
    head, sizes = import_module("compyute_transformer.gpu.head"), []
    alloc = memory.alloc
    monkeypatch.setattr(memory, "alloc", lambda size: sizes.append(size) or alloc(size))
    losses = []
    for most in (1 << 28, 4 * 997):
        monkeypatch.setattr(head, "MOST_LOGITS", most)
        model = GPT(GPTConfig(997, context_length=8, embed_dim=8, num_heads=1, num_layers=1, dropout=0.1), 1).to("cuda")
        optimizer = AdamW(model.parameters(), lr=1e-2)
        ids, targets = cupy.asarray(np.random.default_rng(0).integers(0, 997, (2, 3, 8)))
        steps, found = CapturedSteps(model, optimizer, 0.1), []
        del sizes[:]
        for _ in range(3):
            taken = steps.take([ids, targets], 1e-2)
            if taken is None:
                optimizer.zero_grad()
                loss = gradient_in_pieces(model, [ids], targets, 0.1)
                if loss is None:
                    loss, saved = cross_entropy_forward(model(ids), targets, label_smoothing=0.1)
                    model.backward(cross_entropy_backward(1.0, saved))
                optimizer.step()
            found.append(float(loss) if taken is None else taken[0])
        assert (24 * 997 * 4 in sizes) == (most > 4 * 997)
        losses.append(found)
    assert np.allclose(losses[0], losses[1], rtol=1e-4)


def test_a_head_that_is_not_last_is_not_cut(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(GPT):
        def unembed(self, x: Any) -> Any:
            return super().unembed(x) * np.float32(0.5)

    monkeypatch.setattr(import_module("compyute_transformer.gpu.head"), "MOST_LOGITS", 22)
    config = GPTConfig(11, context_length=8, embed_dim=16, num_heads=2, num_layers=1, dropout=0.2)
    batch = [cupy.asarray(np.random.default_rng(0).integers(0, 11, (3, 8))) for _ in range(2)]
    for kind in (Scaled, GPT):
        model = kind(config, 1).to("cuda")
        assert (gradient_in_pieces(model, batch[:1], batch[1]) is None) == (kind is Scaled)
        if kind is Scaled:
            assert model.generator.offset == 0
            assert not any(module._saved for module in model.modules())
            assert model(batch[0]).shape == (3, 8, 11)
    with pytest.raises(RangeError, match=r"targets lie in \[0, 11\)"):
        gradient_in_pieces(model, batch[:1], batch[1] + 5)
    with observe(model, nn.Observer()):
        assert gradient_in_pieces(model, batch[:1], batch[1]) is None


# --- models ---

CASES = [(record, name) for record in MODELS.values() for name in record.small_configs()]


def gradients(model: Any, batch: Any, device: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Return the loss of a batch and the gradient of each parameter."""
    inputs, targets = batch
    with rounded_weights(model):
        logits = model(*(to_device(array, device) for array in inputs))
        assert logits.dtype == np.float32
        loss, saved = cross_entropy_forward(logits, to_device(targets, device))
        model.backward(cross_entropy_backward(1.0, saved))
    return float(loss), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("record", "name"), CASES, ids=[f"{record.name}-{name}" for record, name in CASES])
def test_every_model_learns_in_bfloat16_what_the_references_learn(cupy: Any, record: Any, name: str) -> None:
    config = record.small_configs()[name]
    batch = record.batch(config, np.random.default_rng(0), 3)
    with use_kernels("reference"):
        loss, expected = gradients(build_model(config, 1), batch, "cpu")
    found, computed = gradients(build_model(config, 1).to("cuda"), batch, "cuda")
    assert found == pytest.approx(loss, rel=1e-2)
    whole = np.sqrt(sum((array**2).sum() for array in expected.values()))
    for key, gradient in computed.items():
        assert gradient.dtype == np.float32, key
        assert np.linalg.norm(gradient.get() - expected[key]) < 3e-2 * np.linalg.norm(expected[key]) + 1e-3 * whole, key


def test_what_a_block_keeps_for_its_backward_is_bfloat16(cupy: Any) -> None:
    model = small().to("cuda")
    (ids,), _ = MODELS["gpt"].batch(model.config, np.random.default_rng(0), 2)
    model(cupy.asarray(ids))
    block = model.blocks[0]
    name, attention = block.attention._saved[-1]
    assert name == "fused"
    kept = [attention.projection.x.x, attention.attention.q, attention.attention.y, attention.out.x]
    assert {array.dtype for array in kept} == {BF16}
    assert {block.attention_norm._saved[-1].x.dtype, block.attention_norm._saved[-1].mean.dtype} == {np.dtype("f4")}
    model.clear_saved()
    model.eval()(cupy.asarray(ids))
    with use_precision("float32"):
        model.train()(cupy.asarray(ids))
    assert block.attention._saved[-1][1].projection.x.x.dtype == np.float32


@pytest.mark.parametrize("implementation", ["sequential", "semiparallel", "parallel"])
def test_attention_that_kernels_do_not_compute_gets_float32(cupy: Any, implementation: Any) -> None:
    model = small().to("cuda")
    model.use_attention(implementation)
    (ids,), _ = MODELS["gpt"].batch(model.config, np.random.default_rng(0), 2)
    logits = model(cupy.asarray(ids))
    model.backward(logits)
    assert logits.dtype == np.float32


def test_layers_of_ones_own_get_float32(cupy: Any) -> None:
    class Own(nn.Linear):
        def forward(self, x: Any) -> Any:
            assert x.dtype == np.float32
            return super().forward(x)

    model = small().to("cuda")
    up = model.blocks[0].feed_forward.up
    model.blocks[0].feed_forward.up = own = Own(*up.weight.shape[::-1]).to("cuda")
    (ids,), _ = MODELS["gpt"].batch(model.config, np.random.default_rng(0), 2)
    model.backward(model(cupy.asarray(ids)))
    assert own.weight.grad is not None


def test_a_norm_rounds_only_where_it_is_said(cupy: Any) -> None:
    norm, x = nn.LayerNorm(8).to("cuda"), cupy.asarray(numbers(0, 3, 8))
    assert norm(x).dtype == np.float32
    with rounded_results():
        assert norm(x).dtype == BF16
        with use_precision("float32"):
            assert norm(x).dtype == np.float32
