"""What others set in Matcha's objects beside what it renders, told by who owns each field. Pure.

Nobody owns what the API server fills in, nor what admission makes of a write: what somebody asked for counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from matcha.targets.kubernetes.names import MANAGER

_CONTROLLERS = ("kube-", "k3s", "kubelet")
_UNKNOWN = "before-first-apply"  # owner of everything in an object whose owners somebody wiped out
# A claim cannot be changed, a Job neither, and others count a Job's pods (queues).
_LEFT_ALONE = ("PersistentVolumeClaim", "Job")
# What the cluster hands out or derives, whoever made the object.
# A number of replicas that Matcha does not say is the autoscaler's.
_GIVEN = frozenset({"clusterIP", "clusterIPs", "ipFamilies", "serviceAccount", "volumeName", "replicas"})
# Whoever makes an object anew (a backup that is restored) owns what the API server filled in, too.
_USUAL = {
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "restartPolicy": "Always",
    "terminationMessagePath": "/dev/termination-log",
    "imagePullPolicy": "IfNotPresent",
    "successThreshold": 1,
    "timeoutSeconds": 1,
    "defaultMode": 420,
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "ipFamilyPolicy": "SingleStack",
    "apiVersion": "v1",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
}


class Foreign(NamedTuple):
    """`applies`: its owner does so again and again, as GitOps does."""

    path: str
    owner: str
    applies: bool


def foreign(wanted: Mapping[str, Any], live: Mapping[str, Any], kind: str) -> Iterator[Foreign]:
    """Fields of the spec, the outermost of each. Metadata, that of pods included, is everybody's."""
    if kind in _LEFT_ALONE or "spec" not in live:
        return
    for entry in _of_others(live):
        tree = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        for path in _walk(tree, wanted.get("spec") or {}, live["spec"], "spec"):
            yield Foreign(path, str(entry.get("manager")), entry.get("operation") == "Apply")


def adopted(live: Mapping[str, Any], *, insist: bool) -> list[dict[str, Any]]:
    """`managedFields` by which Matcha owns what others set in the spec: its next apply takes that away then.
    Without `insist`, what others apply stays theirs.
    """
    entries = [dict(e) for e in live["metadata"].get("managedFields") or ()]
    others = [e for e in _of_others({"metadata": {"managedFields": entries}}) if insist or _updates(e)]
    own = next((e for e in entries if e.get("manager") == MANAGER and not _updates(e)), None)
    if own is None and others:
        own = {**others[0], "manager": MANAGER, "operation": "Apply", "fieldsV1": {}}
        entries.append(own)
    for entry in others:
        fields = entry["fieldsV1"]
        stays, goes = _split(fields.get("f:spec") or {})
        rest = {k: v for k, v in fields.items() if k != "f:spec"}
        entry["fieldsV1"] = {**rest, "f:spec": stays} if stays else rest
        assert own is not None
        own["fieldsV1"] = _union(own["fieldsV1"], {"f:spec": goes} if goes else {})
    return [e for e in entries if e["fieldsV1"]]


def released(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """`managedFields` by which Matcha owns no number of replicas: its next apply, which says none, leaves the
    number as it is then. None where it owns none.
    """
    found = [dict(e) for e in entries]
    own = next((e for e in found if e.get("manager") == MANAGER and not _updates(e)), None)
    spec = ((own or {}).get("fieldsV1") or {}).get("f:spec") or {}
    if own is None or "f:replicas" not in spec:
        return None
    rest = {k: v for k, v in spec.items() if k != "f:replicas"}
    own["fieldsV1"] = {**own["fieldsV1"], "f:spec": rest}
    return found


def is_other(entry: Mapping[str, Any]) -> bool:
    """Whether its manager is neither Matcha nor one of the cluster's own controllers."""
    who = str(entry.get("manager"))
    return who not in (MANAGER, _UNKNOWN) and not who.startswith(_CONTROLLERS)


def _of_others(live: Mapping[str, Any]) -> list[Any]:
    """What only scales or reports owns no field that Matcha does not render."""
    entries = live["metadata"].get("managedFields") or ()
    return [e for e in entries if is_other(e) and not e.get("subresource")]


def _updates(entry: Mapping[str, Any]) -> bool:
    return entry.get("operation") != "Apply"


def _walk(tree: Mapping[str, Any], wanted: Any, live: Any, path: str) -> Iterator[str]:
    for key, inner in tree.items():
        if key in (".", "f:metadata"):
            continue
        there, asked, name = _part(key, wanted, live)
        if _is_nothing(there):
            continue
        where = f"{path}{name}"
        if asked is None:
            if not _is_usual(name.removeprefix("."), there):
                yield where
        elif inner:
            yield from _walk(inner, asked, there, where)
        elif isinstance(there, Mapping | list) and _bare(there) != _bare(asked):
            yield where  # set as a whole; scalars are compared anyway


def _part(key: str, wanted: Any, live: Any) -> tuple[Any, Any, str]:
    """What `key` of an owner's fields means: the live part, the wanted one, and how a path names it."""
    kind, _, text = key.partition(":")
    if kind == "f":
        return _field(live, text), _field(wanted, text), f".{text}"
    meant = msgspec.json.decode(text)
    if kind == "k":
        return _entry(live, meant), _entry(wanted, meant), f"[{next(iter(meant.values()))}]"
    entries = [each if isinstance(each, list) else [] for each in (live, wanted)]
    there, asked = (meant if meant in each else None for each in entries)
    return there, asked, f"[{meant}]"


def _field(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, Mapping) else None


def _entry(node: Any, keys: Mapping[str, Any]) -> Any:
    entries = node if isinstance(node, list) else ()
    return next((e for e in entries if all(e.get(k) == v for k, v in keys.items())), None)


def _is_nothing(value: Any) -> bool:
    """0 is something: a user id, for instance."""
    return value is None or value is False or value in ("", [], {})


def _is_usual(name: str, value: Any) -> bool:
    return name in _GIVEN or (name in _USUAL and _USUAL[name] == value)


def _bare(value: Any) -> Any:
    """Without what says nothing."""
    if isinstance(value, Mapping):
        return {k: _bare(v) for k, v in value.items() if v is not None}
    return [_bare(v) for v in value] if isinstance(value, list) else value


def _split(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata, and all else."""
    stays: dict[str, Any] = {}
    goes: dict[str, Any] = {}
    for key, inner in tree.items():
        if key == "f:metadata":
            stays[key] = inner
        elif not inner:
            goes[key] = inner
        else:
            kept, taken = _split(inner)
            stays |= {key: kept} if kept else {}
            goes |= {key: taken} if taken else {}
    return stays, goes


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    common = {k: _union(one[k], other[k]) for k in one.keys() & other.keys()}
    return {**one, **other, **common}
