"""The certificate: what was verified of each op, in figures that others can derive again.

    scripts/certify FILE                        verifies the ops and writes it
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

import compyute_transformer
from compyute_transformer import __version__
from compyute_transformer._io import replace_text
from compyute_transformer.environment.machine import examine
from compyute_transformer.errors import ConfigError
from compyute_transformer.verify.ops import MOST_SEEDS, SEED_STRIDE, OpSubject
from compyute_transformer.verify.record import Case, Op
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Measured, Result
from compyute_transformer.verify.tolerances import LIMITS

from .recipes import case_of

__all__ = ["DRAWS", "CertifiedCase", "certificate", "prepare", "source_sha256", "write_certificate"]

PACKAGE = Path(compyute_transformer.__file__).parent
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


class CertifiedCase(OpSubject):
    """One case of an op, with inputs that are drawn by a recipe."""

    def __init__(self, op: Op, case: Case, seed: int) -> None:
        self.recipe, drawn = case_of(case, seed)
        super().__init__(op, drawn, seed)


def prepare(seed: int, names: Iterable[str] = ()) -> dict[str, list[CertifiedCase]]:
    """Return the cases of the named ops, or of all, by the name of the op; each with the first seed that can be used.

    Raises:
        ConfigError: there is no such op.
    """
    chosen = list(names) or list(REGISTRY)
    for name in chosen:
        if name not in REGISTRY:
            raise ConfigError(f"certify: an op is one of {', '.join(REGISTRY)}, got {name!r}.")
    return {name: [_first(REGISTRY[name], case, seed) for case in REGISTRY[name].cases] for name in chosen}


def _first(op: Op, case: Case, seed: int) -> CertifiedCase:
    made = [CertifiedCase(op, case, each) for each in range(seed, seed + MOST_SEEDS * SEED_STRIDE, SEED_STRIDE)]
    return next((subject for subject in made if not subject.cancels()), made[-1])


def certificate(results: Iterable[Result], examples: dict[str, list[CertifiedCase]], seed: int) -> dict[str, Any]:
    """Return the certificate of what was found about ops.

    Raises:
        ConfigError: nothing was, or something failed: that cannot be certified.
    """
    about_ops = [result for result in results if result.name.startswith("ops.")]
    failed = [result for result in about_ops if not result.passed]
    if not about_ops or failed:
        came = f"failed: {failed[0]}" if failed else "none was chosen"
        raise ConfigError(f"certify: a certificate tells of ops whose checks have passed, but {came}.")
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
        "remarks": {f"ops.{name}": REGISTRY[name].remark for name in chosen if REGISTRY[name].remark},
        "files": {path: file_sha256(PACKAGE / path) for path in source_files()},
        "ops": {name: about(examples[name], worst) for name in chosen},
        "machine": machine,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [row(result, example_of(result, examples)) for result in worst.values()],
    }


def write_certificate(path: str | Path, values: dict[str, Any]) -> None:
    """Write a certificate whole or not at all, a row a line."""
    head = {key: value for key, value in values.items() if key != "rows"}
    rows = ",\n".join(json.dumps(each, allow_nan=False) for each in values["rows"])
    try:
        replace_text(Path(path), f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')
    except OSError as error:
        raise ConfigError(
            f"certify: the certificate must be written to {path}, which fails: {error.strerror}."
        ) from error


def about(examples: list[CertifiedCase], worst: dict[tuple[str, ...], Result]) -> dict[str, Any]:
    """Return what a certificate says of an op: its source, its cases, and which rows there are of each."""
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


def example_of(result: Result, examples: dict[str, list[CertifiedCase]]) -> CertifiedCase:
    """Return the case that a result is about."""
    name = result.name.removeprefix("ops.")
    return next(example for example in examples[name] if example.case.name == result.case)


def row(result: Result, example: CertifiedCase) -> dict[str, Any]:
    """Return a result as a row."""
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
    """Return the reference of a function that may have kernels."""
    reference: Callable[..., Any] = getattr(function, "reference", function)
    return reference


def source_sha256(function: Callable[..., Any]) -> str:
    """Return the hash of the text of a reference, decorators included."""
    return sha256(inspect.getsource(reference(function)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hash of a file's text, with line ends as on Unix."""
    return sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def source_files() -> list[str]:
    """Return the files that a figure may depend on, from the folder of the package."""
    return sorted(path.relative_to(PACKAGE).as_posix() for pattern in SOURCES for path in PACKAGE.glob(pattern))
