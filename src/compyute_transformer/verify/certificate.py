"""The certificate: what was verified of each op, in figures that others can derive again.

    compyute verify --certificate FILE          writes it
    python scripts/check_certificate.py FILE    derives its figures anew, by code of its own

JSON, with one row for each op, case, dtype, argument and method, that of the largest error:

    {"op": "linear", "case": "batch", "dtype": "float64", "argument": "dweight", "shape": [4, 5],
     "method": "differences", "error": 3.1e-14, "bound": 5.2e-11, "ours": -4.7, "theirs": -4.7, "scale": 6.0, "at": []}

    error     |ours − theirs| / scale
    bound     what it is held to: the a-priori rounding bound (see `rounding`), or the table's limit if that is smaller
    ours      <g, v> of the hand-written backward, or one element of y or of a gradient
    theirs    <dy, J v> by differences or a complex step (adjoint: of another dy), or that element by PyTorch, by the
              reference (of a kernel), or by the sum of two backwards (linearity)
    at        the index of that element: where the two are furthest apart

The inputs of each case stand beside the rows as recipes (see `recipes`), and in words under "draws" the random numbers
of the checks, where seed is that of the case; so do the SHA-256 of the source text of each forward and backward, and of
each file that they rest on. Apart from machine and date, equal code on an equal machine gives an equal certificate.
"""

import inspect
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from .._io import replace_text
from .._version import __version__
from ..environment.machine import examine
from ..errors import ConfigError
from .ops import Example
from .result import Measured, Result
from .slopes import REMARKS
from .tolerances import LIMITS

__all__ = ["DRAWS", "certificate", "source_sha256", "write_certificate"]

PACKAGE = Path(__file__).parent.parent
SOURCES = ("dispatch.py", "random.py", "ops/*.py", "cpu/*.py", "gpu/*.py")
PRIVATE = ("executable", "load")  # of the machine: whose folders, and what else it did
STREAM = "numpy.random.default_rng([seed, {}, zlib.crc32(name)]).normal(size=shape)"
DRAWS = {
    "inputs": "mean + std * " + STREAM.format(0) + ", by recipe",
    "dy": "numpy.random.default_rng([seed, 1]).normal(size=y.shape), in the dtype of y",
    "v": "min(1, root mean square of x) * " + STREAM.format(2),
    "u (adjoint)": STREAM.format(3) + ' of the name "dy", zero where that of the name "zero" is not above 0',
    "2 u1 - 0.5 u2 (linearity)": STREAM.format("4 or 5") + ' of the name "dy"',
}


def certificate(results: Iterable[Result], examples: dict[str, list[Example]], seed: int) -> dict[str, Any]:
    """The certificate of what was found about ops.

    Raises:
        ConfigError: nothing was, or something failed: that cannot be certified.
    """
    about_ops = [result for result in results if result.name.startswith("ops.")]
    failed = [result for result in about_ops if not result.passed]
    if not about_ops or failed:
        came = f"failed: {failed[0]}" if failed else "none was chosen"
        raise ConfigError(f"verify: a certificate tells of ops whose checks have passed, but {came}.")
    worst: dict[tuple[str, ...], Result] = {}
    for result in (result for result in about_ops if isinstance(result.error, Measured)):
        key = (result.name, result.case, result.method, result.dtype, result.argument)
        if key not in worst or result.error > worst[key].error:
            worst[key] = result
    chosen = {result.name.removeprefix("ops."): None for result in about_ops}
    machine = {key: value for key, value in examine().to_dict().items() if key not in PRIVATE}
    return {
        "certificate": f"compyute-transformer {__version__}",
        "seed": seed,
        "draws": DRAWS,
        "limits": LIMITS,
        "remarks": {name: remark for name, remark in REMARKS.items() if name.removeprefix("ops.") in chosen},
        "files": {path: file_sha256(PACKAGE / path) for path in source_files()},
        "ops": {name: about(examples[name], worst) for name in chosen},
        "machine": machine,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [row(result, example_of(result, examples)) for result in worst.values()],
    }


def write_certificate(path: str | Path, values: dict[str, Any]) -> None:
    """Write it whole or not at all, a row a line."""
    head = {key: value for key, value in values.items() if key != "rows"}
    rows = ",\n".join(json.dumps(each, allow_nan=False) for each in values["rows"])
    try:
        replace_text(Path(path), f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')
    except OSError as error:
        raise ConfigError(
            f"verify: the certificate must be written to {path}, which fails: {error.strerror}."
        ) from error


def about(examples: list[Example], worst: dict[tuple[str, ...], Result]) -> dict[str, Any]:
    """An op: its source, its cases, and which rows there are of each."""
    op = examples[0].op
    cases = {}
    for example in examples:
        keys = [key[2:] for key in worst if key[:2] == (example.label.name, example.case.name)]
        methods: dict[str, list[str]] = {}
        for method, dtype, argument in keys:
            methods.setdefault(f"{method}, {dtype}", []).append(argument)
        cases[example.case.name] = {"seed": example.seed, "inputs": example.recipe, "checks": methods}
    return {
        "module": reference(op.forward).__module__,
        "forward": {"name": reference(op.forward).__name__, "sha256": source_sha256(op.forward)},
        "backward": {"name": reference(op.backward).__name__, "sha256": source_sha256(op.backward)},
        "differentiable": list(op.differentiable),
        "cases": cases,
    }


def example_of(result: Result, examples: dict[str, list[Example]]) -> Example:
    """The example that a result is about."""
    name = result.name.removeprefix("ops.")
    return next(example for example in examples[name] if example.case.name == result.case)


def row(result: Result, example: Example) -> dict[str, Any]:
    """A result as a row."""
    error: Any = result.error  # a Measured, or it would not be here
    return {
        "op": example.op.name,
        "case": result.case,
        "dtype": result.dtype,
        "argument": result.argument,
        "shape": list(example.shapes[result.argument]),
        "method": result.method,
        "error": float(error),
        "bound": result.limit,
        "ours": error.ours,
        "theirs": error.theirs,
        "scale": error.scale,
        "at": list(error.where),
    }


# --- hashes ----------------------------------------------------------------------------------------------------------


def reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """The reference of a function that may have kernels."""
    reference: Callable[..., Any] = getattr(function, "reference", function)
    return reference


def source_sha256(function: Callable[..., Any]) -> str:
    """Of the text of a reference, decorators included."""
    return sha256(inspect.getsource(reference(function)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's text, with line ends as on Unix."""
    return sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def source_files() -> list[str]:
    """The files that a figure may depend on, from the folder of the package."""
    return sorted(path.relative_to(PACKAGE).as_posix() for pattern in SOURCES for path in PACKAGE.glob(pattern))
