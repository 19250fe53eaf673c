"""Derive the figures of a gradient certificate anew: python scripts/check_certificate.py FILE

Imports nothing of the library but the functions under test and the two types they take, Mask and RandomKey. Inputs are
drawn by the certificate's recipes, slopes are central differences, written here; every op that the library has must be
there, with the source that was verified. Prints a line an op, and exits with 1 at any fault. A row is accepted where
    error = |ours − theirs| / scale, and error ≤ bound ≤ the limit of its method
    ours and theirs are what is found here: theirs of a slope to 1e-7 of scale, all others to twice the bound
    the slope found here is that of the backward, to 1e-7; a float32 number is that of float64, to 1e-4
Each gradient of each case must have its slopes, and each check that a case names its row.
"""

import inspect
import json
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from zlib import crc32

import numpy as np

from compyute_transformer import ops
from compyute_transformer.ops.attention import Mask, RandomKey

SIDES = "forward", "backward"
SLOPES = {"differences": (1.5e-8,), "complex step": (5e-13,), "adjoint": (5e-13,)}  # float64
LIMITS = SLOPES | {"torch": (5e-13, 1e-5), "linearity": (2.5e-13, 1e-5)}  # and float32
LIMITS |= dict.fromkeys(("kernel", "device"), (1e-12, 1e-5))


def draw(seed, purpose, name, shape):
    return np.asarray(np.random.default_rng([seed, purpose, crc32(name.encode())]).normal(size=shape))


def make(name, value, seed):  # an argument by its recipe, in float64
    if not isinstance(value, dict):
        return value
    if "mask" in value:
        return Mask(**{key: make("mask", item, seed) for key, item in value["mask"].items()})
    if "key" in value or "integers" in value:
        return RandomKey(*value["key"]) if "key" in value else np.array(value["integers"])
    if "true" in value:
        return np.isin(np.arange(np.prod(value["shape"])), value["true"]).reshape(value["shape"])
    x = value["mean"] + value["std"] * draw(seed, 0, name, value["normal"])
    x += np.copysign(value.get("gap", 0.0), x)
    x.reshape(-1)[value.get("minus_inf", [])] = -np.inf
    return x


class Case:  # of an op, run again in a dtype, on numbers rounded to another: y, gradients by name, slopes
    def __init__(self, case, functions, op, dtype, rounded):
        def cast(x):
            if isinstance(x, Mask):
                return x._replace(array=cast(x.array))
            return x.astype(rounded).astype(dtype) if getattr(x, "dtype", np.dtype(int)).kind == "f" else x

        (self.forward, self.backward), self.names, self.seed = functions, op["differentiable"], (seed := case["seed"])
        self.arguments = {name: cast(make(name, value, seed)) for name, value in case["inputs"].items()}
        self.y, self.saved = self.run(self.arguments)
        self.dy = cast(np.asarray(np.random.default_rng([seed, 1]).normal(size=self.y.shape)))
        u, first, second = (cast(draw(seed, stream, "dy", self.y.shape)) for stream in (3, 4, 5))
        self.u = np.where(draw(seed, 3, "zero", self.y.shape) > 0, u, u.dtype.type(0)) if u.ndim else u
        self.of_dy, self.of_u, self.of_sum = map(self.outcome, (self.dy, self.u, 2 * first - second / 2))

    def run(self, arguments):
        parameters = inspect.signature(self.forward).parameters  # `options` holds some of the arguments by their names
        own = {name: x for name, x in arguments.items() if name not in parameters}
        options = [parameters["options"].annotation(**own)] if own else []
        return self.forward(*(x for name, x in arguments.items() if name in parameters), *options)

    def outcome(self, dy):
        found = self.backward(dy, self.saved)
        pairs = zip(self.names, found if isinstance(found, tuple) else (found,), strict=True)
        return {"y": self.y} | {f"d{name}": g for name, g in pairs if self.arguments[name] is not None}

    def line(self, name):
        """A direction v, its size, and the slope of y along it: (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h."""
        x, h = self.arguments[name], 2.0**-10
        size = min(1.0, np.sqrt(np.mean(x[np.isfinite(x)] ** 2)))
        v = size * draw(self.seed, 2, name, x.shape)
        f = [self.run(self.arguments | {name: x + t * v})[0] for t in (h, -h, 2 * h, -2 * h)]
        return v, size, (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h)


