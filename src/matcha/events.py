"""Progress, as values: what the engine and the targets say while they work.

Views turn these into a live display, plain lines or JSON lines; nothing that emits one knows which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Phase = Literal["started", "progress", "done", "failed", "skipped", "note"]


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to one subject (a step id such as `service/mlflow`, or `stack`).

    `elapsed` is in seconds since the subject started; `fraction` is 0..1 where the work has a known size.
    """

    subject: str
    phase: Phase
    message: str = ""
    elapsed: float = 0.0
    fraction: float | None = None


Emit = Callable[[Event], None]


def silent(_: Event) -> None:
    """For callers who do not watch."""
