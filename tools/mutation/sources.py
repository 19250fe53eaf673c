"""The functions that are mutated, and how another body is put in place of theirs.

What is mutated is found, not listed: every `NAME_forward` and `NAME_backward` in `ops/`, the `forward` and `backward`
of every module in `nn/` and of every model in `models/`, the update of AdamW, the sum of gradients in `Parameter`, and
each function of these files that one of those calls, however far down. So a new op, module or model is mutated as soon
as its file is there. Left out are the validation, since a check that refuses wrong input computes nothing, and the
fused decoder: it has no gradient, and like a kernel it is held, by tests, to the modules it stands in for.

The body is replaced in the function object itself, by its code and its defaults. So every module that imported the
function runs the new body, through `@dispatched` and through whatever else wraps it, and restoring it is exact.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from compyute_transformer.arrays import Array
from compyute_transformer.dispatch import Dispatched

__all__ = ["Code", "Target", "find_targets", "is_validation", "planted", "poisoned"]

PACKAGE = "compyute_transformer"
PACKAGES = ("ops", "nn", "models")  # each file of them
MORE = ("optim.adamw",)
LEFT_OUT = ("ops._checks", "ops.block", "nn.stack", "nn.fused", "nn.fused_block")
METHODS = ("forward", "backward", "forward_with_weights", "decode", "embed", "unembed", "accumulate")
FUNCTIONS = ("_forward", "_backward", "adamw_update")  # ends of names


@dataclass(frozen=True)
class Code:
    """What a function runs: its code, and the values of arguments that are left out."""

    code: CodeType
    defaults: tuple[Any, ...] | None


@dataclass(frozen=True)
class Target:
    """A function that is mutated. file: below the package. name: with its class. tree: its source, parsed."""

    file: str
    name: str
    function: FunctionType
    tree: ast.FunctionDef
    clear: Callable[[], None] | None  # of every cache of the files, which remember results of other bodies

    @property
    def lines(self) -> range:
        """The lines of its body in the file."""
        return range(self.tree.body[0].lineno, (self.tree.end_lineno or self.tree.lineno) + 1)

    def compile(self, tree: ast.FunctionDef) -> Code:
        """The code for this function from a changed tree.

        Raises:
            SyntaxError, TypeError, ValueError: the tree is no function that Python can compile.
        """
        bare = copy(tree)
        bare.args, bare.returns, bare.decorator_list = _without_annotations(tree.args), None, []
        module = ast.fix_missing_locations(ast.Module([bare], type_ignores=[]))
        made: dict[str, Any] = {}
        exec(compile(module, self.function.__code__.co_filename, "exec"), self.function.__globals__, made)
        function = made[tree.name]
        return Code(function.__code__, function.__defaults__)


def find_targets() -> list[Target]:
    """All functions that are mutated, in the order of the files."""
    found = [target for name in _files() for target in _functions(name)]
    reached = [target for target in found if _is_root(target)]
    by_function = {id(target.function): target for target in found}
    for target in reached:  # which grows while we go through it
        for function in _called(target, found):
            called = by_function.get(id(function))
            if called is not None and called not in reached:
                reached.append(called)
    caches = [target.clear for target in found if target.clear is not None]
    clear = partial(_clear, caches)  # a function may be remembered by a cache around another one that calls it
    chosen = [target for target in found if target in reached and not _is_only_a_validation(target.tree)]
    return [replace(target, clear=clear) for target in chosen]


@contextmanager
def planted(target: Target, code: Code) -> Iterator[None]:
    """Run another body under the function's name, everywhere, within a `with` block."""
    function = target.function
    before = Code(function.__code__, function.__defaults__)
    try:
        _put(target, code)
        yield
    finally:
        _put(target, before)


def _put(target: Target, code: Code) -> None:
    target.function.__code__, target.function.__defaults__ = code.code, code.defaults
    if target.clear is not None:
        target.clear()


def _clear(caches: list[Callable[[], None]]) -> None:
    for clear in caches:
        clear()


@contextmanager
def poisoned() -> Iterator[None]:
    """NaN in memory that nothing was written to, within a `with` block.

    Memory that is used again often still holds what the right function left there, and a mutant that forgets to write
    it would pass by luck.
    """
    before = {name: getattr(np, name) for name in ("empty", "empty_like")}
    for name, make in before.items():
        setattr(np, name, _filled(make))
    try:
        yield
    finally:
        for name, make in before.items():
            setattr(np, name, make)


