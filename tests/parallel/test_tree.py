"""Sums in a fixed tree: the same bits for every number of processes."""

import numpy as np
import pytest

from compyute_transformer.errors import ParallelError
from compyute_transformer.parallel import Communicator, Single, TreeSum, all_reduce, fold, run_in_threads


def leaves(number: int, size: int = 1001) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [(rng.normal(size=size) * 10.0 ** rng.integers(-6, 7, size)).astype(np.float32) for _ in range(number)]


def summed(arrays: list[np.ndarray], processes: int) -> list[np.ndarray]:
    each = len(arrays) // processes

    def process(communicator: Communicator) -> np.ndarray:
        total = TreeSum()
        for array in arrays[communicator.rank * each : (communicator.rank + 1) * each]:
            total.add(array)
        result = total.take().copy()
        all_reduce(result, communicator)
        return result

    return run_in_threads(processes, process)


def in_pairs(arrays: list[np.ndarray]) -> np.ndarray:
    return fold(arrays, np.add)


@pytest.mark.parametrize(
    ("number", "processes"), [(8, 1), (8, 2), (8, 4), (8, 8), (3, 3), (6, 3), (12, 3), (5, 5), (2, 1)]
)
def test_every_process_has_the_sum_of_the_tree(number: int, processes: int) -> None:
    arrays = leaves(number)
    expected = in_pairs(arrays)
    for result in summed(arrays, processes):
        assert result.tobytes() == expected.tobytes()


def test_another_order_has_other_bits() -> None:
    arrays = leaves(8)
    assert sum(arrays[1:], arrays[0].copy()).tobytes() != in_pairs(arrays).tobytes()


def test_the_tree_is_that_of_the_documentation() -> None:
    def join(a: str, b: str) -> str:
        return f"({a}+{b})"

    assert fold(list("01234567"), join) == "(((0+1)+(2+3))+((4+5)+(6+7)))"
    assert fold(list("012"), join) == "((0+1)+2)"
    assert fold(list("012345"), join) == "(((0+1)+(2+3))+(4+5))"
    assert fold(["0"], join) == "0"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
def test_arrays_shorter_than_the_processes_are_many(size: int) -> None:
    arrays = leaves(8, size)
    assert all(np.array_equal(result, in_pairs(arrays)) for result in summed(arrays, 8))


def test_a_sum_can_be_taken_again_and_keeps_no_more_arrays_than_the_tree_is_deep() -> None:
    total, arrays = TreeSum(), leaves(64)
    for _ in range(2):
        for array in arrays:
            total.add(array)
        assert total.take().tobytes() == in_pairs(arrays).tobytes()
    assert len(total._spare) <= 8


def test_processes_that_disagree_are_told_on_what() -> None:
    def process(communicator: Communicator) -> None:
        communicator.agree(version="1", settings={"seed": communicator.rank // 2})

    with pytest.raises(ParallelError, match=r"the same settings; process 0 has {'seed': 0}, process 2 has {'seed': 1}"):
        run_in_threads(3, process)


def test_a_process_that_fails_ends_those_that_wait_for_it() -> None:
    def process(communicator: Communicator) -> None:
        if communicator.rank == 1:
            raise ValueError("broken")
        communicator.barrier()

    with pytest.raises((ValueError, ParallelError), match=r"broken|process 1 has failed"):
        run_in_threads(4, process)


def test_one_process_alone_has_no_peer() -> None:
    with pytest.raises(ParallelError, match="mpiexec"):
        Single().send(np.zeros(1), 1)
    assert Single().gather(3) == [3]
