"""Volumes whose size or storage class is changed in matcha.yaml, by the rules of a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.core_v1 import HostPathVolumeSource, ObjectReference, PersistentVolumeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import PersistentVolume, PersistentVolumeClaim
from lightkube.resources.storage_v1 import StorageClass

from matcha.targets.kubernetes.cluster import ClusterError
from support.matcha import until
from support.rights import limit_volumes
from support.small_stack import SmallStack
from support.stores import cluster

CLAIM = "back-data"


def size(api_server: Path, stack: SmallStack) -> str:
    claim = cluster(api_server, stack.namespace).client.get(PersistentVolumeClaim, CLAIM)
    assert claim.spec and claim.spec.resources and claim.spec.resources.requests
    return claim.spec.resources.requests["storage"]


@pytest.fixture(params=[True, False], ids=["grows", "stays"])
def bound(request: pytest.FixtureRequest, api_server: Path, stack: SmallStack) -> Iterator[bool]:
    """A stack whose volumes are bound, of a class that can be grown or not."""
    client = cluster(api_server, stack.namespace).client
    kind = f"class-{stack.namespace}"
    claims = (CLAIM, "object-store")
    made = StorageClass(
        metadata=ObjectMeta(name=kind), provisioner="nobody.example.com", allowVolumeExpansion=request.param
    )
    client.create(made)
    for claim in claims:
        spec = PersistentVolumeSpec(
            accessModes=["ReadWriteOnce"],
            capacity={"storage": "100Gi"},
            claimRef=ObjectReference(name=claim, namespace=stack.namespace),
            hostPath=HostPathVolumeSource(path="/nowhere"),
            storageClassName=kind,
        )
        name = f"{stack.namespace}-{claim}"
        client.create(PersistentVolume(metadata=ObjectMeta(name=name), spec=spec))
    stack.options = {"storage_class": kind}
    stack.provision()
    until(lambda: _is_bound(api_server, stack), 60)
    yield request.param
    client.delete(StorageClass, kind)
    for claim in claims:
        client.delete(PersistentVolume, f"{stack.namespace}-{claim}")


def _is_bound(api_server: Path, stack: SmallStack) -> bool:
    claim = cluster(api_server, stack.namespace).client.get(PersistentVolumeClaim, CLAIM)
    return bool(claim.status and claim.status.phase == "Bound")


def test_a_volume_grows_where_its_class_allows_it(api_server: Path, stack: SmallStack, bound: bool) -> None:
    stack.options["volume_size"] = "20Gi"
    [step] = [step for step in stack.plan().steps if step.key == "service/back"]
    assert step.reason == "volume-size changed in matcha.yaml"
    if bound:
        stack.provision()
        assert size(api_server, stack) == "20Gi"
        assert not stack.plan().steps
    else:
        told = refused(stack)
        assert "The volume back-data has 10Gi" in told.message and "20Gi" in told.message
        assert "volume-size: 10Gi" in told.resolution


def test_a_volume_neither_shrinks_nor_changes_its_class(
    api_server: Path, stack: SmallStack, bound: bool
) -> None:
    kept = dict(stack.options)
    stack.options["volume_size"] = "1Gi"
    assert "volume-size: 10Gi" in refused(stack).resolution
    stack.options = {"storage_class": "another"}
    told = refused(stack)
    assert f"storage-class: {kept['storage_class']}" in told.resolution
    assert "immutable" in told.details
    assert size(api_server, stack) == "10Gi"
    stack.options = kept
    stack.provision()
    assert not stack.plan().steps


@pytest.mark.parametrize("bound", [True], indirect=True)
def test_a_size_that_somebody_else_changed_is_told_as_theirs(
    api_server: Path, stack: SmallStack, bound: bool
) -> None:
    theirs = cluster(api_server, stack.namespace).client
    larger = {"spec": {"resources": {"requests": {"storage": "15Gi"}}}}
    theirs.patch(PersistentVolumeClaim, CLAIM, larger, field_manager="kubectl-edit")
    [step] = [step for step in stack.plan().steps if step.key == "service/back"]
    assert step.reason.startswith(f"PersistentVolumeClaim {CLAIM} was changed by kubectl-edit: spec.res")


@pytest.mark.parametrize("bound", [True], indirect=True)
def test_a_limit_range_is_not_taken_for_a_class_that_cannot_grow(
    api_server: Path, stack: SmallStack, bound: bool
) -> None:
    limit_volumes(api_server, stack.namespace, max="20Gi")
    stack.options["volume_size"] = "30Gi"
    told = refused(stack)
    assert told.message.startswith("A limit range of the namespace does not allow to apply Persistent")
    assert told.resolution.startswith("Change targets.kubernetes.volume-size in matcha.yaml")
    assert size(api_server, stack) == "10Gi"
    stack.options["volume_size"] = "20Gi"
    stack.provision()
    assert size(api_server, stack) == "20Gi"


def refused(stack: SmallStack) -> ClusterError:
    with pytest.raises(ClusterError) as told:
        stack.provision()
    return told.value
