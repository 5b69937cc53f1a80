"""Log lines of what runs under a name: a service, a foundation, a Job."""

from __future__ import annotations

import contextlib
import datetime
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import httpx2
from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.core_v1 import Pod, PodLog

from matcha.targets.kubernetes.cluster import TIMEOUT, Cluster, ClusterError
from matcha.targets.kubernetes.names import selector
from matcha.targets.kubernetes.scaling import REVISION
from matcha.targets.kubernetes.why import is_leaving

JOINING = 5.0  # seconds between looks for replicas that have come
AGAIN = 1.0  # seconds between looks for what takes the place of a pod that ended, or a connection that broke
SILENCE = 120.0  # seconds without a line after which a connection is taken for dead, and made anew
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)
T = TypeVar("T")
When = tuple[float, int]  # seconds, and billionths of one


def pod_lines(cluster: Cluster, name: str, lines: int, follow: bool) -> Iterator[str]:
    """The last `lines` of each container, those of its crashed predecessor included; with `follow` every
    further one, also of the pods that come after. Nothing, so far, of what has not run. Lines of replicas are
    in the order of their times, and begin with which one it is.
    """
    if follow:
        yield from _followed(cluster, name, lines)
        return
    pods = _pods(cluster, name)
    found = [(pod, _last(cluster, pod, lines)) for pod in pods]
    if _are_replicas(pods):
        yield from _merged(found)
    else:
        yield from (text for _, said in found for text in texts(said))


def _last(cluster: Cluster, pod: Pod, lines: int) -> list[str]:
    return [line for status in _telling(pod) for line in last_lines(cluster, pod, status, lines)]


def _are_replicas(pods: Sequence[Pod]) -> bool:
    """Whether several are of one description at once: neither tries of a Job, nor what takes turns."""
    revisions = [_revision(pod) for pod in pods]
    return any(revision and revisions.count(revision) > 1 for revision in revisions)


def _revision(pod: Pod) -> str:
    return str((_meta(pod).labels or {}).get(REVISION, ""))


def _short(pod: Pod) -> str:
    return str(_meta(pod).name).rpartition("-")[2]


def _merged(found: Iterable[tuple[Pod, Sequence[str]]]) -> list[str]:
    """What bears no time of its own stays behind the line that it follows."""
    timed: list[tuple[When, str]] = []
    for pod, lines in found:
        at: When = (0.0, 0)
        for line in lines:
            stamp, text = _split(line)
            at = _when(stamp) if stamp else at
            timed.append((at, f"[{_short(pod)}] {text}"))
    return [text for _, text in sorted(timed, key=lambda each: each[0])]


def last_line(cluster: Cluster, pod: Pod) -> str:
    """The last one of a container that runs; empty where it said none, or may not be read."""
    for status in _telling(pod):
        if status.state and status.state.running:
            with contextlib.suppress(ClusterError):
                said = _asked(cluster, pod, status.name, tailLines=1)
                return _split(said[-1])[1] if said else ""
    return ""


def texts(lines: Iterable[str]) -> list[str]:
    """Without their times."""
    return [_split(line)[1] for line in lines]


def stuck_in(pod: Pod) -> ContainerStatus | None:
    """The init container that a pod is at, or ended with."""
    return next(iter(_telling(pod)), None)


def _followed(cluster: Cluster, name: str, lines: int) -> Iterator[str]:
    """Of the newest pod, container after container; of every replica."""
    read: Reads = {}
    while True:
        pods = _pods(cluster, name)
        if any(map(_revision, pods)):
            yield from _Together(cluster, name, lines).followed()
        for pod in pods[-1:]:
            yield from _further(cluster, pod, lines, read)
        time.sleep(AGAIN)


