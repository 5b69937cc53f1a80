"""Text for a terminal, as values: styled spans, lines and tables that fit a width. Pure.

Views build `Line`s; only `render` knows about colour codes. Whatever comes from outside (names, log lines,
messages) is cleaned of control characters, so that no model name can move a cursor.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

Style = Literal["", "bold", "dim", "red", "green", "yellow", "cyan"]

CODES: dict[str, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
NARROWEST = 8  # a column is elided to this and no further
WIDEST = 40  # without a width nothing is elided, and a cell beyond this pushes only its own row


class Paper(msgspec.Struct, frozen=True):
    """What is written on: `width` in cells (None: no limit), and what it can show."""

    width: int | None = None
    colour: bool = False
    unicode: bool = True


class Span(NamedTuple):
    text: str
    style: Style = ""


Line = tuple[Span, ...]


class Column(msgspec.Struct, frozen=True):
    """`drop` ranks columns to leave out on narrow paper, highest first; 0 stays. `shrink` may be elided."""

    title: str
    right: bool = False
    drop: int = 0
    shrink: bool = False


def line(*parts: str | Span) -> Line:
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def render(lines: Iterable[Line], paper: Paper) -> str:
    """One string, each line ended by a newline, trailing blanks removed."""
    return "".join(_paint(each, paper).rstrip() + "\n" for each in lines)


def _paint(spans: Line, paper: Paper) -> str:
    return "".join(_paint_span(span, paper) for span in spans)


def _paint_span(span: Span, paper: Paper) -> str:
    text = clean(span.text)
    if not (paper.colour and span.style and text.strip()):
        return text
    return f"\x1b[{CODES[span.style]}m{text}\x1b[0m"


def clean(text: str) -> str:
    """`text` on one line, without control characters."""
    return "".join(" " if c in "\n\t" else c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def cells(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(c) for c in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def elide(text: str, width: int, paper: Paper) -> str:
    """`text` in at most `width` cells, its end replaced by an ellipsis where it is longer."""
    text = clean(text)
    if cells(text) <= width:
        return text
    mark = "…" if paper.unicode else ".."
    kept = ""
    for character in text:
        if cells(kept + character + mark) > width:
            break
        kept += character
    return (kept.rstrip() + mark)[: max(width, 0)]


def wrap(text: str, width: int | None, indent: str = "") -> list[Line]:
    """Paragraphs of `text` broken at blanks, each line behind `indent`; long words stay whole."""
    lines: list[Line] = []
    for paragraph in text.splitlines() or [""]:
        lines += [line(indent + part) for part in _broken(paragraph, width and width - len(indent))]
    return lines


def _broken(paragraph: str, width: int | None) -> list[str]:
    if width is None or cells(paragraph) <= width:
        return [paragraph]
    lines, current = [], ""
    for word in paragraph.split():
        if current and cells(f"{current} {word}") > width:
            lines.append(current)
            current = word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]


def fold(text: str, width: int) -> list[str]:
    """`text` on lines of at most `width` characters, broken at blanks, and within words that are longer."""
    return textwrap.wrap(clean(text), max(width, 1), break_on_hyphens=False) or [""]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Span]], paper: Paper, *, indent: str = ""
) -> list[Line]:
    """Rows under their titles (no titles where all are empty), columns two blanks apart."""
    body = [line(*row) for row in rows]
    shown, widths = _layout(columns, body, None if paper.width is None else paper.width - len(indent))
    head = [line(*(Span(c.title.upper(), "dim") for c in columns))] if any(c.title for c in columns) else []
    return [
        (Span(indent), *_padded([row[i] for i in shown], [columns[i] for i in shown], widths, paper))
        for row in (*head, *body)
    ]


def _layout(columns: Sequence[Column], body: list[Line], room: int | None) -> tuple[list[int], list[int]]:
    """Which columns are shown, by index, and how wide."""
    natural = [max([cells(c.title), *(cells(row[i].text) for row in body)]) for i, c in enumerate(columns)]
    shown = list(range(len(columns)))
    if room is None:
        return shown, [min(n, WIDEST) if c.shrink else n for n, c in zip(natural, columns, strict=True)]
    for index in sorted((i for i in shown if columns[i].drop), key=lambda i: -columns[i].drop):
        if _total([natural[i] for i in shown]) > room:
            shown.remove(index)
    widths = [natural[i] for i in shown]
    _shrink(widths, [k for k, i in enumerate(shown) if columns[i].shrink], room)
    return shown, widths


def _shrink(widths: list[int], elastic: list[int], room: int) -> None:
    while elastic and _total(widths) > room:
        widest = max(elastic, key=lambda i: widths[i])
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _padded(row: Sequence[Span], columns: Sequence[Column], widths: Sequence[int], paper: Paper) -> Line:
    spans: list[Span] = []
    for i, (span, column, width) in enumerate(zip(row, columns, widths, strict=True)):
        text = elide(span.text, width, paper) if paper.width is not None else clean(span.text)
        gap = " " * (width - cells(text))
        spans += [Span(gap), Span(text, span.style)] if column.right else [Span(text, span.style), Span(gap)]
        spans += [Span("  ")] if i < len(widths) - 1 else []
    return tuple(spans)
