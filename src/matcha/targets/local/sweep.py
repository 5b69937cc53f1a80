"""Find and end processes by the tag in their environment, whoever their parent is now."""

from __future__ import annotations

import psutil


def tagged(tag: str) -> list[psutil.Process]:
    """This user's processes that carry `tag`, without this one and its ancestors."""
    raise NotImplementedError


def sweep(tag: str, grace: float) -> list[int]:
    """End them: SIGTERM, `grace` seconds, SIGKILL. Returns the pids that were found."""
    raise NotImplementedError
