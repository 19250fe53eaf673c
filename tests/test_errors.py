"""One tree of errors, as the docstring draws it."""

import inspect
import re

import pytest

from compyute_transformer import errors
from compyute_transformer.errors import CompyuteError

CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}


def drawn_parents() -> dict[str, str]:
    """Child and parent, read off the drawing: each branch stands four columns right of its parent."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^([│ ├└─]*)([A-Z]\w+Error)\b", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            if depth:
                parents[found[2]] = path[depth - 1]
    return parents


def test_every_error_is_public_and_documented() -> None:
    assert sorted(CLASSES) == errors.__all__
    assert all(error.__doc__ for error in CLASSES.values())


def test_the_drawing_is_the_tree() -> None:
    ours = {name: error.__mro__[1].__name__ for name, error in CLASSES.items() if error is not CompyuteError}
    assert drawn_parents() == ours


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ShapeError", ValueError),
        ("DtypeError", TypeError),
        ("RangeError", ValueError),
        ("BackwardError", RuntimeError),
        ("DownloadError", OSError),
        ("NonFiniteError", ArithmeticError),
        ("MissingExtraError", ImportError),
    ],
)
def test_pythons_own_class_catches_it_too(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what came"):
        raise CLASSES[name]("what came")
    assert issubclass(CLASSES[name], CompyuteError)
