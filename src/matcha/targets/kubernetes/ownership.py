"""Whose an object is: what is not Matcha's is neither written over nor removed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from matcha.targets.kubernetes import desired
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Forbidden, Gone
from matcha.targets.kubernetes.names import MANAGED_BY, MANAGER

_OTHERS = f"{MANAGED_BY}!={MANAGER}"


def is_mine(metadata: Mapping[str, Any]) -> bool:
    """By its label; where somebody took that off, by who wrote it."""
    labels, writers = metadata.get("labels") or {}, metadata.get("managedFields") or ()
    return labels.get(MANAGED_BY) == MANAGER or any(each.get("manager") == MANAGER for each in writers)


def unlabelled(cluster: Cluster, kinds: Sequence[type[Any]], but: Container[desired.Ref]) -> list[str]:
    """What bears Matcha's label no more, as lines for a person. Whoever took it off may want to keep it: it
    is left. Kinds that the user may not list are left out.
    """

    def of(kind: type[Any]) -> list[str]:
        try:
            found = cluster.metadata(cluster.address(kind), _OTHERS)
        except ClusterError:
            return []
        names = [each["name"] for each in found if is_mine(each) and not each.get("ownerReferences")]
        return [f"{kind.__name__}/{name}" for name in names if (kind.__name__, name) not in but]

    with ThreadPoolExecutor(8) as pool:
        found = [line for lines in pool.map(of, kinds) for line in lines]
    if not found:
        return []
    return [
        f"Left, for Matcha made it but its label {MANAGED_BY} is off: {', '.join(found)}. "
        f"Where it may go, data included: kubectl delete -n {cluster.namespace} {' '.join(found).lower()}"
    ]


def refuse_foreign(cluster: Cluster, objects: Iterable[Any]) -> None:
    """Raises Conflict where one of these is there and somebody else's. Asks for each."""
    asked = list(desired.unique(list(objects)))
    with ThreadPoolExecutor(8) as pool:
        there = pool.map(lambda obj: cluster.get(type(obj), obj.metadata.name), asked)
    for found in there:
        refuse(cluster, found)


def refuse(cluster: Cluster, found: Any) -> None:
    """Raises Conflict where it is somebody else's; None is nobody's."""
    if found is not None and not is_mine(metadata := found.metadata.to_dict()):
        raise refusal(type(found), metadata, cluster.namespace)


def refuse_planned(cluster: Cluster, objects: Iterable[Any]) -> None:
    """As `refuse_foreign`, for many at once, of kinds that the user may list. Applying asks again."""
    told, _ = refusals(cluster, objects)
    for error in told:
        raise error


def refusals(cluster: Cluster, objects: Iterable[Any]) -> tuple[list[Conflict], list[str]]:
    """One for each of these that is there and somebody else's, and the kinds that the user may not list. One
    list call a kind, of what has not Matcha's label.
    """
    names: dict[type[Any], set[str]] = {}
    for obj in objects:
        names.setdefault(type(obj), set()).add(obj.metadata.name)

    def others(kind: type[Any]) -> list[dict[str, Any]] | None:
        try:
            return cluster.metadata(cluster.address(kind), _OTHERS)
        except Forbidden:
            return None
        except Gone:  # a kind that the cluster has not, which `exposed.checking` tells
            return []

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(names, pool.map(others, names), strict=True))
    told = [
        refusal(kind, metadata, cluster.namespace)
        for kind, there in found.items()
        for metadata in there or ()
        if metadata["name"] in names[kind] and not is_mine(metadata)
    ]
    return told, [kind.__name__ for kind, there in found.items() if there is None]


def refusal(kind: type[Any], metadata: Mapping[str, Any], namespace: str) -> Conflict:
    name = metadata["name"]
    label = (metadata.get("labels") or {}).get(MANAGED_BY)
    writers = {str(each.get("manager")) for each in metadata.get("managedFields") or ()}
    by = ", ".join([label] if label else sorted(writers))
    told = Conflict(
        f"{kind.__name__} {name} exists in the namespace {namespace} and is not Matcha's.",
        details=f"It was made by {by}. Nothing of it was changed." if by else "Nothing of it was changed.",
    )
    told.resolution = (
        "Choose another namespace in matcha.yaml (targets.kubernetes.namespace), "
        f"or remove {kind.__name__} {name}. Then: matcha plan"
    )
    return told
