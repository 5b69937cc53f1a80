"""Changes that hold only for the version of an object that they were made from."""

from __future__ import annotations

from typing import Any, TypeVar

from lightkube.core.resource import NamespacedResource
from lightkube.models.meta_v1 import DeleteOptions, Preconditions

from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Gone

TRIES = 5  # of a change that is made anew from what is there by then
R = TypeVar("R", bound=NamespacedResource)


def version_of(found: Any) -> tuple[str, str]:
    """Differs between any two states of any two objects."""
    return found.metadata.uid, found.metadata.resourceVersion


def replace(cluster: Cluster, wanted: R) -> R:
    """Raises Conflict where it has changed, Gone where it is no more."""
    found: R = cluster.replace(wanted)
    return found


def remove(cluster: Cluster, found: NamespacedResource) -> None:
    """Raises Conflict where it has changed, Gone where it is no more."""
    kind, (uid, version) = type(found), version_of(found)
    name = found.metadata.name  # type: ignore[attr-defined]
    client = cluster.client._client  # lightkube's own `delete` knows no preconditions
    request = client.prepare_request("delete", kind, name=name)
    request.data = DeleteOptions(
        apiVersion="v1", preconditions=Preconditions(uid=uid, resourceVersion=version)
    )

    def ask() -> None:
        client.handle_response("delete", client.send(client.build_adapter_request(request)), request)

    cluster.call(ask, f"delete {kind.__name__} {name}", again=False)


def is_unsettled(error: ClusterError) -> bool:
    """Whether only another look tells what became of the change: the object is not what it was, or no answer
    came. The change may then have been made: by the request itself, or by an earlier try of it.
    """
    return error.status == 0 or isinstance(error, Conflict | Gone)
