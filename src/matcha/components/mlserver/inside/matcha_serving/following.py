"""The list of deployments as a file, which this process follows: a replica that nobody told comes to it, too.

What is told (`PUT /matcha/deployments`) is newer than the file, which says the same once it is recorded: in
a cluster within about a minute, and perhaps after an older list that was on its way. So a told list stands
until the file says the same; from then on the file is newer again. A list that was told and never recorded,
as whoever told it was killed or did not reach this replica again, is given up after `HOLD` seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

POLL = 1.0
SETTLE = 5.0  # who writes the file tells the list as well: what comes by both ways is loaded once
HOLD = 2100.0  # longer than whoever tells a list waits until it is loaded
RETRIES = (0.0, 3.0, 10.0, 30.0, 60.0)  # seconds before each try to load a list of the file
logger = logging.getLogger("mlserver.matcha")


class Result(Protocol):
    """`away`: it is the tracker that does not answer."""

    @property
    def error(self) -> str: ...

    @property
    def away(self) -> bool: ...


class Models(Protocol):
    """What serves a list: `deployments.Deployments`."""

    def read(self, path: Path) -> Sequence[Any] | None:
        """None where there is no file, or none that can be read."""

    async def take(self, entries: Sequence[Any]) -> Sequence[Result]: ...


class Order:
    """Which is newer, the list that was told last or the file's."""

    def __init__(self, hold: float = HOLD, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold = hold
        self._clock = clock
        self._told = ""
        self._since = 0.0

    def told(self, entries: Sequence[Any]) -> None:
        self._told, self._since = digest(entries), self._clock()

    def of_file(self, entries: Sequence[Any]) -> Literal["older", "same", "newer"]:
        """What the file's list is, compared with the one that was told."""
        if self._told and digest(entries) == self._told:
            self._told = ""
            return "same"
        if self._told and self._clock() - self._since < self._hold:
            return "older"
        self._told = ""
        return "newer"


def digest(entries: Sequence[Any]) -> str:
    """Of what is to be served, wherever it is forwarded to."""
    known = [{k: v for k, v in e.items() if k != "forward"} if isinstance(e, Mapping) else e for e in entries]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class Following:
    """`ready` once what stood in the file at the start was loaded, or tried: one bad model keeps no replica
    from its requests. While the tracker does not answer that takes all the tries, and a replica without any
    model is not ready even then: others may have what it lacks.
    """

    def __init__(
        self, path: Path | None, models: Models, *, settle: float = SETTLE, hold: float = HOLD
    ) -> None:
        self._path = path
        self._models = models
        self._order = Order(hold)
        self._settle = settle
        self._told = 0  # how often
        self._seen: object = None
        self._entries: Sequence[Any] | None = None
        self._done: Sequence[Any] | None = None  # the file's list that was loaded, or told, last
        self.ready = path is None

    def told(self, entries: Sequence[Any]) -> None:
        """Call it before the list is loaded."""
        self._order.told(entries)
        self._done = None
        self._told += 1

    async def run(self) -> None:
        """For ever."""
        if self._path is None:
            return
        self._seen = _stamp(self._path)
        self._entries = self._models.read(self._path)
        while True:
            await self._look()
            await asyncio.sleep(POLL)
            await self._reread(self._path)

    async def _look(self) -> None:
        """Also where the file is as it was: a list that was told may have been given up."""
        if (entries := self._entries) is None:
            self.ready = True
            return
        told, is_ = self._told, self._order.of_file(entries)
        if is_ == "newer" and entries != self._done:
            await self._load(entries)
        if is_ != "older" and self._told == told:  # one that was told meanwhile may be given up
            self._done = entries

    async def _reread(self, path: Path) -> None:
        """A file that goes keeps what is served: its list is not empty, it is not there."""
        stamp = _stamp(path)
        if stamp in (None, self._seen):
            return
        await asyncio.sleep(self._settle)
        self._seen = _stamp(path)
        self._entries = self._models.read(path) if self._seen else self._entries

    async def _load(self, entries: Sequence[Any]) -> None:
        """Again for what failed, since others may start later, until another list comes."""
        told, tries = self._told, list(RETRIES)
        while tries:
            await asyncio.sleep(tries.pop(0))
            if self._told != told or (self._path and _stamp(self._path) != self._seen):
                return
            try:
                results = await self._models.take(entries)
            except Exception:  # or this process would follow no list any more, without a word
                logger.exception("The list of deployments could not be followed")
                self.ready = self.ready or not tries
                continue
            failed = [r for r in results if r.error]
            away = [r for r in failed if r.away]
            self.ready = self.ready or not away or (not tries and len(away) < len(results))
            if not failed:
                return
            if away and not tries:
                tries = [RETRIES[-1]]


def _stamp(path: Path) -> object:
    """Changes with the file, also where it is a link that leads elsewhere; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
