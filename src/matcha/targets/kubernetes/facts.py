"""What cannot be seen on the cluster's objects, kept in one ConfigMap: areas and databases made, environments
at hand, a bucket that works.

Each holds for one volume, by the uid of its claim: what was made in a volume that is gone is gone, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, PersistentVolumeClaim

from matcha.targets.kubernetes.cluster import Cluster, Conflict
from matcha.targets.kubernetes.names import MANAGER, NOTES, labels, put_instance
from matcha.targets.kubernetes.setting import Storage

AREA, ENVIRONMENT = "area.", "environment."
DATABASES, BUCKET = "databases", "bucket"  # what a Job brought about
MACHINES = "machines."
MADE = "made"


def areas(found: ConfigMap | None, where: str) -> list[str]:
    """`where`, here and below: the volume that they have to be in, as `place` names it."""
    return list(_of(found, AREA, where))


def environments(found: ConfigMap | None, where: str) -> dict[str, str]:
    """Digest by name."""
    return _of(found, ENVIRONMENT, where)


def brought(found: ConfigMap | None, what: str, where: str) -> tuple[str, str]:
    """The digest of what brought it about and the mark of its secrets; empty where nothing did."""
    digest, _, mark = _of(found, what, where).get("", "").partition(".")
    return digest, mark


def place(claim: PersistentVolumeClaim | None) -> str:
    """The volume; empty where there is none."""
    return str(claim.metadata.uid) if claim and claim.metadata else ""


def stored(claim: PersistentVolumeClaim | None, storage: Storage) -> str:
    """`claim`: of Matcha's own store, which is there also where another bucket is used in its place."""
    return (place(claim) if storage.own else "") or storage.url


def machines(found: ConfigMap | None) -> dict[str, frozenset[str]]:
    """The kinds of node an environment was built on, by its name; none where nodes may not be listed."""
    data = _data(found)
    kept = {k.removeprefix(MACHINES): v for k, v in data.items() if k.startswith(MACHINES)}
    return {name: frozenset(filter(None, kinds.split(","))) for name, kinds in kept.items()}


def keep(cluster: Cluster, values: dict[str, str]) -> None:
    """Merged into what is there: steps that run side by side each add their own."""
    try:
        made = ConfigMap(metadata=ObjectMeta(name=NOTES, labels=labels("notes", MANAGER)), data=values)
        cluster.create(*put_instance([made], cluster.namespace), again=True)
    except Conflict:
        cluster.patch(ConfigMap, NOTES, {"data": values})


def keep_areas(cluster: Cluster, names: Iterable[str], where: str) -> None:
    keep(cluster, {f"{AREA}{name}": f"{MADE} {where}" for name in names})


def keep_environment(
    cluster: Cluster, name: str, digest: str, where: str, built_on: Iterable[str] = ()
) -> None:
    made = {f"{ENVIRONMENT}{name}": f"{digest} {where}"}
    keep(cluster, made | {f"{MACHINES}{name}": ",".join(sorted(built_on))})


def keep_brought(cluster: Cluster, what: str, digest: str, mark: str, where: str) -> None:
    keep(cluster, {what: f"{digest}.{mark} {where}"})


def _of(found: ConfigMap | None, prefix: str, where: str) -> dict[str, str]:
    kept = {k.removeprefix(prefix): v.partition(" ") for k, v in _data(found).items() if k.startswith(prefix)}
    return {name: value for name, (value, _, there) in kept.items() if there == where}


def _data(found: ConfigMap | None) -> dict[str, str]:
    return dict((found.data if found else None) or {})
