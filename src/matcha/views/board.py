"""Progress as a value: a Board of rows that events change, and the frame it makes. Pure.

Times are seconds of any steady clock; the caller says what time it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from matcha.events import Event
from matcha.planning import Action, Plan
from matcha.views.format import duration, plural
from matcha.views.names import step_name
from matcha.views.text import Line, Paper, Span, Style, cells, elide, fold, line

RowState = Literal["pending", "running", "done", "failed", "skipped"]

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
MARKS: dict[str, tuple[str, str, Style]] = {
    "pending": ("·", ".", "dim"),
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}
BAR = 12  # cells
WAITING = ("stack", "lock")  # subjects that tell of waiting for the lock, and have nothing to say afterwards
MOST_LINES = 3  # of a row that says more than one line holds
NARROWEST = 20  # cells for what a row says, which is elided where there is less
FRAME = 0.1  # seconds between two pictures of the spinner


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`elapsed` is final once the row is done or failed; while it runs, `began` counts."""

    key: str
    state: RowState = "pending"
    action: Action = "create"
    needs: tuple[str, ...] = ()
    message: str = ""
    began: float = 0.0
    elapsed: float = 0.0
    fraction: float | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True):
    heading: str = ""
    began: float = 0.0
    rows: dict[str, Row] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    titles: dict[str, str] = msgspec.field(default_factory=dict)

    def planned(self, plan: Plan) -> Board:
        """With a pending row for every step."""
        rows = {s.key: Row(key=s.key, action=s.action, needs=s.needs) for s in plan.steps}
        return msgspec.structs.replace(self, rows={**self._without_waiting(), **rows})

    def after(self, event: Event, now: float) -> Board:
        if event.phase == "note":
            return msgspec.structs.replace(self, notes=(*self.notes, event.message))
        row = _after(self.rows.get(event.subject, Row(key=event.subject)), event, now)
        rows = self.rows if event.subject in WAITING else self._without_waiting()
        return msgspec.structs.replace(self, rows={**rows, event.subject: row})

    def _without_waiting(self) -> dict[str, Row]:
        return {k: r for k, r in self.rows.items() if k not in WAITING or r.state != "running"}

    def ended(self) -> Board:
        """Nothing goes on any more: what still ran was interrupted."""
        rows = {k: _interrupted(r) if r.state == "running" else r for k, r in self._without_waiting().items()}
        return msgspec.structs.replace(self, rows=rows)

    @property
    def finished(self) -> int:
        return sum(1 for row in self.rows.values() if row.state == "done")


def _is_told(key: str) -> bool:
    """Whether the row has no verb, so that only messages tell what happens."""
    return not step_name(key, {})[1]


def _interrupted(row: Row) -> Row:
    return msgspec.structs.replace(row, state="skipped", message="interrupted", fraction=None)


def _after(row: Row, event: Event, now: float) -> Row:
    change = msgspec.structs.replace
    if event.phase in ("started", "progress"):
        began = row.began if row.state == "running" else now - event.elapsed
        message = event.message if event.phase == "progress" or _is_told(event.subject) else ""
        return change(row, state="running", began=began, message=message, fraction=event.fraction)
    elapsed = event.elapsed or (now - row.began if row.state == "running" else 0.0)
    state: RowState = event.phase if event.phase in ("done", "failed") else "skipped"
    return change(row, state=state, message=event.message, elapsed=elapsed, fraction=None)


def frame(board: Board, now: float, paper: Paper, height: int | None = None) -> list[Line]:
    """The board as lines no wider than the paper, and no more than `height` where that is given.

    Where there is less room than rows, those at work stay and the others are counted.
    """
    notes = [line(Span(elide(note, _width(paper), paper), "yellow")) for note in board.notes]
    head = [_heading(board, now, paper)] if board.heading else []
    rows = list(board.rows.values())
    room = None if height is None else max(height - len(head) - len(notes), 3)
    if room is not None and len(rows) > room:
        return [*notes, *head, *_squeezed(board, rows, now, paper, room)]
    spare = None if room is None else room - len(rows)
    return [*notes, *head, *_rows(board, rows, now, paper, spare)]


def _heading(board: Board, now: float, paper: Paper) -> Line:
    count = sum(1 for key in board.rows if key not in WAITING)
    steps = f"{board.finished} of {plural(count, 'step')}" if count else ""
    parts = [board.heading, steps, duration(now - board.began)]
    return line(Span(elide("  ".join(p for p in parts if p), _width(paper), paper), "bold"))


def _squeezed(board: Board, rows: list[Row], now: float, paper: Paper, room: int) -> list[Line]:
    """First how much is done, then failures and what runs, then how much is to come."""
    running = [r for r in rows if r.state in ("failed", "running")]
    pending = [r for r in rows if r.state in ("pending", "skipped")]
    done = len(rows) - len(running) - len(pending)
    shown = running[: room - 2]
    shown += pending[: max(room - 2 - len(shown), 0)]
    shown += [r for r in rows if r.state == "done"][::-1][: max(room - 2 - len(shown), 0)]
    hidden = len(running) + len(pending) - sum(1 for r in shown if r.state != "done")
    top = [_count("done", done, "done", paper)] if done else []
    rest = [_count("pending", hidden, "to come", paper)] if hidden else []
    ordered = [r for r in rows if r in shown]
    return [*top, *_rows(board, ordered, now, paper, 0), *rest]


