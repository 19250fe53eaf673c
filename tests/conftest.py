"""What every test runs under.

The shapes written in the signatures of the ops are enforced in the tests of ops, layers and models: jaxtyping and
beartype check each call of each op, so an annotation that is wrong fails the tests that run it. A test of the
validation's own errors asks for the fixture `validation_only`, since the annotations would refuse the same input first.
Elsewhere the annotations are not checked again: training and generation call ops so often that it takes three quarters
of their time.

A test that takes `op` and `case` runs once for each case of the registry.

A check that needs a GPU (marker `gpu`) is left out where there is none, and the last line says how many were.

Python stores what it compiles, even where PYTHONDONTWRITEBYTECODE says otherwise: a hundred processes start here, and
each would compile all the packages again, which takes it five to ten seconds.

Threads without work sleep early, as under the command `compyute`; processes that tests start inherit it.

Ctrl-C is heard also where a shell takes it away from what it starts in the background (`nohup scripts/test &`).
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from compyute_transformer.threads import configure_threads

CHECKED = "compyute_transformer.ops"
CHECKED_IN = ("ops", "nn", "models", "verify")  # folders whose tests check the annotations of the ops they call
SLOW = (  # files that take a minute or more: they begin first, so that no process is left with one at the end
    *("cases/test_same_bits_from_the_first_start.py", "test_notebooks.py", "test_docs.py", "test_add_pages.py"),
    *("training/run/test_folder.py", "parallel/test_processes.py", "test_readme.py", "training/test_trainer.py"),
    *("gpu/test_library.py", "gpu/test_planted.py", "gpu/test_mixed.py"),
)
NOT_RUN = pytest.StashKey[int]()

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if CHECKED in sys.modules:
    raise pytest.UsageError(f"{CHECKED} was imported before its annotations could be enforced.")
configure_threads()  # test processes share the cores: threads that wait for work would take them from each other
import_module("jaxtyping").install_import_hook(CHECKED, "beartype.beartype")  # which imports NumPy, so it comes second


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # thousands of tests are no garbage: to look at them again takes half a second at each collection


@pytest.hookimpl(tryfirst=True)  # before any fixture calls an op
def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    import_module("jaxtyping").config.update("jaxtyping_disable", folder not in CHECKED_IN)


@pytest.fixture
def validation_only() -> Iterator[None]:
    """As at run time: only the checks at the validation of the ops refuse wrong input, not the annotations."""
    config = import_module("jaxtyping").config
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"op", "case"} <= set(metafunc.fixturenames):
        from compyute_transformer.verify.registry import REGISTRY

        every = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in REGISTRY.values() for case in op.cases]
        metafunc.parametrize(("op", "case"), every)


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from compyute_transformer.arrays import gpu_fault

    items.sort(key=lambda item: not item.nodeid.split("::")[0].endswith(SLOW))
    chosen = len(items)
    if gpu_fault():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    config.stash[NOT_RUN] = chosen - len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes: the first one writes the summary
        session.config.workeroutput["not_run"] = session.config.stash.get(NOT_RUN, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    from compyute_transformer.arrays import gpu_fault

    fault = gpu_fault()
    reason = f": no GPU ({fault})" if fault else ": a GPU is here"
    terminalreporter.write_line(f"{config.stash.get(NOT_RUN, 0)} GPU checks were not run{reason}")
