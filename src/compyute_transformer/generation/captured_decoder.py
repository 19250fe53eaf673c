"""Captured decoder: one further token of each row as one CUDA graph, replayed at every position.

A token is a hundred small launches, which take a CPU longer than they take a GPU. Captured once for a cache, the same
launches run again on the same memory. What changes from token to token lies on the device:

    the ids       in an array that each token's ids are copied into
    the length    of the cache beside them: the position of the token, and how many keys it attends to
    the padding   of the rows, which a refilled cache may change

The cache has its final size from the start. It is filled by the model's own forward, before the first token and
whenever the window moves, and the graph goes on with it. The first token of a cache runs launch by launch, since it
plans products and compiles kernels. Sampling reads the logits on the CPU.
"""

import logging
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernels_of
from ..models.gpt import GPT
from ..models.language import LanguageModel
from ..models.llama import Llama
from ..nn.block import PreNormBlock
from ..nn.dropout import Dropout
from ..nn.embedding import Embedding
from ..nn.fused_block import weights_of_norm
from ..nn.linear import Linear
from ..nn.module import Module
from ..nn.norm import LayerNorm, RMSNorm
from ..nn.position import LearnedPosition
from ..ops._checks import check_ids
from ..ops.linear import linear_forward
from ..precision import precision, use_precision
from .cache import KeyValueCache
from .fused_decoder import FusedDecoder, are_one_op

__all__ = ["CapturedDecoder", "decode_fault"]

KERNELS_OFF = "kernels are off"
PLAIN_PARTS: dict[type[LanguageModel], dict[str, type[Module]]] = {
    GPT: {"position": LearnedPosition, "norm": LayerNorm},
    Llama: {"norm": RMSNorm},
}
SHARED_PARTS: dict[str, type[Module]] = {"token_embedding": Embedding, "dropout": Dropout, "head": Linear}


def decode_fault(model: LanguageModel) -> str | None:
    """Return why the tokens of a model on a GPU cannot be captured, in one sentence; None where they can."""
    if linear_forward.runs("cuda") != "cuda":
        return KERNELS_OFF
    parts = PLAIN_PARTS.get(type(model))
    if parts is None:
        return f"a {type(model).__name__} is not among the models that are captured, GPT and Llama"
    if any(type(getattr(model, name)) is not kind for name, kind in (SHARED_PARTS | parts).items()):
        return "a part of the model was replaced by one of another type"
    if model.mask.soft_cap is not None or model.mask.slopes is not None:
        return "its attention has a soft cap or slopes"
    if any(part.precision not in (None, model.precision) for part in model.modules()):
        return "a part of the model has a precision of its own"
    if any(part._observers or "forward" in part.__dict__ for part in model.modules()):
        return "an observer watches a part of the model, or its forward was replaced"
    if not are_one_op(model.blocks) or type(model.blocks[0]) is not PreNormBlock:
        return "its blocks differ, or have norms of queries and keys, dynamic scaling or a chosen attention algorithm"
    weight = model.token_embedding.weight.data
    if weight.dtype != np.float32:
        return f"its weights are {weight.dtype}, not float32"
    if fault := kernels_of("cuda", "cached_attention").cached_attention_fault(model.blocks[0].attention._head_width):
        return str(fault)
    if kernels_of("cuda", "_products").planner() is None:
        return "nvmath is missing: pip install 'compyute-transformer[gpu]'"
    return None


_said: set[str] = set()


class Captured(NamedTuple):
    """A captured token. logits: (B, V), written by each launch. keeps: what else lives as long as the graph."""

    graph: Any
    logits: Array
    keeps: tuple[Any, ...]


