"""Threads: they are set and told, a user's own settings stay, and a training step gives the same bits on any number."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from compyute_transformer.cpu import _threads
from compyute_transformer.errors import BackendError
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.optim import AdamW, clip_grad_norm_
from compyute_transformer.threads import on_threads, set_threads, threads

VARIABLES = (*_threads.NUMBA_VARIABLES, *_threads.BLAS_VARIABLES)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable is set, and every pool is left as it was found."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    pools = [pool for pool in (_threads.of_numba(), *map(_threads.of_blas, ("numpy", "scipy"))) if pool]
    before = [pool.get() for pool in pools]
    assert len(pools) == 3, "Numba is here, and the wheels of NumPy and SciPy carry OpenBLAS"
    yield
    for pool, count in zip(pools, before, strict=True):
        pool.set(count)


def counts() -> list[int]:
    pools = (_threads.of_numba(), _threads.of_blas("numpy"), _threads.of_blas("scipy"))
    return [pool.get() for pool in pools if pool]


def test_all_pools_are_set_and_the_number_is_told() -> None:
    assert set_threads(1) == threads() == 1
    assert counts() == [1, 1, 1]
    assert set_threads(2) == threads() == min(2, _threads.most())
    assert counts()[1:] == [2, 2]


@pytest.mark.parametrize("variable", sorted(set(VARIABLES)))
def test_what_the_user_set_stays_unless_overridden(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    set_threads(2)
    before = counts()
    monkeypatch.setenv(variable, "2")
    set_threads(1)
    kept = [variable in _threads.NUMBA_VARIABLES] + [variable in _threads.BLAS_VARIABLES] * 2
    assert counts() == [old if keeps else 1 for old, keeps in zip(before, kept, strict=True)]
    assert set_threads(1, override=True) == 1
    assert counts() == [1, 1, 1]


def test_more_than_the_pool_holds_is_all_of_it() -> None:
    assert set_threads(_threads.most() + 5) == _threads.most()


def test_without_numba_the_blas_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "find_spec", lambda name: None)
    set_threads(1)
    assert threads() == 1
    assert set_threads(2) == 2


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "2", None])
def test_what_is_no_number_of_threads_is_refused(count: object) -> None:
    with pytest.raises(BackendError, match="set_threads: a number of threads is a whole number of at least 1, got"):
        set_threads(count)  # type: ignore[arg-type]


def test_a_package_with_another_blas_is_left_alone() -> None:
    assert _threads.of_blas("jaxtyping") is None


def three_steps(count: int) -> tuple[list[float], np.ndarray]:
    """Losses and weights after three steps, of shapes that no number of threads divides."""
    set_threads(count)
    model = GPT(GPTConfig(vocab_size=67, context_length=45, embed_dim=66, num_heads=3, num_layers=2, dropout=0.2))
    optimizer = AdamW(model.parameters(), 1e-3)
    ids = np.random.default_rng(0).integers(0, 67, (3, 2, 5, 45))
    losses = []
    for x, y in ids:
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(x), y)
        model.backward(cross_entropy_backward(1.0, saved))
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
    return losses, model.flat.data


def test_training_gives_the_same_bits_on_one_thread_and_on_two() -> None:
    losses, weights = three_steps(1)
    again, others = three_steps(2)
    assert losses == again
    np.testing.assert_array_equal(weights, others)


NAMES = ("OPENBLAS_THREAD_TIMEOUT", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def run_alone(code: str, **variables: str) -> list[str]:
    """The words that a new process prints."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_and_using_the_library_changes_nothing_in_the_environment() -> None:
    code = """
import os
before = dict(os.environ)
import numpy as np, compyute_transformer
from compyute_transformer.ops import softmax
softmax(np.zeros((2, 3), np.float32))
print(before == dict(os.environ))
"""
    assert run_alone(code) == ["True"]


TELL = f"import os; print(*[os.environ.get(name) for name in {NAMES}])"


def test_configure_threads_says_how_idle_threads_wait_before_numpy_loads() -> None:
    code = "import sys; from compyute_transformer.threads import configure_threads; print('numpy' in sys.modules);"
    assert run_alone(f"{code} print(configure_threads()); {TELL}") == ["False", "()", "18", "passive", "10000"]
    theirs = {"OPENBLAS_THREAD_TIMEOUT": "7", "OMP_WAIT_POLICY": "active"}
    assert run_alone(f"{code} print(configure_threads()); {TELL}", **theirs) == ["False", "()", "7", "active", "None"]


def test_configure_threads_returns_what_comes_too_late() -> None:
    code = "import numpy; from compyute_transformer.threads import configure_threads; print(*configure_threads())"
    assert run_alone(code) == ["OPENBLAS_THREAD_TIMEOUT"]


def test_configure_threads_takes_a_number() -> None:
    code = "from compyute_transformer.threads import configure_threads, threads; configure_threads(1); print(threads())"
    variables = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_every_pool_gets_its_own_number_of_threads_back() -> None:
    pools = _threads.pools()
    first = [pool.get() for pool in pools]
    try:
        for number, pool in enumerate(pools):
            pool.set(1 + number % 2)
        before = [pool.get() for pool in pools]
        with on_threads(1):
            assert [pool.get() for pool in pools] == [1] * len(pools)
        assert [pool.get() for pool in pools] == before
    finally:
        for pool, count in zip(pools, first, strict=True):
            pool.set(count)
