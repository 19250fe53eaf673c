"""Transformer: the paper's whole model, with padding on both sides; beside PyTorch, and beside differences."""

from dataclasses import replace
from math import sqrt
from typing import Any, get_args

import numpy as np
import pytest
from module_checks import module_error
from tolerances import limit
from torch_checks import broken, torch_errors, training_errors

from compyute_transformer.arrays import Array
from compyute_transformer.errors import BackwardError, ConfigError, DtypeError, RangeError, ShapeError
from compyute_transformer.models import Transformer, TransformerConfig
from compyute_transformer.nn import Embedding, LayerNorm
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize
from compyute_transformer.verify.models import STEP

SMALL = TransformerConfig(vocab_size=11, context_length=8, embed_dim=12, num_heads=3, num_layers=2)
SOURCE, TARGET = np.random.default_rng(0).integers(0, 11, (2, 3, 8))
TARGET = TARGET[:, :6]
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([8, 3, 1]), np.array([2, 6, 5])


def model(config: TransformerConfig = SMALL, dtype: Any = np.float64) -> Transformer:
    made = Transformer(config).to(dtype=dtype)
    randomize(made)
    return made


# --- beside PyTorch and differences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.3},
        {"bias": False, "activation": "gelu"},
        {"num_kv_heads": 1},
        {"mlp_dim": 7, "embed_dim": 21},
        {"num_layers": 1, "num_heads": 1, "context_length": 3},
    ],
    ids=str,
)
def test_logits_loss_and_every_gradient_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    errors = torch_errors(replace(SMALL, **options), dtype)
    assert not broken(errors, limit("torch", dtype))


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_every_attention_implementation_matches_torch_with_dropout(implementation: Implementation) -> None:
    errors = torch_errors(replace(SMALL, dropout=0.3, attn_implementation=implementation), np.float64, seed=1)
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


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LayerNorm.backward

    def wrong(self: LayerNorm, dy: Array) -> Array:
        dx = right(self, dy)
        if self.path == "decoder.1.cross_attention_norm":
            assert self.weight.grad is not None
            self.weight.grad[0] *= 1.001
        return dx

    monkeypatch.setattr(LayerNorm, "backward", wrong)
    errors = torch_errors(SMALL)
    assert {name for name, error in errors.items() if not error <= 1e-5} == {"ddecoder.1.cross_attention_norm.weight"}


@pytest.mark.parametrize("lengths", [(None, None), (SOURCE_LENGTHS, TARGET_LENGTHS)], ids=["whole", "padded"])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "bias": False, "num_kv_heads": 1}], ids=str)
def test_the_gradient_of_the_whole_flat_buffer_follows_the_differences(options: dict[str, Any], lengths: Any) -> None:
    made = Transformer(replace(SMALL, activation="gelu", **options))
    assert module_error(made, [], lambda: made(SOURCE, TARGET, *lengths), step=STEP) <= limit("differences", np.float64)


def test_two_half_batches_give_the_gradient_of_the_whole() -> None:
    whole, parts = model(), model()
    targets = np.where(np.arange(6) < TARGET_LENGTHS[:, None], TARGET[:, ::-1], IGNORE_INDEX)
    batch = SOURCE, TARGET, SOURCE_LENGTHS, TARGET_LENGTHS
    scored = (targets != IGNORE_INDEX).sum()
    for made, pieces in ((whole, (slice(None),)), (parts, (slice(1), slice(1, 3)))):
        for piece in pieces:
            _, saved = cross_entropy_forward(made(*(array[piece] for array in batch)), targets[piece])
            share = (targets[piece] != IGNORE_INDEX).sum() / scored
            made.backward(cross_entropy_backward(float(share), saved))
    assert relative_error(parts.flat.grad, whole.flat.grad) <= 1e-12


# --- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_a_padded_pair_is_what_it_is_alone(implementation: Implementation) -> None:
    made = model(replace(SMALL, attn_implementation=implementation))
    logits = made(SOURCE, TARGET, SOURCE_LENGTHS, TARGET_LENGTHS)
    for row, (S, T) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        alone = made(SOURCE[row : row + 1, :S], TARGET[row : row + 1, :T])
        assert relative_error(logits[row, :T], alone[0]) <= 1e-12


