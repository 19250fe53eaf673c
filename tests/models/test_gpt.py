"""GPT: its kernel in PyTorch, its causality, its start, and its refusals."""

from dataclasses import replace
from math import log, sqrt
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit
from torch_checks import broken, torch_errors

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, DtypeError, RangeError, ShapeError
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import Module, Observer, observe
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.nn.module import Phase
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim import SGD, AdamW
from compyute_transformer.verify import directional_error, relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.models import STEP

SMALL = GPTConfig(vocab_size=11, context_length=8, embed_dim=12, num_heads=3, num_layers=2)


def model(config: GPTConfig = SMALL, dtype: Any = np.float64, seed: int = 0) -> GPT:
    made = GPT(config, seed).to(dtype=dtype)
    randomize(made, seed)
    return made


def draw_ids(config: GPTConfig = SMALL, batch_size: int = 2, length: int | None = None, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, 5])
    return rng.integers(0, config.vocab_size, (batch_size, length or config.context_length))


# --- beside PyTorch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False},
        {"bias": False},
        {"activation": "gelu"},
        {"activation": "relu"},
        {"window": 1},
        {"window": 3},
        {"soft_cap": 0.5},
        {"num_kv_heads": 1},
        {"mlp_dim": 7},
        {"embed_dim": 21},
        {"num_heads": 12},
        {"num_layers": 1, "num_heads": 1, "context_length": 1},
        {"dropout": 0.2},
        {
            "dropout": 0.5,
            "bias": False,
            "tie_word_embeddings": False,
            "activation": "gelu",
            "window": 4,
            "embed_dim": 21,
        },
    ],
    ids=str,
)
def test_logits_loss_and_every_gradient_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    errors = torch_errors(replace(SMALL, **options), dtype)
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_attention_implementation_matches_torch_with_dropout(implementation: Implementation, dtype: type) -> None:
    errors = torch_errors(replace(SMALL, dropout=0.3, window=5, attn_implementation=implementation), dtype, seed=1)
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("length", [1, 5])
def test_inputs_shorter_than_the_context_match_torch(length: int) -> None:
    errors = torch_errors(SMALL, np.float64, length=length)
    assert not broken(errors, limit("torch", np.float64))


# --- beside differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"dropout": 0.3, "tie_word_embeddings": False, "bias": False, "num_kv_heads": 1, "window": 3},
    ],
    ids=str,
)
def test_the_gradient_of_the_whole_flat_buffer_follows_the_differences(options: dict[str, Any], seed: int) -> None:
    config = replace(SMALL, **options)
    made, ids = GPT(config), draw_ids(config)
    assert module_error(made, [], lambda: made(ids), seed, step=STEP) <= limit("differences", np.float64)


def test_the_gradient_of_the_loss_follows_the_differences() -> None:
    made, ids, targets = model(replace(SMALL, dropout=0.3)), draw_ids(), draw_ids(seed=1)

    def loss_at(weights: Array) -> Array:
        made.flat.data[...] = weights
        made.generator.offset = 0
        loss, saved = cross_entropy_forward(made(ids), targets)
        made.zero_grad()
        made.backward(cross_entropy_backward(1.0, saved))
        return loss

    start = made.flat.data.copy()
    loss_at(start)
    gradient = made.flat.grad.copy()
    assert directional_error(loss_at, [gradient], [start]) <= limit("differences", np.float64)


# --- what a position sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_future_tokens_change_nothing_before_them(implementation: Implementation, dtype: type) -> None:
    made = model(replace(SMALL, attn_implementation=implementation), dtype)
    ids = draw_ids()
    logits = made(ids)
    for t in range(1, 8):
        changed = ids.copy()
        changed[:, t] = (ids[:, t] + 1) % 11
        other = made(changed)
        assert np.array_equal(other[:, :t], logits[:, :t])
        assert all((other[:, later] != logits[:, later]).any() for later in range(t, 8))


