"""Rewrites: other ways to write the same function, which the checks must accept.

A suite that refuses every change kills all mutants and proves nothing. So the same machinery plants functions that are
written differently and compute the same: by hand, from the list below, and every function once more in another hand,
with all variables renamed, products and sums turned around, and squares written as powers.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from .sources import Code, Target

__all__ = ["REWRITES", "Rewrite", "make_rewrites"]


@dataclass(frozen=True)
class Rewrite:
    """A function written in another way."""

    what: str
    target: Target
    code: Code

    def __str__(self) -> str:
        return f"{self.target.file} {self.target.name}: {self.what}"


Change = tuple[str, str]  # what stands in the function as Python prints it, and what replaces it

REWRITES: dict[str, dict[str, tuple[Change, ...]]] = {
    "embedding_forward": {"rows by take": (("weight[ids]", "weight.take(ids, axis=0)"),)},
    "embedding_backward": {
        "a product with one-hot rows": (
            (
                "xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, C))",
                "one = ids.reshape(-1) == xp.arange(num_embeddings)[:, None]\n"
                "    dweight += one.astype(dy.dtype) @ dy.reshape(-1, C)",
            ),
        )
    },
    "learned_position_forward": {
        "the table first": (("x + weight[start:start + x.shape[1]]", "weight[start:start + x.shape[1]][None] + x"),)
    },
    "learned_position_backward": {
        "added to zeros": (("dweight[start:start + T] = dy.sum(0)", "dweight[start:start + T] += dy.sum(axis=0)"),)
    },
    "_sinusoids_float64": {
        "a quotient of powers": (
            ("10000.0 ** (-np.arange(0, width, 2, dtype=np.float64) / width)",
             "1.0 / 10000.0 ** (np.arange(0, width, 2, dtype=np.float64) / width)"),
        )
    },
    "linear_forward": {
        "the transposed product": (
            ("rows @ matrix.T", "(matrix @ rows.T).T"),
        )
    },
    "linear_backward": {
        "the transposed product": (("dy_rows.T @ x_rows", "(x_rows.T @ dy_rows).T"),),
        "a sum over rows laid flat": (("sum_of_rows(dy_rows)", "sum_of_rows(dy)"),),
    },
    "layer_norm_forward": {
        "a sum divided by the width": (
            ("(centered * centered).mean(-1, keepdims=True)",
             "(centered * centered).sum(-1, keepdims=True) / x.shape[-1]"),
        ),
        "one over the root": (
            ("((centered * centered).mean(-1, keepdims=True) + eps) ** (-0.5)",
             "1.0 / ((centered * centered).mean(-1, keepdims=True) + eps) ** 0.5"),
        ),
    },
    "layer_norm_backward": {
        "multiplied out": (
            ("rstd * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))",
             "rstd * dxhat - rstd * (dxhat.mean(-1, keepdims=True) + xhat * (dxhat * xhat).mean(-1, keepdims=True))"),
        ),
        "rows laid flat first": (("sum_of_rows(dy * xhat)", "sum_of_rows((dy * xhat).reshape(-1, dy.shape[-1]))"),),
    },
    "relu_forward": {"times what is positive": (("array_module(x).maximum(x, x.dtype.type(0))", "x * (x > 0)"),)},
    "relu_backward": {
        "a choice for a product": (
            ("dy * saved.positive", "array_module(dy).where(saved.positive, dy, dy.dtype.type(0))"),
        )
    },
    "gelu_forward": {
        "x taken out": (("(x + CUBIC * x * x * x)", "x * (1.0 + CUBIC * x ** 2)"),),
        "one half multiplied in": (
            ("0.5 * x * (1.0 + erf(x * sqrt(0.5)))", "x * (0.5 + 0.5 * erf(x / sqrt(2.0)))"),
        ),
    },
    "gelu_backward": {"a difference of squares": (("1.0 - tanh * tanh", "(1.0 - tanh) * (1.0 + tanh)"),)},
    "softmax_backward": {
        "multiplied out": (
            ("y * (dy - (dy * y).sum(-1, keepdims=True))", "y * dy - y * (dy * y).sum(-1, keepdims=True)"),
        )
    },
    "_keep_and_scale": {
        "a choice for a product": (
            ("x * keep * x.dtype.type(1.0 / (1.0 - probability))",
             "array_module(x).where(keep, x / x.dtype.type(1.0 - probability), x.dtype.type(0))"),
        )
    },
    "attention_forward": {
        "heads taken by their numbers": (
            ("repeat_heads(values, group)", "values[:, array_module(q).arange(q.shape[1]) // group]"),
        )
    },
    "attention_backward": {
        "einsum for a product": (
            ("weighted_sum(dscores.swapaxes(2, 3), q)", "array_module(q).einsum('bhts,bhtd->bhsd', dscores, q)"),
        )
    },
    "weighted_sum": {
        "einsum for a product": (("weights @ values\n", "xp.einsum('...ts,...sd->...td', weights, values)\n"),),
    },
    "fused_attention_backward": {
        "einsum for δ": (
            ("(dy * y).sum(-1, keepdims=True)", "array_module(q).einsum('bhtd,bhtd->bht', dy, y)[..., None]"),
        )
    },
    "scaled_scores": {
        "queries scaled before the product": (
            ("q @ repeat", "(q * q.dtype.type(q.shape[3] ** (-0.5))) @ repeat"),
            ("scores *= scores.dtype.type(1.0 / sqrt(q.shape[3]))", "pass"),
        )
    },
    "visible_keys": {
        "a distance": (("keys > positions - mask.window", "positions - keys < mask.window"),),
        "the library's and": (("visible & condition", "xp.logical_and(visible, condition)"),),
    },
    "apply_mask": {
        "a choice for a copy": (
            ("xp.copyto(scores, scores.dtype.type(-xp.inf), where=~visible)",
             "scores[...] = xp.where(visible, scores, scores.dtype.type(-xp.inf))"),
        )
    },
    "sum_heads": {
        "member by member": (
            ("dx.reshape(B, H // group, group, S, D).sum(2)", "sum((dx[:, i::group] for i in range(group)))"),
        )
    },
    "repeat_heads": {
        "copies side by side": (
            ("x.repeat(group, axis=1)",
             "array_module(x).stack([x] * group, axis=2).reshape(x.shape[0], -1, *x.shape[2:])"),
        )
    },
    "split_heads": {"a permutation": ((".swapaxes(1, 2)", ".transpose(0, 2, 1, 3)"),)},
    "merge_heads": {"a permutation": ((".swapaxes(1, 2)", ".transpose(0, 2, 1, 3)"),)},
    "sequential_multi_head_backward": {
        "heads in the other order": (("reversed(range(len(heads)))", "range(len(heads))"),)
    },
    "head_by_head_backward": {
        "heads in the other order": (("reversed(range(H))", "range(H)"),)
    },
    "cross_entropy_forward": {"a sum divided": (("shifted.mean(-1)", "shifted.sum(-1) / shifted.shape[-1]"),)},
    "cross_entropy_backward": {
        "two statements in the other order": (
            ("if label_smoothing:\n        drows -= label_smoothing / V\n", "pass\n"),
            ("    drows *= ", "    drows -= label_smoothing / V\n    drows *= "),
        )
    },
    "Linear.backward": {
        "the bias first": (
            ("self.weight.accumulate(dweight)\n", "pass\n"),
            ("return dx", "self.weight.accumulate(dweight)\n    return dx"),
        )
    },
    "MultiHeadAttention._accumulate": {
        "the output projection first": (
            ("self.in_weight.accumulate(din_weight)\n", "pass\n"),
            ("self.out_weight.accumulate(dout_weight)\n",
             "self.out_weight.accumulate(dout_weight)\n    self.in_weight.accumulate(din_weight)\n"),
        )
    },
    "Parameter.accumulate": {"a new sum": (("self.grad += gradient", "self.grad[...] = gradient + self.grad"),)},
    "adamw_update": {
        "a step towards the gradient": (
            ("first_moment *= beta1\n", "pass\n"),
            ("first_moment += (1.0 - beta1) * gradient", "first_moment += (1.0 - beta1) * (gradient - first_moment)"),
        ),
        "the decay inside the step": (
            ("weight *= 1.0 - lr * weight_decay", "weight -= lr * weight_decay * weight"),
        ),
    },
}  # fmt: skip


def make_rewrites(targets: list[Target]) -> Iterator[Rewrite]:
    """All rewrites of these functions.

    Raises:
        ValueError: what a rewrite replaces does not stand in the function, once.
    """
    for target in targets:
        for what, changes in REWRITES.get(target.name, {}).items():
            yield Rewrite(what, target, target.compile(_parse(_replaced(target, changes))))
        text = ast.unparse(target.tree)
        other = OtherHand().visit(_parse(text))
        if ast.unparse(other) != text:
            yield Rewrite("in another hand", target, target.compile(ast.fix_missing_locations(other)))


def _replaced(target: Target, changes: tuple[Change, ...]) -> str:
    text = ast.unparse(target.tree)
    for before, after in changes:
        if text.count(before) != 1:
            raise ValueError(f"{target.name}: a rewrite replaces {before!r}, found {text.count(before)} times.")
        text = text.replace(before, after)
    return text


def _parse(text: str) -> ast.FunctionDef:
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


class OtherHand(ast.NodeTransformer):
    """Variables renamed, but for arguments, which callers may name; `b * a` for `a * b`; `x ** 2` for `x * x`."""

    variables: set[str] | None = None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Find the variables, also those of a function within, which reads those around it; rewrite what is below."""
        if self.variables is None:
            arguments = {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
            stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            self.variables = stored - arguments
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Rename a variable."""
        return ast.Name(f"_{node.id}", node.ctx) if node.id in (self.variables or ()) else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.BinOp:
        """Turn a sum or a product around, to the last bit the same, or write it as a power."""
        self.generic_visit(node)
        match node:
            case ast.BinOp(ast.Name(a), ast.Mult(), ast.Name(b)) if a == b:
                return ast.BinOp(node.left, ast.Pow(), ast.Constant(2))
            case ast.BinOp(left, ast.Mult() | ast.Add() as op, right):
                return ast.BinOp(right, op, left)
        return node