def test_what_stands_in_padding_changes_nothing_and_gets_no_gradient() -> None:
    ours, other = model(), model()
    dlogits = np.random.default_rng(1).normal(size=(3, 6, 11)) * (np.arange(6) < TARGET_LENGTHS[:, None])[..., None]
    in_source, in_target = np.arange(8) >= SOURCE_LENGTHS[:, None], np.arange(6) >= TARGET_LENGTHS[:, None]
    logits = ours(SOURCE, TARGET, SOURCE_LENGTHS, TARGET_LENGTHS)
    ours.backward(dlogits)
    source, target = np.where(in_source, 10 - SOURCE, SOURCE), np.where(in_target, 10 - TARGET, TARGET)
    changed = other(source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    other.backward(dlogits)
    assert np.array_equal(changed[~in_target], logits[~in_target])
    assert relative_error(other.flat.grad, ours.flat.grad) <= 1e-14


def test_the_source_matters_and_so_does_its_length() -> None:
    made = model()
    logits = made(SOURCE, TARGET)
    assert not np.allclose(made(SOURCE[::-1], TARGET), logits)
    assert not np.allclose(made(SOURCE, TARGET, SOURCE_LENGTHS)[1:], logits[1:])
    assert relative_error(made(SOURCE, TARGET, np.full(3, 8), np.full(3, 6)), logits) <= 1e-14


def test_the_encoder_sees_both_ways_and_the_decoder_back_only() -> None:
    made = model()
    memory, logits = made.encode(SOURCE), made(SOURCE, TARGET)
    changed = SOURCE.copy()
    changed[:, 7] = (SOURCE[:, 7] + 1) % 11
    assert (made.encode(changed) != memory).any(axis=(0, 2)).all()
    changed = TARGET.copy()
    changed[:, 3] = (TARGET[:, 3] + 1) % 11
    moved = (made(SOURCE, changed) != logits).any(axis=(0, 2))
    assert moved.tolist() == [False, False, False, True, True, True]


# --- what it is ------------------------------------------------------------------------------------------------------


def test_seed_bug_3_dropout_reaches_the_attention_weights_of_every_block() -> None:
    made = model(replace(SMALL, dropout=0.5))
    made(SOURCE, TARGET)
    assert made.generator.offset == 2 + 2 * 3 + 2 * 5, "two embeddings; three draws an encoder block, five a decoder's"
    attentions = [b.attention for b in (*made.encoder, *made.decoder)] + [b.cross_attention for b in made.decoder]
    assert [attention.dropout for attention in attentions] == [0.5] * 6
    assert np.array_equal(made.eval()(SOURCE, TARGET), model()(SOURCE, TARGET))


def test_one_matrix_serves_source_target_and_head() -> None:
    made = model()
    assert made.head.weight is made.token_embedding.weight
    assert len([m for _, m in made.named_modules() if isinstance(m, Embedding)]) == 1
    assert made.flat.data.size == made.num_parameters
    unused = np.setdiff1d(np.arange(11), [1, 2])
    logits = made(np.full((1, 3), 1), np.full((1, 2), 2))
    only_through_the_embedding = np.zeros_like(logits)
    only_through_the_embedding[..., 5] = 1.0
    made.backward(only_through_the_embedding)
    rows = np.abs(made.token_embedding.weight.grad).sum(1)
    assert (rows[[1, 2, 5]] > 0).all()
    assert not rows[np.setdiff1d(unused, 5)].any()


def test_weights_start_as_those_of_the_decoder_alone() -> None:
    made = Transformer(TransformerConfig(512, embed_dim=96, num_heads=4, num_layers=1))
    for path, array in made.state_dict().items():
        if path == "token_embedding.weight":
            assert abs(array.std() * sqrt(96) - 1.0) <= 0.02
        elif array.ndim == 2:
            bound = sqrt(6 / sum(array.shape))
            assert 0.99 * bound <= np.abs(array).max() <= bound, path
        else:
            assert (array == (0.0 if path.endswith("bias") else 1.0)).all(), path


def test_attention_is_switched_in_place_in_all_three_places() -> None:
    made = model()
    expected = made(SOURCE, TARGET, SOURCE_LENGTHS)
    for name in get_args(Implementation):
        made.use_attention(name)
        assert {b.attention.implementation for b in (*made.encoder, *made.decoder)} == {name}
        assert {b.cross_attention.implementation for b in made.decoder} == {name}
        assert relative_error(made(SOURCE, TARGET, SOURCE_LENGTHS), expected) <= 1e-12


def test_float32_stays_float32_and_nothing_is_left_over() -> None:
    made = model(replace(SMALL, dropout=0.3), np.float32)
    logits = made(SOURCE, TARGET, SOURCE_LENGTHS, TARGET_LENGTHS)
    made.backward(logits)
    assert {logits.dtype, made.flat.grad.dtype} == {np.dtype(np.float32)}
    assert not any(module._saved for _, module in made.named_modules())
    with pytest.raises(BackwardError):
        made.backward(logits)


def test_logits_to_keep_are_those_of_the_last_positions() -> None:
    made = model(replace(SMALL, dropout=0.4)).eval()
    memory = made.encode(SOURCE, SOURCE_LENGTHS)
    every = made(SOURCE, TARGET, SOURCE_LENGTHS)
    assert relative_error(made.decode(TARGET, memory, SOURCE_LENGTHS, logits_to_keep=1)[:, 0], every[:, -1]) <= 1e-12


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SOURCE[0], TARGET), ShapeError, r"source are an integer array of shape \(B, T\).*got \(8,\)"),
        ((SOURCE, TARGET[:, :0]), ShapeError, r"target are an integer array .*got \(3, 0\)"),
        ((SOURCE, TARGET[:2]), ShapeError, "one row a pair, got 3 sources and 2 targets"),
        ((np.zeros((3, 9), int), TARGET), RangeError, "positions of source .*context length, got 9"),
        ((SOURCE, np.zeros((3, 9), int)), RangeError, "positions of target .*context length, got 9"),
        ((SOURCE, TARGET + 11), RangeError, r"ids lie in \[0, 11\)"),
        ((SOURCE, TARGET, [8, 3, 1]), ShapeError, r"source_lengths are an array of shape \(3,\), one a row, got list"),
        ((SOURCE, TARGET, None, np.array([1, 2])), ShapeError, r"target_lengths .*got \(2,\)"),
        ((SOURCE, TARGET, SOURCE_LENGTHS * 1.0), DtypeError, "source_lengths are integers, got float64"),
        ((SOURCE, TARGET, SOURCE_LENGTHS - 1), RangeError, r"source_lengths lie in \[1, 8\]"),
        ((SOURCE, TARGET, None, TARGET_LENGTHS + 1), RangeError, r"target_lengths lie in \[1, 6\]"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(arguments: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        model()(*arguments)


def test_what_saves_nothing_is_refused_in_training() -> None:
    made = model()
    with pytest.raises(ConfigError, match=r"Transformer: logits_to_keep is supported in eval\(\) only"):
        made.decode(TARGET, made.encode(SOURCE), logits_to_keep=1)


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"])
def test_a_configuration_that_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^TransformerConfig: {name} is a whole number of at least 1, got 0"):
        replace(SMALL, **{name: 0})
