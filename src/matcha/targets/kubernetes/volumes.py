"""What cannot be changed about a volume, in the words of matcha.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightkube.resources.core_v1 import PersistentVolume, PersistentVolumeClaim, Secret

from matcha.errors import MatchaError
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.foundations import ROOT_PASSWORD
from matcha.targets.kubernetes.names import DATABASE, MANAGER, SECRETS, STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.refusals import ClusterError, Forbidden
from matcha.targets.kubernetes.secrets import values

SIZES = {STORE: "storage-size", DATABASE: "database-size"}
VOLUMES_SIZE = "volume-size"  # the option for all others
_SIZE = "spec.resources.requests.storage"
_BOUND = re.compile(r"usage per PersistentVolumeClaim|exceeded quota")
_TOO_MUCH = re.compile(r"usage per PersistentVolumeClaim|exceeded quota: .*requests\.storage")
_REFUSALS = (403, 422)  # its storage class cannot grow volumes; no volume shrinks, or changes its class


def unmade(claim: PersistentVolumeClaim, error: ClusterError) -> ClusterError:
    """`error`, with the option that asks for as much as the namespace does not allow one claim, or all."""
    if _TOO_MUCH.search(error.details):
        option = SIZES.get(str(claim.metadata and claim.metadata.name), VOLUMES_SIZE)
        error.resolution = (
            f"Change targets.kubernetes.{option} in matcha.yaml to what is allowed, "
            "or ask an administrator for more. Then: matcha provision"
        )
    return error


def unchanged(
    wanted: PersistentVolumeClaim, there: PersistentVolumeClaim, error: ClusterError
) -> ClusterError:
    """`error` itself where it is about something else, such as a quota or a limit range."""
    asked, has = _told(wanted), _told(there)
    if error.status not in _REFUSALS or asked == has:
        return error
    if _BOUND.search(error.details):
        return unmade(wanted, error)
    assert there.metadata and there.metadata.name
    name = there.metadata.name
    size, kind = has
    kept = f"{SIZES.get(name, VOLUMES_SIZE)}: {size}" if asked[0] != size else f"storage-class: {kind}"
    return ClusterError(
        f"The volume {name} has {size} of class {kind}, and the cluster does not make that "
        f"{asked[0]} of class {asked[1] or 'default'}.",
        status=error.status,
        details=error.details,
        resolution=f"Put targets.kubernetes.{kept} back into matcha.yaml, then: matcha provision. "
        "Volumes grow where their storage class allows it, and never shrink.",
    )


def _told(claim: PersistentVolumeClaim) -> tuple[str, str]:
    """Size and storage class; an empty class is the cluster's default."""
    spec = claim.spec
    requests = (spec.resources.requests if spec and spec.resources else None) or {}
    return str(requests.get("storage", "")), (spec.storageClassName if spec else None) or ""


def option(claim: Mapping[str, Any], path: str) -> str:
    """The option that has another value now, where what stands at `path` is what Matcha applied last: whoever
    changes a field takes it over. Empty otherwise.
    """
    metadata = claim["metadata"]
    options = {_SIZE: SIZES.get(metadata["name"], VOLUMES_SIZE), "spec.storageClassName": "storage-class"}
    if path not in options:
        return ""
    fields = [
        entry.get("fieldsV1") for entry in metadata.get("managedFields") or () if entry["manager"] == MANAGER
    ]
    return options[path] if any(_has(each, path.split(".")) for each in fields) else ""


def _has(fields: Any, path: Sequence[str]) -> bool:
    for name in path:
        fields = (fields or {}).get(f"f:{name}")
    return fields is not None


def staying(cluster: Cluster, options: KubernetesOptions) -> list[str]:
    """What keeps the stack's data although every object of it goes. Ask while the claims are still there."""
    found = _outliving(cluster)
    if options.storage:
        found.append(f"Objects of the stack stay in {options.storage.partition('?')[0]}: they are yours.")
    if options.database:
        found.append(f"Tables of the stack stay on {options.database.partition('?')[0]}: they are yours.")
    return [said for said in found if said]


def _outliving(cluster: Cluster) -> list[str]:
    try:
        return [_retained(cluster, claim) for claim in cluster.found(PersistentVolumeClaim)]
    except Forbidden:
        return ["You may not see PersistentVolumes: whether any keeps data of the stack was not checked."]


def _retained(cluster: Cluster, claim: PersistentVolumeClaim) -> str:
    """Of a volume whose class has it outlive its claim; empty where it goes. Raises Forbidden."""
    name = (claim.spec.volumeName if claim.spec else None) or ""
    volume = cluster.get_global(PersistentVolume, name) if name else None
    if volume is None or volume.spec.persistentVolumeReclaimPolicy != "Retain":
        return ""
    assert claim.metadata
    return (
        f"PersistentVolume {name} keeps the data of {claim.metadata.name}: its class retains volumes. "
        f"An administrator deletes it, and what it is made of: kubectl delete persistentvolume {name}"
    )


def refuse_lost_key(cluster: Cluster) -> None:
    """Raises what `lost_key` tells."""
    claim = cluster.get(PersistentVolumeClaim, DATABASE)
    if claim is not None and (lost := lost_key(claim, values(cluster.get(Secret, SECRETS)))):
        raise lost


def lost_key(claim: PersistentVolumeClaim | None, own: Mapping[str, str]) -> MatchaError | None:
    """Where the database's volume is there, and the password that opens it is not among the stack's `own`."""
    if claim is None or claim.metadata is None or ROOT_PASSWORD in own:
        return None
    return MatchaError(
        "The passwords that open the stack's database are gone; its volume is still there.",
        details=f"They stood in the Secret {SECRETS} of the namespace {claim.metadata.namespace}. "
        "Pods that run have them still; none starts without.",
        resolution=f"Put the Secret {SECRETS} back, or start anew: matcha destroy --delete-data",
    )
