"""Compiled code that reads at the address of an array it has made holds the array until then."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compyute_transformer import cpu

MAKERS = ("np.empty(", "np.zeros(", "np.ones(", "np.full(", "scratch_of(")
FILES = sorted(Path(cpu.__file__).parent.glob("*.py"))

# 80 MB, which go back to the system as soon as they are freed: to write there then ends the process
HELD = """
import numpy as np
from numba import carray
from compyute_transformer.cpu._blas import pointer
from compyute_transformer.cpu._kernel import hold
from numba import njit

@njit
def ones(n):
    array = np.empty(n, np.float32)
    address = array.ctypes.data
    total = 0.0
    for start in range(3):
        part = carray(pointer(address + 4 * start), (n - 3,))
        part[:] = 1
        total += part[n - 4]
    hold(array)
    return total

print(ones(20_000_000))
"""


def _assigned(function: ast.FunctionDef) -> list[tuple[str, str]]:
    """Return names and the source of what is assigned to each."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = zip(target.elts, value.elts, strict=False) if _are_tuples(target, value) else [(target, value)]
            found += [(name.id, ast.unparse(what)) for name, what in pairs if isinstance(name, ast.Name)]
    return found


def _are_tuples(target: ast.AST, value: ast.AST) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)


def freed_too_early(source: str) -> list[str]:
    """Return which arrays that compiled functions make are not held until their addresses are used no more."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or not function.decorator_list:
            continue
        assigned = _assigned(function)
        made = {name for name, what in assigned if what.startswith(MAKERS)}
        names = [(node.id, node.lineno) for node in ast.walk(function) if isinstance(node, ast.Name)]
        held = {
            argument.id: node.lineno
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hold"
            for argument in node.args
            if isinstance(argument, ast.Name)
        }
        for array in sorted(made):
            address = re.compile(rf"\b{array}(\[[^]]*\])?\.ctypes\.data\b")
            if address.search(ast.unparse(function)):
                uses = {array} | {name for name, what in assigned if address.search(what)}
                last = max(line for name, line in names if name in uses)
                if held.get(array, 0) < last:
                    found.append(f"{function.name}: {array}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_made_is_held_while_its_address_is_used(path: Path) -> None:
    assert freed_too_early(path.read_text(encoding="utf-8")) == []


def test_an_array_that_is_not_held_is_found() -> None:
    function = "@compile_part\ndef f(n):\n    a, b = np.empty(n), np.zeros(n)\n    at = a.ctypes.data\n    g(at)\n"
    assert freed_too_early(function) == ["f: a"]
    assert freed_too_early(function + "    hold(b)\n") == ["f: a"]
    assert freed_too_early(function + "    hold(a)\n") == []
    part = function.replace("a.ctypes", "a[n - 1].ctypes")
    assert freed_too_early(part) == ["f: a"]
    assert freed_too_early(part + "    hold(a)\n") == []
    assert freed_too_early(function + "    hold(a)\n    g(at)\n") == ["f: a"]


def test_held_memory_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "3.0\n"), done.stderr
