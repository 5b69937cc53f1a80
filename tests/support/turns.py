"""Long suites of which CI runs half with a commit: which half, the time of the commit says.

Without MATCHA_TURN all of them run. What must hold with each commit has no turn.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

VARIABLE = "MATCHA_TURN"
TURNS = 2
CLUSTER = Path(__file__).resolve().parents[1] / "cluster"  # many that are alike, none of which needs another


def not_in_turn(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those of another turn than MATCHA_TURN, any whole number, says. Raises UsageError where it is none."""
    said = os.environ.get(VARIABLE, "")
    if not said:
        return []
    if not said.isdecimal():
        raise pytest.UsageError(f"{VARIABLE} is {said!r}, and has to be a whole number")
    return [item for item in items if _turn(item) not in (None, int(said) % TURNS)]


def _turn(item: pytest.Item) -> int | None:
    if marker := item.get_closest_marker("turn"):
        return int(marker.args[0])
    if CLUSTER in item.path.parents:
        return zlib.crc32(item.nodeid.partition("[")[0].encode()) % TURNS
    return None
