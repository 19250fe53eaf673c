"""`compyute verify`: chooses what to verify, verifies it, and says what came of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ..errors import ConfigError
from ..training.run.checkpoint import Which
from .certificate import certificate, write_certificate
from .ops import Example, prepare_ops
from .plan import Outcome, carry_out, choose, everything
from .result import Task
from .runs import is_run, tasks_of_run
from .table import TableReport, to_json

__all__ = ["verify"]


def verify(
    what: Sequence[str] = (),
    methods: Sequence[str] = (),
    seed: int = 0,
    save_to: str | Path | None = None,
    json: bool = False,
    which: Which = "best",
    stream: IO[str] | None = None,
) -> Outcome:
    """Verify what is named, and print the outcome.

    what: parts of names, or the folder of one run; without, everything of the library. save_to: where a certificate is
    written, if all passed. json: one JSON object instead of a table.

    Raises:
        ConfigError: nothing is called so, or a certificate that cannot be. What `load_run` raises about a run.
    """
    if seed < 0:
        raise ConfigError(f"verify: a seed is not negative, got {seed}.")
    if save_to is not None and not Path(save_to).absolute().parent.is_dir():
        raise ConfigError(f"verify: a certificate is written into a folder that exists, got {save_to}.")
    tasks, examples = plan(what, methods, seed, save_to is not None, which)
    stream = stream or sys.stdout
    if json:
        outcome = carry_out(tasks)
    else:
        report = TableReport(tasks, stream)
        try:
            outcome = carry_out(tasks, report.report)
        finally:
            report.close()
        report.conclude(outcome)
    written = save_to if outcome.passed else None
    if save_to is not None and written is not None:
        write_certificate(save_to, certificate(outcome.results, examples, seed))
    if json:
        print(to_json(outcome, seed=seed, certificate=None if written is None else str(written)), file=stream)
    elif save_to is not None:
        said = f"Certificate: {written}" if written else "No certificate is written where a check has failed."
        print(said, file=stream)
    return outcome


def plan(
    what: Sequence[str], methods: Sequence[str], seed: int, certified: bool, which: Which
) -> tuple[list[Task], dict[str, list[Example]]]:
    """The tasks that are asked for, and the examples of the ops among them."""
    runs = [text for text in what if is_run(text)]
    if not runs:
        examples = prepare_ops(seed)
        return choose(everything(seed, examples), what, methods), examples
    if len(what) > 1 or certified:
        raise ConfigError(
            f"verify: a run is verified on its own, without filters and without a certificate, got {', '.join(what)}"
            f"{' and --certificate' if certified else ''}."
        )
    return choose(tasks_of_run(runs[0], which, seed), (), methods), {}
