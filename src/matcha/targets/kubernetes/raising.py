"""Making objects be as wanted, and waiting until what runs is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, MutableSet, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event as ClusterEvent
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

from matcha.errors import ComponentFailed
from matcha.events import Emit, Event
from matcha.service import Scale, Service
from matcha.targets.kubernetes import (
    admission,
    desired,
    logs,
    look,
    ownership,
    scaling,
    several,
    volumes,
    why,
)
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict
from matcha.targets.kubernetes.compare import extras
from matcha.targets.kubernetes.fencing import Fenced
from matcha.targets.kubernetes.names import ADMITTED, PLACE, selector
from matcha.targets.kubernetes.owners import adopted, foreign, released
from matcha.targets.kubernetes.refusals import is_immutable
from matcha.targets.kubernetes.secrets import Secrets

HARDLY = 180.0  # seconds for what hardly ever mends itself, such as an image that cannot be pulled
PATIENCE = 900.0  # seconds for everything before a pod's own start: scheduling, pulling, unpacking
GONE_SECONDS = 60.0  # for what is deleted, besides what its pods have to end
POLL = 1.0
EVENTS = 5.0  # seconds for which events are taken as they were
MEND = "Mend what it names, then: matcha provision"  # an error that says what is wrong
LINES = 10.0  # seconds for which a Job's last line is
INVALID = 422
UNSETTLED = (0, 404, 409)  # of a change that may have been made, or no longer fits
TRIES = 5
WORKLOADS = (Deployment, StatefulSet)
ONE = Scale()
T = TypeVar("T")


class Raiser:
    """`fence` is called before every try of a write and raises Locked where the lock was lost. `insist`: take
    over fields that others applied. `mine`: what is known to be Matcha's already, and is not asked for again;
    what is applied is added. `clock` and `pause` are for tests.
    """

    def __init__(
        self,
        cluster: Cluster,
        fence: Callable[[], None],
        *,
        insist: bool = False,
        mine: MutableSet[desired.Ref] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = Fenced(cluster, fence)
        self._insist = insist
        self._mine: MutableSet[desired.Ref] = set() if mine is None else mine
        self._clock = clock
        self._pause = pause

    def apply(self, objects: Iterable[Any]) -> None:
        """In the given order. Raises Conflict where another manager applies a field as well, and, before
        anything is written, where one of them is there and not Matcha's.

        What somebody changed by hand (`kubectl edit`, `scale`) is Matcha's again afterwards.
        """
        objects = list(objects)
        ownership.refuse_foreign(self._cluster, [o for o in objects if desired.ref(o) not in self._mine])
        for obj in objects:
            if scaling.leaves_number(obj):
                self._leave_number(obj)
            made = self._alone(obj, self._applied_or_anew(obj))
            self._mine.add(desired.ref(obj))
            self._noted(obj, self._stripped(obj, made))

    def keep_within(self, service: Service) -> None:
        """Have an autoscaled service run as often as it may at least: one that is new or was stopped, for the
        autoscaler does not touch what has no replicas.
        """
        there = self._cluster.get(Deployment, service.name)
        if there is None or there.spec is None:
            return
        number = 1 if there.spec.replicas is None else there.spec.replicas
        if (meant := scaling.within(service, number)) != number:
            self._cluster.patch(Deployment, service.name, {"spec": {"replicas": meant}})

    def end_autoscaler(self, name: str) -> None:
        """Of a service that has a fixed number of replicas now."""
        ref = (HorizontalPodAutoscaler.__name__, name)
        if ref in self._mine:
            self._cluster.delete(HorizontalPodAutoscaler, name)
            self._mine.discard(ref)

    def _leave_number(self, wanted: Any) -> None:
        """What Matcha no longer says would fall back to one replica with its next apply. Raises ClusterError
        where that cannot be kept from happening.
        """
        for left in reversed(range(TRIES)):
            there = self._cluster.get(Deployment, wanted.metadata.name)
            fields = released(there.to_dict()["metadata"].get("managedFields") or ()) if there else None
            if fields is None:
                return
            try:
                self._cluster.own(there, fields)
            except ClusterError as error:
                if not left or error.status not in UNSETTLED:
                    raise

    def _alone(self, wanted: Any, found: Any) -> Any:
        """`found` without what others set in it beside what is wanted: once it is Matcha's, it goes with the
        next apply. Raises Conflict where one of them applies it.
        """
        for _ in range(TRIES):
            others = list(foreign(wanted.to_dict(), found.to_dict(), type(found).__name__))
            if not others:
                break
            if not self._insist and (applied := [each for each in others if each.applies]):
                said = [f'conflict with "{each.owner}": .{each.path}' for each in applied]
                raise _contested(Conflict("", owners=said), wanted)
            fields = adopted(found.to_dict(), insist=self._insist)
            if scaling.leaves_number(wanted):
                fields = released(fields) or fields
            try:
                self._cluster.own(found, fields)
            except ClusterError as error:
                if error.status not in UNSETTLED:
                    raise
            found = self._applied(wanted)
        return found

    def _stripped(self, wanted: Any, found: Any) -> Any:
        """`found` without entries that others added. Where an entry has moved, or an answer was lost, it is
        looked at anew: the same change would not fit a second time.
        """
        for left in reversed(range(TRIES)):
            if not (added := list(extras(wanted.to_dict(), found.to_dict()))):
                break
            try:
                return self._cluster.strip(found, added)
            except ClusterError as error:
                if not left or error.status not in (*UNSETTLED, INVALID):
                    raise
            self._pause(POLL)
            found = self._cluster.get(type(found), found.metadata.name) or self._applied(wanted)
        return found

    def _noted(self, wanted: Any, found: Any) -> None:
        """What is not as wanted although it was just written was made so by the cluster's admission, and
        would be again. That is noted on the object, and no drift as long as it stays so.
        """
        live = found.to_dict()
        left = admission.left(wanted.to_dict(), live)
        if left != admission.noted(live):
            note = {"metadata": {"annotations": {ADMITTED: admission.note(left)}}}
            self._cluster.patch(type(found), found.metadata.name, note)

    def _applied_or_anew(self, obj: Any) -> Any:
        """A workload is made anew where a part of it cannot be changed; its volumes are apart from it."""
        try:
            return self._applied(obj)
        except ClusterError as error:
            if isinstance(obj, PersistentVolumeClaim):
                raise self._kept(obj, error) from error
            if not is_immutable(error):
                return self._applied_alone(obj, error)
            if not isinstance(obj, WORKLOADS):
                raise
        self._remove(type(obj), str(obj.metadata.name if obj.metadata else ""))
        return self._applied(obj)

    def _applied_alone(self, obj: Any, error: ClusterError) -> Any:
        """What others added may not stand beside what is wanted, such as another kind of probe. Raises
        `error` where that is not why the cluster refused it.
        """
        there = self._cluster.get(type(obj), obj.metadata.name) if error.status == INVALID else None
        if there is None or (alone := self._alone(obj, there)) is there:
            raise error
        return alone

    def _applied(self, obj: Any) -> Any:
        try:
            return self._cluster.apply(obj, force=self._insist)
        except Conflict as conflict:
            if not conflict.owners:
                raise
            if not _by_hand(conflict):
                raise _contested(conflict, obj) from conflict
            return self._cluster.apply(obj, force=True)

    def _kept(self, claim: PersistentVolumeClaim, error: ClusterError) -> ClusterError:
        """`error`, or what the volume's size and class are where the cluster refuses to change them."""
        assert claim.metadata and claim.metadata.name
        there = self._cluster.get(PersistentVolumeClaim, claim.metadata.name)
        return volumes.unmade(claim, error) if there is None else volumes.unchanged(claim, there, error)

    def wait(
        self,
        name: str,
        key: str,
        kind: type[Any],
        seconds: float,
        emit: Emit,
        scale: Scale = ONE,
    ) -> None:
        """Until the newest pods of the workload are ready, as many as `scale` has at least; `seconds` for the
        start of each.

        Raises ComponentFailed with the reason, and the last lines of its log. Pods that were given up before
        are tried anew at once: what they needed may be there by now.
        """
        events, before = _Now(self._events, EVENTS, self._clock), self._tried_anew(name, kind)

        def look() -> why.Verdict:
            workload, pods = self._cluster.get(kind, name), self._pods(name)
            found = why.judge(workload, pods, before=before)
            # Events say why there is no pod, or no node or volume for it; nobody else does.
            if found.hope == "hardly" or why.is_unexplained(pods):
                found = why.judge(workload, pods, events(), before)
            return several.rolled_out(found, workload, scale) if scale.max > 1 else found

        self._until(name, key, ("running",), look, (PATIENCE + seconds) * scale.min, emit)

    def run_job(
        self,
        objects: Sequence[Any],
        key: str,
        seconds: float,
        emit: Emit,
        *,
        place: str = "",
        advice: str = "",
    ) -> None:
        """Have the Job, the last of `objects`, done. One that failed before is made anew, and so is one
        whose work is not in `place` (`facts.place`): what it made is gone with another volume.
        `advice`: what to do where it says why it failed; its log, where nothing is said.
        """
        *before, job = objects
        name, owner = job.metadata.name, job.metadata.labels["app.kubernetes.io/name"]
        job.metadata.annotations = {**(job.metadata.annotations or {}), PLACE: place}
        events = _Now(self._events, EVENTS, self._clock)
        line = _Now(lambda: self._last_line(name), LINES, self._clock)

        def look() -> why.Verdict:
            pods = self._cluster.found(Pod, {"job-name": name})
            told = events() if why.is_unexplained(pods) else ()
            found = why.judge_job(self._cluster.get(Job, name), pods, told)
            said = line() if found.detail == why.RUNS else ""
            return msgspec.structs.replace(found, detail=f"{why.RUNS}: {said}") if said else found

        if look().condition == "failed" or _is_elsewhere(self._cluster.get(Job, name), place):
            self._remove(Job, name)
        self.apply(before)
        try:
            self.apply([job])
        except ClusterError as error:
            if error.status != INVALID:
                raise
            self._remove(Job, name)  # it was made by other options, and a Job cannot be edited
            self.apply([job])
        self._until(owner, key, ("present",), look, PATIENCE + seconds, emit, advice)

    def _last_line(self, job: str) -> str:
        """What a Job is at, as it says itself."""
        pods = [pod for pod in self._cluster.found(Pod, {"job-name": job}) if why.is_ready(pod)]
        [said] = Secrets(self._cluster).redact([logs.last_line(self._cluster, pods[-1]) if pods else ""])
        return said.strip()

    def _remove(self, kind: type[Any], name: str) -> None:
        """Its pods first, which may take all the time that they are given to end."""
        there = self._cluster.get(kind, name)
        if there is not None and not ownership.is_mine(metadata := there.metadata.to_dict()):
            raise ownership.refusal(kind, metadata, self._cluster.namespace)
        self._cluster.delete(kind, name, wait_for_children=True)
        self._gone(kind, name, _grace(there) + GONE_SECONDS)

    def _gone(self, kind: type[Any], name: str, seconds: float) -> None:
        deadline = self._clock() + seconds
        while self._cluster.get(kind, name) is not None:
            if self._clock() > deadline:
                raise ComponentFailed(f"{kind.__name__} {name} does not go away.", resolution="matcha status")
            self._pause(POLL)

    def _until(
        self,
        name: str,
        key: str,
        done: tuple[str, ...],
        look: Callable[[], why.Verdict],
        seconds: float,
        emit: Emit,
        advice: str = "",
    ) -> None:
        began = self._clock()
        hopeless: float | None = None
        while (verdict := look()).condition not in done:
            now = self._clock()
            hopeless = None if verdict.hope == "yes" else (hopeless if hopeless is not None else now)
            if verdict.hope == "never" or (hopeless is not None and now - hopeless > HARDLY):
                raise self._failed(name, verdict, advice=advice)
            if now - began > seconds:
                raise self._failed(name, verdict, f" in {seconds:.0f} s", advice)
            emit(
                Event(
                    key,
                    "progress",
                    f"{verdict.detail or verdict.condition} ({now - began:.0f} s)",
                    now - began,
                )
            )
            self._pause(POLL)

    def _failed(self, name: str, verdict: why.Verdict, late: str = "", advice: str = "") -> ComponentFailed:
        """What has not run has no log to look at."""
        spoke = any(map(why.has_begun, self._pods(name)))
        told = [verdict.detail or verdict.condition, verdict.log.strip()]
        said, words = Secrets(self._cluster).redact(told)
        return ComponentFailed(
            f"{name} did not come up{late}: {said.rstrip('.')}.",
            details=words or ("Its pods left no last words." if spoke else ""),
            resolution=verdict.mend or (words and advice) or f"matcha logs {name}"
            if spoke or verdict.mend
            else MEND,
        )

    def _tried_anew(self, name: str, kind: type[Any]) -> why.Restarts:
        """Of the pods that stay. The others' nodes would wait up to five minutes before they try again."""
        workload, pods = self._cluster.get(kind, name), self._pods(name)
        given_up = list(why.given_up(workload, pods)) if workload else []
        for pod in given_up:
            self._cluster.delete(Pod, str(pod.metadata.name if pod.metadata else ""))
        return why.restarts(workload, pods, given_up)

    def _pods(self, name: str) -> list[Pod]:
        return self._cluster.found(Pod, selector(name))

    def _events(self) -> Sequence[ClusterEvent]:
        return look.told(self._cluster)


