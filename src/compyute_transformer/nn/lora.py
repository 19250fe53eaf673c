"""LoRA as modules: two narrow matrices beside a frozen weight, of a linear layer or of attention's projections.

    LoRA             the change alone: scale · x aᵀ bᵀ
    LoRALinear       a Linear, and a change of its weight
    LoRAAttention    a MultiHeadAttention, and changes of its projections

Both keep the weights of the module they are made from, which the caller freezes; `merge` gives that module back with
the change added to its weights. At the start b is zero, so nothing has changed.
"""

from collections.abc import Sequence
from typing import Any

from ..arrays import Array, array_module, device_of, to_device
from ..errors import ConfigError
from ..ops._checks import check_integer
from ..ops.attention import Mask
from ..ops.linear import linear_backward, linear_forward
from ..ops.lora import lora_backward, lora_forward
from ..ops.multi_head import Attend, AttendBackward, merge_heads, multi_head_backward, multi_head_forward, split_heads
from ..random import Generator, default_generator
from . import init
from .attention import MultiHeadAttention
from .linear import Linear
from .module import Module, ModuleList
from .parameter import Parameter, is_trained

__all__ = ["LoRA", "LoRAAttention", "LoRALinear"]

Rows = tuple[int, int]  # the first row and the one after the last


class LoRA(Module):
    """y = scale · x aᵀ bᵀ, the change that a weight of rank `rank` makes; see `ops.lora_forward`.

    scale: alpha / rank. a: (rank, in_features), uniform on ±1/√in_features. b: (out_features, rank), zeros.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 8,
        alpha: float = 16.0,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        check_integer("LoRA", "rank", rank, 1)
        self.scale = alpha / rank
        self.a = Parameter(init.uniform(in_features**-0.5)((rank, in_features), generator or default_generator()))
        self.b = Parameter(init.zeros((out_features, rank)))

    def forward(self, x: Array) -> Array:
        """Map (*rows, in_features) to (*rows, out_features)."""
        y, saved = lora_forward(x, self.a.data, self.b.data, self.scale)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x; a frozen parameter costs nothing."""
        dx, da, db = lora_backward(dy, self.pop_saved(), is_trained(self.a), is_trained(self.b))
        self.a.accumulate(da)
        self.b.accumulate(db)
        return dx

    def change(self) -> Array:
        """Return the matrix (out_features, in_features) that the two factors stand for: scale · b a."""
        change: Array = self.b.data @ self.a.data * self.a.data.dtype.type(self.scale)
        return change


