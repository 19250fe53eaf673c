"""TransformerLM: the paper's decoder alone, as a language model; beside PyTorch, and beside differences."""

from dataclasses import replace
from math import log, sqrt
from typing import Any, get_args

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit
from torch_checks import broken, torch_errors, training_errors

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, RangeError, ShapeError
from compyute_transformer.generation import KeyValueCache
from compyute_transformer.models import TransformerLM, TransformerLMConfig
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops import sinusoids
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.models import STEP

SMALL = TransformerLMConfig(vocab_size=11, context_length=8, embed_dim=12, num_heads=3, num_layers=2)


def model(config: TransformerLMConfig = SMALL, dtype: Any = np.float64) -> TransformerLM:
    made = TransformerLM(config).to(dtype=dtype)
    randomize(made)
    return made


def draw_ids(batch_size: int = 2, length: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 11, (batch_size, length))


# --- beside PyTorch and differences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"bias": False},
        {"activation": "gelu"},
        {"window": 3},
        {"num_kv_heads": 1},
        {"mlp_dim": 7, "embed_dim": 21},
        {"num_layers": 1, "num_heads": 1, "context_length": 1},
    ],
    ids=str,
)
def test_logits_loss_and_every_gradient_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    errors = torch_errors(replace(SMALL, **options), dtype)
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_every_attention_implementation_matches_torch_with_dropout(implementation: Implementation) -> None:
    errors = torch_errors(replace(SMALL, dropout=0.3, window=5, attn_implementation=implementation), np.float64, seed=1)
    assert not broken(errors, limit("torch", np.float64))


@pytest.mark.parametrize(
    ("max_norm", "allowed"),
    [(None, limit("training", np.float64)), (0.5, 1e-5)],  # torch clips by 1/(norm + 1e-6)
)
def test_ten_training_losses_and_the_weights_after_them_are_those_of_torch(
    max_norm: float | None, allowed: float
) -> None:
    errors = training_errors(replace(SMALL, dropout=0.3), max_norm=max_norm)
    assert len(errors) > 10
    assert not broken(errors, allowed)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "bias": False, "num_kv_heads": 1, "window": 3}], ids=str)
def test_the_gradient_of_the_whole_flat_buffer_follows_the_differences(options: dict[str, Any]) -> None:
    made, ids = TransformerLM(replace(SMALL, activation="gelu", **options)), draw_ids()
    assert module_error(made, [], lambda: made(ids), step=STEP) <= limit("differences", np.float64)


def test_two_half_batches_give_the_gradient_of_the_whole() -> None:
    whole, halves, ids, targets = model(), model(), draw_ids(4), draw_ids(4, seed=1)
    for made, parts in ((whole, (slice(None),)), (halves, (slice(2), slice(2, 4)))):
        for part in parts:
            _, saved = cross_entropy_forward(made(ids[part]), targets[part])
            made.backward(cross_entropy_backward(1.0 / len(parts), saved))
    assert relative_error(halves.flat.grad, whole.flat.grad) <= 1e-12


# --- what it is ------------------------------------------------------------------------------------------------------


def test_seed_bug_3_dropout_reaches_the_attention_weights_of_every_block() -> None:
    made = model(replace(SMALL, dropout=0.5))
    made(draw_ids())
    assert [block.attention.dropout for block in made.blocks] == [0.5, 0.5]
    assert made.generator.offset == 1 + 3 * 2, "one draw for the embedding, three for each block"
    for block in made.blocks:
        block.attention_dropout.p = block.feed_forward_dropout.p = 0.0
    made.dropout.p = 0.0
    plain = model()
    assert relative_error(made(draw_ids()), plain(draw_ids())) > 1e-3, "attention alone still drops"
    assert np.array_equal(made.eval()(draw_ids()), plain(draw_ids()))


def test_embeddings_are_scaled_by_the_root_of_the_width_before_positions_are_added() -> None:
    made, ids = model(), draw_ids()
    seen: list[Array] = []
    made.blocks[0].forward = lambda x, *_: (seen.append(x), x)[1]
    made(ids)
    expected = made.token_embedding.weight.data[ids] * sqrt(12) + sinusoids(8, 12, np.float64)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-14)


def test_one_matrix_embeds_and_reads_out() -> None:
    made = model()
    assert made.head.weight is made.token_embedding.weight
    assert [path for path, p in made.named_parameters() if p.shape == (11, 12)] == ["token_embedding.weight"]


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_future_tokens_change_nothing_before_them(implementation: Implementation) -> None:
    made, ids = model(replace(SMALL, attn_implementation=implementation)), draw_ids()
    logits = made(ids)
    for t in range(1, 8):
        changed = ids.copy()
        changed[:, t] = (ids[:, t] + 1) % 11
        other = made(changed)
        assert np.array_equal(other[:, :t], logits[:, :t])
        assert (other[:, t] != logits[:, t]).any()


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, window=3, dropout=0.4)], ids=["", "window"])
def test_logits_to_keep_are_those_of_the_last_positions(config: TransformerLMConfig) -> None:
    made, ids = model(config).eval(), draw_ids()
    assert relative_error(made(ids, logits_to_keep=1)[:, 0], made(ids)[:, -1]) <= 1e-12