def test_no_gradient_flows_from_a_position_to_the_tokens_after_it() -> None:
    made = model(replace(SMALL, tie_word_embeddings=False))
    ids = np.arange(8)[None]
    dlogits = np.zeros((1, 8, 11))
    made(ids)
    dlogits[:, 4] = np.random.default_rng(0).normal(size=11)
    made.backward(dlogits)
    rows = made.token_embedding.weight.grad
    assert rows[:5].any(axis=1).all()
    assert not rows[5:].any()


def test_a_window_hides_what_lies_before_it() -> None:
    made = model(replace(SMALL, window=3, num_layers=1))
    ids = draw_ids()
    logits = made(ids)
    changed = ids.copy()
    changed[:, 2] = (ids[:, 2] + 1) % 11
    moved = (made(changed) != logits).any(axis=(0, 2))
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


def test_a_shorter_input_has_the_same_logits() -> None:
    made, ids = model(), draw_ids()
    assert relative_error(made(ids[:, :5]), made(ids)[:, :5]) <= 1e-12


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, window=3, tie_word_embeddings=False, dropout=0.4)], ids=["", "window"]
)
def test_logits_to_keep_are_those_of_the_last_positions(config: GPTConfig) -> None:
    made, ids = model(config).eval(), draw_ids()
    assert relative_error(made(ids, logits_to_keep=1)[:, 0], made(ids)[:, -1]) <= 1e-12
    assert not any(module._saved for _, module in made.named_modules())


def test_padding_is_hidden_and_counts_no_positions() -> None:
    made, ids = model(replace(SMALL, window=4)).eval(), draw_ids()
    alone = [made(ids[row : row + 1, pads:])[0, -1] for row, pads in enumerate((0, 3))]
    for filler in (0, 7):
        ids[1, :3] = filler
        assert relative_error(made(ids, padding=np.array([0, 3]), logits_to_keep=1)[:, 0], np.stack(alone)) <= 1e-12


@pytest.mark.parametrize("option", [{"logits_to_keep": 1}, {"padding": np.array([0, 3])}], ids=str)
def test_what_saves_nothing_is_refused_in_training(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"GPT: {next(iter(option))} is supported in eval\(\) only"):
        model()(draw_ids(), **option)


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_position_is_kept(count: int) -> None:
    with pytest.raises(RangeError, match=f"logits_to_keep is at least 1, got {count}"):
        model().eval()(draw_ids(), logits_to_keep=count)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [2, 6])
def test_weights_start_as_gpt_2s(num_layers: int) -> None:
    made = GPT(
        GPTConfig(512, context_length=128, embed_dim=96, num_heads=4, num_layers=num_layers, tie_word_embeddings=False)
    )
    for path, array in made.state_dict().items():
        if path.endswith("bias"):
            assert not array.any(), path
        elif array.ndim == 1:
            assert (array == 1.0).all(), path
        else:
            to_stream = path.endswith(("attention.out_weight", "feed_forward.down.weight"))
            std = 0.02 / sqrt(2 * num_layers) if to_stream else 0.02
            assert abs(array.std() / std - 1.0) <= 4 / sqrt(2 * array.size), path
            assert abs(array.mean()) <= 4 * std / sqrt(array.size), path


@pytest.mark.parametrize("vocab_size", [65, 300])
def test_an_untrained_model_finds_all_tokens_alike(vocab_size: int) -> None:
    config = GPTConfig(vocab_size, context_length=32, embed_dim=64, num_heads=4, num_layers=3)
    loss, _ = cross_entropy_forward(GPT(config)(draw_ids(config, 4)), draw_ids(config, 4, seed=1))
    assert abs(float(loss) - log(vocab_size)) <= 0.05


def test_the_same_seed_gives_the_same_weights_and_the_same_dropout() -> None:
    config = replace(SMALL, dropout=0.3)
    first, second, other = GPT(config, 7), GPT(config, 7), GPT(config, 8)
    assert np.array_equal(first.flat.data, second.flat.data)
    ids = draw_ids()
    assert np.array_equal(first(ids), second(ids))
    assert not np.array_equal(first.flat.data, other.flat.data)
    other.load_state_dict(first.state_dict())
    assert not np.array_equal(GPT(config, 7)(ids), other(ids)), "dropout follows the seed too"


