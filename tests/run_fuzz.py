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
import signal
import string
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from training_helpers import TEXT, tiny

from compyute_transformer import use_kernels
from compyute_transformer.errors import CompyuteError
from compyute_transformer.training import load_run, resume_run, start_run
from compyute_transformer.training.reporting.journal import read_log
from compyute_transformer.training.run import checkpoint
from compyute_transformer.training.run.schema import digest

__all__ = ["fuzz", "make_run"]

SECONDS, CHARACTERS = 5, 2000
REPORTS = ("log.jsonl", "samples.txt")
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**70), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x" * 200_000, "\x1b[31mred", "\u202e", "../../etc/passwd", "/dev/zero", "no", "\ud800", "cpu", "none"),
    *([], {}, [[]], {"a": {}}, [1, 2, 3], {"": ""}),
]


def make_run(folder: Path, tokenizer: str) -> Path:
    """Train a run of a fraction of a second."""
    text = folder / "words.txt"
    text.write_text(TEXT, encoding="utf-8")
    vocabulary = {"tokenizer": "bpe", "vocab_size": 280} if tokenizer == "bpe" else {}
    settings = tiny(steps=4, num_layers=1, embed_dim=8, decay="constant", checkpoint_every=2, **vocabulary)
    start_run([text], settings, folder / "run")
    return folder / "run"


class _TooLong(BaseException):
    pass


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def _of_bytes(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    stop = min(len(data), start + chance.choice((1, 2, 7, 100)))
    junk = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 50))))
    return chance.choice(
        [
            *(b"", data[:start], data[start:], data[:start] + data[stop:], data[:start] + junk + data[stop:]),
            *(data[:start] + junk + data[start:], data + data, data[::-1], bytes(len(data)), b"\xff\xfe" + data),
            *(b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000, data.replace(b"0", b"1"), data.replace(b'"', b"")),
            *(data[:start] + data[start:stop] * 50 + data[stop:], b"\x1b[2J" + data, data.upper()),
        ]
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _of_json(data: bytes, chance: random.Random) -> bytes:
    """Change some values of a JSON file; half of the time with a checksum that fits the new values."""
    values = json.loads(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if not (places := list(_places(values))):
            break
        place, key = chance.choice(places)
        how = chance.randrange(5)
        if how == 0:
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place["".join(chance.choices(string.printable, k=5))] = chance.choice(ODD)
        elif how == 2 and isinstance(place[key], int | float):
            place[key] = chance.choice((-1, 2, 10, 1000, 0.5)) * place[key]
        else:
            place[key] = chance.choice(ODD)
    if isinstance(values, dict) and "checksum" in values and chance.random() < 0.5:
        values.pop("checksum")
        with suppress(UnicodeError, ValueError):
            values["checksum"] = digest(values)
    return json.dumps(values).encode("utf-8", "surrogatepass")


def _cases(files: dict[str, bytes], mutations: int, flips: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    chance = random.Random(seed)
    names = sorted(files)
    for number in range(mutations):
        name = names[number % len(names)]
        mutate = chance.choice((_of_json, _of_bytes)) if name.endswith(".json") else _of_bytes
        yield name, f"{mutate.__name__.removeprefix('_of_')} {number}", mutate(files[name], chance)
    for number in range(flips):
        name = names[number % len(names)]
        yield name, f"flip {number}", _flip(files[name], chance)


def _controls(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


def _fault(call: Callable[[], list[str]], expected: list[str] | None) -> str:
    """Return which rule a call breaks; nothing if none."""
    try:
        with _within(SECONDS):
            found = call()
    except CompyuteError as error:
        text = str(error)
        if len(text) > CHARACTERS:
            return f"an error of {len(text):,} characters: {text[:200]!r}"
        return f"an error with {_controls(text)}: {text[:300]!r}" if _controls(text) else ""
    except _TooLong:
        return "it took too long"
    except BaseException:
        return "another error: " + traceback.format_exc(limit=-4)
    if expected is None:
        return ""
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
