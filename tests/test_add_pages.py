"""The pages on adding an op and a model are complete: their code, put where they say, is all that is needed.

The blocks of a page are applied literally to a copy of the repository, and what the page says is run there. Most of it
runs on references alone, since a copy may have to compile its kernels.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
OP, MODEL = ROOT / "docs" / "add_an_op.md", ROOT / "docs" / "add_a_model.md"
BLOCK = re.compile(r"^(`{3,4})\{code-block\} \w+\n:caption: ([^\n]*)\n\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(\S+?)(?:, (at the end|after|before|in place of)(?: `(.*)`)?)?")
VARIANT = "## A variant of an op"

Run = Callable[..., str]


class Step(NamedTuple):
    """A block of code, and where it goes: a new file, or before, after or in place of the first line with a text."""

    path: str
    place: str | None
    line: str | None
    code: str

    def apply(self, root: Path) -> None:
        path = root / self.path
        if self.place is None:
            assert not path.exists(), f"{path} is not new"
            path.write_text(self.code, encoding="utf-8")
            return
        text = path.read_text(encoding="utf-8")
        if self.place == "at the end":
            path.write_text(f"{text}\n\n{self.code}", encoding="utf-8")
            return
        assert self.line is not None
        lines = text.splitlines(keepends=True)
        found = [at for at, line in enumerate(lines) if line.startswith(self.line)]
        assert found, f"{self.path} has no line that starts with {self.line!r}"
        first = found[0] + (self.place == "after")
        last = found[0] + (self.place in ("in place of", "after"))
        path.write_text("".join([*lines[:first], self.code, *lines[last:]]), encoding="utf-8")


def steps_of(page: Path) -> list[Step]:
    """The blocks of a page that have a caption, in order."""
    steps = []
    for _, caption, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        place = PLACE.fullmatch(caption)
        assert place is not None, caption
        steps.append(Step(place[1], place[2], place[3], code))
    return steps


def files_named(page: Path, heading: str = "") -> set[str]:
    """The files that the first table after a heading lists."""
    text = page.read_text(encoding="utf-8").partition(heading)[2] if heading else page.read_text(encoding="utf-8")
    table = text.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE))


def test_the_pages_name_the_files_that_they_touch_and_these_are_few() -> None:
    variant = OP.read_text(encoding="utf-8").partition(VARIANT)[2]
    of_variant = {step.path for step in steps_of(OP) if f":caption: {step.path}" in variant}
    of_op = {step.path for step in steps_of(OP)} - of_variant
    of_model = {step.path for step in steps_of(MODEL)}
    assert (of_op, of_variant, of_model) == (files_named(OP), files_named(OP, VARIANT), files_named(MODEL))
    assert (len(of_op), len(of_variant), len(of_model)) == (6, 4, 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all steps of both pages."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("src", "docs", "tests", "tools"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "pyproject.toml", root)
    for step in (*steps_of(OP), *steps_of(MODEL)):
        step.apply(root)
    return root


@pytest.fixture(scope="module")
def run(tree: Path) -> Run:
    def call(*arguments: str) -> str:
        paths = os.pathsep.join(str(tree / folder) for folder in ("src", "tools"))
        environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "COMPYUTE_KERNELS": "reference"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return call


def compyute(run: Run, *arguments: str) -> str:
    return run("-m", "compyute_transformer", *arguments)


def test_the_linter_puts_the_code_in_order(run: Run) -> None:
    run("-m", "ruff", "check", "--fix", "src")
    run("-m", "ruff", "format", "--check", "src")


def test_the_op_and_its_module_are_verified_by_every_method(run: Run) -> None:
    out = compyute(run, "verify", "dynamic_tanh", "DynamicTanh")
    for name in ("ops.dynamic_tanh", "nn.DynamicTanh"):
        methods = {line.split()[1] for line in out.splitlines() if line.startswith(name)}
        assert methods >= {"differences", "complex-step", "adjoint", "linearity", "torch"}
    assert "all within tolerance" in out


def test_a_wrong_gradient_of_the_op_is_named(tree: Path, run: Run) -> None:
    path = tree / "src/compyute_transformer/ops/norm.py"
    right = path.read_text(encoding="utf-8")
    path.write_text(right.replace("dz = dy * weight * (1 - t * t)", "dz = dy * weight"), encoding="utf-8")
    try:
        with pytest.raises(AssertionError) as failed:
            compyute(run, "verify", "ops.dynamic_tanh", "--method", "differences")
    finally:
        path.write_text(right, encoding="utf-8")
    wrong = set(re.findall(r"\] (d\w+), differences", str(failed.value)))
    assert wrong == {"dx", "dalpha"}


def test_the_model_is_verified_and_the_missing_pytorch_version_is_named(run: Run) -> None:
    methods = ("differences", "adjoint", "implementations", "torch")
    out = compyute(run, "verify", "models.TanhGPT", *(word for method in methods for word in ("--method", method)))
    lines = [line.split() for line in out.splitlines() if line.startswith("models.TanhGPT")]
    within = {line[1] for line in lines if line[-1] == "within"}
    assert within == {"differences", "complex-step", "adjoint", "linearity", "implementations"}
    assert "There is no PyTorch version of this model, verify/torch/tanh_gpt.py." in out


def test_the_command_trains_the_model_and_generates_with_it(tree: Path, run: Run) -> None:
    text = tree / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    sizes = ["--embed-dim", "8", "--num-heads", "2", "--num-layers", "1", "--context-length", "8", "--steps", "2"]
    compyute(run, "train", str(text), "--architecture", "tanh_gpt", *sizes, "--out", "run")
    compyute(run, "generate", "run", "--prompt", "the", "--max-new-tokens", "3", "--kernels", "reference")
    compyute(run, "train", str(text), "--attn-temperature", "2", *sizes, "--out", "cooled")


VERIFY_COOLED = """
from compyute_transformer.verify import check_case, compare
from compyute_transformer.verify.registry import REGISTRY

