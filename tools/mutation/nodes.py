"""Pieces of syntax that the rules look for and put together."""

import ast
from collections.abc import Iterator, Sequence

__all__ = ["beside", "integer", "is_saved", "method", "shifted", "swaps", "without", "zero"]


def method(array: ast.expr, name: str, arguments: list[ast.expr], keywords: Sequence[ast.keyword] = ()) -> ast.Call:
    """`array.name(arguments, keywords)`."""
    return ast.Call(ast.Attribute(array, name, ast.Load()), arguments, list(keywords))


def integer(node: ast.AST) -> int | None:
    """The value of an integer written out, with its sign."""
    match node:
        case ast.Constant(int() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)):
            return -value
    return None


def beside(axis: ast.expr) -> ast.expr:
    """The axis before; for the first axis the one after."""
    number = integer(axis) or 0
    return ast.Constant(1 if number == 0 else number - 1)


def shifted(node: ast.expr, by: int) -> ast.expr:
    """`node + by`, or `node - by`."""
    return ast.BinOp(node, ast.Add() if by > 0 else ast.Sub(), ast.Constant(abs(by)))


def without(op: ast.boolop, conditions: list[ast.expr], index: int) -> ast.expr:
    """Conditions joined by `and` or `or`, but for one of them."""
    left = [*conditions[:index], *conditions[index + 1 :]]
    return left[0] if len(left) == 1 else ast.BoolOp(op, left)


def swaps(items: list[ast.expr]) -> Iterator[list[ast.expr]]:
    """The list with each two neighbors in each other's place."""
    for i in range(len(items) - 1):
        if not any(isinstance(item, ast.Starred) for item in items[i : i + 2]):
            yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def zero(value: ast.expr) -> ast.expr:
    """`0 * value`."""
    return ast.BinOp(ast.Constant(0), ast.Mult(), value)


def is_saved(value: ast.expr) -> bool:
    """Whether it makes one of the `…Saved` types."""
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id.endswith("Saved")
