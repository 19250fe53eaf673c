"""The graphs of attention of cuDNN's front end: tensors by dims and strides, and a plain softmax behind them.

Written from the front end's documentation, not from what calls it. Position i of the queries sees position j of the
keys where j ≤ i + right bound and j > i − left bound; with BOTTOM_RIGHT i is shifted by the difference of the lengths.
Which weights are dropped follows from the numbers in the seed and the offset, at the time of the launch.
"""

from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from cuda_on_cpu.compile import INCLUDE

from . import stream
from .cublaslt import _allocation
from .module import _module

data_type = Enum("data_type", ["BFLOAT16", "HALF", "FLOAT", "INT32", "INT64"])
heur_mode = Enum("heur_mode", ["A", "B", "FALLBACK"])
diagonal_alignment = Enum("diagonal_alignment", ["TOP_LEFT", "BOTTOM_RIGHT"])
DTYPES = dict(zip(data_type, map(np.dtype, (ml_dtypes.bfloat16, "f2", "f4", "i4", "i8")), strict=True))


class cudnnGraphNotSupportedError(RuntimeError):
    """What the front end raises for a graph that no engine computes."""


class Tensor:
    """A tensor of a graph."""

    def __init__(
        self, dim: Any = None, stride: Any = None, data_type: Any = None, uid: int = 0, name: str = ""
    ) -> None:
        self.dim, self.stride, self.data_type, self.uid, self.name, self.output = (
            dim,
            stride,
            data_type,
            uid,
            name,
            False,
        )

    def set_output(self, output: bool) -> "Tensor":
        self.output = output
        return self

    def set_uid(self, uid: int) -> "Tensor":
        self.uid = uid
        return self

    def set_dim(self, dim: list[int]) -> "Tensor":
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> "Tensor":
        self.stride = stride
        return self

    def set_data_type(self, kind: Any) -> "Tensor":
        self.data_type = kind
        return self

    def at(self, pointer: int, writes: bool = False) -> tuple[np.ndarray, Any]:
        """Return the array at an address, and the memory it lies in."""
        dtype = DTYPES[self.data_type]
        reach = 1 + sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        allocation = _allocation(pointer, reach * dtype.itemsize)
        offset = pointer - allocation.start
        strides = [each * dtype.itemsize for each in self.stride]
        return np.ndarray(self.dim, dtype, allocation.raw.data, offset, strides), allocation


