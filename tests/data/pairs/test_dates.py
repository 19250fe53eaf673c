"""Dates: what a text means is never in doubt, what is held out stays unseen, a seed is the same pairs everywhere."""

from collections import defaultdict
from datetime import date, timedelta

import pytest

from compyute_transformer.data.pairs.dates import (
    CASES,
    DETAILS,
    FIRST_DAY,
    LAST_DAY,
    LAYOUTS_WITH_NAMES,
    LAYOUTS_WITH_NUMBERS,
    WEEKDAY_STYLES,
    YEAR_STYLES,
    Spelling,
    date_pairs,
    is_held_out,
    spellings,
    write_date,
)
from compyute_transformer.errors import RangeError

DAYS = [
    FIRST_DAY,
    LAST_DAY,
    date(2000, 2, 29),
    date(1999, 3, 3),
    date(2001, 2, 3),
    date(2003, 1, 2),
    date(2011, 11, 11),
]
DAYS += [date(1969, 1, 2) + timedelta(days=4999 * n) for n in range(6)]


def ways(day: date, spelling: Spelling) -> set[str]:
    return {write_date(day, spelling, detail) for detail in range(DETAILS)}


@pytest.mark.parametrize(
    ("spelling", "detail", "text"),
    [
        (Spelling("{day} {name} {year}", "{date}", "whole", "mixed"), 0, "3 March 1999"),
        (Spelling("the {ordinal} of {name}, {year}", "{date} ({short})", "whole", "mixed"), 0,
         "the 3rd of March, 1999 (Wed)"),
        (Spelling("{name} {day}, {year}", "{weekday}, {date}", "apostrophe", "upper"), 2, "WEDNESDAY, MAR. 3, '99"),
        (Spelling("{day}-{name}-{year}", "{short} {date}", "short", "lower"), 4, "wed 03-mar-99"),
        (Spelling("{day}/{month}/{year}", "{date}", "whole", "mixed"), 3, "03/03/1999"),
        (Spelling("{day}. {month}. {year}", "{date}", "short", "mixed"), 0, "3. 3. 99"),
        (Spelling("{year} {month} {day}", "{date}", "whole", "mixed"), 0, "1999 3 3"),
    ],
)  # fmt: skip
def test_spellings(spelling: Spelling, detail: int, text: str) -> None:
    assert spelling in spellings()
    assert write_date(date(1999, 3, 3), spelling, detail) == text


def test_slashes_and_dots_put_the_day_first_dashes_the_month_and_long_years_the_year() -> None:
    def written(layout: str) -> str:
        return write_date(date(1999, 4, 3), Spelling(layout, "{date}", "whole", "mixed"))

    assert written("{day}/{month}/{year}") == "3/4/1999"
    assert written("{day}.{month}.{year}") == "3.4.1999"
    assert written("{month}-{day}-{year}") == "4-3-1999"
    assert written("{year}/{month}/{day}") == "1999/4/3"


def test_ordinals() -> None:
    spelling = Spelling("{ordinal} {name} {year}", "{date}", "whole", "mixed")
    endings = [write_date(date(2021, 1, day), spelling).split()[0].lstrip("0123456789") for day in range(1, 32)]
    regular = ["th"] * 17
    assert endings == ["st", "nd", "rd", *regular, "st", "nd", "rd", *["th"] * 7, "st"]


def test_may_has_no_dot_and_other_short_months_have() -> None:
    spelling = Spelling("{name} {day}, {year}", "{date}", "whole", "mixed")
    assert ways(date(2021, 5, 20), spelling) == {"May 20, 2021"}
    assert ways(date(2021, 9, 20), spelling) == {"September 20, 2021", "Sep 20, 2021", "Sep. 20, 2021"}


def test_no_text_means_two_dates_and_no_two_spellings_give_the_same_text() -> None:
    made_by: dict[str, set[tuple[date, Spelling]]] = defaultdict(set)
    days = [*DAYS, *(date(2001, month, day) for month in range(1, 5) for day in range(1, 5))]
    for spelling in spellings():
        for day in days:
            for text in ways(day, spelling):
                made_by[text].add((day, spelling))
    assert len(made_by) > len(days) * len(spellings())
    assert all(len(makers) == 1 for makers in made_by.values())


