"""The proof that nothing of Matcha's is left: every kind that a namespace can hold is listed by label."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.names import KEEPS, MANAGED_BY, MANAGER
from matcha.targets.kubernetes.removal import RECORD

# What says something of objects and is none itself: it outlives them, or is gone by itself.
_ABOUT_OTHERS = frozenset({"events.k8s.io", "metrics.k8s.io", "custom.metrics.k8s.io"})
DERIVED_SECONDS = 30.0  # until the cluster's own controllers have taken away what they made for what is gone
POLL = 1.0


class Kind(NamedTuple):
    name: str
    address: str


def remaining(cluster: Cluster, delete_data: bool) -> list[str]:
    """Lines for a person. What follows from other objects is given time to go; kinds that the user may not
    list are left out.
    """
    listable = kinds(cluster)
    deadline = time.monotonic() + DERIVED_SECONDS
    while (found := _left(cluster, listable, delete_data)) and time.monotonic() < deadline:
        time.sleep(POLL)
    return found


def kinds(cluster: Cluster) -> list[Kind]:
    """Those of a namespace that can be listed, by the API's own word, each in the version it prefers. A part
    of the API that does not answer is left out.
    """
    groups = (cluster.raw("/apis") or {}).get("groups") or ()
    named = [g["preferredVersion"]["groupVersion"] for g in groups if g["name"] not in _ABOUT_OTHERS]
    addresses = ["/api/v1", *(f"/apis/{each}" for each in named)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(cluster.raw, addresses))
    return [
        Kind(each["kind"], f"{address}/namespaces/{cluster.namespace}/{each['name']}")
        for address, answer in zip(addresses, answers, strict=True)
        for each in (answer or {}).get("resources") or ()
        if each["namespaced"] and "list" in each["verbs"] and each["kind"] != "Event"
    ]


def _left(cluster: Cluster, listable: list[Kind], delete_data: bool) -> list[str]:
    def of(kind: Kind) -> list[str]:
        try:
            found = cluster.metadata(kind.address, f"{MANAGED_BY}={MANAGER}")
        except ClusterError:
            return []
        return [f"{kind.name} {each['name']}" for each in _counting(kind, found, delete_data)]

    with ThreadPoolExecutor(8) as pool:
        return [line for lines in pool.map(of, listable) for line in lines]


def _counting(kind: Kind, found: list[dict[str, Any]], delete_data: bool) -> Iterator[dict[str, Any]]:
    for each in found:
        is_kept = not delete_data and (each.get("labels") or {}).get(KEEPS) == "true"
        if not is_kept and (kind.name, each["name"]) not in RECORD:
            yield each