class pygraph:
    """A graph with one node: sdpa or sdpa_backward."""

    def __init__(
        self, io_data_type: Any, intermediate_data_type: Any, compute_data_type: Any, handle: Any = None
    ) -> None:
        self.handle, self.node, self.built = handle, None, False
        self.tensors: list[Tensor] = []

    def tensor(self, name: str, dim: list[int], stride: list[int], data_type: Any, uid: int) -> Tensor:
        self.tensors.append(Tensor(dim, stride, data_type, uid, name))
        return self.tensors[-1]

    def _add(self, kind: str, outputs: int, **given: Any) -> list[Tensor]:
        self.made = [Tensor(name=f"{kind}{i}") for i in range(outputs)]
        self.node, self.given = kind, given
        return self.made

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, attn_scale: float, generate_stats: bool, **options: Any) -> Any:
        made = self._add("sdpa", 2, q=q, k=k, v=v, attn_scale=attn_scale, **options)
        made[1].set_dim([*q.dim[:3], 1]).set_stride([q.dim[1] * q.dim[2], q.dim[2], 1, 1])
        return made

    def sdpa_backward(
        self, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor, stats: Tensor, **options: Any
    ) -> Any:
        return self._add("sdpa_backward", 3, q=q, k=k, v=v, o=o, dO=dO, stats=stats, **options)

    def validate(self) -> None:
        q, k = self.given["q"], self.given["k"]
        if (
            q.dim[3] % 8
            or q.dim[3] > 256
            or q.dim[1] % k.dim[1]
            or q.data_type not in (data_type.BFLOAT16, data_type.HALF)
        ):
            raise cudnnGraphNotSupportedError("head dims, groups or dtype")
        for tensor in (*self.tensors, *self.made):
            if tensor.dim is None or tensor.stride is None or not tensor.uid:
                raise cudnnGraphNotSupportedError(f"{tensor.name} is not described")
            if tensor.data_type in (data_type.BFLOAT16, data_type.HALF) and tensor.stride[3] != 1:
                raise cudnnGraphNotSupportedError("the last axis is not contiguous")

    def build_operation_graph(self) -> None:
        pass

    def create_execution_plans(self, modes: list[Any]) -> None:
        pass

    def check_support(self) -> None:
        pass

    def build_plans(self) -> None:
        if stream.capturing():
            raise RuntimeError("a plan is built during a capture")
        self.built = True

    def get_workspace_size(self) -> int:
        return 4096 if self.node == "sdpa_backward" else 16

    def execute(self, pack: dict[int, int], workspace: int, handle: Any = None) -> None:
        if not self.built or handle is None or handle.stream != stream.get_current_stream().ptr:
            raise RuntimeError("a graph is built first, and runs with a handle on the stream of the arrays around it")
        found, touched = {}, [_allocation(workspace, self.get_workspace_size())]
        outputs = {tensor.uid for tensor in self.made}
        for tensor in (*self.tensors, *self.made):
            if pack[tensor.uid] % 16 and tensor.dim[-1] > 1:
                raise RuntimeError(f"{tensor.name}: an address that is not aligned to 16 bytes")
            found[tensor.uid], memory = tensor.at(pack[tensor.uid], tensor.uid in outputs)
            touched.append(memory)
        if set(pack) != set(found):
            raise RuntimeError("the variant pack and the graph have different tensors")
        run = self._forward if self.node == "sdpa" else self._backward
        stream.launch(
            self.node, lambda: run({n: found[getattr(t, "uid", 0)] for n, t in self._named().items()}), touched
        )

    def _named(self) -> dict[str, Tensor]:
        named = {name: tensor for name, tensor in self.given.items() if isinstance(tensor, Tensor)}
        if "dropout" in self.given:
            named |= dict(zip(("seed", "offset"), self.given["dropout"][1:], strict=True))
        return named | {f"out{i}": tensor for i, tensor in enumerate(self.made)}

    def _weights(self, a: dict[str, np.ndarray]) -> tuple[Any, ...]:
        """Return queries and repeated keys and values in float32, scores, and which of them are seen and kept."""
        q, k, v = (a[name].astype(np.float32) for name in "qkv")
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat(group, axis=1) for x in (k, v))
        T, S = q.shape[2], k.shape[2]
        shift = S - T if self.given.get("diagonal_alignment") == diagonal_alignment.BOTTOM_RIGHT else 0
        i, j = np.arange(T)[:, None] + shift, np.arange(S)[None, :]
        sees = np.ones((1, 1, T, S), bool)
        if self.given.get("diagonal_band_right_bound") is not None:
            sees = sees & (j <= i + self.given["diagonal_band_right_bound"])
        if self.given.get("diagonal_band_left_bound") is not None:
            sees = sees & (j > i - self.given["diagonal_band_left_bound"])
        if self.given.get("use_padding_mask"):
            sees = sees & (j < a["seq_len_kv"]) & (np.arange(T)[:, None] < a["seq_len_q"])
        scores = np.where(sees, q @ k.swapaxes(2, 3) * np.float32(self.given["attn_scale"]), -np.inf)
        keep = np.float32(1)
        if "dropout" in self.given:
            p = self.given["dropout"][0]
            rng = np.random.default_rng([int(a["seed"].ravel()[0]), int(a["offset"].ravel()[0])])
            keep = (rng.random(scores.shape) >= p).astype(np.float32) / np.float32(1 - p)
        return q, k, v, scores, keep, group

    def _forward(self, a: dict[str, np.ndarray]) -> None:
        _, _, v, scores, keep, _ = self._weights(a)
        with np.errstate(all="ignore"):
            highest = scores.max(-1, keepdims=True)
            stats = highest + np.log(np.exp(scores - highest).sum(-1, keepdims=True))
            a["out0"][...] = np.exp(scores - stats) * keep @ v
        a["out1"][...] = np.where(np.isnan(stats), -np.inf, stats)

    def _backward(self, a: dict[str, np.ndarray]) -> None:
        q, k, v, scores, keep, group = self._weights(a)
        dy, y, stats = (a[name].astype(np.float32) for name in ("dO", "o", "stats"))
        P = np.where(np.isfinite(scores), np.exp(scores - stats), 0)
        dv = (P * keep).swapaxes(2, 3) @ dy
        dP = (dy @ v.swapaxes(2, 3)) * keep
        dZ = P * (dP - (dy * y).sum(-1, keepdims=True)) * np.float32(self.given["attn_scale"])
        dk = dZ.swapaxes(2, 3) @ q
        a["out0"][...] = dZ @ k
        for name, gradient in (("out1", dk), ("out2", dv)):
            B, _, S, D = gradient.shape
            summed = gradient.reshape(B, -1, group, S, D).sum(2)
            if self.given.get("use_padding_mask"):  # what lies past a length is not written
                written = np.broadcast_to(np.arange(S)[None, None, :, None] < a["seq_len_kv"], summed.shape)
                np.copyto(a[name], summed.astype(a[name].dtype), where=written)
            else:
                a[name][...] = summed


def make() -> dict[str, ModuleType]:
    """Return the modules by name."""

    def set_stream(handle: Any, stream: int) -> None:
        handle.stream = stream

    cudnn = _module(
        "cudnn",
        create_handle=lambda: SimpleNamespace(stream=0),
        set_stream=set_stream,
        pygraph=pygraph,
        data_type=data_type,
        heur_mode=heur_mode,
        diagonal_alignment=diagonal_alignment,
        backend_version=lambda: 91900,
    )
    pathfinder = _module(
        "cuda.pathfinder",
        load_nvidia_dynamic_lib=lambda name: None,
        find_nvidia_header_directory=lambda name: str(INCLUDE),
    )
    return {module.__name__: module for module in (cudnn, _module("cuda", pathfinder=pathfinder), pathfinder)}
