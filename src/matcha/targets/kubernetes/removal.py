"""Taking a stack out of its namespace, and the proof that it is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from lightkube.resources.apps_v1 import Deployment, ReplicaSet, StatefulSet
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
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from matcha.errors import MatchaError
from matcha.events import Emit, Event
from matcha.targets.kubernetes import desired
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.names import CODE, KEEPS, LOCK, MANAGED_BY, MANAGER, MINE, NAME, STATE
from matcha.targets.kubernetes.setting import Setting

# In the order in which they go: what starts pods first, what pods stand on last.
ORDER: tuple[type[Any], ...] = (
    CronJob,
    Job,
    Deployment,
    StatefulSet,
    ReplicaSet,
    Pod,
    PodDisruptionBudget,
    ServiceObject,
    NetworkPolicy,
    RoleBinding,
    Role,
    ServiceAccount,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    Lease,
)
RECORD = frozenset({("ConfigMap", STATE), ("Lease", LOCK)})  # goes last, by the store
GONE_SECONDS = 180.0
POLL = 1.0


def listed(cluster: Cluster, kinds: Iterable[type[Any]] = ORDER) -> list[Any]:
    """Everything of Matcha's in the namespace. Kinds that the user may not list are left out."""
    found: list[Any] = []
    for kind in kinds:
        try:
            found += cluster.found(kind)
        except Forbidden:
            continue
    return found


def remove_service(cluster: Cluster, name: str) -> None:
    """All objects of one service but its volumes."""
    for kind in ORDER:
        if kind is not PersistentVolumeClaim:
            for obj in cluster.found(kind, {**MINE, NAME: name}):
                cluster.delete(kind, obj.metadata.name)


def prune(cluster: Cluster, setting: Setting, fence: Callable[[], None]) -> None:
    """Code of earlier versions, and policies of what is gone."""
    wanted = {desired.ref(obj) for objects in desired.steps(setting).values() for obj in objects}
    code = cluster.found(ConfigMap, {**MINE, NAME: CODE})
    for obj in [*code, *cluster.found(NetworkPolicy)]:
        if desired.ref(obj) not in wanted:
            fence()
            cluster.delete(type(obj), obj.metadata.name)


def scale_down(cluster: Cluster, emit: Emit) -> None:
    """No pod runs afterwards; all data stays."""
    for cron in cluster.found(CronJob):
        cluster.patch(CronJob, cron.metadata.name, {"spec": {"suspend": True}})
    for kind in (Deployment, StatefulSet):
        for obj in cluster.found(kind):
            cluster.patch(kind, obj.metadata.name, {"spec": {"replicas": 0}})
    _until(
        lambda: [
            p.metadata.name for p in cluster.found(Pod) if p.status.phase not in ("Succeeded", "Failed")
        ],
        "to end",
        emit,
    )


def belongings(cluster: Cluster, delete_data: bool) -> list[str]:
    found = [o for o in listed(cluster) if not isinstance(o, (Pod, ReplicaSet))]
    going = [o for o in found if delete_data or not _keeps(o)]
    return [f"{type(o).__name__} {o.metadata.name}" for o in going if desired.ref(o) not in RECORD]


def kept(cluster: Cluster) -> list[str]:
    return [f"{type(o).__name__} {o.metadata.name}" for o in listed(cluster) if _keeps(o)]


def _keeps(obj: Any) -> bool:
    return (obj.metadata.labels or {}).get(KEEPS) == "true"


def destroy(cluster: Cluster, delete_data: bool, emit: Emit, fence: Callable[[], None]) -> None:
    """Everything but the record; volumes and what opens them only with `delete_data`."""
    for kind in ORDER:
        for obj in listed(cluster, (kind,)):
            if desired.ref(obj) in RECORD or (_keeps(obj) and not delete_data):
                continue
            emit(Event("stack", "progress", f"removing {kind.__name__} {obj.metadata.name}"))
            fence()
            cluster.delete(kind, obj.metadata.name)
    _until(lambda: leftovers(cluster, delete_data), "to go", emit)


def tidy(cluster: Cluster) -> None:
    """The namespace goes where Matcha made it and nothing of Matcha's is in it."""
    if not _is_ours(_namespace(cluster)) or listed(cluster):
        return
    with contextlib.suppress(Forbidden):
        cluster.delete(Namespace, cluster.namespace)


def namespace_left(cluster: Cluster) -> list[str]:
    """An empty namespace of Matcha's that stays although it was removed, and what holds it."""
    deadline = time.monotonic() + GONE_SECONDS
    while _is_ours(found := _namespace(cluster)) and not listed(cluster) and found.metadata.deletionTimestamp:
        if time.monotonic() > deadline:
            conditions = (found.status.conditions if found.status else None) or ()
            held = [c.message for c in conditions if c.status == "True" and c.message]
            return [f"Namespace {cluster.namespace}: {'; '.join(held) or 'it does not go away'}"]
        time.sleep(POLL)
    return []


def _namespace(cluster: Cluster) -> Any:
    """None also where the user may not see namespaces."""
    with contextlib.suppress(Forbidden):
        return cluster.get_global(Namespace, cluster.namespace)
    return None


def _is_ours(found: Any) -> bool:
    return found is not None and (found.metadata.labels or {}).get(MANAGED_BY) == MANAGER


def leftovers(cluster: Cluster, delete_data: bool) -> list[str]:
    """What is still there although it should be gone, and what holds it."""
    found = [o for o in listed(cluster) if delete_data or not _keeps(o)]
    return [_described(o) for o in found if desired.ref(o) not in RECORD]


def _described(obj: Any) -> str:
    held = obj.metadata.finalizers or ()
    waiting = f" (waits for {', '.join(held)})" if held and obj.metadata.deletionTimestamp else ""
    return f"{type(obj).__name__} {obj.metadata.name}{waiting}"


def _until(left: Callable[[], list[str]], what: str, emit: Emit) -> None:
    began = time.monotonic()
    while names := left():
        waited = time.monotonic() - began
        if waited > GONE_SECONDS:
            raise MatchaError(
                f"Not everything did what it was told: waited {GONE_SECONDS:.0f} s for it {what}.",
                details="\n".join(names),
                resolution="matcha destroy",
            )
        emit(Event("stack", "progress", f"waiting for {names[0]} {what} ({waited:.0f} s)", waited))
        time.sleep(POLL)
