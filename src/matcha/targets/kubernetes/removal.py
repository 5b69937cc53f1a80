"""Taking a stack out of its namespace, and the proof that it is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightkube.resources.apps_v1 import Deployment, ReplicaSet, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import (
    ConfigMap,
    Namespace,
    PersistentVolumeClaim,
    Pod,
    Secret,
    ServiceAccount,
)
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.networking_v1 import NetworkPolicy
from lightkube.resources.policy_v1 import PodDisruptionBudget

from matcha.errors import MatchaError
from matcha.events import Emit, Event
from matcha.targets.kubernetes import desired, space
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.exposed.kinds import OPTIONAL
from matcha.targets.kubernetes.fencing import Fenced
from matcha.targets.kubernetes.names import (
    COPY_OF,
    KEEPS,
    LOCK,
    MINE,
    NAME,
    NOTES,
    SECRETS,
    SHARED,
    STATE,
)
from matcha.targets.kubernetes.setting import Setting

# In the order in which they go: what starts pods first, what pods stand on last.
ORDER: tuple[type[Any], ...] = (
    CronJob,
    Job,
    HorizontalPodAutoscaler,
    Deployment,
    StatefulSet,
    ReplicaSet,
    Pod,
    PodDisruptionBudget,
    *OPTIONAL,
    ServiceObject,
    NetworkPolicy,
    ServiceAccount,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    Lease,
)
PRUNED: tuple[type[Any], ...] = (
    CronJob,
    HorizontalPodAutoscaler,
    Deployment,
    StatefulSet,
    PodDisruptionBudget,
    *OPTIONAL,
    ServiceObject,
    NetworkPolicy,
    ServiceAccount,
    ConfigMap,
)
RECORD = frozenset({("ConfigMap", STATE), ("Lease", LOCK)})  # goes last, by the store
GONE_SECONDS = 180.0
POLL = 1.0


def listed(cluster: Cluster, labels: Mapping[str, str] = MINE) -> list[Any]:
    """Everything with these labels in the namespace. Kinds that the user may not list are left out."""

    def of(kind: type[Any]) -> list[Any]:
        with contextlib.suppress(Forbidden):
            return cluster.found(kind, labels)
        return []

    with ThreadPoolExecutor(8) as pool:
        return [obj for objects in pool.map(of, ORDER) for obj in objects]


def remove_service(cluster: Cluster, name: str, fence: Callable[[], None]) -> None:
    """All objects of one service but its volumes."""
    for obj in listed(cluster, {**MINE, NAME: name}):
        if not _keeps(obj):
            Fenced(cluster, fence).delete(type(obj), obj.metadata.name)


def prune(cluster: Cluster, setting: Setting, fence: Callable[[], None]) -> None:
    """What the stack no longer consists of: parts of services that are gone or others now, earlier versions
    of code. Volumes and secrets stay, and so does what the cluster itself made of Matcha's objects.
    """
    wanted = desired.belonging(setting) | RECORD | {("ConfigMap", NOTES)} | _in_use(cluster)
    for objects in cluster.owned(PRUNED).values():
        for obj in objects:
            if desired.ref(obj) in wanted or obj.metadata.ownerReferences or _is_no_part(obj):
                continue
            Fenced(cluster, fence).delete(type(obj), obj.metadata.name)


def _in_use(cluster: Cluster) -> set[desired.Ref]:
    """What Jobs that are not over yet read: code of an earlier Matcha, locks of users' own environments."""
    specs = [job.spec.template.spec for job in cluster.found(Job) if not _is_over(job) and job.spec]
    volumes = [volume for spec in specs for volume in (spec.volumes if spec else None) or ()]
    return {("ConfigMap", volume.configMap.name) for volume in volumes if volume.configMap}


def _is_no_part(obj: Any) -> bool:
    """Of what no service consists: data, what users share, copies of a record that could not be read."""
    labels = obj.metadata.labels or {}
    return COPY_OF in labels or labels.get(NAME) == SHARED or _keeps(obj)


def scale_down(cluster: Cluster, emit: Emit, fence: Callable[[], None]) -> None:
    """No pod runs afterwards; all data stays. Jobs that are not done go: what needs them makes them anew. An
    autoscaler leaves alone what has no replicas.
    """
    writing = Fenced(cluster, fence)
    for cron in cluster.found(CronJob):
        writing.patch(CronJob, cron.metadata.name, {"spec": {"suspend": True}})
    for job in cluster.found(Job):
        if not _is_over(job):
            writing.delete(Job, job.metadata.name)
    for kind in (Deployment, StatefulSet):
        for obj in cluster.found(kind):
            writing.patch(kind, obj.metadata.name, {"spec": {"replicas": 0}})
    _until(
        lambda: [
            p.metadata.name for p in cluster.found(Pod) if p.status.phase not in ("Succeeded", "Failed")
        ],
        "to end",
        emit,
        resolution="matcha stop",
    )


