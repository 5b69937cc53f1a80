"""The namespace itself: made where there is none; held to Pod Security and removed where Matcha made it."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightkube.resources.core_v1 import Namespace

from matcha.host.findings import Finding, unseen
from matcha.targets.kubernetes import permissions
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Forbidden
from matcha.targets.kubernetes.names import MANAGED_BY, MANAGER, UNENFORCED

ENFORCED = "pod-security.kubernetes.io/enforce"
LEVEL = "restricted"
LOOSE = f"the namespace does not enforce Pod Security {LEVEL} any more"
_SECURITY = "pod-security."
_REFUSED = "refused"  # by a policy of the cluster, to whoever made the namespace
_REFUSALS = (403, 422)  # a right is missing, or a policy of the cluster says no
# What people would miss. Of the other kinds clusters put some into every namespace: certificates, accounts.
_MISSED = ("CronJob", "Job", "Deployment", "StatefulSet", "Pod", "Service", "Secret", "PersistentVolumeClaim")
_FOR_ACCOUNTS = ("kubernetes.io/service-account-token", "kubernetes.io/dockercfg")


def make(cluster: Cluster) -> None:
    """Where there is none; without Pod Security's labels where the user may not set them. Raises Forbidden,
    with what to ask an administrator for.
    """
    from matcha.targets.kubernetes.foundations import namespace  # noqa: PLC0415 - most commands never need it

    wanted = namespace(cluster.namespace)
    try:
        _create(cluster, wanted)
    except ClusterError as error:
        if error.status not in _REFUSALS:
            raise
        assert wanted.metadata and wanted.metadata.labels
        kept = {k: v for k, v in wanted.metadata.labels.items() if not k.startswith(_SECURITY)}
        wanted.metadata.labels = kept
        wanted.metadata.annotations = {UNENFORCED: _REFUSED}
        _make_plain(cluster, wanted, error)


def is_loose(found: Any) -> bool:
    """Whether it is Matcha's and somebody took Pod Security's level away from it."""
    if not is_ours(found) or _labels(found).get(ENFORCED) == LEVEL:
        return False
    return UNENFORCED not in (found.metadata.annotations or {}) and not found.metadata.deletionTimestamp


def may_enforce(cluster: Cluster) -> bool:
    return permissions.may(cluster, "", "namespaces", "patch")


def is_to_enforce(cluster: Cluster) -> bool:
    """Whether it is loose, and the user may change that. One call where it is not."""
    return is_loose(seen(cluster)) and may_enforce(cluster)


def enforce(cluster: Cluster) -> str:
    """Have it enforce the level again; why it does not, where the cluster refuses that: it is not tried again
    then.
    """
    from matcha.targets.kubernetes.foundations import namespace  # noqa: PLC0415 - most commands never need it

    wanted = namespace(cluster.namespace)
    assert wanted.metadata and wanted.metadata.labels
    kind: Any = Namespace
    level = {k: v for k, v in wanted.metadata.labels.items() if k.startswith(_SECURITY)}
    try:
        cluster.patch(kind, cluster.namespace, {"metadata": {"labels": level}})
    except ClusterError as error:
        if error.status not in _REFUSALS:
            raise
        with contextlib.suppress(Forbidden):
            note = {"metadata": {"annotations": {UNENFORCED: _REFUSED}}}
            cluster.patch(kind, cluster.namespace, note)
        return f"{error.message} {error.details}".strip()
    return ""


def _make_plain(cluster: Cluster, wanted: Namespace, before: ClusterError) -> None:
    try:
        _create(cluster, wanted)
    except Forbidden as error:
        raise Forbidden(
            f'There is no namespace "{cluster.namespace}", and you may not make it.',
            status=error.status,
            details=before.details,
            resolution=f"Ask an administrator for: kubectl create namespace {cluster.namespace}",
        ) from error


def _create(cluster: Cluster, wanted: Namespace) -> None:
    with contextlib.suppress(Conflict):
        cluster.create(wanted, again=True)


def held_by(namespace: Namespace) -> list[str]:
    """What keeps one that is being removed, in the cluster's words."""
    conditions = (namespace.status.conditions if namespace.status else None) or ()
    return [c.message for c in conditions if c.status == "True" and c.message]


def look(cluster: Cluster) -> Any:
    """None where there is none. Raises Forbidden where the user may not see it."""
    return cluster.get_global(Namespace, cluster.namespace)


def seen(cluster: Cluster) -> Any:
    """As `look`; None also where the user may not see it."""
    with contextlib.suppress(Forbidden):
        return look(cluster)
    return None


def is_gone(cluster: Cluster) -> bool:
    """Whether there is none, for sure."""
    with contextlib.suppress(ClusterError):
        return look(cluster) is None
    return False


