"""What is being deleted: volumes, each of which Kubernetes lets go with all its data as soon as its pods end,
and the whole namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

from matcha.errors import MatchaError
from matcha.host.findings import Finding
from matcha.targets.kubernetes import space
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.names import NAME, selector

REMEDY = 'Copy its data now: docs/kubernetes.md, "A volume that is being deleted"'
_OVER = ("Succeeded", "Failed")


def going(claims: Iterable[PersistentVolumeClaim]) -> list[PersistentVolumeClaim]:
    """Those that somebody deleted; nothing takes that back."""
    return [claim for claim in claims if claim.metadata and claim.metadata.deletionTimestamp]


def told(claim: PersistentVolumeClaim) -> str:
    return (
        f"PersistentVolumeClaim {_name(claim)} is being deleted: all its data goes as soon as its pod ends."
    )


def of(claims: Iterable[PersistentVolumeClaim], service: str) -> PersistentVolumeClaim | None:
    """The one of this service or foundation that is being deleted."""
    return next((claim for claim in going(claims) if _owner(claim) == service), None)


def notes(claims: Iterable[PersistentVolumeClaim]) -> tuple[str, ...]:
    return tuple(f"{told(claim)} {REMEDY}." for claim in going(claims))


def findings(cluster: Cluster) -> Iterator[Finding]:
    for claim in going(cluster.found(PersistentVolumeClaim)):
        yield Finding(check="volumes", ok=False, message=told(claim), fix=REMEDY)


def refuse(cluster: Cluster, services: Sequence[str] | None = None) -> None:
    """Raises MatchaError where ending the pods of these services, or of all, ends data with them. What no pod
    holds any more is not saved by waiting.
    """
    for claim in going(cluster.found(PersistentVolumeClaim)):
        owner = _owner(claim)
        if (services is None or owner in services) and lives(cluster, owner):
            raise MatchaError(
                told(claim), details=f"The pods of {owner} were left as they are.", resolution=f"{REMEDY}."
            )


def namespace(cluster: Cluster, objects: Iterable[Any]) -> str:
    """That it is on its way out, and what holds it; empty otherwise. `objects`: those of the stack in it,
    which then go, too.
    """
    there = list(objects)
    if there and not any(each.metadata.deletionTimestamp for each in there):
        return ""
    found = space.seen(cluster)
    if found is None or not found.metadata.deletionTimestamp:
        return ""
    held = " ".join(space.held_by(found))
    return f"The namespace {cluster.namespace} is being removed, and the stack with it. {held}".strip()


def lives(cluster: Cluster, service: str) -> bool:
    """Whether a pod of it is there and not ending."""
    pods = cluster.found(Pod, selector(service))
    return any(
        pod.metadata.deletionTimestamp is None and (pod.status is None or pod.status.phase not in _OVER)
        for pod in pods
    )


def _name(claim: PersistentVolumeClaim) -> str:
    return str(claim.metadata.name if claim.metadata else "")


def _owner(claim: PersistentVolumeClaim) -> str:
    return str(((claim.metadata and claim.metadata.labels) or {}).get(NAME, ""))
