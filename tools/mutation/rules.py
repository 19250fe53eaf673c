"""The rules by which sources are damaged: the mistakes that are made when a forward or a backward is written by hand.

A rule looks at one node of a syntax tree and yields what might stand there instead. It knows nothing of the function
around it, so every function is damaged in every place where a rule applies. `RULES` is the table; its order decides
which rule a mutant counts for when two rules make the same one.
"""

import ast
from collections.abc import Callable, Iterator
from typing import TypeAlias

from .nodes import beside, integer, is_saved, method, shifted, swaps, without, zero

__all__ = ["RULES", "Rule", "wrong_name"]

Rule: TypeAlias = Callable[[ast.AST], Iterator[ast.AST]]

CLOSER: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE: dict[type, type] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SIBLINGS = {
    "max": "min", "maximum": "minimum", "sin": "cos", "cos": "sin", "tanh": "sin", "exp": "exp2", "log": "log2",
    "sum_heads": "repeat_heads", "split_heads": "merge_heads", "merge_heads": "split_heads",
}  # fmt: skip
OF_ONE_SHAPE = (
    "repeat_heads", "sum_heads", "split_heads", "merge_heads", "drop_weights", "softmax_backward", "backward",
    "erf", "exp", "log", "sin", "cos", "tanh",
)  # fmt: skip
SYMMETRIC = ("swapaxes", "max", "maximum")


def sign(node: ast.AST) -> Iterator[ast.AST]:
    """`a + b` for `a − b`, `+=` for `-=`, `a` for `−a`, and a condition or a mask for its opposite."""
    other = {ast.Add: ast.Sub, ast.Sub: ast.Add}
    match node:
        case ast.BinOp(left, ast.Add() | ast.Sub() as op, right):
            yield ast.BinOp(left, other[type(op)](), right)
        case ast.AugAssign(target, ast.Add() | ast.Sub() as op, value):
            yield ast.AugAssign(target, other[type(op)](), value)
        case ast.UnaryOp(ast.USub() | ast.Invert() | ast.Not(), operand):
            yield operand


def transpose(node: ast.AST) -> Iterator[ast.AST]:
    """A transpose is forgotten; or the shape is turned while the numbers stay where they were."""
    match node:
        case ast.Attribute(array, "T") | ast.Call(ast.Attribute(array, "swapaxes")):
            yield array
            yield method(array, "reshape", [ast.Attribute(node, "shape", ast.Load())])


def wrong_axis(node: ast.AST) -> Iterator[ast.AST]:
    """A reduction, a concatenation or a repetition along the axis beside; the length of the axis beside."""
    match node:
        case ast.Call(
            ast.Attribute(_, "sum" | "mean" | "max" | "swapaxes" | "take_along_axis") as call, [*rest, axis], keywords
        ) if integer(axis) is not None:
            yield ast.Call(call, [*rest, beside(axis)], keywords)
        case ast.keyword("axis", axis):
            yield ast.keyword("axis", beside(axis))
        case ast.Subscript(ast.Attribute(_, "shape") as shape, index) if integer(index) is not None:
            yield ast.Subscript(shape, beside(index), ast.Load())


def dropped_term(node: ast.AST) -> Iterator[ast.AST]:
    """One term of a sum is forgotten, or a whole `+=`."""
    match node:
        case ast.BinOp(left, ast.Add(), right):
            yield from (left, right)
        case ast.BinOp(left, ast.Sub(), right):
            yield from (left, ast.UnaryOp(ast.USub(), right))
        case ast.AugAssign(_, ast.Add() | ast.Sub(), _):
            yield ast.Pass()


def dropped_factor(node: ast.AST) -> Iterator[ast.AST]:
    """One factor of a product is forgotten, or a whole `*=` or `/=`."""
    match node:
        case ast.BinOp(left, ast.Mult(), right):
            yield from (left, right)
        case ast.BinOp(left, ast.Div() | ast.FloorDiv(), _):
            yield left
        case ast.AugAssign(_, ast.Mult() | ast.Div(), _):
            yield ast.Pass()


def wrong_scale(node: ast.AST) -> Iterator[ast.AST]:
    """D for √D, a power for its inverse or its square, a product for a quotient, |x| x for x²."""
    match node:
        case ast.Call(ast.Name("sqrt") | ast.Attribute(_, "sqrt"), [argument]):
            yield argument
        case ast.BinOp(left, ast.Pow(), right):
            yield ast.BinOp(left, ast.Pow(), ast.UnaryOp(ast.USub(), right))
            yield ast.BinOp(left, ast.Pow(), ast.BinOp(ast.Constant(2), ast.Mult(), right))
        case ast.BinOp(left, ast.Div(), right):
            yield ast.BinOp(left, ast.Mult(), right)
        case ast.BinOp(ast.Name(a) as left, ast.Mult(), ast.Name(b) as right) if a == b:
            yield ast.BinOp(left, ast.Mult(), ast.Call(ast.Name("abs", ast.Load()), [right], []))