def is_ours(found: Any) -> bool:
    return found is not None and _labels(found).get(MANAGED_BY) == MANAGER


def _labels(found: Any) -> Mapping[str, str]:
    return found.metadata.labels or {}


def security_note(cluster: Cluster) -> str:
    """For a plan: what the namespace does not enforce, or whether that could not be checked."""
    name = cluster.namespace
    try:
        found = look(cluster)
    except Forbidden:
        return (
            f"You may not see the namespace {name} itself: whether it enforces Pod Security was not checked."
        )
    return "" if found is None else _looseness(name, found)


def _looseness(name: str, found: Any) -> str:
    """What the namespace does not enforce, and how it would."""
    if _labels(found).get(ENFORCED) == LEVEL:
        return ""
    return (
        f"The namespace {name} does not enforce Pod Security {LEVEL}; Matcha's own pods keep to it anyway. "
        f"An administrator can: {_labelling(name)}"
    )


def _labelling(name: str) -> str:
    """The command."""
    return f"kubectl label namespace {name} --overwrite {ENFORCED}={LEVEL}"


def findings(cluster: Cluster) -> Iterator[Finding]:
    """What a doctor says of it."""
    name = cluster.namespace
    check = "namespace"
    try:
        there = look(cluster)
    except Forbidden:
        yield unseen(check, f"Whether {name} is there cannot be seen; it is used.")
        return
    if there and there.metadata.deletionTimestamp:
        held = " ".join(held_by(there))
        yield Finding(
            check=check,
            ok=False,
            message=f"The namespace {name} is being removed: nothing can be made in it. {held}".strip(),
            fix=f"kubectl wait --for=delete namespace/{name} --timeout=5m, then: matcha provision",
        )
    elif is_loose(there):
        yield Finding(
            check=check,
            ok=False,
            message=f"The namespace {name}, which Matcha made, enforces Pod Security {LEVEL} no more.",
            fix="matcha provision"
            if may_enforce(cluster)
            else f"Ask an administrator for: {_labelling(name)}",
        )
    elif there:
        said = f"The namespace {name} is there. {_looseness(name, there)}"
        yield Finding(check=check, ok=True, message=said.strip())
    elif permissions.may(cluster, "", "namespaces", "create", everywhere=True):
        yield Finding(check=check, ok=True, message=f"The namespace {name} is made by provision.")
    else:
        yield Finding(
            check=check,
            ok=False,
            message=f"There is no namespace {name}, and you may not make it.",
            fix=f"Ask an administrator for: kubectl create namespace {name}",
        )


def takeover_notes(name: str, going: Sequence[str], volumes: Sequence[str]) -> Iterator[str]:
    """For a plan: that services go, and that volumes are used which were there without a record.

    The stack of another project cannot be told from this one's former self.
    """
    if going:
        yield (
            f"A namespace holds one stack. What {name} has of it and matcha.yaml does not name is removed. "
            "Where that is another project's, do not go on: set targets.kubernetes.namespace to another one "
            "in matcha.yaml."
        )
    if volumes:
        yield (
            f"Data of an earlier stack is here and is used again: {', '.join(volumes)}. "
            "To begin without it: matcha destroy --delete-data"
        )


def removal_note(cluster: Cluster, others: Iterable[str]) -> str:
    """For a destroy: why the namespace stays although Matcha made it, or whether that is not known."""
    name = cluster.namespace
    try:
        found = look(cluster)
    except Forbidden:
        return f"You may not see the namespace {name} itself: it stays, whoever made it."
    if not is_ours(found):
        return ""
    if shown := list(others):
        return f"The namespace {name} stays: it holds what has not Matcha's label: {', '.join(shown)}."
    if not permissions.may(cluster, "", "namespaces", "delete", everywhere=True):
        return (
            f"The namespace {name} stays: you may not delete it. "
            f"An administrator can: kubectl delete namespace {name}"
        )
    return ""


def strangers(objects: Iterable[Any]) -> list[str]:
    """Those that neither Matcha nor the cluster itself made, and that would be lost with the namespace.

    What belongs to another of them goes without saying. What belongs to something of another kind, such as an
    operator's database, is the only sign of it here.
    """
    found = list(objects)
    listed = {o.metadata.uid for o in found}
    return [
        f"{type(o).__name__} {o.metadata.name}"
        for o in found
        if _labels(o).get(MANAGED_BY) != MANAGER
        and getattr(o, "type", "") not in _FOR_ACCOUNTS
        and _is_first(o, listed)
    ]


def _is_first(obj: Any, listed: Container[str]) -> bool:
    """Of those that belong to each other, among these."""
    owners = obj.metadata.ownerReferences
    if owners:
        return type(obj).__name__ in (*_MISSED, "ReplicaSet") and not any(o.uid in listed for o in owners)
    return type(obj).__name__ in _MISSED