class LoRALinear(Linear):
    """y = x Wᵀ + b + scale · x aᵀ bᵀ: a linear layer with a change of its weight.

    linear: the layer, whose parameters stay where they are. rank, alpha, generator: of `LoRA`.
    """

    def __init__(self, linear: Linear, rank: int = 8, alpha: float = 16.0, *, generator: Generator | None = None):
        Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias
        out_features, in_features = linear.weight.shape
        self.lora = adapter(linear.weight, in_features, out_features, rank, alpha, generator)

    def forward(self, x: Array) -> Array:
        """Map (*rows, in_features) to (*rows, out_features)."""
        y, saved = linear_forward(x, self.weight.data, self.bias.data if self.bias else None)
        self.save_for_backward(saved)
        return y + self.lora(x)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x; a frozen parameter costs nothing."""
        dchange = self.lora.backward(dy)
        dx, dweight, dbias = linear_backward(dy, self.pop_saved(), is_trained(self.weight), is_trained(self.bias))
        self.weight.accumulate(dweight)
        if self.bias:
            self.bias.accumulate(dbias)
        return dx + dchange

    def merge(self) -> Linear:
        """Return the layer without LoRA, its weight changed: W + scale · b a."""
        out_features, in_features = self.weight.shape
        with init.skipped():
            linear = Linear(in_features, out_features, bias=False)
        self.weight.data += self.lora.change()
        linear.weight, linear.bias = self.weight, self.bias
        return linear


class LoRAAttention(MultiHeadAttention):
    """Multi-head self-attention with changes of its projections.

    attention: the module, whose parameters stay where they are. rows: the rows of in_weight that each change concerns,
    (0, H·D) for the queries; at the edges of queries, keys and values. out: whether out_weight has a change. rank,
    alpha, generator: of `LoRA`.

    Raises:
        ConfigError: attention to a memory is not supported.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        rows: Sequence[Rows] = (),
        out: bool = True,
        rank: int = 8,
        alpha: float = 16.0,
        *,
        generator: Generator | None = None,
    ) -> None:
        Module.__init__(self)
        share_parts(self, attention)
        self.rows = tuple(rows)
        width, heads = self.in_weight.shape[1], self.out_weight.shape[1]
        weight = self.in_weight
        self.lora_in = ModuleList(adapter(weight, width, e - s, rank, alpha, generator) for s, e in self.rows)
        self.lora_out = adapter(weight, heads, width, rank, alpha, generator) if out else None

    @property
    def prepares_heads(self) -> bool:
        """Whether queries, keys and values change before they meet: always."""
        return True

    def _project_self(self, x: Array) -> tuple[Array, Array, Array]:
        return self._change(x, *MultiHeadAttention._project_self(self, x))

    def _project_out(self, merged: Array) -> Array:
        return self._change_out(MultiHeadAttention._project_out(self, merged), merged)

    def _change_out(self, y: Array, merged: Array) -> Array:
        """Return the output with the change of its projection added."""
        return y if self.lora_out is None else y + self.lora_out(merged)

    def _run(self, x: Array, memory: Array | None, mask: Mask) -> tuple[Array, Any]:
        if memory is not None:
            raise ConfigError("LoRAAttention: LoRA is for self-attention, got a memory.")
        name = self._algorithm(x)
        merged: list[Array] = []
        attend = self._changed(x, self._attend(name), merged)
        y, saved = multi_head_forward(attend, x, None, *self._weights(), self._options(mask))
        self.save_for_backward((name, saved))
        return self._change_out(y, merged.pop()), saved

    def backward(self, dy: Array) -> tuple[Array, Array | None]:
        """Return the gradient of x, and None: there is no memory. A frozen parameter costs nothing."""
        dmerged = None if self.lora_out is None else self.lora_out.backward(dy)
        name, saved = self.pop_saved()
        dchanges: list[Array] = []
        attend_backward = self._changed_backward(dmerged, self._attend_backward(name), dchanges)
        dx, _, *gradients = multi_head_backward(attend_backward, dy, saved, self._needs())
        self._accumulate(*gradients)
        for dchange in dchanges:
            dx = dx + dchange
        return dx, None

    def _changed(self, x: Array, attend: Attend, merged: list[Array]) -> Attend:
        """Return an attention of the changed queries, keys and values of x, which notes its heads side by side."""

        def attention(q: Array, k: Array, v: Array, *options: Any) -> tuple[Array, Any]:
            heads, saved = attend(*self._change(x, q, k, v), *options)
            merged.append(merge_heads(heads))
            return heads, saved

        return attention

    def _changed_backward(
        self, dmerged: Array | None, attend_backward: AttendBackward, dchanges: list[Array]
    ) -> AttendBackward:
        """Return the backward of `_changed`, which notes the gradients of x through the changes."""

        def backward(dheads: Array, saved: Any) -> tuple[Array, Array, Array]:
            if dmerged is not None:
                dheads = dheads + split_heads(dmerged, self._head_width)
            dq, dk, dv = attend_backward(dheads, saved)
            dprojected = array_module(dq).concatenate([merge_heads(part) for part in (dq, dk, dv)], axis=-1)
            for (start, stop), branch in reversed(list(zip(self.rows, self.lora_in, strict=True))):
                dchanges.append(branch.backward(dprojected[..., start:stop]))
            return dq, dk, dv

        return backward

    def _change(self, x: Array, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """Return the projections of x with the changes added."""
        D = self._head_width
        for (start, stop), branch in zip(self.rows, self.lora_in, strict=True):
            change, first = branch(x), 0
            parts = []
            for part in (q, k, v):
                last = first + part.shape[1] * D
                low, high = max(first, start), min(last, stop)
                parts.append(part + split_heads(change[..., low - start : high - start], D) if low < high else part)
                first = last
            q, k, v = parts
        return q, k, v

    def merge(self) -> MultiHeadAttention:
        """Return the attention without LoRA, its weights changed."""
        for (start, stop), branch in zip(self.rows, self.lora_in, strict=True):
            self.in_weight.data[start:stop] += branch.change()
        if self.lora_out is not None:
            self.out_weight.data += self.lora_out.change()
        width, D = self.in_weight.shape[1], self._head_width
        with init.skipped():
            plain = MultiHeadAttention(width, self.num_heads, self.num_kv_heads, head_dim=D)
        share_parts(plain, self)
        return plain


def share_parts(attention: MultiHeadAttention, other: MultiHeadAttention) -> None:
    """Give an attention the parameters, the parts and the options of another one."""
    for name in ("num_heads", "num_kv_heads", "dropout", "generator", "implementation"):
        setattr(attention, name, getattr(other, name))
    for name in ("in_weight", "in_bias", "out_weight", "out_bias", "q_norm", "k_norm", "rotary"):
        setattr(attention, name, getattr(other, name))


def adapter(
    weight: Parameter, in_features: int, out_features: int, rank: int, alpha: float, generator: Generator | None
) -> LoRA:
    """Return a LoRA where a weight lives, and of its dtype."""
    made = LoRA(in_features, out_features, rank, alpha, generator=generator)
    for parameter in made.parameters():
        parameter.data = to_device(parameter.data, device_of(weight.data)).astype(weight.dtype)
    return made