def _count(state: str, count: int, what: str, paper: Paper) -> Line:
    return line(_mark(state, 0.0, paper), Span(f" {count} {what}", "dim"))


def _rows(board: Board, rows: Iterable[Row], now: float, paper: Paper, spare: int | None) -> list[Line]:
    """`spare`: how many lines there may be besides one for each row."""
    names = {row.key: step_name(row.key, board.titles, row.action) for row in board.rows.values()}
    title = min(max((cells(t) for t, _ in names.values()), default=0), max(_width(paper) // 3, 8))
    verb = max((cells(v) for _, v in names.values()), default=0)
    lines: list[Line] = []
    for row in rows:
        most = MOST_LINES if spare is None else min(MOST_LINES, 1 + spare)
        found = _row(board, row, names[row.key], (title, verb), now, paper, most)
        spare = spare if spare is None else spare - len(found) + 1
        lines += found
    return lines


def _row(
    board: Board,
    row: Row,
    name: tuple[str, str],
    widths: tuple[int, int],
    now: float,
    paper: Paper,
    most: int,
) -> list[Line]:
    """One line, or up to `most` where it says more."""
    dim: Style = "dim" if row.state in ("pending", "skipped") else ""
    title = _pad(elide(name[0], widths[0], paper), widths[0])
    time = _pad_left(_elapsed(row, now), 6)
    before = 2 + widths[0] + 2 + widths[1] + 2
    room = max(_width(paper) - before - 2 - len(time), 0)
    (first, *more) = _detail(board, row, room, paper, most)
    return [
        line(
            _mark(row.state, now, paper),
            Span(f" {title}", dim),
            Span(f"  {_pad(name[1], widths[1])}  ", "dim"),
            *first,
            Span(f"  {time}", "dim"),
        ),
        *(line(" " * before, *spans) for spans in more),
    ]


def _mark(state: str, now: float, paper: Paper) -> Span:
    if state == "running":
        pictures = SPINNER if paper.unicode else "|/-\\"
        return Span(pictures[int(now / FRAME) % len(pictures)], "cyan")
    unicode, ascii_, style = MARKS[state]
    return Span(unicode if paper.unicode else ascii_, style)


def _elapsed(row: Row, now: float) -> str:
    if row.state == "running":
        return duration(now - row.began)
    return duration(row.elapsed) if row.state in ("done", "failed") else ""


def _detail(board: Board, row: Row, room: int, paper: Paper, most: int) -> list[tuple[Span, ...]]:
    """What the row says, line by line, each exactly `room` cells wide."""
    style: Style = {"failed": "red", "pending": "dim", "skipped": "dim", "done": "dim"}.get(row.state, "")  # type: ignore[assignment]
    if row.fraction is not None and row.state == "running":
        return [_progress(row.message, row.fraction, room, paper)]
    if row.state not in ("running", "failed") or room < NARROWEST:
        most = 1
    parts = fold(said, room) if cells(said := _message(board, row)) > room else [said]
    if len(parts) > most:
        parts = [*parts[: most - 1], " ".join(parts[most - 1 :])]
    return [(Span(_pad(elide(part, room, paper), room), style),) for part in parts]


def _message(board: Board, row: Row) -> str:
    if row.state == "pending" and (needed := _awaited(board, row)):
        return f"after {needed}"
    return row.message.partition("\n")[0] or ("skipped" if row.state == "skipped" else "")


def _awaited(board: Board, row: Row) -> str:
    """The last thing this row waits for, by name."""
    waiting = [k for k in row.needs if k in board.rows and board.rows[k].state in ("pending", "running")]
    return " ".join(step_name(waiting[-1], board.titles, board.rows[waiting[-1]].action)) if waiting else ""


def _progress(message: str, fraction: float, room: int, paper: Paper) -> tuple[Span, ...]:
    """A bar where it fits beside the message, which tells the numbers itself."""
    fraction = min(max(fraction, 0.0), 1.0)
    if not fraction or room < cells(message) + BAR + 7:
        return (Span(_pad(elide(message or f"{fraction:.0%}", room, paper), room)),)
    percent = f"{fraction:4.0%}"
    full = round(BAR * fraction)
    stroke = "━" if paper.unicode else "="
    rest = stroke if paper.unicode and paper.colour else " "
    bar = (Span(stroke * full, "green"), Span(rest * (BAR - full), "dim"), Span(f" {percent}  "))
    return (*bar, Span(_pad(message, room - BAR - len(percent) - 3)))


def _width(paper: Paper) -> int:
    return paper.width or 100


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _pad_left(text: str, width: int) -> str:
    return " " * (width - cells(text)) + text