def _further(cluster: Cluster, pod: Pod, lines: int | None, read: Reads) -> Iterator[str]:
    """What was not read of the pod, container after container, until its connection ends. Of the first one
    the last `lines` come before; None: all.
    """
    for status in _telling(pod)[:1]:
        key = (_meta(pod).uid, status.name)
        if key not in read:
            first, read[key] = not read and lines is not None, Read(status.restartCount)
            old = read[key].further(last_lines(cluster, pod, status, max(lines or 0, 1))) if first else ()
            yield from (line for line in old if lines)
            read[key].cut_off()
        yield from read_on(cluster, pod, status, read[key])


class _Together:
    """Every pod of a Deployment at once, those that come later included."""

    def __init__(self, cluster: Cluster, name: str, lines: int) -> None:
        self._cluster = cluster
        self._name = name
        self._lines: int | None = lines
        self._said: queue.Queue[tuple[Pod, str] | Exception | None] = queue.Queue(maxsize=1000)
        self._over = threading.Event()
        self._known: set[str] = set()
        self._heard: set[str] = set()  # pods that are listened to now

    def followed(self) -> Iterator[str]:
        """Never ends by itself. Raises ClusterError."""
        try:
            while True:
                self._join()
                yield from self._until(time.monotonic() + JOINING)
        finally:
            self._over.set()

    def _join(self) -> None:
        for pod in _pods(self._cluster, self._name):
            uid = str(_meta(pod).uid)
            if uid not in self._known:
                self._known.add(uid)
                self._heard.add(uid)
                threading.Thread(target=self._listen, args=(pod, self._lines), daemon=True).start()
        self._lines = None  # of those that come later all is new

    def _until(self, deadline: float) -> Iterator[str]:
        """What is said until then, or until one of them is gone."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                found = self._said.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(found, Exception):
                raise found
            if found is None:
                time.sleep(AGAIN)
                return
            pod, line = found
            yield f"[{_short(pod)}] {line}" if len(self._heard) > 1 else line

    def _listen(self, pod: Pod, lines: int | None) -> None:
        """In a thread of its own, until the pod is gone."""
        read: Reads = {}
        found: Pod | None = pod
        try:
            while found is not None and not self._over.is_set():
                for line in _further(self._cluster, found, lines, read):
                    self._say((pod, line))
                time.sleep(AGAIN)
                there = _pods(self._cluster, self._name)
                found = next((p for p in there if _meta(p).uid == _meta(pod).uid), None)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody sees it
            self._say(error)
        self._heard.discard(str(_meta(pod).uid))
        self._say(None)

    def _say(self, what: tuple[Pod, str] | Exception | None) -> None:
        """Unless nobody listens any more."""
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._said.put(what, timeout=1)
                return


def read_on(cluster: Cluster, pod: Pod, status: ContainerStatus, read: Read) -> Iterator[str]:
    """Until the container ends or the connection does: whoever asks again misses nothing."""
    if status.restartCount > read.restarts:
        read.restarts = status.restartCount
        if _has_predecessor(status):
            yield from read.further(_asked(cluster, pod, status.name, previous=True, sinceTime=read.since))
    answer = _opened(cluster, pod, status.name, follow=True, sinceTime=read.since)
    if answer is None:
        return
    with contextlib.closing(answer), contextlib.suppress(httpx2.HTTPError, OSError):
        yield from read.further(answer.iter_lines())


class Read:
    """How far the log of a container was read. Several lines may bear the same time."""

    def __init__(self, restarts: int) -> None:
        self.restarts = restarts
        self.since: str | None = None
        self._at: When = (0.0, 0)
        self._bearing = 0

    def cut_off(self) -> None:
        """What was read begins anywhere: of the lines of its last moment, some may have come before."""
        self._bearing = sys.maxsize

    def further(self, lines: Iterable[str]) -> Iterator[str]:
        """Those that were not read; each begins with its time."""
        known = self._bearing
        for line in lines:
            stamp, text = _split(line)
            if stamp and (at := _when(stamp)) == self._at:
                known -= 1
                if known >= 0:
                    continue
                self._bearing += 1
            elif stamp and at < self._at:
                continue
            elif stamp:
                self._at, self.since, self._bearing, known = at, stamp, 1, 0
            yield text


Reads = dict[tuple[str, str], Read]  # by uid of the pod and name of the container


def _split(line: str) -> tuple[str, str]:
    """Its time, which what the node itself says has not, and its text."""
    match = _STAMP.fullmatch(line)
    return (line[: match.start(4)].rstrip(" "), match[4]) if match else ("", line)


def _when(stamp: str) -> When:
    """Nodes write their own time zone."""
    match = _STAMP.fullmatch(stamp)
    assert match
    zone = match[3].replace("Z", "+00:00")
    seconds = datetime.datetime.fromisoformat(match[1] + zone).timestamp()
    return seconds, int((match[2] or "").ljust(9, "0"))


def _pods(cluster: Cluster, name: str) -> list[Pod]:
    """Oldest first."""
    found = [p for p in cluster.found(Pod, selector(name)) if not is_leaving(p)]
    return sorted(found, key=lambda p: str(_meta(p).creationTimestamp))


def _meta(pod: Pod) -> Any:
    return pod.metadata


def _telling(pod: Pod) -> list[ContainerStatus]:
    """Containers to hear: what a pod is stuck in before its own have their turn, otherwise those."""
    before = (pod.status.initContainerStatuses if pod.status else None) or ()
    stuck = [s for s in before if not _is_done(s) and _has_begun(s)]
    return stuck or list((pod.status.containerStatuses if pod.status else None) or ())


def _is_done(status: ContainerStatus) -> bool:
    ended = status.state.terminated if status.state else None
    return ended is not None and ended.exitCode == 0


def _has_begun(status: ContainerStatus) -> bool:
    state, last = status.state, status.lastState
    return bool((state and (state.running or state.terminated)) or (last and last.terminated))


def _has_predecessor(status: ContainerStatus) -> bool:
    """Besides what is shown as its log: while one waits to be started again, that is its predecessor's."""
    waits = status.state is None or status.state.waiting is not None
    return bool(not waits and status.lastState and status.lastState.terminated)


