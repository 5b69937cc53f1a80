"""What cannot be seen on the cluster's objects, kept in one ConfigMap: areas made, environments at hand."""

from __future__ import annotations

from collections.abc import Iterable

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from matcha.targets.kubernetes.cluster import Cluster, Conflict
from matcha.targets.kubernetes.names import MANAGER, NOTES, labels

AREA, ENVIRONMENT = "area.", "environment."


def areas(found: ConfigMap | None) -> list[str]:
    return [key.removeprefix(AREA) for key in _data(found) if key.startswith(AREA)]


def environments(found: ConfigMap | None) -> dict[str, str]:
    """Digest by name."""
    data = _data(found)
    return {k.removeprefix(ENVIRONMENT): v for k, v in data.items() if k.startswith(ENVIRONMENT)}


def keep(cluster: Cluster, values: dict[str, str]) -> None:
    """Merged into what is there: steps that run side by side each add their own."""
    try:
        cluster.create(
            ConfigMap(metadata=ObjectMeta(name=NOTES, labels=labels("notes", MANAGER)), data=values)
        )
    except Conflict:
        cluster.patch(ConfigMap, NOTES, {"data": values})


def keep_areas(cluster: Cluster, names: Iterable[str]) -> None:
    keep(cluster, {f"{AREA}{name}": "made" for name in names})


def keep_environment(cluster: Cluster, name: str, digest: str) -> None:
    keep(cluster, {f"{ENVIRONMENT}{name}": digest})


def _data(found: ConfigMap | None) -> dict[str, str]:
    return dict((found.data if found else None) or {})
