"""What the forwarder says: lines on stderr, which the supervisor keeps. Never a credential."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec

EVERY = 60.0  # seconds between two lines about the same trouble
_LONGEST = 300


class _Trouble(msgspec.Struct):
    told: float
    untold: int = 0
    over: bool = False


class Log:
    """`clock` in seconds; `write` takes a line with its end."""

    def __init__(
        self, write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write or _to_stderr
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def say(self, text: str) -> None:
        line = " ".join(text.split())[:_LONGEST]
        self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def trouble(self, about: str, what: str) -> None:
        """Once a minute at most for each `about`, with how often it went untold meanwhile."""
        known = self._troubles.get(about)
        now = self._clock()
        if known and now - known.told < EVERY:
            known.untold += 1
            return
        since = f" ({known.untold} times more since the last line)" if known and known.untold else ""
        self._troubles[about] = _Trouble(now)
        self.say(f"{about}: {what}{since}")

    def well(self, about: str) -> None:
        """Says so once for each trouble that was told."""
        known = self._troubles.get(about)
        if known and not known.over:
            known.over = True
            self.say(f"{about}: works again")


def told(error: BaseException) -> str:
    """An error for the log; some have no text of their own, and groups say nothing of what they hold."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