def last_lines(cluster: Cluster, pod: Pod, status: ContainerStatus, lines: int) -> list[str]:
    now = _asked(cluster, pod, status.name, tailLines=lines)
    if len(now) >= lines or not _has_predecessor(status):
        return now
    return [*_asked(cluster, pod, status.name, previous=True, tailLines=lines - len(now)), *now]


def _asked(cluster: Cluster, pod: Pod, container: str, **params: Any) -> list[str]:
    """Lines that are there; none of a container that has not begun, or whose log is gone."""

    def ask() -> list[str]:
        with contextlib.closing(_answer(cluster, pod, container, params)) as answer:
            return list(answer.iter_lines())

    return _unless_gone(lambda: cluster.call(ask, f"read the log of {_meta(pod).name}")) or []


def _opened(cluster: Cluster, pod: Pod, container: str, **params: Any) -> httpx2.Response | None:
    return _unless_gone(
        lambda: cluster.call(
            lambda: _answer(cluster, pod, container, params), f"read the log of {_meta(pod).name}"
        )
    )


def _answer(cluster: Cluster, pod: Pod, container: str, params: dict[str, Any]) -> httpx2.Response:
    """Lightkube's own `log` knows neither predecessors nor points in time."""
    client: Any = cluster.client._client
    wanted = {"container": container, "timestamps": True, **params}
    request = client.prepare_request(
        "get", PodLog, name=_meta(pod).name, params={k: v for k, v in wanted.items() if v is not None}
    )
    if params.get("follow"):
        request.timeout = httpx2.Timeout(**{**TIMEOUT.as_dict(), "read": SILENCE})
    answer: httpx2.Response = client.send(client.build_adapter_request(request), stream=True)
    if answer.is_error:
        answer.read()
        answer.close()
    client.raise_for_status(answer)
    return answer


def _unless_gone(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ClusterError as error:
        if error.status not in (400, 404):  # it has not started, or is gone
            raise
        return None