def faults_of(row, case, exact, lines):  # exact: the case in float64, at the same numbers
    error, bound, what, method, margin = row["error"], row["bound"], row["argument"], row["method"], 1e-7
    limit = LIMITS[method][row["dtype"] == "float32"]
    if not error <= bound <= limit:
        yield f"error {error:.2g} ≤ bound {bound:.2g} ≤ limit {limit:.2g} does not hold"
    stated = abs(row["ours"] - row["theirs"]) / (row["scale"] or 1.0)
    if not abs(error - stated) <= 1e-9 * stated:
        yield f"the error of its numbers is {stated:.3g}, not {error:.3g}"
    if method in SLOPES:
        dy, found = (case.u, case.of_u) if method == "adjoint" else (case.dy, case.of_dy)
        (v, size, moved), gradient = lines[what[1:]], found[what]
        mine, other = np.sum(gradient * v), np.sum(dy * moved)
        width = max(abs(mine), abs(other), size * np.sqrt(np.sum(gradient**2)))
        agrees = abs(mine - other) <= margin * width
    else:
        found, truth = (c.of_sum if method == "linearity" else c.of_dy for c in (case, exact))
        gradient, margin = found[what], 2 * bound
        mine = other = float(gradient[tuple(row["at"])])
        width = float(np.abs(gradient).max(initial=0.0))
        agrees = np.abs(gradient - truth[what]).max(initial=0.0) <= 1e-4 * width
    if not agrees or list(np.shape(gradient)) != row["shape"]:
        yield "the backward and what it is compared with differ here"
    for name, here, most in (("ours", mine, 2 * bound), ("theirs", other, margin), ("scale", width, max(margin, 1e-6))):
        if not abs(row[name] - here) <= most * width:
            yield f"{name} is {here:.12g}, not {row[name]:.12g}"


def check_op(name, entry, rows, functions):
    for side, one in zip(SIDES, functions, strict=True):
        if sha256(inspect.getsource(getattr(one, "reference", one)).encode()).hexdigest() != entry[side]["sha256"]:
            yield f"the source of {name}_{side} is not what was verified"
    for title, told in entry["cases"].items():
        double, single, exact = (Case(told, functions, entry, *k) for k in (("f8", "f8"), ("f4", "f4"), ("f8", "f4")))
        lines = {what[1:]: double.line(what[1:]) for what in double.of_dy if what != "y"}
        given = [row for row in rows if row["case"] == title]
        keys = [(row["method"], row["dtype"], row["argument"]) for row in given]
        named = [(*method.split(", "), what) for method, whats in told["checks"].items() for what in whats]
        needed = {(method, "float64", f"d{argument}") for method in SLOPES for argument in lines}
        if sorted(keys) != sorted(named) or not needed <= set(keys):
            yield f"[{title}] rows are missing, or too many"
        for key, row in zip(keys, given, strict=True):
            pair = (single, exact) if row["dtype"] == "float32" else (double, double)
            yield from (f"[{title}] {', '.join(key)}: {fault}" for fault in faults_of(row, *pair, lines))


def main(path):
    certificate, pairs, faults = json.loads(Path(path).read_text("utf-8")), {}, {}
    for module in (import_module(f"{ops.__name__}.{found.name}") for found in iter_modules(ops.__path__)):
        for name in (word.removesuffix("_forward") for word in module.__all__ if word.endswith("_forward")):
            pairs[name] = tuple(getattr(module, f"{name}_{side}") for side in SIDES)
    for file in {*certificate["files"], *(f"ops/{found.name}.py" for found in iter_modules(ops.__path__))}:
        text = (Path(ops.__file__).parents[1] / file).read_text("utf-8")
        if sha256(text.encode()).hexdigest() != certificate["files"].get(file):
            faults[file] = ["is not what was verified"]
    for name in sorted(pairs.keys() | certificate["ops"].keys() | {row["op"] for row in certificate["rows"]}):
        rows, entry = [row for row in certificate["rows"] if row["op"] == name], certificate["ops"].get(name)
        faults[name] = list(check_op(name, entry, rows, pairs[name])) if entry and name in pairs else ["is missing"]
        print(f"{name:24} {len(rows):5} rows  {f'{len(faults[name])} faults' if faults[name] else 'ok'}", flush=True)
    told = [f"FAULT {name} {fault}" for name, found in faults.items() for fault in found]
    print("\n".join(told) or "Every figure was found again.")
    return bool(told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
