"""What a stream can show: its width, colour and characters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TextIO

from matcha.views.text import Paper

DEFAULT_WIDTH = 80  # of a terminal that does not say; Python 3.10 hands on its 0


def paper_of(stream: TextIO, environ: Mapping[str, str] | None = None, *, width: int | None = None) -> Paper:
    """A terminal has a width and, unless NO_COLOR or TERM=dumb says otherwise, colour; a pipe has neither."""
    environ = os.environ if environ is None else environ
    terminal = stream.isatty()
    plain = bool(environ.get("NO_COLOR")) or environ.get("TERM", "") in ("", "dumb", "unknown")
    return Paper(
        width=(width or shutil.get_terminal_size().columns or DEFAULT_WIDTH) if terminal else None,
        colour=terminal and not plain,
        unicode=_is_unicode(stream),
    )


def _is_unicode(stream: TextIO) -> bool:
    return "utf" in (stream.encoding or "").lower()