def test_eval_drops_nothing_and_draws_nothing() -> None:
    made, plain, ids = model(replace(SMALL, dropout=0.5)), model(), draw_ids()
    assert np.array_equal(made.eval()(ids), plain(ids))
    assert made.generator.offset == 0
    made.train()(ids)
    assert made.generator.offset == 1 + 3 * 2, "one draw for the embedding, three for each block"


def test_all_parameters_lie_in_one_buffer_matrices_first() -> None:
    made = GPT(SMALL)
    C, V, T, F = 12, 11, 8, 48
    matrices = V * C + T * C + 2 * (3 * C * C + C * C + 2 * F * C)
    vectors = 2 * (4 * C + 3 * C + C + F + C) + 2 * C
    assert made.flat.data.size == made.num_parameters == matrices + vectors
    assert GPT(replace(SMALL, tie_word_embeddings=False)).num_parameters == matrices + vectors + V * C


def test_a_state_of_another_vocabulary_or_context_is_refused() -> None:
    state = GPT(replace(SMALL, vocab_size=13, context_length=9)).state_dict()
    with pytest.raises(ValueError, match=r"token_embedding.weight is \(11, 12\), got \(13, 12\)"):
        GPT(SMALL).load_state_dict(state)
    with pytest.raises(ValueError, match=r"position.weight is \(8, 12\), got \(9, 12\)"):
        GPT(SMALL).load_state_dict(state)


# --- the tied head ---------------------------------------------------------------------------------------------------


def run_backward(made: GPT) -> None:
    logits = made(draw_ids())
    made.backward(np.random.default_rng(1).normal(size=logits.shape))


def test_the_gradient_of_a_tied_head_is_the_sum_of_both_uses() -> None:
    tied, untied = model(), model(replace(SMALL, tie_word_embeddings=False))
    untied.load_state_dict(tied.state_dict() | {"head.weight": tied.token_embedding.weight.data})
    run_backward(tied)
    run_backward(untied)
    assert tied.head.weight is tied.token_embedding.weight
    both = untied.token_embedding.weight.grad + untied.head.weight.grad
    assert relative_error(tied.token_embedding.weight.grad, both) <= 1e-12


def test_a_tied_head_is_stepped_once() -> None:
    made = model()
    before = made.token_embedding.weight.data.copy()
    run_backward(made)
    SGD(made.parameters(), lr=0.1).step()
    assert np.allclose(made.head.weight.data, before - 0.1 * made.head.weight.grad, rtol=1e-12, atol=0)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_float32_stays_float32_from_the_first_vector_to_the_last_gradient() -> None:
    class Dtypes(Observer):
        seen: ClassVar[set[tuple[str, Phase, str]]] = set()

        def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
            arrays = [a for a in (*inputs, output) if isinstance(a, np.ndarray)]
            arrays += [a for a in output if a is not None] if isinstance(output, tuple) else []
            self.seen |= {(path, phase, str(a.dtype)) for a in arrays if a.dtype.kind == "f"}

    made = GPT(replace(SMALL, dropout=0.3, activation="gelu"))
    optimizer, watch = AdamW(made.parameters()), Dtypes()
    with observe(made, watch):
        logits = made(draw_ids())
        loss, saved = cross_entropy_forward(logits, draw_ids(seed=1))
        made.backward(cross_entropy_backward(1.0, saved))
    optimizer.step()
    assert {path for path, _, _ in watch.seen} == {path for path, _ in made.named_modules() if path != "blocks"}
    assert {dtype for _, _, dtype in watch.seen} == {"float32"}
    assert (
        loss.dtype
        == made.flat.grad.dtype
        == made.flat.data.dtype
        == optimizer.state_dict()["state"][0]["second_moment"].dtype
        == np.float32
    )
    assert {parameter.grad.dtype for parameter in made.parameters()} == {np.dtype(np.float32)}