def _is_over(job: Job) -> bool:
    conditions = (job.status.conditions if job.status else None) or ()
    return any(c.type in ("Complete", "Failed") and c.status == "True" for c in conditions)


def belongings(cluster: Cluster, delete_data: bool) -> list[str]:
    found = [o for o in listed(cluster) if not isinstance(o, (Pod, ReplicaSet))]
    going = [o for o in found if delete_data or not _keeps(o)]
    return [f"{type(o).__name__} {o.metadata.name}" for o in going if desired.ref(o) not in RECORD]


def volumes(objects: Iterable[Any]) -> list[str]:
    """Names of the volumes with data among them."""
    return [desired.ref(o)[1] for o in objects if isinstance(o, PersistentVolumeClaim) and _keeps(o)]


def kept(cluster: Cluster) -> list[str]:
    return [f"{type(o).__name__} {o.metadata.name}" for o in listed(cluster) if _keeps(o)]


def _keeps(obj: Any) -> bool:
    return is_kept(*desired.ref(obj), obj.metadata.labels)


def is_kept(kind: str, name: str, marks: Mapping[str, str] | None) -> bool:
    """Whether it goes only with --delete-data: by what it is too, for a label is soon taken off."""
    return (
        kind == PersistentVolumeClaim.__name__
        or (kind, name) == (Secret.__name__, SECRETS)
        or (marks or {}).get(KEEPS) == "true"
    )


def destroy(cluster: Cluster, delete_data: bool, emit: Emit, fence: Callable[[], None]) -> None:
    """Everything but the record; volumes and what opens them only with `delete_data`. Kinds that the user may
    not list are passed over: the proof says them.
    """
    for kind in ORDER:
        try:
            found = cluster.found(kind)
        except Forbidden:
            continue
        for obj in found:
            if desired.ref(obj) in RECORD or (_keeps(obj) and not delete_data):
                continue
            emit(Event("stack", "progress", f"removing {kind.__name__} {obj.metadata.name}"))
            Fenced(cluster, fence).delete(kind, obj.metadata.name)
    _until(lambda: leftovers(cluster, delete_data), "to go", emit, resolution="matcha destroy")
    if not kept(cluster) and (said := space.removal_note(cluster, _strangers(cluster))):
        emit(Event("stack", "note", said))


def tidy(cluster: Cluster, still_held: Callable[[], None]) -> None:
    """The namespace goes where Matcha made it, and nothing of Matcha's but the lock, or of others', is in it.

    `still_held` asks for the lock once more: who waits for it makes a stack here as soon as it is free.
    """
    if not space.is_ours(space.seen(cluster)) or not is_empty(cluster):
        return
    still_held()
    with contextlib.suppress(Forbidden):
        cluster.delete(Namespace, cluster.namespace)


def is_empty(cluster: Cluster) -> bool:
    """Whether the namespace holds nothing but Matcha's record and lock, if those."""
    return not _strangers(cluster) and all(desired.ref(obj) in RECORD for obj in listed(cluster))


def _strangers(cluster: Cluster) -> list[str]:
    """What Matcha did not make, as far as the user may list it."""
    return space.strangers(listed(cluster, labels={}))


def namespace_left(cluster: Cluster) -> list[str]:
    """An empty namespace of Matcha's that stays although it was removed, and what holds it."""
    deadline = time.monotonic() + GONE_SECONDS
    while _is_leaving(found := space.seen(cluster)) and not listed(cluster):
        if time.monotonic() > deadline:
            return [
                f"Namespace {cluster.namespace}: {'; '.join(space.held_by(found)) or 'it does not go away'}"
            ]
        time.sleep(POLL)
    return []


def _is_leaving(found: Any) -> bool:
    return space.is_ours(found) and found.metadata.deletionTimestamp is not None


def leftovers(cluster: Cluster, delete_data: bool) -> list[str]:
    """What is still there although it should be gone, and what holds it."""
    found = [o for o in listed(cluster) if delete_data or not _keeps(o)]
    return [_described(o) for o in found if desired.ref(o) not in RECORD]


def _described(obj: Any) -> str:
    held = obj.metadata.finalizers or ()
    waiting = f" (waits for {', '.join(held)})" if held and obj.metadata.deletionTimestamp else ""
    return f"{type(obj).__name__} {obj.metadata.name}{waiting}"


def _until(left: Callable[[], list[str]], what: str, emit: Emit, *, resolution: str) -> None:
    began = time.monotonic()
    while names := left():
        waited = time.monotonic() - began
        if waited > GONE_SECONDS:
            raise MatchaError(
                f"Not everything did what it was told: waited {GONE_SECONDS:.0f} s for it {what}.",
                details="\n".join(names),
                resolution=resolution,
            )
        emit(Event("stack", "progress", f"waiting for {names[0]} {what} ({waited:.0f} s)", waited))
        time.sleep(POLL)