def missing_sum(node: ast.AST) -> Iterator[ast.AST]:
    """What should be summed is taken from the first row, or is the largest; or a sum is forgotten."""
    match node:
        case ast.Call(ast.Attribute(array, "sum"), [axis]):
            first = integer(axis) is not None
            yield method(array, "take", [ast.Constant(0), axis]) if first else method(array, "max", [axis])
        case ast.Call(ast.Attribute(array, "sum" | "mean")):
            yield array


def mean_for_sum(node: ast.AST) -> Iterator[ast.AST]:
    """`mean` for `sum`, and `sum` for `mean`."""
    match node:
        case ast.Call(ast.Attribute(array, "sum" | "mean" as name), arguments, keywords):
            yield method(array, "mean" if name == "sum" else "sum", arguments, keywords)


def off_by_one(node: ast.AST) -> Iterator[ast.AST]:
    """`<` for `<=`, a slice or a range that starts or ends one later or earlier, the next integer."""
    match node:
        case ast.Compare(left, [op], rights) if type(op) in CLOSER:
            yield ast.Compare(left, [CLOSER[type(op)]()], rights)
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(shifted(lower, 1), upper, step)
            if upper is not None:
                yield from (ast.Slice(lower, shifted(upper, by), step) for by in (1, -1))
        case ast.Call(ast.Name("range") | ast.Attribute(_, "arange") as call, [*starts, end], keywords):
            yield ast.Call(call, [*starts, shifted(end, -1)], keywords)
            if starts:
                yield ast.Call(call, [shifted(starts[0], 1), *starts[1:], end], keywords)
        case ast.Constant(int() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1)


def wrong_comparison(node: ast.AST) -> Iterator[ast.AST]:
    """The opposite direction or answer; `or` for `and`; one of two conditions forgotten."""
    match node:
        case ast.Compare(left, [op], rights) if type(op) in OPPOSITE:
            yield ast.Compare(left, [OPPOSITE[type(op)]()], rights)
        case ast.BoolOp(op, conditions):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), conditions)
            yield from (without(op, conditions, index) for index in range(len(conditions)))
        case ast.BinOp(left, ast.BitAnd(), right):
            yield from (ast.BinOp(left, ast.BitOr(), right), left, right)


def wrong_condition(node: ast.AST) -> Iterator[ast.AST]:
    """What holds under a condition holds always, or never."""
    match node:
        case ast.If(_, body, orelse):
            yield from (ast.If(ast.Constant(value), body, orelse) for value in (True, False))
        case ast.IfExp(_, first, second) | ast.Call(ast.Attribute(_, "where"), [_, first, second]):
            yield from (first, second)


def swapped_results(node: ast.AST) -> Iterator[ast.AST]:
    """Two gradients, or two saved values, change places in what is returned, unpacked or looped over."""
    match node:
        case ast.Tuple(elements, context):
            yield from (ast.Tuple(swapped, context) for swapped in swaps(elements))
        case ast.List(elements, context):
            yield from (ast.List(swapped, context) for swapped in swaps(elements))


def swapped_arguments(node: ast.AST) -> Iterator[ast.AST]:
    """Two arguments of a call change places, or the two sides of what does not commute."""
    match node:
        case ast.Call(ast.Name(name) | ast.Attribute(_, name), _, _) if name in SYMMETRIC:
            return
        case ast.Call(function, arguments, keywords):
            yield from (ast.Call(function, swapped, keywords) for swapped in swaps(arguments))
        case ast.BinOp(left, ast.Sub() | ast.Div() | ast.FloorDiv() | ast.MatMult() | ast.Pow() as op, right):
            yield ast.BinOp(right, op, left)


def stale_saved(node: ast.AST) -> Iterator[ast.AST]:
    """One saved value is saved in the place of another."""
    match node:
        case ast.Call(function, arguments, keywords) if isinstance(node, ast.expr) and is_saved(node):
            for i in range(len(arguments)):
                yield ast.Call(function, [*arguments[:i], arguments[i - 1], *arguments[i + 1 :]], keywords)


def missing_accumulation(node: ast.AST) -> Iterator[ast.AST]:
    """`=` for `+=`, so that what came before is lost; equal ids add only once; a gradient is kept without a copy."""
    match node:
        case ast.AugAssign(target, ast.Add() | ast.Mult(), value):
            yield ast.Assign([target], value)
        case ast.Call(ast.Attribute(ast.Attribute(_, "add"), "at"), [array, index, value]):
            yield method(array, "__setitem__", [index, value])
        case ast.Call(ast.Attribute(array, "copy"), []):
            yield array


