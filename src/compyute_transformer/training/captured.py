"""Captured: a whole training step as one CUDA graph: forward, loss, backward, clipping and AdamW, launched at once.

A step is a thousand launches, which take a CPU longer than they take a GPU where the model is small. Captured once, the
same launches run again on the same memory, and the CPU only copies a batch, sets the learning rate and asks for the
loss. Nothing inside waits for the CPU, so everything that changes from step to step lies on the device:

    the batch          in arrays that each step's batch is copied into
    the learning rate  in `DeviceAdamW.learning_rate`; the number of the step in `DeviceAdamW.count`
    the weights        which products read as bfloat16, rounded at the beginning of the graph
    the dropout        in `advance`, by which the offset of every random key has moved on since the capture

The memory of the graph is a pool of its own, which nobody else is given parts of as long as the graph lives.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, array_module, kept_constants
from ..dispatch import kernels_of
from ..nn.module import Module
from ..ops.attention import Mask
from ..ops.linear import linear_forward
from ..optim import AdamW
from ..optim.optimizer import Optimizer
from ..precision import precision
from .mixed import gradient_in_pieces, rounded_weights

__all__ = ["CapturedSteps", "capture_fault"]

MOST_GRAPHS = 4  # each holds the activations of a step


class Captured(NamedTuple):
    """A captured step. arrays: what a batch is copied into. loss: of the batch. first: the offset of its first
    random key. keys: how many it has. keeps: what else the graph uses, which lives as long.
    """

    graph: Any
    arrays: tuple[Array, ...]
    loss: Array
    first: int
    keys: int
    keeps: tuple[Any, ...]


def capture_fault(model: Module, optimizer: object) -> str | None:
    """Return why steps of a model cannot be captured, in one sentence; None where they can."""
    if model.device != "cuda":
        return "the model is not on a GPU"
    if linear_forward.runs("cuda") != "cuda":
        return "kernels are off"
    if type(optimizer) is not AdamW:
        return "the optimizer is not AdamW"
    masks = [mask for module in model.modules() if isinstance(mask := getattr(module, "mask", None), Mask)]
    if any(mask.soft_cap is not None or mask.slopes is not None for mask in masks):
        return "attention with a soft cap or slopes is not captured"
    if precision() != "bfloat16":
        return "products in float32 with attention are not captured; choose the precision bfloat16"
    if kernels_of("cuda", "_products").planner() is None or kernels_of("cuda", "attention").graphs() is None:
        return "nvmath or cuDNN is missing: pip install 'compyute-transformer[gpu]'"
    if any(not parameter.requires_grad for parameter in model.parameters()):
        return "some parameters are frozen"
    return None


class CapturedSteps:
    """Steps of one model by one AdamW, captured for each shape of batch. The first step of a shape runs eagerly.

    label_smoothing: of the loss. max_norm: gradients are clipped to it; None clips nothing.
    """

    def __init__(
        self, model: Any, optimizer: Optimizer, label_smoothing: float = 0.0, max_norm: float | None = None
    ) -> None:
        self.model, self.optimizer, self.label_smoothing = model, optimizer, label_smoothing
        self.cupy = array_module(model.flat.data)
        self.loss = kernels_of("cuda", "loss")
        self.advance = self.cupy.zeros((), np.uint32)
        self.adamw = self._adamw(max_norm)
        self.captured: dict[Any, Captured | None] = {}
        self.off = False  # where a step cannot be captured

    def _adamw(self, max_norm: float | None) -> Any:
        """Return an AdamW whose numbers are on the device, and let the optimizer's moments be its arrays."""
        flat, slots = self.model.flat, self.optimizer._slots
        order = sorted(slots, key=lambda slot: slot.parameter.place.start)
        segments: list[tuple[int, float]] = []
        for slot in order:
            end, decay = slot.parameter.place.start + slot.size, float(slot.group["weight_decay"])
            if segments and segments[-1][1] == decay:
                segments.pop()
            segments.append((end, decay))
        options = self.optimizer.param_groups[0]
        made = kernels_of("cuda", "adamw").DeviceAdamW(
            flat.data,
            flat.array_of_gradients(0, flat.data.size),
            segments,
            tuple(options["betas"]),
            options["eps"],
            max_norm or 0.0,
        )
        moments = made.first_moment, made.second_moment
        self.optimizer._write_back_steps()
        for slot in order:
            start = slot.parameter.place.start
            for array, before in zip(moments, slot.own(), strict=False):
                array[start : start + slot.size] = before
            slot.moments, slot.start = moments, start  # one tuple for all: they lie side by side
        self.optimizer._layout = None
        return made

    def take(self, batch: Sequence[Array], learning_rate: float) -> tuple[float, float] | None:
        """Take a step on a batch, the targets last, and return the loss and the norm of the gradient before clipping.

        Returns None for a shape that comes for the first time, which is left to the caller, for one too many, and where
        the step cannot be captured. Where loss or norm are not finite, the step is not taken: weights, moments and the
        number of steps are as before.
        """
        if self.off or self.model.flat.data is not self.adamw.weight:  # a parameter was replaced or moved
            self.off = True
            return None
        shape = tuple((array.shape, array.dtype) for array in batch), self.model.training
        if shape not in self.captured:
            self.captured[shape] = None  # the caller's step plans its products and graphs
            return None
        captured = self.captured[shape]
        if captured is None:
            if sum(each is not None for each in self.captured.values()) >= MOST_GRAPHS:
                return None
            captured = self._tried(batch)
            if captured is None:
                return None
            self.captured[shape] = captured
        for array, given in zip(captured.arrays, batch, strict=True):
            array[...] = given
        generator = self.model.generator
        self.advance.fill(generator.offset - captured.first)
        self.adamw.learning_rate.fill(learning_rate)
        self.adamw.count.fill(self.optimizer.steps)
        captured.graph.launch()
        generator.offset += captured.keys
        loss, norm = float(captured.loss), float(self.adamw.norm)
        if isfinite(loss) and isfinite(norm):
            for slot in self.optimizer._slots:
                slot.steps += 1
        return loss, norm

    def _tried(self, batch: Sequence[Array]) -> Captured | None:
        """Return a captured step; None, and no further attempt, where it cannot be captured, which is said."""
        generator = self.model.generator
        first = generator.offset
        try:
            captured = self._capture(batch)
        except Exception as error:  # an eager step does without a capture, or raises the same
            self.off, generator.offset = True, first
            self.model.clear_saved()
            message = "Steps are taken launch by launch, which is slower, and not as one CUDA graph: %s"
            logging.getLogger("compyute_transformer").warning(message, error)
            return None
        # the optimizer passes over a parameter without a gradient, and the graph cannot
        self.off = any(parameter.grad is None for parameter in self.model.parameters())
        return None if self.off else captured

    def _capture(self, batch: Sequence[Array]) -> Captured:
        cupy, flat, generator = self.cupy, self.model.flat, self.model.generator
        pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        arrays = tuple(array.copy() for array in batch)
        first = generator.offset
        cupy.cuda.Device().synchronize()
        self.model.zero_grad()
        with ExitStack() as held:
            gradient = held.enter_context(flat.borrowed_gradients())
            self.adamw.gradient = gradient
            held.enter_context(stream)
            held.enter_context(cupy.cuda.using_allocator(pool.malloc))
            advance = kernels_of("cuda", "_kernel").ADVANCE
            held.callback(advance.reset, advance.set(self.advance))
            constants = held.enter_context(kept_constants())
            self._gradient(arrays)  # plans the products, builds the graphs of attention, loads the kernels
            self.model.zero_grad()
            generator.offset = first
            stream.synchronize()
            stream.begin_capture()
            try:
                loss = self._gradient(arrays)
                self.adamw.step(loss)
                keys = generator.offset - first
            finally:
                graph = stream.end_capture()
        generator.offset = first
        graph.upload(stream)
        return Captured(graph, arrays, loss, first, keys, (pool, stream, gradient, constants))

    def _gradient(self, arrays: tuple[Array, ...]) -> Array:
        """Compute loss and gradient, and return the loss; during a capture, nothing is computed."""
        *inputs, targets = arrays
        with rounded_weights(self.model):
            cut = gradient_in_pieces(self.model, inputs, targets, self.label_smoothing)
            if cut is not None:
                return cut
            logits = self.cupy.ascontiguousarray(self.model(*inputs))
            num_scored = self.loss.count_scored(targets)
            nll = self.loss.cross_entropy_in_place(logits, targets, num_scored, label_smoothing=self.label_smoothing)
            loss: Array
            loss, _ = self.loss.mean_of_scored(nll, targets)
            self.model.backward(logits)
        return loss