def test_two_digits_mean_one_year() -> None:
    assert [FIRST_DAY.isoformat(), LAST_DAY.isoformat()] == ["1969-01-01", "2068-12-31"]
    written = {day.year % 100 for day in (date(year, 1, 1) for year in range(FIRST_DAY.year, LAST_DAY.year + 1))}
    assert len(written) == LAST_DAY.year - FIRST_DAY.year + 1
    assert not any(s.layout.startswith("{year}") and s.year != "whole" for s in spellings())


def test_pairs_are_a_function_of_seed_and_index_and_are_these() -> None:
    pairs = date_pairs(500, seed=7)
    assert date_pairs(3, seed=7) == pairs[:3]
    assert date_pairs(0) == []
    assert date_pairs(500, seed=8) != pairs
    assert date_pairs(500, seed=7, held_out=True) != pairs
    assert date_pairs(3) == [
        ("sun 19-sep.-93", "1993-09-19"),
        ("5th of sep. 1978", "1978-09-05"),
        ("monday, apr. 19, 1976", "1976-04-19"),
    ]
    assert date_pairs(1, held_out=True) == [("Sat Sep 7th 2041", "2041-09-07")]


def test_the_second_of_a_pair_is_the_date_of_the_first() -> None:
    for source, target in date_pairs(40):
        day = date.fromisoformat(target)
        assert any(source in ways(day, spelling) for spelling in spellings())


def test_held_out_dates_and_spellings_are_never_trained_on() -> None:
    trained, held = date_pairs(5_000), date_pairs(300, held_out=True)
    held_days = {date.fromisoformat(target) for _, target in held}
    assert not held_days & {date.fromisoformat(target) for _, target in trained}
    known = [spelling for spelling in spellings() if not is_held_out(spelling)]
    new = [spelling for spelling in spellings() if is_held_out(spelling)]
    for source, target in held[:40]:
        day = date.fromisoformat(target)
        assert is_held_out(day)
        assert any(source in ways(day, spelling) for spelling in new)
        assert not any(source in ways(day, spelling) for spelling in known)
    for _, target in trained[:500]:
        assert not is_held_out(date.fromisoformat(target))


def test_a_tenth_is_held_out_and_every_part_of_a_spelling_is_known() -> None:
    known = [spelling for spelling in spellings() if not is_held_out(spelling)]
    assert 0.05 < 1 - len(known) / len(spellings()) < 0.15
    assert {spelling.layout for spelling in known} == {*LAYOUTS_WITH_NAMES, *LAYOUTS_WITH_NUMBERS}
    assert {spelling.weekday for spelling in known} == set(WEEKDAY_STYLES)
    assert {spelling.year for spelling in known} == set(YEAR_STYLES)
    assert {spelling.case for spelling in known} == set(CASES)
    days = [FIRST_DAY + timedelta(days=n) for n in range(0, 36_000, 36)]
    assert 0.07 < sum(is_held_out(day) for day in days) / len(days) < 0.13


def test_what_is_held_out_does_not_depend_on_the_seed() -> None:
    for seed in (0, 1, 2**63):
        assert all(is_held_out(date.fromisoformat(target)) for _, target in date_pairs(50, seed, held_out=True))
        assert not any(is_held_out(date.fromisoformat(target)) for _, target in date_pairs(50, seed))


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1, -1), (1, 2**64 - 1)])
def test_counts_and_seeds_out_of_range_are_refused(count: int, seed: int) -> None:
    with pytest.raises(RangeError, match=r"^date_pairs: a count is at least 0"):
        date_pairs(count, seed)


@pytest.mark.parametrize("detail", [-1, 6])
def test_details_out_of_range_are_refused(detail: int) -> None:
    with pytest.raises(RangeError, match=rf"detail lies in \[0, 6\), got {detail}"):
        write_date(FIRST_DAY, spellings()[0], detail)
