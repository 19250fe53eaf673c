"""Data parallel training in threads that play processes: the same weights to the last bit, however many there are."""

from hashlib import sha256

import numpy as np
import pytest

from compyute_transformer import GPT, AdamW, GPTConfig, nn
from compyute_transformer.errors import ConfigError
from compyute_transformer.optim import clip_grad_norm_
from compyute_transformer.parallel import Communicator, DataParallel, Single, run_in_threads
from compyute_transformer.training.tasks.task import split_batch

CONFIG = GPTConfig(13, context_length=6, embed_dim=12, num_heads=3, num_layers=2, dropout=0.2)


def train(communicator: Communicator, leaves: int, steps: int = 3) -> str:
    """Return the digest of weights and losses."""
    rng = np.random.default_rng(5)
    model = GPT(CONFIG, seed=1)
    optimizer, criterion = AdamW(model.parameters(), lr=1e-2), nn.CrossEntropyLoss()
    parallel = DataParallel(model, communicator)
    losses = []

    def loss_and_gradient(leaf: tuple[np.ndarray, np.ndarray], weight: float) -> float:
        x, y = leaf
        loss = float(criterion(model(x), y))
        model.backward(weight * criterion.backward())
        return weight * loss

    for _ in range(steps):
        x, y = rng.integers(13, size=(2, 16, 6))
        y[rng.random(y.shape) < 0.2] = -100
        optimizer.zero_grad()
        losses.append(parallel.accumulate(split_batch((x, y), leaves), loss_and_gradient))
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return sha256(model.flat.data.tobytes() + np.array(losses).tobytes()).hexdigest()


def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    expected = train(Single(), 8)
    for size in (1, 2, 4, 8):
        assert set(run_in_threads(size, lambda communicator: train(communicator, 8))) == {expected}


def test_three_processes_give_the_bits_of_one() -> None:
    assert set(run_in_threads(3, lambda communicator: train(communicator, 6))) == {train(Single(), 6)}


def test_the_gradient_is_that_of_the_whole_batch() -> None:
    model = GPT(GPTConfig(13, context_length=6, embed_dim=12, num_heads=3, num_layers=2), seed=1).to(dtype=np.float64)
    criterion, rng = nn.CrossEntropyLoss(), np.random.default_rng(0)
    x, y = rng.integers(13, size=(2, 8, 6))
    y[0] = -100

    def loss_and_gradient(leaf: tuple[np.ndarray, np.ndarray], weight: float) -> float:
        loss = float(criterion(model(leaf[0]), leaf[1])) if weight else 0.0
        if weight:
            model.backward(weight * criterion.backward())
        return weight * loss

    loss = DataParallel(model, Single()).accumulate(split_batch((x, y), 4), loss_and_gradient)
    gradient = model.flat.grad.copy()
    model.zero_grad()
    expected = loss_and_gradient((x, y), 1.0)
    assert abs(loss - expected) < 1e-14
    assert np.abs(gradient - model.flat.grad).max() < 1e-12 * np.abs(gradient).max()


@pytest.mark.parametrize(("size", "leaves"), [(2, 3), (4, 2), (2, 6)])
def test_leaves_that_cannot_be_shared_are_refused(size: int, leaves: int) -> None:
    with pytest.raises(ConfigError, match=f"got {leaves}"):
        run_in_threads(size, lambda communicator: list(DataParallel(GPT(CONFIG), communicator).own(leaves)))


def test_a_parameter_that_no_backward_reaches_stays_without_a_gradient() -> None:
    class Unused(GPT):
        def __init__(self) -> None:
            super().__init__(CONFIG, seed=0)
            self.unused = nn.Parameter(np.ones((3, 3), np.float32))

    model, criterion = Unused(), nn.CrossEntropyLoss()
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    ids = np.random.default_rng(0).integers(13, size=(8, 6))

    def loss_and_gradient(leaf: tuple[np.ndarray, np.ndarray], weight: float) -> float:
        loss = float(criterion(model(leaf[0]), leaf[1]))
        model.backward(weight * criterion.backward())
        return weight * loss

    DataParallel(model, Single()).accumulate(split_batch((ids, ids), 4), loss_and_gradient)
    assert [path for path, parameter in model.named_parameters() if parameter.grad is None] == ["unused"]
    optimizer.step()
    assert (model.unused.data == 1.0).all()


def test_an_error_in_the_middle_of_a_step_leaves_nothing_behind() -> None:
    ids = np.random.default_rng(0).integers(13, size=(8, 6))
    digests = []
    for fails in (False, True):
        model, criterion = GPT(CONFIG, seed=0), nn.CrossEntropyLoss()
        parallel, leaves = DataParallel(model, Single()), split_batch((ids, ids), 4)

        def loss_and_gradient(leaf: tuple[np.ndarray, np.ndarray], weight: float, model: GPT = model) -> float:
            loss = float(criterion(model(leaf[0]), leaf[1]))  # noqa: B023 (called within the round)
            model.backward(weight * criterion.backward())  # noqa: B023
            return weight * loss

        if fails:
            offset = model.generator.offset
            with pytest.raises(TypeError):
                parallel.accumulate([*leaves[:3], (None, 1.0)], loss_and_gradient)  # type: ignore[list-item]
            assert model.generator.stream == GPT(CONFIG, seed=0).generator.stream
            model.generator.offset = offset
            model.clear_saved()
        parallel.accumulate(leaves, loss_and_gradient)
        digests.append(sha256(model.flat.grad.tobytes()).hexdigest())
    assert digests[0] == digests[1]
