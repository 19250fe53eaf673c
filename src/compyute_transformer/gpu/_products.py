"""Products: row-major matrix products by cuBLASLt, with what follows a product computed as it is written.

    multiply(a, b, out, transposed=(False, True), epilogue="bias", vector=bias)          out = a bᵀ + bias

cuBLASLt knows column-major matrices. The memory of a row-major (r, c) matrix is that of a column-major (c, r) one, its
transpose, so nothing is copied: outᵀ = op(b)ᵀ op(a)ᵀ, with b in the place of cuBLASLt's A and a in that of its B. The
rows of its D are then the columns of out, along which it adds a bias.

A product is planned once for each shape: cuBLASLt proposes algorithms, each is timed, the fastest is kept. Where it has
none for an epilogue, and where nvmath is not installed, the product comes alone and CuPy computes the rest.

Versions: planned, unfused where there is no algorithm. Not yet timed on a GPU.
"""

import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import BackendError
from ..precision import precision
from ._kernel import address_of
from ._rounded import narrowed

__all__ = ["TYPES", "Epilogue", "multiply", "operands", "planner", "vector_of"]

Epilogue = Literal["none", "bias", "gelu", "gelu_bias", "dgelu", "bias_gradient"]

WORKSPACE = 32 << 20  # bytes; what NVIDIA recommends for Hopper
PROPOSALS, TIMED = 8, 3
ALIGNMENT = 256  # bytes; what cuBLASLt assumes unless it is told otherwise

TYPES = {"bfloat16": 14, "float32": 0, "float64": 1}  # cudaDataType
COMPUTE = {"float32": 68, "bfloat16": 68, "tf32": 77, "float64": 70}  # cublasComputeType
EPILOGUES = {"none": 1, "bias": 4, "gelu": 160, "gelu_bias": 164, "dgelu": 192, "bias_gradient": 512}
TRANSA, TRANSB, EPILOGUE, POINTER, HIDDEN, HIDDEN_LD, HIDDEN_TYPE, VECTOR_TYPE = 3, 4, 7, 8, 11, 12, 22, 26
MOST_WORKSPACE, ALIGNMENT_A = 1, 5  # of a preference; B, C and D follow A


class Operand(NamedTuple):
    """What a plan depends on of a matrix. rows, columns: as cuBLASLt sees it. ld: from column to column."""

    dtype: str
    rows: int
    columns: int
    ld: int
    alignment: int

    @classmethod
    def of(cls, array: Array) -> "Operand":
        """Describe a row-major matrix, whose rows may lie apart."""
        (rows, columns), (far, near) = array.shape, array.strides
        if near != array.itemsize and columns > 1:
            raise BackendError(f"multiply: the numbers of a row lie side by side, got strides {array.strides}.")
        ld = far // array.itemsize if rows > 1 else columns
        address = address_of(array)
        return cls(array.dtype.name, columns, rows, ld, min(ALIGNMENT, address & -address))


class Problem(NamedTuple):
    """What a plan is made for: the operands in cuBLASLt's order, and what is computed of them."""

    a: Operand
    b: Operand
    d: Operand
    transposed: tuple[bool, bool]
    epilogue: Epilogue
    accumulate: bool
    compute: int


@dataclass
class Plan:
    """How a product is computed. algorithm: the record that cuBLASLt proposed. scale: alpha and beta."""

    descriptor: int
    layouts: tuple[int, int, int]
    algorithm: np.ndarray
    scale: np.ndarray


