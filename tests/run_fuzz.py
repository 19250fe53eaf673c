"""Mutate the files of a run, read them back, and hold what comes of it to four rules.

No error but the library's own, none that is long or controls a terminal, none that takes more than five seconds, and no
value that differs from what the run wrote without an error. The log and the samples are reports, which nothing but the
reader of a log depends on: their values may differ, and a line that cannot be read is skipped.

    python tests/run_fuzz.py --mutations 2000 --flips 10000 --seed 0
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from fuzz_helpers import broken_rule, flip, of_bytes, of_json
from training_helpers import TEXT, tiny

from compyute_transformer import use_kernels
from compyute_transformer.training import load_run, resume_run, start_run
from compyute_transformer.training.reporting.journal import read_log
from compyute_transformer.training.run import checkpoint
from compyute_transformer.training.run.schema import digest

__all__ = ["fuzz", "make_run"]

REPORTS = ("log.jsonl", "samples.txt")


def make_run(folder: Path, tokenizer: str) -> Path:
    """Train a run of a fraction of a second."""
    text = folder / "words.txt"
    text.write_text(TEXT, encoding="utf-8")
    vocabulary = {"tokenizer": "bpe", "vocab_size": 280} if tokenizer == "bpe" else {}
    settings = tiny(steps=4, num_layers=1, embed_dim=8, decay="constant", checkpoint_every=2, **vocabulary)
    start_run([text], settings, folder / "run")
    return folder / "run"


# --- what a run holds ---


def _values(run: Path, resume: bool) -> list[str]:
    """Return a digest of each thing that is read from a run."""
    found = []
    same = checkpoint.best(run) == checkpoint.latest(run)
    for which in ("last",) if same else ("best", "last"):
        loaded = load_run(run, which)  # type: ignore[arg-type]
        weights = sha256(np.ascontiguousarray(loaded.model.flat.data)).hexdigest()
        ids = loaded.tokenizer.encode(TEXT[:200])
        found += [weights, str(loaded.step), repr(loaded.config), repr(list(ids)), loaded.tokenizer.decode(ids)]
    state = checkpoint.load_state(checkpoint.latest(run))
    found.append(repr(state))
    moments = checkpoint.load_arrays(checkpoint.latest(run), state, checkpoint.OPTIMIZER)
    found += [f"{name} {sha256(moments[name]).hexdigest()}" for name in sorted(moments)]
    read_log(run)
    if resume:
        resume_run(run)  # as far as it went already: everything is read, and no step is taken
    return found


def _read(run: Path, name: str, resume: bool) -> list[str]:
    """Read what a changed file is a part of."""
    if name in REPORTS and not resume:
        read_log(run)
        return []
    return _values(run, resume)


# --- mutations ---


def _cases(files: dict[str, bytes], mutations: int, flips: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    chance = random.Random(seed)
    names = sorted(files)
    for number in range(mutations):
        name = names[number % len(names)]
        mutate = chance.choice((of_json, of_bytes)) if name.endswith(".json") else of_bytes
        yield name, f"{mutate.__name__.removeprefix('of_')} {number}", mutate(files[name], chance)
    for number in range(flips):
        name = names[number % len(names)]
        yield name, f"flip {number}", flip(files[name], chance)


def _fault(call: Callable[[], list[str]], expected: list[str] | None) -> str:
    """Return which rule a call breaks; nothing if none."""
    fault, found = broken_rule(call)
    if fault or found is None or expected is None:
        return fault
    differing = [number for number, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    return f"other values in silence: {differing}" if differing else ""


def _signed_anew(name: str, data: bytes) -> bool:
    """Whether a file of JSON was given a checksum that fits: then other values are its author's will."""
    if not name.endswith(("config.json", "trainer_state.json")):
        return False
    try:
        values = json.loads(data)
        return isinstance(values, dict) and values.pop("checksum", None) in (None, digest(values))
    except (ValueError, RecursionError):
        return False


def fuzz(run: Path, mutations: int, flips: int, seed: int, resume_every: int = 10) -> list[str]:
    """Return what broke a rule: the file, the mutation, and what happened."""
    files = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    faults = []
    with use_kernels("reference"):
        expected = _values(run, True)
        for number, (name, how, data) in enumerate(_cases(files, mutations, flips, seed)):
            if data == files[name]:
                continue
            (run / name).write_bytes(data)
            free = name in REPORTS or _signed_anew(name, data)
            if number % 1000 == 999:
                print(f"{number + 1:,} done, {len(faults)} broke a rule", file=sys.stderr, flush=True)
            if fault := _fault(partial(_read, run, name, number % resume_every == 0), None if free else expected):
                faults.append(f"{name}, {how}: {fault}")
            _restore(run, files)
    return faults


def _restore(run: Path, files: dict[str, bytes]) -> None:
    for path in sorted(run.rglob("*")):
        if path.is_file() and str(path.relative_to(run)) not in files:
            path.unlink()
    for name, data in files.items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)


def main() -> int:
    """Fuzz a run of characters and one of byte pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", choices=("characters", "bpe"), action="append")
    options = parser.parse_args()
    faults, tokenizers = [], options.tokenizer or ["characters", "bpe"]
    for tokenizer in tokenizers:
        folder = Path(tempfile.mkdtemp())
        with use_kernels("reference"):
            run = make_run(folder, tokenizer)
        mutations, flips = options.mutations // len(tokenizers), options.flips // len(tokenizers)
        faults += fuzz(run, mutations, flips, options.seed)
        shutil.rmtree(folder)
    print(*faults, sep="\n\n")
    print(f"{len(faults)} of {options.mutations + options.flips:,} broke a rule")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
