"""Data parallel training: every process holds the whole model, and computes the gradient of a part of the batch.

    parallel = DataParallel(model)                              # the world of `mpiexec -n 4 python train.py`
    ...
    optimizer.zero_grad()
    loss = parallel.accumulate(leaves, loss_and_gradient)       # instead of one forward and backward
    optimizer.step()                                            # every process takes the same step

A batch is cut into leaves, which are always computed one by one. Each process computes some of them; gradients and
losses are added in a fixed tree (see `tree`). So the result depends on the leaves, and not on the processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import add
from typing import TypeVar

from ..arrays import to_device, to_numpy
from ..errors import ConfigError
from ..nn.module import Module
from ..random import Generator
from .communicator import Communicator
from .start import world
from .tree import TreeSum, all_reduce, fold

__all__ = ["DataParallel"]

P = TypeVar("P")

LEAF_STREAMS = 16  # streams of random numbers from one leaf to the next; below this are those of other purposes
MOST_LEAVES = 2**16 // LEAF_STREAMS


class DataParallel:
    """What one process does of each step, and how its gradients join those of the others.

    model: equal in all processes. communicator: without one, that of the processes started together.
    """

    def __init__(self, model: Module, communicator: Communicator | None = None) -> None:
        self.model = model
        self.communicator = world() if communicator is None else communicator
        self._sum = TreeSum()

    def own(self, leaves: int) -> range:
        """Return the numbers of the leaves that this process computes.

        Raises:
            ConfigError: the leaves cannot be shared so that the sums stay the same.
        """
        size, rank = self.communicator.size, self.communicator.rank
        each = leaves // size
        if size > 1 and (leaves > MOST_LEAVES or each * size != leaves or each & (each - 1)):
            raise ConfigError(
                f"parallel: the leaves of a step are {size} processes times 1, 2, 4, 8, ..., at most {MOST_LEAVES}, "
                f"got {leaves}. Change the number of processes, or --leaves or --accumulation."
            )
        return range(rank * each, (rank + 1) * each)

    def accumulate(self, leaves: Sequence[tuple[P, float]], loss_and_gradient: Callable[[P, float], float]) -> float:
        """Compute the own leaves, and return the loss of all; the model then has the gradient of all.

        leaves: each with its weight in the loss; equal in all processes, and shares of one batch. loss_and_gradient:
        adds weight times the gradient of a leaf's loss to the model's gradients, and returns weight · loss. The model's
        gradients must be zero or None before.

        Dropout of leaf i draws from the random stream of leaf i, whichever process computes it.
        """
        own = self.own(len(leaves))
        if len(leaves) == 1:
            return loss_and_gradient(*leaves[0])
        losses, without = [], set(self.model.parameters())
        self._sum.clear()
        for number in own:
            self.model.zero_grad()
            with self._streams_of(number, last=number == own[-1]):
                losses.append(loss_and_gradient(*leaves[number]))
            without &= {parameter for parameter in without if parameter.grad is None}
            self._sum.add(self.model.flat.grad)
        every = [loss for some in self.communicator.gather(losses) for loss in some]
        gradient = self.model.flat.grad
        gradient[...] = self._sum.take()
        if self.communicator.size > 1:  # processes exchange the host's memory
            host = to_numpy(gradient)
            all_reduce(host, self.communicator)
            if host is not gradient:
                gradient[...] = to_device(host, self.model.device)
        for parameter in without:  # the backward never reaches it, so the optimizer must not either
            parameter.grad = None
        return fold(every, add)

    @contextmanager
    def _streams_of(self, number: int, last: bool) -> Iterator[None]:
        """Let dropout draw from the streams of a leaf. The next step begins at the offset where a last leaf ends."""
        found = (getattr(module, "generator", None) for module in self.model.modules())
        generators = {id(generator): generator for generator in found if isinstance(generator, Generator)}.values()
        starts = [(generator, generator.stream, generator.offset) for generator in generators]
        for generator, stream, _ in starts:
            generator.stream = stream + LEAF_STREAMS * number
        try:
            yield
        finally:
            for generator, stream, offset in starts:
                generator.stream = stream
                if not last:
                    generator.offset = offset