class Planner:
    """The handle of cuBLASLt, its workspace, and the plans by what they are for."""

    def __init__(self, library: Any) -> None:
        self.library, self.cupy = library, import_module("cupy")
        self.handle = library.create()
        self.workspace = self.cupy.empty(WORKSPACE, np.uint8)
        self.plans: dict[Problem, Plan | None] = {}

    def plan(self, problem: Problem, run: Any) -> Plan | None:
        """Return the plan of a problem; None where cuBLASLt has no algorithm. run: computes it with a plan, to time."""
        if problem not in self.plans:
            if self.cupy.cuda.get_current_stream().is_capturing():
                raise BackendError(
                    "multiply: a product is planned before it is captured, got a new shape. Run the step once before."
                )
            self.plans[problem] = self._fastest(self._proposals(problem), run)
        return self.plans[problem]

    def _proposals(self, problem: Problem) -> list[Plan]:
        library = self.library
        scale_type = TYPES["float64" if problem.d.dtype == "float64" else "float32"]
        descriptor = library.matmul_desc_create(problem.compute, scale_type)
        for attribute, value in zip((TRANSA, TRANSB), problem.transposed, strict=True):
            self.set(descriptor, attribute, int(value))
        self.set(descriptor, EPILOGUE, EPILOGUES[problem.epilogue])
        if problem.epilogue in ("bias", "gelu_bias", "bias_gradient"):
            self.set(descriptor, VECTOR_TYPE, TYPES[problem.d.dtype])
        if problem.epilogue in ("gelu", "gelu_bias", "dgelu"):
            self.set(descriptor, HIDDEN_LD, problem.d.rows)
            self.set(descriptor, HIDDEN_TYPE, TYPES[problem.d.dtype])
        layouts = tuple(
            library.matrix_layout_create(TYPES[each.dtype], each.rows, each.columns, each.ld)
            for each in (problem.a, problem.b, problem.d)
        )
        found = np.zeros(PROPOSALS, library.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        preference = self._preference(problem)
        try:
            a, b, d = layouts
            library.matmul_algo_get_heuristic(
                self.handle, descriptor, a, b, d, d, preference, PROPOSALS, found.ctypes.data, count.ctypes.data
            )
        except library.cuBLASLtError:  # raised for a combination that it does not know
            count[0] = 0
        finally:
            library.matmul_preference_destroy(preference)
        kind = np.float64 if problem.d.dtype == "float64" else np.float32
        scale = np.array([1, int(problem.accumulate)], kind)
        usable = [found[i : i + 1] for i in range(int(count[0])) if found[i]["state"] == 0]
        return [Plan(descriptor, layouts, algorithm, scale) for algorithm in usable]

    def _preference(self, problem: Problem) -> int:
        preference: int = self.library.matmul_preference_create()
        wanted: list[tuple[int, Any]] = [(MOST_WORKSPACE, np.uint64(WORKSPACE))]
        operands = (problem.a, problem.b, problem.d, problem.d)
        wanted += [(ALIGNMENT_A + i, np.uint32(each.alignment)) for i, each in enumerate(operands)]
        for attribute, value in wanted:
            cell = np.array([value])
            self.library.matmul_preference_set_attribute(preference, attribute, cell.ctypes.data, cell.nbytes)
        return preference

    def set(self, descriptor: int, attribute: int, value: int) -> None:
        """Set an attribute of a product."""
        kind = self.library.get_matmul_desc_attribute_dtype(attribute)
        cell = np.array([value], kind)
        self.library.matmul_desc_set_attribute(descriptor, attribute, cell.ctypes.data, cell.nbytes)

    def _fastest(self, proposals: list[Plan], run: Any) -> Plan | None:
        if len(proposals) < 2:
            return proposals[0] if proposals else None
        times = []
        for plan in proposals:
            run(plan)
            begin, end = (self.cupy.cuda.Event() for _ in range(2))
            begin.record()
            for _ in range(TIMED):
                run(plan)
            end.record()
            end.synchronize()
            times.append(self.cupy.cuda.get_elapsed_time(begin, end))
        return proposals[times.index(min(times))]

    def run(self, plan: Plan, a: Array, b: Array, out: Array) -> None:
        """Compute a product with a plan, on the current stream."""
        layout_a, layout_b, layout_d = plan.layouts
        alpha = plan.scale.ctypes.data
        stream = self.cupy.cuda.get_current_stream().ptr
        pointers = (alpha, address_of(b), layout_a, address_of(a), layout_b, alpha + plan.scale.itemsize)
        outputs = (address_of(out), layout_d, address_of(out), layout_d)
        algorithm, workspace = plan.algorithm.ctypes.data, address_of(self.workspace)
        self.library.matmul(self.handle, plan.descriptor, *pointers, *outputs, algorithm, workspace, WORKSPACE, stream)


@cache
def planner() -> Planner | None:
    """Return the planner; None where nvmath cannot be imported, which is said once."""
    try:
        return Planner(import_module("nvmath.bindings.cublasLt"))
    except (ImportError, RuntimeError) as error:
        logging.getLogger("compyute_transformer").warning(
            "Products run by CuPy, without what cuBLASLt computes along with them, and no step can be captured: "
            "nvmath cannot be used (%s). pip install 'compyute-transformer[gpu]'",
            error,
        )
        return None


class Work(NamedTuple):
    """The arguments of `multiply`."""

    a: Array
    b: Array
    out: Array
    transposed: tuple[bool, bool]
    epilogue: Epilogue
    vector: Array | None
    hidden: Array | None
    accumulate: bool


def multiply(
    a: Array,
    b: Array,
    out: Array,
    *,
    transposed: tuple[bool, bool] = (False, False),
    epilogue: Epilogue = "none",
    vector: Array | None = None,
    hidden: Array | None = None,
    accumulate: bool = False,
) -> None:
    """Compute out = op(a) op(b), or add it to out where `accumulate`; op transposes where `transposed` says so.

    epilogue: "bias" adds the vector to each row. "gelu" applies the tanh form of GELU, and writes what it is applied to
    into `hidden`; "gelu_bias" adds the vector before. "dgelu" multiplies by the derivative of GELU at `hidden`.
    "bias_gradient" writes the sums of the rows of op(a) into the vector.

    Shapes: a, b row-major matrices of one dtype; out (rows of op(a), columns of op(b)) and hidden contiguous.
    """
    work = Work(a, b, out, transposed, epilogue, vector, hidden, accumulate)
    if out.size == 0:
        return
    found = planner()
    if found is None or a.size == 0:
        _plainly(work)
    elif not _by_cublas(found, work):
        if epilogue == "none":
            _plainly(work)
        else:
            multiply(a, b, out, transposed=transposed, accumulate=accumulate)
            _finish(work)


def _by_cublas(found: Planner, work: Work) -> bool:
    """Compute by cuBLASLt; return whether it has an algorithm."""
    first, second = work.transposed
    compute = COMPUTE["tf32" if work.a.dtype == np.float32 and precision() == "tf32" else work.a.dtype.name]
    operands = Operand.of(work.b), Operand.of(work.a), Operand.of(work.out)
    problem = Problem(*operands, (second, first), work.epilogue, work.accumulate, compute)

    def run(plan: Plan, out: Array) -> None:
        for attribute, array in ((POINTER, work.vector), (HIDDEN, work.hidden)):
            if array is not None:
                found.set(plan.descriptor, attribute, address_of(array))
        found.run(plan, work.a, work.b, out)

    def trial(plan: Plan) -> None:  # a sum would be added to several times
        run(plan, found.cupy.zeros_like(work.out) if work.accumulate else work.out)

    plan = found.plan(problem, trial)
    if plan is not None:
        run(plan, work.out)
    return plan is not None


def _plainly(work: Work) -> None:
    """Compute all by CuPy: a product of two axes, in the dtype of the result."""
    out = work.out
    left, right = (x.T if turned else x for x, turned in zip((work.a, work.b), work.transposed, strict=True))
    product = left.astype(out.dtype, copy=False) @ right.astype(out.dtype, copy=False)
    if work.accumulate:
        out += product
    else:
        out[...] = product
    _finish(work)


def _finish(work: Work) -> None:
    """Compute an epilogue on its own."""
    out, vector, hidden = work.out, work.vector, work.hidden
    if work.epilogue in ("bias", "gelu_bias"):
        out += vector
    if work.epilogue in ("gelu", "gelu_bias") and hidden is not None:
        hidden[...] = out
        out[...] = _gelu(out)[0]
    if work.epilogue == "dgelu":
        out *= _gelu(hidden)[1]
    if work.epilogue == "bias_gradient" and vector is not None:
        vector[...] = work.a.astype(vector.dtype, copy=False).sum(0 if work.transposed[0] else 1)


def _gelu(x: Any) -> tuple[Array, Array]:
    """Return the tanh form of GELU, and its derivative."""
    wide = x.astype(np.float32) if x.itemsize < 4 else x
    scale, cubic = (wide.dtype.type(number) for number in ((2 / np.pi) ** 0.5, 0.044715))
    t = import_module("cupy").tanh(scale * (wide + cubic * wide * wide * wide))
    derivative = 0.5 * (1 + t) + 0.5 * wide * (1 - t * t) * scale * (1 + 3 * cubic * wide * wide)
    return (0.5 * wide * (1 + t)).astype(x.dtype), derivative.astype(x.dtype)


def operands(*arrays: Array) -> tuple[Array, ...]:
    """Return matrices as they are multiplied: contiguous, float32 as bfloat16 where the precision or another is."""
    cupy = import_module("cupy")
    if precision() == "bfloat16" or any(array.dtype.name == "bfloat16" for array in arrays):
        arrays = tuple(map(narrowed, arrays))
    return tuple(cupy.ascontiguousarray(array) for array in arrays)


def vector_of(array: Array | None, out: Array) -> Array | None:
    """Return a bias in the dtype of the result that it is added to."""
    if array is None or array.dtype == out.dtype:
        return array
    return narrowed(array) if out.dtype.name == "bfloat16" else array.astype(out.dtype)
