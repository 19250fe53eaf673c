"""Command: verify ops and write a certificate of the results. Run by `scripts/certify`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compyute_transformer.errors import CompyuteError, ConfigError
from compyute_transformer.verify.plan import carry_out
from compyute_transformer.verify.subject import tasks
from compyute_transformer.verify.table import TableReport

from .write import certificate, prepare, write_certificate

__all__ = ["certify", "main"]


def certify(file: Path, ops: Sequence[str] = (), seed: int = 0) -> bool:
    """Verify ops, print a table, and write a certificate if all checks have passed; return whether they have.

    Raises:
        ConfigError: there is no such op, or no such folder.
    """
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"certify: a certificate is written into a folder that exists, got {file}.")
    examples = prepare(seed, ops)
    chosen = list(tasks(example for several in examples.values() for example in several))
    report = TableReport(chosen)
    try:
        outcome = carry_out(chosen, report.report)
    finally:
        report.close()
    report.conclude(outcome)
    if not outcome.passed or outcome.not_run:
        print("No certificate is written where a check has failed or was not run.")
        return False
    write_certificate(file, certificate(outcome.results, examples, seed))
    print(f"Certificate: {file}")
    return True


def main() -> int:
    """Read the arguments and return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/certify", description="Verify ops and write a certificate.")
    parser.add_argument("file", type=Path, help="JSON file to write")
    parser.add_argument("ops", nargs="*", help="names of ops, such as layer_norm; by default all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs")
    given = parser.parse_args()
    try:
        return 0 if certify(given.file, given.ops, given.seed) else 1
    except CompyuteError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