def _filled(make: Callable[..., Array]) -> Callable[..., Array]:
    @wraps(make)
    def made(*args: Any, **kwargs: Any) -> Array:
        array = make(*args, **kwargs)
        if array.dtype.kind in "fc":
            array.fill(np.nan)
        return array

    return made


def is_validation(node: ast.AST) -> bool:
    """Whether a statement only refuses wrong input: a call of a check, a raise, an `if` that ends in one."""
    if isinstance(node, ast.If):
        return not node.orelse and is_validation(node.body[-1])
    if isinstance(node, ast.Raise):
        return True
    value = node.value if isinstance(node, ast.Expr | ast.Assign) else None
    match value:
        case ast.Call(ast.Name(name) | ast.Attribute(ast.Name("self"), name)):
            return name == "array_module" or (_is_check(name) and name != "check_multi_head")
    return False


def _is_check(name: str) -> bool:
    return name.startswith(("check_", "_check"))


# --- result ---------------------------------------------------------------------------------------------------------


def _files() -> Iterator[str]:
    """The names of the files, below the package."""
    for package in PACKAGES:
        folder = import_module(f"{PACKAGE}.{package}").__path__
        names = [f"{package}.{module.name}" for module in iter_modules(folder)]
        yield from (name for name in names if name not in LEFT_OUT)
    yield from MORE


def _is_root(target: Target) -> bool:
    name = target.tree.name
    return name in METHODS if "." in target.name else name.endswith(FUNCTIONS)


def _functions(name: str) -> Iterator[Target]:
    """The functions and methods of one file."""
    module = import_module(f"{PACKAGE}.{name}")
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    file = name.replace(".", "/") + ".py"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield _target(file, node.name, getattr(module, node.name), node)
        elif isinstance(node, ast.ClassDef):
            owner = getattr(module, node.name)
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and isinstance(vars(owner).get(method.name), FunctionType):
                    yield _target(file, f"{node.name}.{method.name}", vars(owner)[method.name], method)


def _target(file: str, name: str, value: Any, tree: ast.FunctionDef) -> Target:
    return Target(file, name, _unwrap(value), tree, getattr(value, "cache_clear", None))


def _unwrap(value: Any) -> FunctionType:
    """The function itself, below `@dispatched`, a cache, an observer's wrapper, or a check of annotations."""
    function = inspect.unwrap(value.reference if isinstance(value, Dispatched) else value)
    assert isinstance(function, FunctionType)
    return function


def _called(target: Target, found: list[Target]) -> Iterator[Any]:
    """What a function may call: global names that are functions, and methods, by their names."""
    methods = {t.tree.name: t.function for t in found if "." in t.name}
    local = set(target.function.__code__.co_varnames)
    for statement in target.tree.body:
        if is_validation(statement) and not isinstance(statement, ast.Expr | ast.Assign):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id not in local:
                value = target.function.__globals__.get(node.id)
                if value is not None and callable(value) and not isinstance(value, type | ModuleType):
                    yield inspect.unwrap(value.reference if isinstance(value, Dispatched) else value)
            elif isinstance(node, ast.Attribute) and node.attr in methods:
                yield methods[node.attr]


def _is_only_a_validation(tree: ast.FunctionDef) -> bool:
    """Whether it computes nothing: a method that only raises, a check that returns nothing."""
    statements = [s for s in tree.body[1:] if not is_validation(s) and ast.unparse(s) != "..."]
    returns = any(isinstance(node, ast.Return) for node in ast.walk(tree))
    return not statements or (_is_check(tree.name) and not returns)


def _without_annotations(given: ast.arguments) -> ast.arguments:
    def bare(argument: ast.arg) -> ast.arg:
        return ast.copy_location(ast.arg(argument.arg), argument)

    return ast.arguments(
        posonlyargs=[bare(a) for a in given.posonlyargs],
        args=[bare(a) for a in given.args],
        vararg=None if given.vararg is None else bare(given.vararg),
        kwonlyargs=[bare(a) for a in given.kwonlyargs],
        kw_defaults=given.kw_defaults,
        kwarg=None if given.kwarg is None else bare(given.kwarg),
        defaults=given.defaults,
    )