def test_attention_is_switched_in_place() -> None:
    made, ids = model(), draw_ids()
    logits = {}
    for name in get_args(Implementation):
        made.use_attention(name)
        assert [block.attention.implementation for block in made.blocks] == [name] * 2
        logits[name] = made(ids)
    assert all(relative_error(other, logits["parallel"]) <= 1e-12 for other in logits.values())


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_length", [1, 8])
def test_a_position_past_the_context_is_refused_naming_both_numbers(context_length: int) -> None:
    made = GPT(replace(SMALL, context_length=context_length))
    with pytest.raises(RangeError, match=rf"\[0, {context_length}\), the context length, got 9 positions"):
        made(draw_ids(length=9))


@pytest.mark.parametrize("wrong", [-1, 11])
def test_an_id_outside_the_vocabulary_is_refused(wrong: int) -> None:
    ids = draw_ids()
    ids[1, 3] = wrong
    with pytest.raises(RangeError, match=rf"ids lie in \[0, 11\), got {wrong} at \(1, 3\)"):
        GPT(SMALL)(ids)


@pytest.mark.parametrize(
    ("ids", "came"),
    [
        (np.zeros(8, dtype=int), r"\(8,\)"),
        (np.zeros((2, 0), dtype=int), r"\(2, 0\)"),
        (np.zeros((1, 2, 3), dtype=int), r"\(1, 2, 3\)"),
        ([[1, 2]], "list"),
    ],
)
def test_ids_of_another_shape_are_refused(ids: Any, came: str) -> None:
    with pytest.raises(ShapeError, match=rf"shape \(B, T\) with T at least 1, got {came}\."):
        GPT(SMALL)(ids)


@pytest.mark.usefixtures("validation_only")
def test_ids_that_are_no_integers_are_refused() -> None:
    with pytest.raises(DtypeError, match="ids are integers, got float64"):
        GPT(SMALL)(np.zeros((1, 2)))


def test_a_refused_input_leaves_the_model_usable() -> None:
    made, fresh = model(), model()
    with pytest.raises(RangeError):
        made(draw_ids(length=9))
    run_backward(made)
    run_backward(fresh)
    assert np.array_equal(made.flat.grad, fresh.flat.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is a whole number of at least 1, got 0"),
        ({"context_length": -1}, "context_length is a whole number of at least 1, got -1"),
        ({"num_layers": 0}, "num_layers is a whole number of at least 1, got 0"),
        ({"embed_dim": 12.0}, r"embed_dim is a whole number of at least 1, got 12\.0"),
        ({"num_heads": "3"}, "num_heads is a whole number of at least 1, got '3'"),
        ({"num_kv_heads": 0}, "num_kv_heads is a whole number of at least 1, or None for its default, got 0"),
        ({"mlp_dim": 0}, "mlp_dim is a whole number of at least 1, or None"),
        ({"window": 0}, "window is a whole number of at least 1, or None"),
        ({"window": -2}, "window is a whole number of at least 1, or None"),
        ({"num_heads": 5}, "num_heads must divide embed_dim.*embed_dim 12, num_heads 5, num_kv_heads None"),
        ({"num_kv_heads": 2}, "num_kv_heads num_heads.*num_heads 3, num_kv_heads 2"),
        ({"dropout": -0.5}, r"dropout lies in \[0, 1\), got -0\.5"),
        ({"dropout": 1.0}, r"dropout lies in \[0, 1\), got 1\.0"),
        ({"dropout": float("nan")}, r"dropout lies in \[0, 1\), got nan"),
        ({"dropout": "0.1"}, r"dropout lies in \[0, 1\), got '0\.1'"),
        ({"activation": "swish"}, "activation is one of gelu_tanh, gelu, relu, got 'swish'"),
        ({"attn_implementation": "flash"}, "attn_implementation is one of auto, sequential, .*, got 'flash'"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_hold_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^GPTConfig: .*{message}"):
        replace(SMALL, **options)
