"""The notebooks as a reader gets them: without stored outputs, and running from top to bottom from a clean state.

Each runs in a fresh kernel of the interpreter that runs the tests, in an empty folder. What a notebook claims it
asserts itself; here an error, a warning, or a picture that was not drawn fails.
"""

import ast
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  on a fresh machine it builds its list of fonts here, and not in a notebook
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from compyute_transformer.grading import EXERCISES, grade_file

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS_PER_CELL = 300  # many times what the slowest takes: a busy machine is no error

LESSONS = (
    *("lesson_1_tokens", "lesson_2_positions", "lesson_3_attention", "lesson_4_heads", "lesson_5_block"),
    *("lesson_6_backward", "lesson_7_training", "lesson_8_generation"),
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


class ThisInterpreter(AsyncKernelManager):
    """Starts the interpreter that runs the tests; no kernel needs to be installed by name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="this interpreter", language="python")


def test_every_notebook_is_here() -> None:
    verifications = [f"verification_{name}" for name in ("parallel", "semiparallel", "sequential")]
    assert [path.stem for path in NOTEBOOKS] == [
        "attention_theory",
        "four_workers",
        "inference",
        *LESSONS,
        *verifications,
    ]


@each_notebook
def test_no_outputs_are_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        stored = cell.outputs or cell.execution_count is not None
        assert not stored, f"code cell {number} of {path.name} has outputs: clear all outputs and save again"


@each_notebook
def test_it_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    work, settings = tmp_path / "work", tmp_path / "ipython"  # no settings of the user's, no start-up files
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment["IPYTHONDIR"] = str(settings)

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisInterpreter,
        timeout=SECONDS_PER_CELL,
        resources={"metadata": {"path": str(work)}},
    )
    client.execute(env=environment)

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        complaints = [output.text for output in cell.outputs if output.get("name") == "stderr"]
        complaints = [
            text for text in complaints if not text.startswith("Compiling kernels that this machine has not run before")
        ]
        assert not complaints, f"{path.name} writes to stderr: {''.join(complaints)}"
        drawn = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        wanted = sum(cell.source.count(call) for call in ("plt.show()", "display(figure)"))
        assert drawn == wanted, f"{path.name} draws {drawn} pictures in:\n{cell.source}"
    assert not list(work.iterdir()), f"{path.name} leaves files behind"


# --- the lessons ---


def exercises_of(lesson: str) -> set[str]:
    """The functions that a lesson asks for: those that are graded by `check`."""
    cells = nbformat.read(FOLDER / f"{lesson}.ipynb", as_version=4).cells
    calls = re.findall(r"^check\((.*)\)", "\n".join(cell.source for cell in cells), re.MULTILINE)
    return {name for call in calls for name in call.split(", ")}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_exercises_each_left_open_and_each_with_a_right_solution(lesson: str) -> None:
    wanted = exercises_of(lesson)
    assert wanted
    for cell in nbformat.read(FOLDER / f"{lesson}.ipynb", as_version=4).cells:
        if "check(" in cell.source and "def " in cell.source:
            tree = ast.parse(cell.source)
            bodies = [node.body for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert all(len(body) == 1 and ast.unparse(body[0]) == "..." for body in bodies)
    solution = FOLDER / "solutions" / f"{lesson[:8]}.py"
    found = grade_file(solution)
    assert found.passed, found
    assert {f"{grade.op}_{function}" for grade in found.grades for function in grade.functions} == wanted


def test_every_op_that_can_be_graded_is_asked_for_in_some_lesson_or_listed() -> None:
    asked = {name.rpartition("_")[0] for lesson in LESSONS for name in exercises_of(lesson)}
    assert set(EXERCISES) - asked == {"relu", "gelu"}  # for whoever wants more
    assert asked <= set(EXERCISES)


def test_the_lessons_lead_to_each_other() -> None:
    for lesson, following in pairwise(LESSONS):
        text = (FOLDER / f"{lesson}.ipynb").read_text(encoding="utf-8")
        assert f"({following}.ipynb)" in text
        assert "**You will know**" in text
