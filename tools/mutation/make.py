"""Mutants: every rule in every place where it applies, each place on its own."""

import ast
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .rules import RULES, wrong_name
from .sources import Code, Target, is_validation

__all__ = ["Mutant", "make_mutants"]


@dataclass(frozen=True)
class Mutant:
    """A function with one mistake.

    before, after: the piece of source that was replaced. lines: of its statement. trap: the function with something in
    that place which raises, so that one can see whether the place is ever reached.
    """

    rule: str
    target: Target
    lines: range
    before: str
    after: str
    code: Code
    trap: Code

    @property
    def place(self) -> str:
        """Where it is, as editors read it."""
        return f"{self.target.file}:{self.lines.start}"

    def __str__(self) -> str:
        return f"{self.place} {self.target.name} [{self.rule}] {self.before}  ->  {self.after}"


@dataclass(frozen=True)
class Slot:
    """A place in a tree: a field of a node, or one item of a field that is a list."""

    parent: ast.AST
    field: str
    index: int | None
    statement: "Slot | None"  # in which it lies; None for a default

    @property
    def node(self) -> Any:
        """What stands there."""
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def put(self, node: ast.AST) -> None:
        """Let another node stand there."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def make_mutants(target: Target, held_back: bool = False) -> Iterator[Mutant]:
    """All mutants of a function that differ from it and from each other, and that Python can compile.

    held_back: by the rule that was held back, instead of by `RULES`.
    """
    variables = [name for name in target.function.__code__.co_varnames if name not in ("self", "xp")]
    rules = {"wrong name": wrong_name(variables)} if held_back else RULES
    seen = {ast.unparse(target.tree)}
    for slot in list(_slots(target.tree)):
        node, trap = slot.node, _trap(slot, target)
        for rule, damage in rules.items():
            for other in damage(node):
                with _changed(slot, other):
                    text = ast.unparse(target.tree)
                    code = None if text in seen else _compile(target)
                seen.add(text)
                if code is not None:
                    yield Mutant(rule, target, _lines(slot, target), *_texts(node, other), code, trap)


@contextmanager
def _changed(slot: Slot, other: ast.AST) -> Iterator[None]:
    """Let another node stand in the place of one, within a `with` block."""
    node = slot.node
    slot.put(ast.fix_missing_locations(ast.copy_location(other, node)))
    try:
        yield
    finally:
        slot.put(node)


def _compile(target: Target) -> Code | None:
    with warnings.catch_warnings(action="ignore"):  # Python's own doubts about what is written
        try:
            return target.compile(target.tree)
        except (SyntaxError, TypeError, ValueError):
            return None  # not a function of Python's: no mutant


def _trap(slot: Slot, target: Target) -> Code:
    """The function with an expression that raises in this place, or, where none can stand, in its statement's."""
    raises = ast.Attribute(ast.Constant(0), "reached", ast.Load())
    node = slot.node
    if isinstance(node, ast.keyword):
        other: ast.AST = ast.keyword(node.arg, raises)
    elif isinstance(node, ast.expr) and not isinstance(node, ast.Slice) and slot.statement is None:
        other = ast.Constant(...)  # a default is made before the call: something that nothing can be done with
    elif isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        other = ast.Slice(raises) if isinstance(node, ast.Slice) else raises
    else:
        other = ast.Expr(raises)
        slot = slot if isinstance(node, ast.stmt) or slot.statement is None else slot.statement
    with _changed(slot, other):
        return target.compile(target.tree)


def _slots(tree: ast.FunctionDef) -> Iterator[Slot]:
    """Every place of a function's body, and of its arguments' defaults, in the order of the source."""
    for index, default in enumerate(tree.args.defaults):
        if isinstance(default, ast.Constant):
            yield Slot(tree.args, "defaults", index, None)
    yield from _below_field(tree, "body", None)


def _below(node: ast.AST, statement: Slot | None) -> Iterator[Slot]:
    for field in node._fields:
        if field not in ("annotation", "ctx", "op", "ops"):
            yield from _below_field(node, field, statement)


def _below_field(node: ast.AST, field: str, statement: Slot | None) -> Iterator[Slot]:
    value = getattr(node, field)
    for index, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
        if not isinstance(item, ast.AST) or (
            isinstance(item, ast.stmt) and (is_validation(item) or _is_docstring(item))
        ):
            continue
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "array_module":
            continue  # which library made the arrays is no mathematics
        slot = Slot(node, field, index, statement)
        yield slot
        yield from _below(item, slot if isinstance(item, ast.stmt) else statement)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _lines(slot: Slot, target: Target) -> range:
    """Lines of the file of which one must run before the mutant can do anything else than the function."""
    node = slot.node if slot.statement is None or isinstance(slot.node, ast.stmt) else slot.statement.node
    if not isinstance(node, ast.stmt):
        return target.lines  # a default
    head = node.test if isinstance(node, ast.If) else node.iter if isinstance(node, ast.For) else node
    return range(node.lineno, (head.end_lineno or node.lineno) + 1)


def _texts(before: ast.AST, after: ast.AST) -> tuple[str, str]:
    """Both pieces of source; of a statement that holds others, its first line."""
    return ast.unparse(before).partition("\n")[0], ast.unparse(after).partition("\n")[0]