def test_padding_is_hidden_and_counts_no_positions() -> None:
    made, ids = model(replace(SMALL, window=4)).eval(), draw_ids()
    alone = [made(ids[row : row + 1, pads:])[0, -1] for row, pads in enumerate((0, 3))]
    for filler in (0, 7):
        ids[1, :3] = filler
        assert relative_error(made(ids, padding=np.array([0, 3]), logits_to_keep=1)[:, 0], np.stack(alone)) <= 1e-12


def test_weights_start_so_that_vectors_and_logits_have_variance_one() -> None:
    made = TransformerLM(TransformerLMConfig(512, embed_dim=96, num_heads=4, num_layers=2))
    for path, array in made.state_dict().items():
        if path == "token_embedding.weight":
            assert abs(array.std() * sqrt(96) - 1.0) <= 0.02
        elif array.ndim == 2:
            bound = sqrt(6 / sum(array.shape))
            assert 0.99 * bound <= np.abs(array).max() <= bound, path
        else:
            assert (array == (0.0 if path.endswith("bias") else 1.0)).all(), path
    ids = np.random.default_rng(0).integers(0, 512, (4, 64))
    assert 0.8 <= made(ids).std() <= 1.2
    loss, _ = cross_entropy_forward(made(ids), ids[:, ::-1].copy())
    assert abs(float(loss) - log(512) - 0.5) <= 0.5


def test_the_seed_decides_weights_and_dropout() -> None:
    config, ids = replace(SMALL, dropout=0.3), draw_ids()
    first, second, other = TransformerLM(config, 7), TransformerLM(config, 7), TransformerLM(config, 8)
    assert np.array_equal(first.flat.data, second.flat.data)
    assert np.array_equal(first(ids), second(ids))
    assert not np.array_equal(first.flat.data, other.flat.data)


def test_attention_is_switched_in_place() -> None:
    made, ids = model(), draw_ids()
    expected = made(ids)
    for name in get_args(Implementation):
        made.use_attention(name)
        assert [block.attention.implementation for block in made.blocks] == [name] * 2
        assert relative_error(made(ids), expected) <= 1e-12


def test_float32_stays_float32() -> None:
    made = model(replace(SMALL, dropout=0.3), np.float32)
    logits = made(draw_ids())
    made.backward(logits)
    made.eval()
    assert {logits.dtype, made.flat.grad.dtype, made.eval()(draw_ids(), logits_to_keep=2).dtype} == {
        np.dtype(np.float32)
    }


# --- refusals --------------------------------------------------------------------------------------------------------


def test_positions_past_the_context_are_refused_although_sinusoids_go_on() -> None:
    with pytest.raises(RangeError, match=r"TransformerLM: positions of ids lie in \[0, 8\), the context length"):
        model()(draw_ids(length=9))
    full = KeyValueCache(model())
    full.advance(8)
    with pytest.raises(RangeError, match="the context length, got 1 positions from 8 on"):
        model().eval()(draw_ids(length=1), full)


def test_ids_of_another_shape_and_a_model_in_training_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"TransformerLM: ids are .* shape \(B, T\) with T at least 1, got \(8,\)"):
        model()(np.zeros(8, dtype=int))
    with pytest.raises(ConfigError, match=r"TransformerLM: logits_to_keep is supported in eval\(\) only"):
        model()(draw_ids(), logits_to_keep=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is a whole number of at least 1, got 0"),
        ({"window": 0}, "window is a whole number of at least 1, or None"),
        ({"num_heads": 5}, "num_heads must divide embed_dim.*embed_dim 12, num_heads 5"),
        ({"dropout": 1.0}, r"dropout lies in \[0, 1\), got 1\.0"),
        ({"activation": "swish"}, "activation is one of gelu_tanh, gelu, relu, got 'swish'"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_hold_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^TransformerLMConfig: .*{message}"):
        replace(SMALL, **options)


@pytest.mark.parametrize(
    "options",
    [{"head_bias": True}, {"scale_embedding": False}, {"attn_bias": False}, {"bias": False, "attn_bias": True}],
    ids=str,
)
def test_the_options_of_biases_and_scale_have_right_gradients(options: dict[str, bool]) -> None:
    config = replace(SMALL, **options)
    made = TransformerLM(config, seed=1).to(dtype=np.float64)
    made.flat.data[...] = np.random.default_rng(0).normal(0, 0.3, made.flat.data.shape)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 5))
    names = {name for name, _ in made.named_parameters()}
    assert ("head.bias" in names) == config.head_bias
    assert ("blocks.0.attention.in_bias" in names) == (config.bias if config.attn_bias is None else config.attn_bias)
    assert ("blocks.0.feed_forward.up.bias" in names) == config.bias
    logits = made(ids)
    dlogits = np.random.default_rng(2).normal(size=logits.shape)
    made.backward(dlogits)
    direction, start = np.random.default_rng(3).normal(size=made.flat.data.shape), made.flat.data.copy()
    values = []
    for step in (1e-6, -1e-6):
        made.flat.data[...] = start + step * direction
        values.append((made(ids) * dlogits).sum())
    assert (made.flat.grad * direction).sum() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_without_the_scale_the_embedding_is_added_as_it_is() -> None:
    plain, scaled = (TransformerLM(replace(SMALL, scale_embedding=on)).eval() for on in (False, True))
    ids = np.array([[1, 2]])
    np.testing.assert_allclose(plain.embed(ids), plain.position(plain.token_embedding(ids)))
    np.testing.assert_allclose(scaled.embed(ids), scaled.position(scaled.token_embedding(ids) * SMALL.embed_dim**0.5))
