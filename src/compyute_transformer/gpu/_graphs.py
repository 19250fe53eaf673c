"""Graphs: attention as graphs of cuDNN's front end, built once for each shape and mask, and executed on addresses.

A graph names its tensors by numbers (`Q`, `K`, ...), with sizes and strides in elements; to execute it, each number is
given an address. Nothing of it depends on CuPy but the workspace and the stream.

Versions: 1. graphs of cuDNN's front end 1.27. Not yet timed on a GPU.
"""

import logging
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..errors import BackendError
from ._kernel import address_of

__all__ = ["Graphs", "Shape", "graphs", "rows_first"]

Q, K, V, Y, STATS, DY, DQ, DK, DV, SEED, OFFSET, Q_LENGTHS, KV_LENGTHS = range(1, 14)


class Shape(NamedTuple):
    """What a graph is built for. strides: of q, k and v, and of the gradients, in elements."""

    backward: bool
    dtype: str
    q: tuple[int, ...]
    k: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    causal: bool
    window: int | None
    padded: bool
    dropout: float


class Graphs:
    """The handle of cuDNN, its graphs by what they are for, and the workspace that they share."""

    def __init__(self, library: Any) -> None:
        self.library, self.cupy = library, import_module("cupy")
        self.handle = library.create_handle()
        self.graphs: dict[Shape, Any] = {}
        self.workspace = self.cupy.empty(1, np.uint8)

    def run(self, shape: Shape, pointers: dict[int, int]) -> None:
        """Execute the graph of a shape on the current stream."""
        stream = self.cupy.cuda.get_current_stream()
        if shape not in self.graphs:
            if stream.is_capturing():
                raise BackendError(
                    "attention: a graph of cuDNN is built before it is captured, got a new shape. Run the step once "
                    "before."
                )
            self.graphs[shape] = self._build(shape)
        graph = self.graphs[shape]
        self.library.set_stream(handle=self.handle, stream=stream.ptr)
        graph.execute(pointers, address_of(self.workspace), handle=self.handle)

    def _build(self, shape: Shape) -> Any:
        library = self.library
        kinds = library.data_type
        kind = {"bfloat16": kinds.BFLOAT16, "float16": kinds.HALF}[shape.dtype]
        graph = library.pygraph(
            io_data_type=kind,
            intermediate_data_type=kinds.FLOAT,
            compute_data_type=kinds.FLOAT,
            handle=self.handle,
        )
        if shape.backward:
            self._describe_backward(graph, shape, kind)
        else:
            self._describe_forward(graph, shape, kind)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        size = graph.get_workspace_size()
        if size > self.workspace.size:
            self.workspace = self.cupy.empty(size, np.uint8)
        return graph

    def _inputs(self, graph: Any, shape: Shape, kind: Any) -> dict[str, Any]:
        sizes = (shape.q, shape.k, shape.k)
        return {
            name: graph.tensor(name=name, uid=uid, dim=list(size), stride=list(stride), data_type=kind)
            for name, uid, size, stride in zip("qkv", (Q, K, V), sizes, shape.strides, strict=False)
        }

    def _options(self, graph: Any, shape: Shape) -> dict[str, Any]:
        """Return the mask and the dropout of a graph."""
        kinds, alignment = self.library.data_type, self.library.diagonal_alignment
        B, _, T, D = shape.q
        options: dict[str, Any] = {"attn_scale": D**-0.5}
        if shape.causal or shape.window is not None:
            is_square = shape.k[2] == T
            options["diagonal_alignment"] = alignment.TOP_LEFT if is_square else alignment.BOTTOM_RIGHT
            options["diagonal_band_right_bound"] = 0 if shape.causal else (shape.window or 1) - 1
            if shape.window is not None:
                options["diagonal_band_left_bound"] = shape.window
        if shape.padded:
            column = {"dim": [B, 1, 1, 1], "stride": [1, 1, 1, 1], "data_type": kinds.INT32}
            options["use_padding_mask"] = True
            options["seq_len_q"] = graph.tensor(name="q_lengths", uid=Q_LENGTHS, **column)
            options["seq_len_kv"] = graph.tensor(name="kv_lengths", uid=KV_LENGTHS, **column)
        if shape.dropout:
            one = {"dim": [1] * 4, "stride": [1] * 4, "data_type": kinds.INT64}
            seed, offset = (graph.tensor(name=n, uid=u, **one) for n, u in (("seed", SEED), ("offset", OFFSET)))
            options["dropout"] = (shape.dropout, seed, offset)
        return options

    def _describe_forward(self, graph: Any, shape: Shape, kind: Any) -> None:
        inputs, options = self._inputs(graph, shape, kind), self._options(graph, shape)
        y, stats = graph.sdpa(**inputs, generate_stats=True, **options)
        y.set_output(True).set_uid(Y).set_dim(list(shape.q)).set_stride(rows_first(shape.q)).set_data_type(kind)
        stats.set_output(True).set_uid(STATS).set_data_type(self.library.data_type.FLOAT)

    def _describe_backward(self, graph: Any, shape: Shape, kind: Any) -> None:
        inputs, options = self._inputs(graph, shape, kind), self._options(graph, shape)
        B, H, T, _ = shape.q
        of_y = {"dim": list(shape.q), "stride": rows_first(shape.q), "data_type": kind}
        y, dy = (graph.tensor(name=name, uid=uid, **of_y) for name, uid in (("o", Y), ("dO", DY)))
        stats = graph.tensor(
            name="stats",
            uid=STATS,
            dim=[B, H, T, 1],
            stride=[H * T, T, 1, 1],
            data_type=self.library.data_type.FLOAT,
        )
        gradients = graph.sdpa_backward(**inputs, o=y, dO=dy, stats=stats, **options)
        sizes = (shape.q, shape.k, shape.k)
        for each, uid, size, stride in zip(gradients, (DQ, DK, DV), sizes, shape.strides[3:], strict=True):
            each.set_output(True).set_uid(uid).set_dim(list(size)).set_stride(list(stride)).set_data_type(kind)


def rows_first(size: tuple[int, ...]) -> list[int]:
    """Return the strides of (B, H, T, D) that lies in memory as (B, T, H, D)."""
    _, H, T, D = size
    return [T * H * D, D, H * D, 1]


@cache
def graphs() -> Graphs | None:
    """Return cuDNN's graphs; None where the front end or cuDNN cannot be loaded, which is said once."""
    try:
        load = import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        for name in ("cudart", "nvrtc", "cublasLt"):  # cuDNN compiles with them, and does not find them itself
            load(name)
        return Graphs(import_module("cudnn"))
    except Exception as error:  # a library that is missing or too old surfaces as any of several errors
        logging.getLogger("compyute_transformer").warning(
            "Attention runs in pieces by CuPy, which is slower, and cannot be captured: cuDNN cannot be used (%s: %s). "
            "pip install 'compyute-transformer[gpu]'",
            type(error).__name__,
            error,
        )
        return None
