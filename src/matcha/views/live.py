"""Progress while it happens: a table that renews itself on a terminal, plain lines anywhere else.

Both are given the events of the engine, from several threads at once, and write to one stream (stderr, so
that results alone stand on stdout).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from matcha.events import Event
from matcha.planning import Plan
from matcha.views.board import Board, frame
from matcha.views.format import duration
from matcha.views.names import FORMS, Titles, noun, step_name
from matcha.views.terminal import paper_of
from matcha.views.text import clean, render

if TYPE_CHECKING:
    from rich.text import Text

SAY_AGAIN = 10.0  # seconds after which a plain line that differs only in how far it is is repeated
_MOVING = re.compile(r"\([^)]*\)|[\d.,]+")


class Display(Protocol):
    """`emit` may be called from any thread; the others from the one that made the display."""

    def plan(self, plan: Plan) -> None:
        """The steps to come, known before the first event."""

    def emit(self, event: Event) -> None: ...

    def pause(self) -> None:
        """Leave the terminal to a question; the next event goes on."""

    def close(self) -> None: ...


class Plain:
    """`[  3.2s] MLflow: waiting for /health`, one line for each thing worth a line."""

    def __init__(
        self, stream: TextIO, titles: Titles, clock: Callable[[], float] = time.monotonic, heading: str = ""
    ) -> None:
        self._stream = stream
        self._titles = titles
        self._clock = clock
        self._began = clock()
        self._said: dict[str, tuple[str, float]] = {}
        self._actions: dict[str, Any] = {}
        self._mutex = threading.Lock()

    def plan(self, plan: Plan) -> None:
        self._actions = {step.key: step.action for step in plan.steps}

    def emit(self, event: Event) -> None:
        with self._mutex:
            if self._is_news(event):
                self._write(event)

    def _is_news(self, event: Event) -> bool:
        """Whether the line says more than numbers, and names in brackets, that moved since the last one."""
        if event.phase not in ("started", "progress"):
            return True
        text = plain_line(event, 0.0, self._titles, self._actions.get(event.subject))
        shape, now = _MOVING.sub("0", text), self._clock()
        before, at = self._said.get(event.subject, ("", 0.0))
        if shape == before and now - at < SAY_AGAIN:
            return False
        self._said[event.subject] = (shape, now)
        return True

    def _write(self, event: Event) -> None:
        text = plain_line(event, self._clock() - self._began, self._titles, self._actions.get(event.subject))
        self._stream.write(text + "\n")
        self._stream.flush()

    def pause(self) -> None:
        """Nothing is in the way."""

    def close(self) -> None:
        """Every line is out already."""


def plain_line(event: Event, elapsed: float, titles: Titles, action: Any = None) -> str:
    """One event as one line."""
    title, verb = step_name(event.subject, titles, action or "create")
    if event.phase == "skipped":  # which may be said of all steps of one component
        title = noun(event.subject, titles)
    text = event.message if event.phase == "note" else f"{title}: {_told(event, verb)}"
    return clean(f"[{duration(elapsed):>6}] {text}")


def _told(event: Event, verb: str) -> str:
    """Verbs tell of starts and ends; what has none (a deployment) is told by its messages."""
    now, then = FORMS.get(verb, (event.message or "started", event.message or "done"))
    if event.phase == "done":
        return f"{then} in {duration(event.elapsed)}" if event.elapsed else then
    if event.phase == "progress" and event.fraction is not None:
        return f"{event.message} ({event.fraction:.0%})".strip()
    failed = f"failed: {event.message}"
    return {"started": now, "failed": failed, "skipped": event.message or "skipped"}.get(
        event.phase, event.message
    )


class Live:
    """A table of the steps that renews itself in place, and stays when it is closed."""

    def __init__(
        self, stream: TextIO, titles: Titles, clock: Callable[[], float] = time.monotonic, heading: str = ""
    ) -> None:
        self._clock = clock
        self._stream = stream
        self._board = Board(heading=heading, began=clock(), titles=dict(titles))
        self._mutex = threading.Lock()
        self._starting = threading.Lock()
        self._live: Any = None
        self._console: Any = None
        self._whole = False

    def plan(self, plan: Plan) -> None:
        with self._mutex:
            self._board = self._board.planned(plan)
        self._show()

    def emit(self, event: Event) -> None:
        with self._mutex:
            self._board = self._board.after(event, self._clock())
        self._show()

    def _show(self) -> None:
        with self._starting:  # the first events come from several threads at once
            if self._live is None:
                self._start()

    def _start(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - not for plain lines
        from rich.live import Live as RichLive  # noqa: PLC0415 - not for plain lines

        self._console = Console(file=self._stream, highlight=False)
        self._whole = False
        self._live = RichLive(
            get_renderable=self._picture,
            console=self._console,
            refresh_per_second=10,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _picture(self) -> Text:
        from rich.text import Text  # noqa: PLC0415 - not for plain lines

        width, height = self._console.size
        paper = paper_of(self._stream, width=width - 1)
        with self._mutex:
            lines = frame(self._board, self._clock(), paper, None if self._whole else height - 1)
        return Text.from_ansi(render(lines, paper).rstrip("\n"), no_wrap=True, overflow="crop")

    def pause(self) -> None:
        if self._live is not None:
            self._whole = True
            self._live.stop()
            self._live = None

    def close(self) -> None:
        with self._mutex:
            self._board = self._board.ended()
        self.pause()


def display(
    stream: TextIO, environ: Mapping[str, str], titles: Titles, *, heading: str = "", plain: bool = False
) -> Display:
    """A table where `stream` is a terminal that can move its cursor, otherwise plain lines."""
    dumb = environ.get("TERM", "") in ("", "dumb", "unknown") or environ.get("CI", "") not in (
        "",
        "false",
        "0",
    )
    if plain or dumb or not stream.isatty():
        return Plain(stream, titles, heading=heading)
    return Live(stream, titles, heading=heading)
