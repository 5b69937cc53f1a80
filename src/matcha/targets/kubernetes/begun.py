"""What a first provision leaves that was killed before it recorded anything: its lock, an empty record, and
the namespace, where it made that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap

from matcha.targets.kubernetes import ownership, permissions, removal, space
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.names import LOCK, STATE


def left(cluster: Cluster) -> list[str]:
    """Lines for a person, of what giving back the lock of a stack without a record takes away. None where the
    namespace is on its way out.
    """
    namespace = space.seen(cluster)
    if namespace is not None and namespace.metadata.deletionTimestamp:
        return []
    return [*_records(cluster), *([f"Namespace {cluster.namespace}"] if _goes(cluster, namespace) else [])]


def _records(cluster: Cluster) -> Iterator[str]:
    kinds: tuple[tuple[type[ConfigMap | Lease], str], ...] = ((ConfigMap, STATE), (Lease, LOCK))
    for kind, name in kinds:
        with contextlib.suppress(Forbidden):
            found = cluster.get(kind, name)
            if found is not None and found.metadata and ownership.is_mine(found.metadata.to_dict()):
                yield f"{kind.__name__} {name}"


def _goes(cluster: Cluster, namespace: object) -> bool:
    """As `removal.tidy` judges it."""
    return (
        space.is_ours(namespace)
        and removal.is_empty(cluster)
        and permissions.may(cluster, "", "namespaces", "delete", everywhere=True)
    )
