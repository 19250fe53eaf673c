"""Data parallel training in threads that play processes: the same weights to the last bit, however many there are."""

import copy
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pytest

from compyute_transformer import GPT, SGD, AdamW, GPTConfig, nn
from compyute_transformer.errors import ConfigError, ParallelError, StateError
from compyute_transformer.optim import clip, clip_grad_norm_
from compyute_transformer.optim.clip import get_total_norm
from compyute_transformer.optim.optimizer import Optimizer, decay_groups
from compyute_transformer.parallel import (
    Communicator,
    DataParallel,
    Single,
    buckets,
    data_parallel,
    run_in_threads,
)
from compyute_transformer.parallel.sharded import ShardedOptimizer
from compyute_transformer.training.tasks.task import split_batch

CONFIG = GPTConfig(13, context_length=6, embed_dim=12, num_heads=3, num_layers=2, dropout=0.2)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a tiny model as a large one: into some twenty buckets, which processes share."""
    monkeypatch.setattr(clip, "PIECE", 16)
    monkeypatch.setattr(buckets, "PIECE", 16)
    monkeypatch.setattr(buckets, "BUCKET", 256)


def adamw(model: GPT) -> Optimizer:
    groups = decay_groups(model, 0.1)
    return AdamW([groups[0], {**groups[1], "lr": 3e-2}], lr=1e-2)


def sgd(model: GPT) -> Optimizer:
    return SGD(model.parameters(), lr=1e-1, momentum=0.9, weight_decay=0.01)


class Trained(NamedTuple):
    digest: str  # of weights, losses, norms, and the whole state of the optimizer
    moments: int  # bytes that this process holds
    waited: float


def train(
    communicator: Communicator,
    leaves: int,
    steps: int = 3,
    make: Callable[[GPT], Optimizer] = adamw,
    shard: bool = False,
    frozen: tuple[str, ...] = (),
    **options: bool,
) -> Trained:
    rng = np.random.default_rng(5)
    model, criterion = GPT(CONFIG, seed=1), nn.CrossEntropyLoss()
    for path, parameter in model.named_parameters():
        parameter.requires_grad = not path.startswith(frozen)
    parallel = DataParallel(model, communicator, **options)
    optimizer = parallel.shard(make(model)) if shard else make(model)
    told = []

    def loss_and_gradient(leaf: tuple[np.ndarray, np.ndarray], weight: float) -> float:
        x, y = leaf
        loss = float(criterion(model(x), y))
        model.backward(weight * criterion.backward())
        return weight * loss

    for _ in range(steps):
        x, y = rng.integers(13, size=(2, 16, 6))
        y[rng.random(y.shape) < 0.2] = -100
        optimizer.zero_grad()
        told.append(parallel.accumulate(split_batch((x, y), leaves), loss_and_gradient))
        told.append(clip_grad_norm_(model.parameters(), 0.5))
        optimizer.step()
    state = optimizer.state_dict()["state"]  # whole in process 0
    moments = [state[number][name] for number in sorted(state) for name in ("step", *optimizer.STATE)]
    hashed = [model.flat.data, np.array(told), *moments]
    owner = optimizer._own if isinstance(optimizer, ShardedOptimizer) else optimizer
    held = {id(array): array.nbytes for slot in owner._slots for array in slot.moments or ()} if owner else {}
    digest = sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in hashed)).hexdigest()
    return Trained(digest, sum(held.values()), parallel.waited)


def digests(size: int, leaves: int, **options: Any) -> set[str]:
    """Return the digests of all processes; where the optimizer is sharded, that of the one that has all its state."""
    trained = run_in_threads(size, lambda communicator: train(communicator, leaves, **options))
    return {one.digest for one in (trained[:1] if options.get("shard") else trained)}


@pytest.mark.usefixtures("small_buckets")
def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    expected = train(Single(), 8).digest
    for size, shard in ((1, True), (2, False), (2, True), (4, True), (8, False), (8, True)):
        assert digests(size, 8, shard=shard) == {expected}


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(
    ("make", "frozen"), [(sgd, ()), (adamw, ("blocks.0", "norm.bias")), (sgd, ("token_embedding",))]
)
def test_nor_do_other_optimizers_and_frozen_parameters(
    make: Callable[[GPT], Optimizer], frozen: tuple[str, ...]
) -> None:
    expected = train(Single(), 4, make=make, frozen=frozen).digest
    assert digests(4, 4, make=make, frozen=frozen) == {expected}
    assert digests(2, 4, make=make, frozen=frozen, shard=True) == {expected}


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("shard", [False, True])
def test_three_processes_give_the_bits_of_one(shard: bool) -> None:
    assert digests(3, 6, shard=shard) == {train(Single(), 6).digest}


@pytest.mark.usefixtures("small_buckets")
def test_sums_begin_while_the_backward_runs_and_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first step none has begun when the backward ends; later all but those of the first layers have."""
    begun: list[int] = []
    last = data_parallel._Step._note_reached
    monkeypatch.setattr(data_parallel._Step, "_note_reached", lambda step: (begun.append(step.launched), last(step)))
    both = [digests(2, 2, steps=2, overlap=overlap) for overlap in (True, False)]
    assert both[0] == both[1]
    buckets = len(DataParallel(GPT(CONFIG), Single()).buckets.ranges)
    assert sorted(begun[:4]) == [0, 0, buckets, buckets]
    assert begun[4:] == [0, 0, 0, 0]


