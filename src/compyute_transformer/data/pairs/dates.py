"""Dates: a made corpus of pairs, a date written in one of many ways and the same date as ISO 8601 has it.

    "the 3rd of March, 1999 (Wed)"    "WEDNESDAY, MAR. 3, '99"    "03/03/1999"    "3. 3. 99"    ->    1999-03-03

A way to write a date is a spelling: where the day, the month and the year stand and what stands between them, whether
the weekday is named, how long the year is, and the case of the letters. Within a spelling the name of a month may be
whole or short, and numbers below ten may have a leading zero. What a text means is never in doubt:

    3/4/1999, 3.4.1999, 3. 4. 1999    the day first, as in most of the world
    3-4-1999                          the month first
    1999/3/4, 1999.3.4, 1999 3 4      the year first, then the month
    '69 to '99, '00 to '68            1969 to 1999, 2000 to 2068: the rule of POSIX; so dates go from 1969 to 2068

One date in ten and one spelling in ten, always the same, are held out: no training pair shows any of them, and every
held-out pair is a date never seen, in a spelling never seen. All else is drawn by counter-based random numbers, so that
pair i of a seed is the same whatever else was drawn, on every machine; month and day names are not the locale's.
"""

from datetime import date
from functools import cache
from itertools import product
from typing import NamedTuple, TypeVar

from ...errors import RangeError
from ...random import CORPUS, RandomKey, integers

__all__ = ["FIRST_DAY", "LAST_DAY", "Spelling", "date_pairs", "is_held_out", "spellings", "write_date"]

FIRST_DAY, LAST_DAY = date(1969, 1, 1), date(2068, 12, 31)  # a century: every two digits mean one year
HELD_OUT = 10  # one in so many

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

LAYOUTS_WITH_NAMES = (
    "{day} {name} {year}",
    "{day}-{name}-{year}",
    "{ordinal} {name} {year}",
    "{ordinal} {name}, {year}",
    "{ordinal} of {name} {year}",
    "the {ordinal} of {name}, {year}",
    "{name} {day}, {year}",
    "{name} {ordinal}, {year}",
    "{name} {ordinal} {year}",
    "{name} the {ordinal}, {year}",
    "{year} {name} {day}",
    "{year}, {ordinal} {name}",
)
LAYOUTS_WITH_NUMBERS = (
    "{day}/{month}/{year}",
    "{day}.{month}.{year}",
    "{day}. {month}. {year}",
    "{month}-{day}-{year}",
    "{year}/{month}/{day}",
    "{year}.{month}.{day}",
    "{year} {month} {day}",
)
WEEKDAY_STYLES = ("{date}", "{weekday}, {date}", "{short} {date}", "{date} ({short})")
YEAR_STYLES = ("whole", "apostrophe", "short")  # 1999, '99, 99
CASES = ("mixed", "lower", "upper")
DETAILS = 6  # whole, short or dotted name of a month; numbers without or with a leading zero

SPLIT_SEED = 2**64 - 1  # of what is held out, which no seed changes

Item = TypeVar("Item")


class Spelling(NamedTuple):
    """A way to write a date: an entry of LAYOUTS_…, WEEKDAY_STYLES, YEAR_STYLES and CASES each."""

    layout: str
    weekday: str
    year: str
    case: str


@cache
def spellings() -> tuple[Spelling, ...]:
    """Every spelling there is. Two that are not equal never give the same text for the same date."""
    return tuple(
        Spelling(layout, weekday, year, case)
        for layout, weekday, year, case in product(
            LAYOUTS_WITH_NAMES + LAYOUTS_WITH_NUMBERS, WEEKDAY_STYLES, YEAR_STYLES, CASES
        )
        if (year == "whole" or not layout.startswith("{year}"))  # 99/3/4 would be the fourth of the third, or what?
        and (case == "mixed" or layout in LAYOUTS_WITH_NAMES or weekday != "{date}")  # only letters have a case
    )


def write_date(day: date, spelling: Spelling, detail: int = 0) -> str:
    """A date in a spelling. detail, in [0, 6): how the name of the month and small numbers are written.

    detail % 3: 0 a month's whole name, 1 its first three letters, 2 those and a dot (but for May). detail // 3: 1 gives
    days and months below ten a leading zero.
    """
    if not 0 <= detail < DETAILS:
        raise RangeError(f"write_date: detail lies in [0, {DETAILS}), got {detail}.")
    name, digits = MONTHS[day.month - 1], "02d" if detail // 3 else "d"
    if detail % 3:
        name = name[:3] + ("." if detail % 3 == 2 and name != "May" else "")
    year = {"whole": f"{day.year}", "apostrophe": f"'{day.year % 100:02d}", "short": f"{day.year % 100:02d}"}
    weekday = WEEKDAYS[day.weekday()]
    text = spelling.weekday.format(
        weekday=weekday,
        short=weekday[:3],
        date=spelling.layout.format(
            day=format(day.day, digits),
            ordinal=f"{day.day}{_ending(day.day)}",
            name=name,
            month=format(day.month, digits),
            year=year[spelling.year],
        ),
    )
    return {"mixed": text, "lower": text.lower(), "upper": text.upper()}[spelling.case]


def _ending(day: int) -> str:
    """1st, 2nd, 3rd, 4th; 11th to 13th."""
    return "th" if day // 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def is_held_out(what: date | Spelling) -> bool:
    """Whether no training pair shows this date, or this spelling."""
    days, ways = _split()
    return what in (ways if isinstance(what, Spelling) else days)[True]


def date_pairs(count: int, seed: int = 0, held_out: bool = False) -> list[tuple[str, str]]:
    """The pairs 0 to count − 1 of a seed, (date as someone wrote it, date as ISO 8601 has it).

    held_out: False for pairs to train on; True for others, of dates and spellings which those never show. Pair i is the
    same whatever the count. Raises RangeError for a negative count, or a seed outside [0, 2⁶⁴ − 1).
    """
    if count < 0 or not 0 <= seed < SPLIT_SEED:
        raise RangeError(f"date_pairs: a count is at least 0, a seed lies in [0, 2⁶⁴ − 1), got {count} and {seed}.")
    (days, ways), first = (parts[held_out] for parts in _split()), 3 * held_out
    drawn = [
        integers(RandomKey(seed, CORPUS, first + offset), (count,), high).tolist()
        for offset, high in enumerate((len(days), len(ways), DETAILS))
    ]
    return [(write_date(days[d], ways[w], detail), days[d].isoformat()) for d, w, detail in zip(*drawn, strict=True)]


@cache
def _split() -> tuple[tuple[tuple[date, ...], tuple[date, ...]], tuple[tuple[Spelling, ...], tuple[Spelling, ...]]]:
    """(dates to train on, dates held out), and the same of spellings."""
    days = tuple(date.fromordinal(n) for n in range(FIRST_DAY.toordinal(), LAST_DAY.toordinal() + 1))
    return _parted(days, 0), _parted(spellings(), 1)


def _parted(items: tuple[Item, ...], offset: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    out = (integers(RandomKey(SPLIT_SEED, CORPUS, offset), (len(items),), HELD_OUT) == 0).tolist()
    return (
        tuple(item for item, held in zip(items, out, strict=True) if not held),
        tuple(item for item, held in zip(items, out, strict=True) if held),
    )
