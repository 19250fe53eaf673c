"""The library speaks the words of its field: private words appear nowhere, and ordinary uses are listed here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    *("twin", "twins", "floor", "floors", "door", "bend", "bends", "unbend", "judge", "judged", "judgement"),
    *("contestant", "contestants", "racer", "racers", "race", "races", "raced", "rung", "rungs", "ladder"),
    *("lent", "sitting", "surprise", "surprised", "verdict", "verdicts", "proof", "proofs", "proven", "prove"),
    *("who looked", "said it was", "recognised", "keeps the limit", "answered exactly"),
)
PATTERN = re.compile(r"(?<![\w'])(" + "|".join(WORDS) + r")(?!\w)", re.IGNORECASE)

# Ordinary English, and names of others: the file, and a part of the line.
ORDINARY = (
    ("", "np.floor"),
    ("", "math.floor"),
    ("", r"\lfloor"),
    ("", "floor(log"),
    ("src/compyute_transformer/cpu/_vector.py", "floor"),
    ("CHANGELOG.md", ""),  # says what names were before
    ("tests/test_language.py", ""),
)


def files() -> list[Path]:
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    for folder, patterns in {
        "src": ["*.py"],
        "tests": ["*.py"],
        "docs": ["*.md", "*.py"],
        "notebooks": ["*.ipynb"],
        "tools": ["*.py"],
        "scripts": ["*"],
        "benchmarks": ["*.py", "*.md"],
    }.items():
        found += [path for pattern in patterns for path in sorted((ROOT / folder).rglob(pattern))]
    return [path for path in found if "_build" not in path.parts and path.parent != ROOT / "docs" / "notebooks"]


def private_words(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    return [
        f"{name}:{number}: {match[1]}: {line.strip()[:120]}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in PATTERN.finditer(line)
        if not any(name.startswith(file) and part in line for file, part in ORDINARY)
    ]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_word(path: Path) -> None:
    assert not private_words(path)