class _Now(Generic[T]):
    """What was asked as it was a few seconds ago at most: namespaces hold thousands of events."""

    def __init__(self, ask: Callable[[], T], seconds: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self._found: list[T] = []
        self._until = float("-inf")

    def __call__(self) -> T:
        if self._clock() >= self._until:
            self._found = [self._ask()]
            self._until = self._clock() + self._seconds
        return self._found[0]


def _grace(obj: Any) -> float:
    """Seconds that the pods of a workload have between SIGTERM and SIGKILL; 0 for what is not there."""
    pods = obj.spec.template.spec if obj is not None and obj.spec else None
    given = pods.terminationGracePeriodSeconds if pods else None
    return float(30 if pods and given is None else given or 0)


def _is_elsewhere(job: Job | None, place: str) -> bool:
    marks = (job.metadata.annotations if job and job.metadata else None) or {}
    return job is not None and marks.get(PLACE) != place


def _by_hand(conflict: Conflict) -> bool:
    """Whether all owners changed the object once, by an update, and none applies it as a whole."""
    return bool(conflict.owners) and all(" using " in owner for owner in conflict.owners)


def _contested(conflict: Conflict, obj: Any) -> Conflict:
    others = "\n".join(conflict.owners) or conflict.details
    found = Conflict(
        f"{type(obj).__name__} {obj.metadata.name} is managed by somebody else as well.",
        owners=conflict.owners,
        details=others,
    )
    found.resolution = "matcha provision --force"
    return found