class CapturedDecoder:
    """One further token of each row of a GPT or a Llama on a GPU, whose weights stay as they are meanwhile.

    The products are those of the precision that was chosen when it was made.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._made = model, kernels_of("cuda", "decoder")
        self._precision = model.precision or precision()
        fused = FusedDecoder(model)
        self._is_gated, self._activation = fused._is_gated, fused._options[1]
        with use_precision(self._precision):
            self._weights = [self._made.rounded(weights) for weights in fused._weights]
            self._head = self._made.rounded(model.head.weight.data)  # type: ignore[attr-defined]
        self._cupy = array_module(self._head)
        self._tables = self._rotary_tables()
        self._buffers: tuple[Array, Array] | None = None  # of the cache that the arrays below belong to
        self._numbers, self._padding = self._empty(1), self._empty(1)
        self._captured: Captured | None = None

    @classmethod
    def from_model(cls, model: LanguageModel) -> Self | None:
        """Return the captured decoder of a model in `eval()` on a GPU; None where there is none, which is said once."""
        fault = decode_fault(model)
        if fault is None:
            return cls(model)
        if fault != KERNELS_OFF and fault not in _said:
            _said.add(fault)
            message = "Tokens are generated launch by launch, which is slower, and not as one CUDA graph: %s."
            logging.getLogger("compyute_transformer").warning(message, fault)
        return None

    def __call__(self, ids: Array, cache: KeyValueCache, logits_to_keep: int = 1) -> Array | None:
        """Return the logits (B, 1, V) that follow ids (B, 1) of the CPU, which join the cache; None for more ids."""
        if ids.shape[1] != 1:
            return None
        check_ids("embedding", "ids", ids, self._model.config.vocab_size)
        cache.blocks[0].extend(1)  # raises where the cache is full
        is_first = self._buffers is None or self._buffers[0] is not cache.buffers[0]
        if is_first:
            self._captured, self._buffers = None, cache.buffers
            self._numbers, self._padding = self._empty(1 + len(ids)), self._empty(len(ids))
        self._numbers.set(np.array([cache.length, *ids[:, 0]], np.int32))
        self._padding[...] = 0 if cache.padding is None else cache.padding
        if is_first:
            logits = self._launch()
        else:
            self._captured = self._captured or self._capture()
            self._captured.graph.launch()
            logits = self._captured.logits.copy()  # the next token writes over them
        cache.advance(1)
        return logits[:, None]

    def _empty(self, count: int) -> Any:
        return self._cupy.empty(count, np.int32)

    def _rotary_tables(self) -> tuple[Array, Array] | None:
        rotary = self._model.blocks[0].attention.rotary
        if rotary is None:
            return None
        cos, sin = rotary.tables(0, self._model.config.context_length, np.float32)
        return self._cupy.asarray(cos), self._cupy.asarray(sin)

    def _launch(self) -> Array:
        """Launch what computes the logits of a token; during a capture, nothing is computed."""
        with use_precision(self._precision):
            return self._logits()

    def _logits(self) -> Array:
        made, model, buffers = self._made, self._model, self._buffers
        assert buffers is not None
        length, ids = self._numbers[:1], self._numbers[1:]
        x = model.embed(ids[:, None], 0, self._padding - length)[:, 0]  # a padding counted from the token itself
        state = made.CacheState(length, self._padding)
        cached = made.Cached(list(buffers[0]), list(buffers[1]), state, model.mask.window, self._tables)
        norm: Any = model.norm  # type: ignore[attr-defined]
        if self._is_gated:
            x = made.gated_blocks_of_token(x, self._weights, cached, (norm.weight.data, norm.eps), self._activation)
        else:
            x = made.blocks_of_token(x, self._weights, cached, weights_of_norm(norm), self._activation)
        bias: Any = model.head.bias  # type: ignore[attr-defined]
        logits: Array = made.project(x, self._head, None if bias is None else bias.data)
        return logits

    def _capture(self) -> Captured:
        cupy = self._cupy
        pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.Device().synchronize()
        with ExitStack() as held:
            held.enter_context(stream)
            held.enter_context(cupy.cuda.using_allocator(pool.malloc))
            stream.begin_capture()
            try:
                logits = self._launch()
            finally:
                graph = stream.end_capture()
        graph.upload(stream)
        return Captured(graph, logits, (pool, stream))
