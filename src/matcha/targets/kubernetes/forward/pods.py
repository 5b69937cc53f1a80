"""Which pod a connection goes to.

The stack's pods are watched while somebody is connected, and for a minute after; an idle forwarder asks the
cluster nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import httpx2
import msgspec

from matcha.targets.kubernetes.forward.api import Api, Refused, refusal
from matcha.targets.kubernetes.forward.log import Log, told
from matcha.targets.kubernetes.names import NAME, selector

ABOUT = "the cluster"
LINGER = 60.0  # seconds the watch outlives its last user
WATCH = 240  # seconds one watch lasts; a dead one is noticed a little later
LONGEST_PAUSE = 5.0


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    uid: str
    labels: dict[str, str] = {}
    resource_version: str = ""
    deletion_timestamp: str | None = None


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()


class Pod(msgspec.Struct, frozen=True):
    """The part of a pod that matters here."""

    metadata: _Meta
    status: _Status = _Status()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def is_ready(self) -> bool:
        ready = any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)
        return ready and self.metadata.deletion_timestamp is None

    @property
    def is_running(self) -> bool:
        return self.status.phase == "Running" and self.metadata.deletion_timestamp is None

    @property
    def is_over(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[Pod]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


def listed(raw: bytes) -> list[Pod]:
    """The pods of an answer that lists some."""
    return msgspec.json.decode(raw, type=_List).items


class _Expired(Exception):
    """The watch cannot go on from where it was."""


class Pods:
    """The pods of these services in one namespace."""

    def __init__(self, api: Api, namespace: str, services: Iterable[str], log: Log) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._selector = _label_selector(services)
        self._log = log
        self._pods: dict[str, Pod] = {}
        self._known = False  # whether _pods is what the cluster showed, watched since
        self._refused: Refused | None = None
        self._news = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self._turn: dict[str, int] = {}  # when each was taken last
        self._turns = itertools.count(1)
        self._users = 0
        self._task: asyncio.Task[None] | None = None

    def of(self, services: Iterable[str]) -> None:
        """Of these from now on."""
        wanted = _label_selector(services)
        if wanted != self._selector:
            self._selector = wanted
            if self._task is not None and not self._task.done():
                self._begin()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While inside, the methods below know the pods."""
        self._users += 1
        if self._task is None or self._task.done():
            self._begin()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                asyncio.get_running_loop().call_later(LINGER, self._end_if_idle)

    async def take(self, service: str) -> Pod:
        """Waits for a ready pod; of several the one with the fewest connections, in turn. Raises Refused."""
        while True:
            if self._refused:
                raise Refused(str(self._refused))
            if found := [p for p in self._of(service) if p.is_ready]:
                pod = min(found, key=lambda p: (self._busy[p.uid], self._turn.get(p.uid, 0)))
                self._busy[pod.uid] += 1
                self._turn[pod.uid] = next(self._turns)
                return pod
            await self._news.wait()

    async def gone(self, pod: Pod) -> None:
        """Returns when the cluster no longer has the pod, or it has ended."""
        while not self._known or pod.uid in self._pods:
            await self._news.wait()

    def leave(self, pod: Pod) -> None:
        """Of a pod that `take` gave."""
        self._busy[pod.uid] -= 1
        if not self._busy[pod.uid]:
            del self._busy[pod.uid]

    def doubt(self, pod: Pod) -> None:
        """It did not do what a ready pod does: have all be looked at anew, unless that already goes on."""
        if self._known and pod.uid in self._pods:
            self._begin()

    def why_not(self, service: str) -> str:
        """For the log: what there is instead of a ready pod."""
        if not self._known:
            return "the cluster does not say which pods there are"
        there = sorted(p.name for p in self._of(service))
        return f"not ready: {', '.join(there)}" if there else "it has no pod"

    def close(self) -> None:
        """One that is cancelled takes a moment to end; it is no watch any more."""
        if self._task:
            self._task.cancel()
        self._task = None

    def _of(self, service: str) -> list[Pod]:
        wanted = selector(service).items()
        found = self._pods.values() if self._known else ()
        return [p for p in found if wanted <= p.metadata.labels.items()]

    def _begin(self) -> None:
        self.close()
        self._known, self._refused = False, None
        self._task = asyncio.create_task(self._follow())

    def _end_if_idle(self) -> None:
        if not self._users:
            self.close()
            self._known = False

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        """Until closed or refused. Whatever else goes wrong is told and tried again."""
        pause, me = 0.2, asyncio.current_task()
        while self._task is me:
            try:
                version = await self._list()
                pause = 0.2
                await self._watch_on(version)
            except Refused as error:
                self._log.trouble(ABOUT, told(error))
                self._refused = error
                self._tell()
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, the forwarder goes on
                self._log.trouble(ABOUT, told(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _list(self) -> str:
        raw = await self._api.get(self._path, {"labelSelector": self._selector})
        found = msgspec.json.decode(raw, type=_List)
        self._pods = {p.uid: p for p in found.items if not p.is_over}
        self._turn = {uid: turn for uid, turn in self._turn.items() if uid in self._pods}
        self._known = True
        self._log.well(ABOUT)
        self._tell()
        return found.metadata.resource_version

    async def _watch_on(self, version: str) -> None:
        """Until the watch breaks off, which is no trouble yet: the list that comes next will tell."""
        with contextlib.suppress(_Expired, httpx2.HTTPError):
            while True:
                version = await self._watch(version)

    async def _watch(self, version: str) -> str:
        """The version to go on from when the watch has lasted its time."""
        params = {
            "labelSelector": self._selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH),
        }
        timeout = httpx2.Timeout(10.0, read=WATCH + 15.0)
        async with self._api.client().stream("GET", self._path, params=params, timeout=timeout) as answer:
            if answer.status_code >= 400:
                raise _refusal(answer.status_code, await answer.aread())
            async for line in answer.aiter_lines():
                if line:
                    version = self._take(line) or version
        return version

    def _take(self, line: str) -> str:
        """One event; returns the version it brought."""
        event = msgspec.json.decode(line, type=_Event)
        if event.type == "ERROR":
            raise _Expired
        if event.type == "BOOKMARK":
            return msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
        pod = msgspec.json.decode(event.object, type=Pod)
        if event.type == "DELETED" or pod.is_over:
            self._pods.pop(pod.uid, None)
        else:
            self._pods[pod.uid] = pod
        self._tell()
        return pod.metadata.resource_version


class _Bookmark(msgspec.Struct):
    metadata: _ListMeta


def _refusal(status: int, body: bytes) -> Exception:
    return _Expired() if status == 410 else refusal(status, body)


def _label_selector(services: Iterable[str]) -> str:
    """Pods of any of the services, by the labels that `selector` picks each by."""
    names = sorted(set(services))
    shared = {key: value for key, value in selector("").items() if key != NAME}
    return ",".join([*(f"{k}={v}" for k, v in shared.items()), f"{NAME} in ({','.join(names)})"])
