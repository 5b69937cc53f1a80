"""Jobs give way: a server that needs a node's room gets it from a job, which then starts again elsewhere.

A PriorityClass is in no namespace, so not everybody may make one; jobs of who may not wait like everything
else, and servers with them.
"""

from __future__ import annotations

import contextlib

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.scheduling_v1 import PriorityClass

from matcha.targets.kubernetes.cluster import Cluster, Conflict, Forbidden
from matcha.targets.kubernetes.names import INSTANCE, JOB, MANAGER, MINE, labels

BELOW = -100  # of 0, which pods have that name none


def name(namespace: str) -> str:
    return f"matcha-jobs-{namespace}"


def wanted(namespace: str) -> PriorityClass:
    marks = {**labels(JOB, MANAGER), INSTANCE: namespace}
    return PriorityClass(
        metadata=ObjectMeta(name=name(namespace), labels=marks),
        value=BELOW,
        preemptionPolicy="Never",
        globalDefault=False,
        description="Training jobs of a stack of Matcha's: they take room from nobody, and give theirs.",
    )


def ensure(cluster: Cluster) -> str:
    """Its name; empty where this user may not make it, or somebody else's has it."""
    found = _found(cluster)
    if found is not None:
        return name(cluster.namespace) if _is_mine(found) else ""
    try:
        cluster.create(wanted(cluster.namespace))
    except Conflict:
        return name(cluster.namespace)  # another run was faster
    except Forbidden:
        return ""
    return name(cluster.namespace)


def remove(cluster: Cluster) -> None:
    """Where it is this stack's; for whoever may not, `left` says that it stays."""
    if left(cluster):
        with contextlib.suppress(Forbidden):
            cluster.delete(PriorityClass, name(cluster.namespace))


def left(cluster: Cluster) -> list[str]:
    found = _found(cluster)
    return [f"PriorityClass {name(cluster.namespace)}"] if found is not None and _is_mine(found) else []


def _found(cluster: Cluster) -> PriorityClass | None:
    """None also for whoever may not look: then nobody of this stack who could made one."""
    with contextlib.suppress(Forbidden):
        found: PriorityClass | None = cluster.get_global(PriorityClass, name(cluster.namespace))
        return found
    return None


def _is_mine(found: PriorityClass) -> bool:
    return ((found.metadata.labels if found.metadata else None) or {}).items() >= MINE.items()