def dropped_statement(node: ast.AST) -> Iterator[ast.AST]:
    """A call that is made for what it does is not made: a mask is not applied, a gradient not added."""
    match node:
        case ast.Expr(ast.Call()):
            yield ast.Pass()


def wrong_order(node: ast.AST) -> Iterator[ast.AST]:
    """A backward that goes through its parts forwards."""
    match node:
        case ast.Call(ast.Name("reversed"), [items]):
            yield items


def wrong_function(node: ast.AST) -> Iterator[ast.AST]:
    """The function beside; heads that repeat as a whole instead of each in its place."""
    match node:
        case ast.Call(ast.Attribute(array, name), arguments, keywords) if name in SIBLINGS:
            yield method(array, SIBLINGS[name], arguments, keywords)
        case ast.Call(ast.Name(name), arguments, keywords) if name in SIBLINGS:
            yield ast.Call(ast.Name(SIBLINGS[name], ast.Load()), arguments, keywords)
        case ast.Call(ast.Attribute(array, "repeat"), [times], [axis]):
            library = ast.Call(ast.Name("array_module", ast.Load()), [array], [])
            copies = ast.BinOp(ast.List([array], ast.Load()), ast.Mult(), times)
            yield method(library, "concatenate", [copies], [axis])


def dropped_call(node: ast.AST) -> Iterator[ast.AST]:
    """What a function would have done to its argument is not done: a head is not chosen, a layer not run."""
    match node:
        case ast.Call(ast.Attribute(array, "reshape" | "repeat" | "astype" | "for_head" | "next")):
            yield array
        case ast.Call(ast.Name(name) | ast.Attribute(_, name), [argument, *_]) if name in OF_ONE_SHAPE:
            yield argument
        case ast.Call(
            ast.Attribute(ast.Name("self")) | ast.Name("block" | "activation_forward" | "activation_backward"),
            [argument, *_],
        ):
            yield argument


def dropped_option(node: ast.AST) -> Iterator[ast.AST]:
    """An option of a call is left out: the dtype, the axis, that axes are kept."""
    match node:
        case ast.Call(function, arguments, keywords):
            for i, given in enumerate(keywords):
                if given.arg != "strict":  # a validation of Python's
                    yield ast.Call(function, arguments, [*keywords[:i], *keywords[i + 1 :]])


def zeros_for_result(node: ast.AST) -> Iterator[ast.AST]:
    """One of the returned arrays is zero throughout."""
    match node:
        case ast.Return(ast.Tuple(elements)):
            for i, element in enumerate(elements):
                if not is_saved(element):
                    yield ast.Return(ast.Tuple([*elements[:i], zero(element), *elements[i + 1 :]], ast.Load()))
        case ast.Return(ast.expr() as value):
            yield ast.Return(zero(value))


def other_constant(node: ast.AST) -> Iterator[ast.AST]:
    """A number is a thousandth larger; a zero is a thousandth."""
    match node:
        case ast.Constant(float() as value):
            yield ast.Constant(value * 1.001 if value else 1e-3)
        case ast.Name("SQRT_2_OVER_PI" | "CUBIC"):
            yield ast.BinOp(ast.Constant(1.001), ast.Mult(), node)


RULES: dict[str, Rule] = {
    "sign": sign,
    "transpose": transpose,
    "wrong axis": wrong_axis,
    "dropped term": dropped_term,
    "dropped factor": dropped_factor,
    "wrong scale": wrong_scale,
    "missing sum": missing_sum,
    "mean for sum": mean_for_sum,
    "off by one": off_by_one,
    "wrong comparison": wrong_comparison,
    "wrong condition": wrong_condition,
    "swapped results": swapped_results,
    "swapped arguments": swapped_arguments,
    "stale saved value": stale_saved,
    "missing accumulation": missing_accumulation,
    "dropped statement": dropped_statement,
    "wrong order": wrong_order,
    "wrong function": wrong_function,
    "dropped call": dropped_call,
    "dropped option": dropped_option,
    "zeros for a result": zeros_for_result,
    "other constant": other_constant,
}


def wrong_name(names: list[str]) -> Rule:
    """The rule that was held back while the others were used to mend the checks: a variable for another one beside it.

    names: the function's variables, in the order of their first use.
    """

    def rule(node: ast.AST) -> Iterator[ast.AST]:
        match node:
            case ast.Name(name, ast.Load()) if name in names:
                place = names.index(name)
                for other in (names[(place + step) % len(names)] for step in (1, 2)):
                    yield ast.Name(other, ast.Load())

    return rule
