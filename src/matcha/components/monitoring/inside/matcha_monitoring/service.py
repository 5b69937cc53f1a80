"""What the service knows and does, apart from HTTP: captures in, windows out, a window now and then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from dataclasses import asdict
from typing import Any

from . import layout, remark
from .deployments import Deployed, Deployments
from .ledger import Ledger
from .processes import LATER, StoreAway, Worker, WorkFailed
from .settings import Settings
from .spool import Batch, Key, Spool

TAKE_IN_BYTES = 32 * 2**20  # a spool beyond this is taken in without waiting for a window
PRUNE_SECONDS = 6 * 3600.0
RETRY_SECONDS = 600.0
REMEMBERED = 256  # senders, the newest; a batch from before a restart is recognised by its rows
BATCHES = 16  # of each sender


class Unknown(Exception):
    """No deployment of this name."""


class Service:
    """Single-threaded: everything happens on the event loop, heavy work in processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = settings.data
        self.deployments = Deployments(settings.deployments)
        self.spool = Spool(self.data, int(settings.rules.spool_megabytes * 2**20))
        self.ledger = Ledger(self.data / "ledger.json")
        self.worker = Worker()
        self.received: Counter[Key] = Counter()
        self._taken: dict[str, deque[str]] = {}  # the newest batches of each sender
        self._pruned = 0.0
        self._retry: dict[str, float] = {}
        self.away = ""  # why the object store could not be used last
        self._again = 0.0
        self._brought = not settings.store

    # captures

    def has(self, sent: str, sender: str) -> bool:
        """Whether the batch of this id is on disk: a sender whose answer was lost sends it again."""
        return bool(sent) and sent in self._taken.get(sender, ())

    def capture(self, batch: Batch, sent: str, sender: str, dropped: int | None) -> None:
        """Raises Full or OSError where nothing was kept."""
        self.spool.append(batch)
        self._remember(sent, sender)
        self.received.update(batch.rows)
        self.ledger.lost(batch.refused)
        if dropped is not None:
            self.ledger.drops(sender, dropped)

    def _remember(self, sent: str, sender: str) -> None:
        """A sender has one batch under way: what others send meanwhile must not have it forgotten."""
        batches = self._taken.pop(sender, None) or deque(maxlen=BATCHES)
        batches.append(sent)
        self._taken[sender] = batches
        while len(self._taken) > REMEMBERED:
            del self._taken[next(iter(self._taken))]

    # what is known

    def known(self, name: str) -> Deployed:
        """Raises Unknown."""
        found = self.deployments.all().get(name)
        if not found:
            raise Unknown(name)
        return found

    def waiting(self, deployed: Deployed) -> int:
        """Rows of the deployed version that no window holds yet."""
        version = deployed.version
        after = layout.cursor(self.data, deployed.name, version)
        stored = sum(p.rows for p in layout.parts(self.data, deployed.name, version) if p.seq > after)
        return stored + self.spool.waiting()[(deployed.name, version)]

    def stored(self, deployed: Deployed) -> int:
        """Rows kept of the deployed version."""
        held = sum(p.rows for p in layout.parts(self.data, deployed.name, deployed.version))
        return held + self.spool.waiting()[(deployed.name, deployed.version)]

    def newest(self, deployed: Deployed) -> dict[str, Any] | None:
        """The standing verdict."""
        return layout.newest(self.data, deployed)

    # windows

    async def window(self, name: str, *, patient: bool = False) -> dict[str, Any]:
        """Take in, then judge everything since the last window. Raises Unknown or WorkFailed.

        Rows that come to no verdict wait for the next window, and the answer is `report`. `patient` work
        yields to everything else.
        """
        deployed, asked = self.known(name), time.time()
        await self.bring()
        if not self.waiting(deployed):
            return self.report(deployed)
        try:
            answer = await self._take_in("window", patient, deployed)
        except StoreAway:
            raise
        except WorkFailed as failure:
            self.ledger.failed(name, str(failure))
            raise
        return self._outcome(deployed, answer["window"], asked)

    def _outcome(self, deployed: Deployed, made: dict[str, Any] | None, asked: float) -> dict[str, Any]:
        if made is None:  # while this request waited for its turn, another one's window took the rows in
            last = self.newest(deployed)
            return last if last and last["made_at"] > asked else self.report(deployed)
        if made["status"] in remark.VERDICTS:
            self.ledger.worked(deployed.name)
            return made
        without = made["status"] != "too-few"
        self.ledger.worked(deployed.name, remark.of(made) if without else None)
        return self.report(deployed, made)

    def report(self, deployed: Deployed, tried: dict[str, Any] | None = None) -> dict[str, Any]:
        """The verdict that stands, and what came since; without one, why there is none yet.

        `tried` is a window of now that came to no verdict.
        """
        rows = tried["window"]["rows"] if tried else self.waiting(deployed)
        status, said = self.since(deployed, rows)
        last = self.newest(deployed)
        known = last or {**remark.nothing(deployed, self.ledger.dropped), **(tried or {}), "status": status}
        told = [*self.notice(), *said, *(last["messages"] if last else [])]
        return {**known, "new": False, "waiting": rows, "messages": told}

    def since(self, deployed: Deployed, rows: int) -> tuple[str, list[str]]:
        """The status that `rows` since the last window have, and why they have no verdict."""
        noted = self.ledger.remarks.get(deployed.name)
        needs = self.settings.rules.least(deployed.settings)
        return remark.since(deployed, rows, needs, noted, stands=self.newest(deployed) is not None)

    async def take_in(self) -> None:
        """Turn everything spooled into Parquet and drop what is past its time. Raises WorkFailed."""
        await self.bring()
        await self._take_in("take-in", True, None)
        self._pruned = time.monotonic()
        self.ledger.worked("")

    async def _take_in(self, work: str, patient: bool, deployed: Deployed | None) -> dict[str, Any]:
        self.spool.seal()
        answer = await self._run(self._order(work, patient, deployed))
        self.ledger.lost(int(answer.get("unreadable", 0)))
        return answer

    async def bring(self) -> None:
        """What the object store has and the volume lost, before anything gets a number. Raises WorkFailed."""
        if self._brought:
            return
        answer = await self._run(self._order("bring", False, None))
        if answer["ledger"] and self.ledger.is_new:
            self.ledger.go_on(answer["ledger"])
        self._brought = True

    async def _run(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self.worker.run(order)
        except StoreAway as away:
            self._noted(str(away))
            raise
        why = answer.get("away")
        self._noted(f"{why} {LATER}" if why else "")
        return answer

    def _noted(self, away: str) -> None:
        self.away = away
        self._again = time.monotonic() + self.settings.rules.away_seconds if away else 0.0

    def notice(self) -> list[str]:
        """Why the object store could not be used last, if so."""
        return [self.away] if self.away else []

    def _order(self, work: str, patient: bool, deployed: Deployed | None) -> dict[str, Any]:
        return {
            "work": work,
            "data": str(self.data),
            "patient": patient,
            "rules": asdict(self.settings.rules),
            "deployed": asdict(deployed) if deployed else None,
            "mlflow": self.settings.mlflow,
            "store": self.settings.store,
            "dropped": self.ledger.dropped,
            "apart": self.settings.apart,
            "token": self.settings.token if self.settings.apart else "",
        }

    # by itself

    async def watch(self) -> None:
        """For ever: windows that are due, and taking in. A failure is noted and tried again later."""
        if not self._brought:
            with contextlib.suppress(WorkFailed):
                await self.bring()
        while True:
            await asyncio.sleep(self.settings.rules.tick_seconds)
            await self._tick()

    async def _tick(self) -> None:
        try:
            if time.monotonic() < self._again:
                return
            if self.away or not self._brought:
                await self.take_in()
            for deployed in list(self.deployments.all().values()):
                if self._due(deployed):
                    await self._one(deployed.name)
            if self._should_take_in():
                await self.take_in()
        except StoreAway:
            pass  # it is noted, and soon tried again
        except WorkFailed as failure:
            self._pruned = time.monotonic()
            self.ledger.failed("", str(failure))
        except Exception as error:  # noqa: BLE001 - whatever it was, the service goes on and says so
            self.ledger.failed("", f"{type(error).__name__}: {error}")

    async def _one(self, name: str) -> None:
        try:
            window = await self.window(name, patient=True)
            wait = 0.0 if window["new"] else self.settings.rules.interval_minutes * 60
        except StoreAway:
            raise
        except (WorkFailed, Unknown):
            wait = RETRY_SECONDS
        self._retry[name] = time.monotonic() + wait

    def _due(self, deployed: Deployed) -> bool:
        rules = self.settings.rules
        if time.monotonic() < self._retry.get(deployed.name, 0):
            return False
        rows = self.waiting(deployed)
        if rows < rules.least(deployed.settings):
            return False
        last = self.newest(deployed)
        age = time.time() - float(last["made_at"]) if last else float("inf")
        return rows >= rules.window_rows or age >= rules.interval_minutes * 60

    def _should_take_in(self) -> bool:
        return self.spool.size() > TAKE_IN_BYTES or time.monotonic() - self._pruned > PRUNE_SECONDS
