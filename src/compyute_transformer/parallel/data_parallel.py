"""Data parallel training: every process holds the whole model, and computes the gradient of a part of the batch.

    parallel = DataParallel(model)                              # the world of `mpiexec -n 4 python train.py`
    optimizer = parallel.shard(AdamW(model.parameters()))       # each process keeps and updates a part of its state
    ...
    optimizer.zero_grad()
    loss = parallel.accumulate(leaves, loss_and_gradient)       # instead of one forward and backward
    optimizer.step()                                            # every process has the same new weights

A batch is cut into leaves, which are always computed one by one. Each process computes some of them; gradients and
losses are added in a fixed tree (see `tree`). So the result depends on the leaves, and not on the processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import add
from time import perf_counter
from typing import TypeVar

from ..arrays import Array
from ..errors import ConfigError, ParallelError
from ..nn.module import Module
from ..nn.parameter import Parameter
from ..optim.flat import FlatBuffer
from ..optim.optimizer import Optimizer
from ..random import Generator
from .buckets import Buckets, all_reduce
from .communicator import Communicator
from .sharded import ShardedOptimizer
from .start import for_device, world
from .tree import TreeSum, fold

__all__ = ["DataParallel"]

P = TypeVar("P")

LEAF_STREAMS = 16  # streams of random numbers from one leaf to the next; below this are those of other purposes
MOST_LEAVES = 2**16 // LEAF_STREAMS


class DataParallel:
    """What one process does of each step, and how its gradients join those of the others.

    model: equal in all processes. communicator: without one, that of the processes started together. overlap: whether
    gradients travel while the backward still computes others. fast_sums: whether gradients are added by the engine's
    own Allreduce, in an order of its own; the last bits then depend on the number of processes.

    waited: seconds of the latest step in which this process did nothing but wait for sums of gradients.
    """

    def __init__(
        self,
        model: Module,
        communicator: Communicator | None = None,
        *,
        overlap: bool = True,
        fast_sums: bool = False,
    ) -> None:
        self.model = model
        self.communicator = for_device(world() if communicator is None else communicator, model.device)
        self.overlap, self.fast_sums = overlap, fast_sums
        self.waited = 0.0
        self._sum = TreeSum()
        self._buckets: tuple[FlatBuffer, Buckets] | None = None
        self._calls: dict[int, int] = {}  # how often the latest backward added to each parameter, by its number

    @property
    def buckets(self) -> Buckets:
        """The buckets of the model's flat buffer as it is now."""
        flat = self.model.flat
        if self._buckets is None or self._buckets[0] is not flat:
            matrices = sum(parameter.size for parameter in flat.parameters if parameter.ndim >= 2)
            self._buckets = flat, Buckets(flat.data.size, matrices, self.communicator)
            self._calls = {}
        return self._buckets[1]

    def shard(self, optimizer: Optimizer) -> Optimizer:
        """Return an optimizer that keeps and updates the part of this process, and gives it to the others.

        The weights have the same bits as without. `clip_grad_norm_` and `get_total_norm` know of the parts. One process
        alone gets its optimizer back as it came.

        Raises:
            ConfigError: a parameter of the optimizer is none of the model's.
        """
        if self.communicator.size == 1:
            return optimizer
        return ShardedOptimizer(optimizer, self.model, self.buckets)

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

        With a sharded optimizer, it has the gradient of all in the part that this process updates.

        leaves: each with its weight in the loss; equal in all processes, and shares of one batch. loss_and_gradient:
        adds weight times the gradient of a leaf's loss to the model's gradients, and returns weight · loss. The model's
        gradients must be zero or None before.

        Dropout of leaf i draws from the random stream of leaf i, whichever process computes it.

        Raises:
            ParallelError: a process has failed, or a backward added to a gradient that was on its way already.
        """
        own = self.own(len(leaves))
        if self.model.device != "cpu" and self.communicator.size > 1 and self.communicator.engine != "NCCL":
            raise ConfigError(
                f"parallel: the model has moved to {self.model.device!r} since DataParallel was made, and GPUs reach "
                "each other by NCCL. Move the model first."
            )
        if len(leaves) == 1:
            return loss_and_gradient(*leaves[0])
        step = _Step(self)
        losses = []
        for number in own:
            last = number == own[-1]
            self.model.zero_grad()
            with self._streams_of(number, last), step.last() if last else step.another():
                losses.append(loss_and_gradient(*leaves[number]))
        told = self.communicator.gather([losses, sorted(step.reached)])
        step.end({number for _, numbers in told for number in numbers})
        return fold([loss for some, _ in told for loss in some], add)

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


class _Step:
    """One step: the gradients of the own leaves are added, and the sums of buckets begin as the last backward runs.

    reached: the numbers of the parameters that a backward of this process gave a gradient.
    """

    def __init__(self, parallel: DataParallel) -> None:
        self.parallel, self.buckets, self.flat = parallel, parallel.buckets, parallel.model.flat
        self.sum, self.parameters = parallel._sum, parallel.model.flat.parameters
        self.reached: set[int] = set()
        self.calls: dict[int, int] = {}
        self.launched = 0
        self.sum.clear()
        self.buckets.clear()
        self.parallel.waited = 0.0

    @contextmanager
    def another(self) -> Iterator[None]:
        """Run the backward of a leaf that is not the last one."""
        yield
        self._note_reached()
        self.sum.add(self.flat.grad)

    @contextmanager
    def last(self) -> Iterator[None]:
        """Run the backward of the last leaf, and the sums of buckets as they are filled."""
        with self.flat.borrowed_gradients() as gradient:
            with self._heard(gradient):
                yield
            self._note_reached()
            began = perf_counter()
            if self.parallel.fast_sums:
                self._add_plainly(gradient)
            else:
                while self.launched < len(self.buckets.ranges):
                    self._launch(gradient)
                self.buckets.finish()
            self.parallel.waited += perf_counter() - began
        self.parallel._calls = self.calls

    def end(self, reached: set[int]) -> None:
        """Give all processes all sums, unless they update parts. reached: the parameters that some process reached.

        A parameter that no backward reaches stays without a gradient, so that the optimizer does not move it either.
        """
        self.sum.clear()
        if self.flat.shard is None and not self.parallel.fast_sums:
            began = perf_counter()
            self.buckets.gather(self.flat.array_of_gradients(0, self.flat.data.size))
            self.parallel.waited += perf_counter() - began
        for number, parameter in enumerate(self.parameters):
            parameter.grad = parameter.place.grad if number in reached and parameter.requires_grad else None

    def _note_reached(self) -> None:
        self.reached |= {number for number, parameter in enumerate(self.parameters) if parameter.grad is not None}

    def _add_plainly(self, gradient: Array) -> None:
        self._complete(gradient, 0, len(gradient))
        if not self.parallel.communicator.plain_sum(gradient):
            all_reduce(gradient, self.parallel.communicator)

    # --- buckets that are filled ---

    @contextmanager
    def _heard(self, gradient: Array) -> Iterator[None]:
        """Count what the backward adds to each parameter, and launch a bucket when it has come as often as before.

        The first step only counts. A gradient that the step before did not have is waited for until the end.
        """
        expected = self.parallel._calls if self.parallel.overlap and not self.parallel.fast_sums else {}
        trained = {number for number, parameter in enumerate(self.parameters) if parameter.requires_grad}
        missing = [numbers & trained for numbers in self.buckets.members_of(self.parameters)]

        def hear(number: int) -> None:
            self.calls[number] = self.calls.get(number, 0) + 1
            if self.launched and self.calls[number] > expected.get(number, 0):
                self._refuse_if_late(number)
            if self.calls[number] == expected.get(number):
                for numbers in missing:
                    numbers.discard(number)
            if expected:
                while self.launched < len(missing) and not missing[self.launched]:
                    self._launch(gradient)
                self.buckets.poll()

        with _listening(self.parameters, hear):
            yield

    def _refuse_if_late(self, number: int) -> None:
        members = self.buckets.members_of(self.parameters)
        if any(number in numbers for numbers in members[: self.launched]):
            raise ParallelError(
                f"DataParallel: every backward must add to {self.parameters[number].path} as often as the one of the "
                "step before, got another gradient when the sum was on its way. Give DataParallel(..., overlap=False)."
            )

    def _launch(self, gradient: Array) -> None:
        self._complete(gradient, *self.buckets.ranges[self.launched])
        self.launched += 1
        self.buckets.launch(gradient)

    def _complete(self, gradient: Array, start: int, stop: int) -> None:
        """Make a range of the gradients of the last leaf the sum of all own leaves."""
        for parameter in self.parameters:
            place, grad = parameter.place, parameter.grad
            low, high = max(start, place.start), min(stop, place.start + parameter.size)
            if low < high and grad is not place.grad:
                gradient[low:high] = 0.0 if grad is None else grad.reshape(-1)[low - place.start : high - place.start]
        self.sum.add_to(gradient, start, stop)


@contextmanager
def _listening(parameters: Sequence[Parameter], hear: Callable[[int], None]) -> Iterator[None]:
    """Call hear(number) after each gradient that arrives at a parameter, within a `with` block."""

    def listener(number: int, parameter: Parameter) -> Callable[[Array | None], None]:
        def accumulate(gradient: Array | None) -> None:
            type(parameter).accumulate(parameter, gradient)
            hear(number)

        return accumulate

    for number, parameter in enumerate(parameters):
        if parameter.requires_grad:
            parameter.__dict__["accumulate"] = listener(number, parameter)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.__dict__.pop("accumulate", None)
