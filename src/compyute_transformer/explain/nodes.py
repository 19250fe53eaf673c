"""Nodes: the rows of a page's map. Each is a module or an op, its forward beside its backward.

A node joins a forward with the backward that belongs to it: a value `q` of the forward stands beside its gradient `dq`.
A module that calls one op and nothing else is one node with that op.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..nn import Module
from ..ops.attention import Mask
from .axes import letters, sizes_of, spec_of
from .planes import Planes, Product
from .sources import Sources, formula_of
from .sums import POINTS, SUMS
from .trace import LOSS, ModuleCall, OpCall, Trace

__all__ = ["Node", "Value", "nodes_of"]

SATURATED = 0.999  # a probability above, or a slope of an activation below 1 − this, no longer learns
DEAD = 1e-3  # of the largest output of an activation


@dataclass
class Value:
    """An array of a node, with its gradient. role: "input", "output", "saved", "parameter" or "inner"."""

    name: str
    role: str
    array: np.ndarray | None
    gradient: np.ndarray | None
    axes: list[str]
    parameter: str = ""


@dataclass
class Node:
    """A row of the map; see the top of this file. calls: the forward calls it stands for."""

    id: str
    path: str
    kind: str
    depth: int
    parent: int | None
    values: list[Value]
    op: OpCall | None = None
    module: ModuleCall | None = None
    flags: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def value(self, name: str) -> Value | None:
        """Return a value by name, or None."""
        return next((value for value in self.values if value.name == name), None)

    def array(self, name: str) -> np.ndarray | None:
        """Return an array by its name: "q", or "dq" for the gradient of q."""
        for value in self.values:
            if value.name == name:
                return value.array
            if f"d{value.name}" == name:
                return value.gradient
        return None


def nodes_of(traced: Trace) -> list[Node]:
    """Return the nodes of a trace, in the order of the forward."""
    return Builder(traced).nodes


class Builder:
    """Makes nodes of the calls of a trace."""

    def __init__(self, traced: Trace) -> None:
        self.traced, self.sizes = traced, sizes_of(traced)
        self.nodes: list[Node] = []
        calls: list[Any] = [*traced.ops, *traced.modules]
        self._calls: dict[int, Any] = {call.start: call for call in calls}
        self._of_call: dict[int, int] = {}  # the start of a forward call -> its node
        self._ids: set[str] = set()
        self._uses: dict[str, int] = {}
        for op in traced.ops:
            for parameter in op.parameters.values() if op.phase == "forward" else ():
                self._uses[parameter] = self._uses.get(parameter, 0) + 1
        again = {call.start for call in traced.ops if call.within is not None and self._is_backward(call.within)}
        forwards = [c for c in self._calls.values() if c.phase == "forward" and c.start not in again]
        for call in sorted(forwards, key=lambda call: call.start):
            if isinstance(call, ModuleCall):
                self._module(call)
            else:
                self._op(call)
        for node in self.nodes:
            node.flags = flags_of(node)

    def _is_backward(self, start: int) -> bool:
        return bool(self._calls[start].phase == "backward")

    def _module(self, call: ModuleCall) -> None:
        module, backward = call.module, self._partner(call)
        values = self._module_values(call, backward)
        parent = self._parent(call.path)
        self._append(
            Node("", call.path, type(module).__name__, self._depth(parent), parent, values, None, call),
            call.path or "model",
            call.start,
        )

    def _op(self, call: OpCall) -> None:
        if call.within is not None:
            parent: int | None = self._of_call.get(call.within)
        else:
            parent = self._parent(call.path, itself=True)
        values = self._op_values(call)
        owner = None if parent is None else self.nodes[parent]
        alone = call.within is None and owner is not None and owner.module is not None and self._is_leaf(owner, call)
        if alone and owner is not None and parent is not None:
            # the module and its op are one row, which keeps the module's path
            owner.op, owner.values, owner.kind = call, values, f"{owner.kind} · {call.name}"
            self._of_call[call.start] = parent
            return
        name = self._label(call)
        node = Node("", call.path, call.name, self._depth(parent), parent, values, call)
        self._append(node, f"{call.path}.{name}" if call.path != LOSS else name, call.start)
        if call.within is not None and call.name == "softmax" and owner is not None:
            self._show_scores(owner, node)

    def _append(self, node: Node, name: str, start: int) -> None:
        node.id, again = name, 1
        while node.id in self._ids:
            again += 1
            node.id = f"{name}~{again}"
        self._ids.add(node.id)
        self._of_call[start] = len(self.nodes)
        self.nodes.append(node)

    def _is_leaf(self, owner: Node, call: OpCall) -> bool:
        module = owner.module
        if module is None or owner.op is not None or owner.path != call.path or module.module._modules:
            return False
        own = [op for op in self.traced.ops if op.path == call.path and op.phase == "forward" and op.within is None]
        runs = sum(m.path == call.path and m.phase == "forward" for m in self.traced.modules)
        return len(own) == runs and len({op.name for op in own}) == 1

    def _parent(self, path: str, itself: bool = False) -> int | None:
        """Return the latest node of the module above a path, or of the path itself."""
        for index in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[index]
            if node.module is None:
                continue
            above = node.path == "" or path.startswith(node.path + ".")
            if path != LOSS and ((above and node.path != path) or (itself and node.path == path)):
                return index
        return None

    def _depth(self, parent: int | None) -> int:
        return 0 if parent is None else self.nodes[parent].depth + 1

    def _label(self, call: OpCall) -> str:
        weight = call.parameters.get("weight", "").rpartition(".")[2].removesuffix("weight").strip("_")
        return f"{call.name}_{weight}" if weight else call.name

    def _partner(self, call: Any) -> Any:
        return None if call.partner is None else self._calls[call.partner]

    def _encodes(self, path: str) -> bool:
        return path.startswith("encoder")

    def _module_values(self, call: ModuleCall, backward: ModuleCall | None) -> list[Value]:
        given = list(backward.inputs.values()) if backward else []
        returned = dict(backward.outputs) if backward else {}
        values = []
        for place, (name, array) in enumerate(call.inputs.items()):
            gradient = returned.get(f"dx{place}" if place else "dx")
            gradient = gradient if gradient is not None and gradient.shape == array.shape else None
            spec = "B height width channels" if name == "images" else ""
            values.append(self._value(name, "input", array, gradient, spec, call.path))
        output = "logits" if call.path == "" else "y"
        for name, array in call.outputs.items():
            dy = given[0] if given and given[0].shape == array.shape else None
            values.append(self._value(output if name == "y" else name, "output", array, dy, "", call.path))
        return values + self._own_parameters(call.path, call.module)

    def _own_parameters(self, path: str, module: Module) -> list[Value]:
        values = []
        for name, parameter in module._parameters.items():
            known = f"{path}.{name}" if path else name
            if known in self.traced.parameters:
                array, gradient = self.traced.parameters[known], self.traced.gradients.get(known)
                axes = letters(array, " ".join("OI"[: parameter.ndim]), self.sizes)
                values.append(Value(name, "parameter", array, gradient, axes, known))
        return values

    def _op_values(self, call: OpCall) -> list[Value]:
        backward, values = self._partner(call), []
        gradients = backward.outputs if backward else {}
        for name, array in call.inputs.items():
            parameter = call.parameters.get(name, "")
            role, gradient = "parameter" if parameter else "input", gradients.get(f"d{name}")
            values.append(self._value(name, role, array, gradient, spec_of(call.op, name), call.path, parameter))
            total = self.traced.gradients.get(parameter)
            if total is not None and self._uses.get(parameter, 0) > 1 and total.shape == array.shape:
                values.append(Value(f"{name}_of_all_uses", role, array, total, values[-1].axes, parameter))
        dy = next(iter(backward.inputs.values()), None) if backward else None
        for name, array in call.outputs.items():
            dy = dy if dy is not None and dy.shape == array.shape else None
            values.append(self._value(name, "output", array, dy, spec_of(call.op, "y"), call.path))
        known = {id(value.array) for value in values}
        for name, array in call.saved.items():
            if id(array) not in known:
                spec = "B H T S" if array.ndim == 4 and name.endswith("weights") else "*rows"
                values.append(self._value(name, "saved", array, None, spec, call.path))
        return values

    def _show_scores(self, attention: Node, softmax: Node) -> None:
        """Show the scores and the weights of an attention beside its q, k and v: they are inside its own code."""
        for name, of in (("scores", "x"), ("weights", "y")):
            inner = softmax.value(of)
            if inner is not None:
                inner.axes = ["B", "H", "T", "S"] if inner.array is not None and inner.array.ndim == 4 else inner.axes
                attention.values = [value for value in attention.values if value.name != name]
                attention.values.append(Value(name, "inner", inner.array, inner.gradient, inner.axes))

    def _value(
        self,
        name: str,
        role: str,
        array: np.ndarray,
        gradient: np.ndarray | None,
        spec: str,
        path: str,
        parameter: str = "",
    ) -> Value:
        axes = letters(array, spec, self.sizes, self._encodes(path))
        return Value(name, role, array, gradient, axes, parameter)


def flags_of(node: Node) -> list[str]:
    """Return warnings about the numbers of a node, each a sentence."""
    flags = []
    for value in node.values:
        for name, array in ((value.name, value.array), (f"d{value.name}", value.gradient)):
            if array is None or array.dtype.kind != "f":
                continue
            if np.isnan(array).any():
                flags.append(f"{name} has {int(np.isnan(array).sum()):,} NaN")
            hidden = name in ("scores", "x") and (name == "scores" or node.kind == "softmax")
            if not hidden and np.isinf(array).any():
                flags.append(f"{name} has {int(np.isinf(array).sum()):,} infinite numbers")
        if value.role == "parameter" and value.gradient is not None and not value.gradient.any():
            flags.append(f"d{value.name} is zero everywhere: no step changes this parameter")
    y = node.array("y")
    name = node.op.name if node.op else ""
    if y is None or not y.size:
        return flags
    if name == "softmax" and y.shape[-1] > 1:
        rows = y.reshape(-1, y.shape[-1])
        several = (rows > 0).sum(-1) > 1
        sure = int((rows[several].max(-1) > SATURATED).sum()) if several.any() else 0
        if sure:
            flags.append(f"{sure:,} of {int(several.sum()):,} rows are saturated: one weight above {SATURATED}")
    if name in ("gelu", "relu"):
        units = np.abs(y.reshape(-1, y.shape[-1])).max(0)
        dead = int((units <= DEAD * max(float(units.max()), 1e-30)).sum())
        if dead:
            flags.append(f"{dead:,} of {units.size:,} units are dead here: their output is almost 0 at every position")
    return flags


def describe(nodes: list[Node], planes: Planes, sources: Sources) -> list[dict[str, Any]]:
    """Return the nodes as plain values for a page; their arrays go into planes, their code into sources."""
    return [_described(node, planes, sources) for node in nodes]


def _described(node: Node, planes: Planes, sources: Sources) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    for value in node.values:
        if value.array is not None:
            numbers[value.name] = planes.add(value.array)
        if value.gradient is not None:
            numbers.setdefault(f"d{value.name}", planes.add(value.gradient))
    if node.op is not None and node.op.name == "linear" and {"dy", "x", "dweight"} <= numbers.keys():
        weight = node.value("weight")
        if weight is not None and weight.gradient is not None and _is_product(node, weight.gradient):
            planes.add(weight.gradient, Product(numbers["dy"], numbers["x"], "* o, * i -> o i"))
    about: dict[str, Any] = {
        "id": node.id,
        "path": node.path,
        "kind": node.kind,
        "depth": node.depth,
        "parent": node.parent,
        "flags": node.flags,
        "checks": node.checks,
        "values": [
            {
                "name": value.name,
                "role": value.role,
                "axes": value.axes,
                "parameter": value.parameter,
                "tensor": numbers.get(value.name),
                "gradient": numbers.get(f"d{value.name}") if value.gradient is not None else None,
            }
            for value in node.values
        ],
        "code": _code(node, sources),
    }
    if node.op is not None:
        about |= _of_op(node, numbers)
    return about


def _is_product(node: Node, dweight: np.ndarray) -> bool:
    """Whether a page that multiplies dy by x gets the gradient that the op returned."""
    dy, x = node.array("dy"), node.array("x")
    if dy is None or x is None:
        return False
    made = dy.reshape(-1, dy.shape[-1]).T.astype(np.float64) @ x.reshape(-1, x.shape[-1])
    return bool(np.abs(made - dweight).max() <= 1e-5 * max(float(np.abs(made).max()), 1e-30))


def _not_sums(options: dict[str, Any]) -> set[str]:
    """Return the arrays of an attention that are no plain sums of products, by its dropout and its mask."""
    mask, found = options.get("mask") or Mask(), set()
    if options.get("dropout"):
        found |= {"y", "dv", "dweights"}
    if mask.soft_cap is not None:
        found |= {"scores", "dq", "dk"}
    if mask.slopes is not None or (mask.array is not None and mask.array.dtype.kind == "f"):
        found.add("scores")
    return found


def _of_op(node: Node, numbers: dict[str, int]) -> dict[str, Any]:
    op = node.op
    assert op is not None
    left_out = _not_sums(op.options) if op.name == "attention" else set()
    sums = [
        {
            **entry._asdict(),
            "scale": (node.array("q").shape[-1] ** -0.5 if entry.scale == "D" else 1.0),  # type: ignore[union-attr]
            **{part: numbers.get(getattr(entry, part)) for part in ("result", "left", "right", "bias")},
            "names": [entry.result, entry.left, entry.right, entry.bias],
        }
        for entry in SUMS.get(op.name, ())
        if {entry.result, entry.left} <= numbers.keys() and (not entry.right or entry.right in numbers)
        if entry.result not in left_out
    ]
    points = [
        {"result": numbers[p.result], "name": p.result, "formula": p.formula, "operands": p.operands}
        for p in POINTS.get(op.name, ())
        if p.result in numbers
    ]
    options = {name: str(value) for name, value in op.options.items() if value is not None}
    formula = formula_of(op.op)
    return {
        "op": op.name,
        "ran": op.ran,
        "options": options,
        "sums": sums,
        "points": points,
        "formula": formula,
        "numbers": numbers,
    }


def _code(node: Node, sources: Sources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if node.op is not None:
        found["forward"] = sources.add(node.op.op)
        backward = _backward_of(node.op)
        found["backward"] = None if backward is None else sources.add(backward)
    if node.module is not None:
        kind = type(node.module.module)
        found["module_forward"], found["module_backward"] = sources.add(kind.forward), sources.add(kind.backward)
    return found


def _backward_of(op: OpCall) -> Any:
    import sys

    module = sys.modules.get(op.op.reference.__module__)
    return getattr(module, f"{op.name}_backward", None)