for name in ("attention", "fused_attention"):
    for case in [case for case in REGISTRY[name].cases if "temperature" in case.name]:
        results = [*check_case(REGISTRY[name], case), *compare(REGISTRY[name], case, "float64")]
        print(name, case.name, len(results), all(result.passed for result in results))
"""


def test_attention_with_a_temperature_is_verified(run: Run) -> None:
    lines = [line.split() for line in run("-c", VERIFY_COOLED).splitlines()]
    names = [(op, case) for op in ("attention", "fused_attention") for case in ("temperature", "temperature_grouped")]
    assert [(line[0], line[1]) for line in lines] == names
    assert all(line[2:] == ["8", "True"] for line in lines)  # four differences; y and three gradients by PyTorch


def test_kernels_decline_the_temperature(run: Run) -> None:
    code = (
        "import numpy as np\n"
        "from compyute_transformer.ops.attention import Mask, fused_attention_forward\n"
        "x = np.ones((1, 2, 3, 4), np.float32)\n"
        "print([fused_attention_forward.kernel('cpu').supports(x, x, x, Mask(temperature=t)) for t in (None, 2.0)])"
    )
    assert run("-c", code).strip() == "[True, False]"


def test_benchmark_documentation_and_mutation_know_the_op(run: Run) -> None:
    compyute(run, "bench", "ops", "dynamic_tanh", "--rounds", "1")
    pages = ("test_every_op_has_a_page_and_every_page_an_op", "test_a_page_of_an_op_has_every_part")
    files = ["tests/verify/test_registry.py", "tests/tools/mutation/test_properties.py"]
    files += [f"tests/test_docs.py::{name}" for name in (*pages, "test_the_code_of_a_page_runs")]
    of_op = "dynamic_tanh and (page or order or luck or annotations or layout or slopes)"
    chosen = f"({of_op}) or every_op_has or every_forward or every_argument"
    out = run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", chosen)
    assert int(re.findall(r"(\d+) passed", out)[0]) >= 15 + 2 + 5
