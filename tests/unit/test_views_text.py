"""Lines and tables: widths, colour, and what never reaches a terminal."""

from __future__ import annotations

import io

import pytest

from matcha.views.format import duration, joined, plural, size
from matcha.views.terminal import paper_of
from matcha.views.text import Column, Paper, Span, cells, elide, line, render, table, wrap

PEOPLE = (Column("name", shrink=True), Column("age", right=True, drop=1), Column("town"))
ROWS = [("Ann", "7", "Ulm"), ("Bartholomew the Younger", "41", "Bath")]


def test_a_table_is_as_wide_as_what_it_holds() -> None:
    assert render(table(PEOPLE, ROWS, Paper()), Paper()) == (
        "NAME                     AGE  TOWN\n"
        "Ann                        7  Ulm\n"
        "Bartholomew the Younger   41  Bath\n"
    )


def test_narrow_paper_first_drops_then_shortens() -> None:
    paper = Paper(width=20)
    assert render(table(PEOPLE, ROWS, paper), paper) == (
        "NAME            TOWN\nAnn             Ulm\nBartholomew t…  Bath\n"
    )


@pytest.mark.parametrize("width", [12, 16, 20, 30, 60, 80])
def test_no_row_is_wider_than_the_paper(width: int) -> None:
    paper = Paper(width=width)
    assert max(cells(each) for each in render(table(PEOPLE, ROWS, paper), paper).splitlines()) <= max(
        width, 14
    )


def test_a_table_without_titles_has_no_head() -> None:
    rows = [("a", "b")]
    assert render(table((Column(""), Column("")), rows, Paper(), indent="  "), Paper()) == "  a  b\n"


def test_wide_characters_count_twice() -> None:
    paper = Paper(width=10)
    assert (cells("抹茶"), cells("é"), cells("e\u0301")) == (4, 1, 1)
    assert elide("抹茶抹茶抹茶", 10, paper) == "抹茶抹茶…"


def test_without_unicode_the_ellipsis_is_two_dots() -> None:
    assert elide("Bartholomew", 8, Paper(unicode=False)) == "Bartho.."


def test_colour_only_on_paper_that_has_it() -> None:
    lines = [line(Span("bad", "red"), " news", Span("  ", "green"))]
    assert render(lines, Paper()) == "bad news\n"
    assert render(lines, Paper(colour=True)) == "\x1b[31mbad\x1b[0m news\n"


def test_names_from_outside_cannot_steer_the_terminal() -> None:
    assert render([line("movie\x1b[2J\x07\r\nevil\x9b")], Paper(colour=True)) == "movie[2J evil\n"


def test_wrapping_breaks_at_blanks_and_keeps_long_words() -> None:
    text = "The data is at https://example.org/a/long/path for now"
    assert render(wrap(text, 24, "  "), Paper()) == (
        "  The data is at\n  https://example.org/a/long/path\n  for now\n"
    )
    assert render(wrap("a b\nc", None), Paper()) == "a b\nc\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (12.34, "12.3s"),
        (59.94, "59.9s"),
        (59.96, "1m 00s"),
        (65, "1m 05s"),
        (3599.6, "1h 00m"),
        (7380, "2h 03m"),
        (90000, "1d 01h"),
        (-1, "0.0s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-1, ""),
        (0, "0 B"),
        (999, "999 B"),
        (999_600, "1 MB"),
        (216_400_000, "216 MB"),
        (1_386_000_000, "1.4 GB"),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_counts_and_lists() -> None:
    assert (plural(1, "row"), plural(1200, "row"), plural(0, "row")) == ("1 row", "1,200 rows", "0 rows")
    assert (joined([]), joined(["a"]), joined(["a", "b", "c"])) == ("", "a", "a, b and c")


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def terminal(encoding: str = "utf-8") -> Terminal:
    return Terminal(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("environ", "colour"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colour_follows_the_environment(environ: dict[str, str], colour: bool) -> None:
    assert paper_of(terminal(), environ, width=80) == Paper(width=80, colour=colour)


def test_a_pipe_has_no_width_and_an_old_terminal_no_unicode() -> None:
    assert paper_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), {"TERM": "xterm"}) == Paper()
    assert not paper_of(terminal("ascii"), {"TERM": "xterm"}).unicode