@pytest.mark.usefixtures("small_buckets")
def test_the_memory_of_the_optimizer_falls_with_the_number_of_processes() -> None:
    alone = train(Single(), 8).moments
    for size in (2, 4, 8):
        trained = run_in_threads(size, lambda communicator: train(communicator, 8, steps=1, shard=True))
        assert sum(one.moments for one in trained) == alone
        assert max(one.moments for one in trained) <= 1.3 * alone / size


def test_fast_sums_are_right_to_rounding() -> None:
    def weights(communicator: Communicator, **options: bool) -> np.ndarray:
        model = GPT(CONFIG, seed=1)
        loss = quadratic(model)
        DataParallel(model, communicator, **options).accumulate([(k, 0.25) for k in range(4)], loss)
        return model.flat.grad.copy()

    exact = weights(Single())
    for result in run_in_threads(4, lambda communicator: weights(communicator, fast_sums=True)):
        assert np.abs(result - exact).max() <= 1e-6 * np.abs(exact).max()


def quadratic(model: GPT) -> Callable[[int, float], float]:
    """Return a loss of each leaf k, Σ cos(k + i) wᵢ, whose gradient needs no forward."""

    def loss_and_gradient(k: int, weight: float) -> float:
        loss = 0.0
        for number, parameter in enumerate(model.parameters()):
            factor = np.cos(k + number + np.arange(parameter.size)).reshape(parameter.shape).astype(np.float32)
            parameter.accumulate(np.float32(weight) * factor)
            loss += float((factor * parameter.data).sum())
        return weight * loss

    return loss_and_gradient


@pytest.mark.usefixtures("small_buckets")
def test_a_backward_that_adds_to_a_gradient_on_its_way_is_refused() -> None:
    def process(communicator: Communicator) -> None:
        model = GPT(CONFIG, seed=1)
        parallel, loss = DataParallel(model, communicator), quadratic(model)
        parallel.accumulate([(0, 0.5), (1, 0.5)], loss)

        def twice(k: int, weight: float) -> float:
            return loss(k, weight) + loss(k, weight)

        model.zero_grad()
        parallel.accumulate([(0, 0.5), (1, 0.5)], twice)

    with pytest.raises(ParallelError, match=r"overlap=False|has failed"):
        run_in_threads(2, process)


@pytest.mark.usefixtures("small_buckets")
def test_a_sharded_optimizer_goes_on_from_the_state_of_any_number_of_processes() -> None:
    def process(communicator: Communicator, state: dict[str, Any], steps: int) -> tuple[dict[str, Any], bytes]:
        model = GPT(CONFIG, seed=1)
        parallel = DataParallel(model, communicator)
        optimizer = parallel.shard(adamw(model))
        if state:
            optimizer.load_state_dict(state["optimizer"])
            model.load_state_dict(state["model"])
        for _ in range(steps):
            optimizer.zero_grad()
            parallel.accumulate([(k, 0.25) for k in range(4)], quadratic(model))
            optimizer.step()
        return {"optimizer": optimizer.state_dict(), "model": model.state_dict()}, model.flat.data.tobytes()

    whole, expected = process(Single(), {}, 4)
    for before, after in ((4, 2), (1, 4), (2, 1)):
        half = run_in_threads(before, lambda communicator: process(communicator, {}, 2))[0][0]
        ends = run_in_threads(after, lambda communicator, half=half: process(communicator, half, 2))  # type: ignore[misc]
        assert {weights for _, weights in ends} == {expected}
        for number, values in ends[0][0]["optimizer"]["state"].items():
            for name, value in values.items():
                assert np.array_equal(value, whole["optimizer"]["state"][number][name])


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e30, np.inf, np.nan])
def test_the_norm_of_a_shared_gradient_is_that_of_the_whole(scale: float) -> None:
    """Also where squares vanish or overflow, and with some parameters only."""

    def norms(communicator: Communicator) -> list[float]:
        model, rng = GPT(CONFIG, seed=1), np.random.default_rng(0)
        optimizer = DataParallel(model, communicator).shard(adamw(model))
        for parameter in model.parameters():
            parameter.accumulate((scale * rng.normal(size=parameter.shape)).astype(np.float32))
        some = [parameter for path, parameter in model.named_parameters() if "norm" not in path]
        return [get_total_norm(parameters) for parameters in (optimizer.parameters, some)]

    expected = norms(Single())
    assert expected[0] != expected[1] or not np.isfinite(scale)
    for found in run_in_threads(4, norms):
        assert np.array_equal(found, expected, equal_nan=True)


def test_mistakes_with_a_sharded_optimizer_are_refused() -> None:
    def process(communicator: Communicator) -> None:
        model = GPT(CONFIG, seed=1)
        parallel, before = DataParallel(model, communicator), adamw(model)
        optimizer = parallel.shard(before)
        with pytest.raises(StateError, match=r"optimizer = parallel\.shard"):
            before.step()
        with pytest.raises(ConfigError, match="before an optimizer is sharded"):
            optimizer.add_param_group({"params": [nn.Parameter(np.zeros(3))]})
        with pytest.raises(StateError, match="cannot be copied"):
            copy.deepcopy(optimizer)
        with pytest.raises(ConfigError, match="is none of them"):
            parallel.shard(AdamW([nn.Parameter(np.zeros(3, np.float32))]))
        model.to(np.float64)
        with pytest.raises(StateError, match="keep their shape, dtype and device"):
            optimizer.step()

    run_in_threads(2, process)


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
