"""Writing and asking: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from matcha.errors import BadInput
from matcha.views.terminal import paper_of
from matcha.views.text import Line, Paper, Span, line, render


def paper() -> Paper:
    """What stdout can show."""
    return paper_of(sys.stdout)


def show(lines: Iterable[Line]) -> None:
    """The result, for a person."""
    _put(sys.stdout, render(lines, paper()))


def write(text: str) -> None:
    """The result as it is, such as JSON."""
    _put(sys.stdout, text)


def show_json(document: Any) -> None:
    from matcha.views.documents import to_json

    write(to_json(document))


def tell(lines: Iterable[Line]) -> None:
    """What is not the result: notes and errors."""
    sys.stdout.flush()
    _put(sys.stderr, render(lines, paper_of(sys.stderr)))


def note(text: str) -> None:
    tell([line(Span(text, "dim"))])


def _put(stream: TextIO, text: str) -> None:
    """Characters that the stream's encoding lacks become question marks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, *, default: bool, instead: str) -> bool:
    """Yes or no. Raises BadInput naming `instead`, the command that needs no answer, without a terminal."""
    if not can_ask():
        raise BadInput("This has to be confirmed, and there is no terminal to ask on.", resolution=instead)
    answer = _answer(f"{question} {'[Y/n]' if default else '[y/N]'} ").lower()
    return default if not answer else answer in ("y", "yes")


def ask_word(question: str, word: str) -> bool:
    """Whether exactly `word` is typed; for what cannot be undone."""
    return _answer(f"{question} ") == word


def _answer(prompt: str) -> str:
    sys.stdout.flush()
    _put(sys.stderr, prompt)
    try:
        return input().strip()
    except EOFError:
        _put(sys.stderr, "\n")
        return "no"


@contextmanager
def progress(heading: str, *, plain: bool = False, resume: str = "", mend: str = "") -> Iterator[Any]:
    """A display for the events of a command.

    After an interruption `resume` is the command that goes on, or `mend` the one that puts things in order.
    """
    from matcha.cli.place import titles
    from matcha.views.live import display

    shown = display(sys.stderr, os.environ, titles(), heading=heading, plain=plain)
    try:
        yield shown
    except KeyboardInterrupt:
        shown.close()
        advice = f" What was done stays; {resume} goes on from there." if resume else ""
        note(f"Interrupted.{advice}" + (f" {mend} puts things in order." if mend else ""))
        raise
    finally:
        shown.close()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """`text` on a terminal's last line for as long as the block takes."""
    shown = sys.stderr.isatty() and paper_of(sys.stderr).colour
    if shown:
        _put(sys.stderr, f"{text} ...")
    try:
        yield
    finally:
        if shown:
            _put(sys.stderr, "\r\x1b[K")
