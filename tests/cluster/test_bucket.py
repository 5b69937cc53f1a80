"""A bucket that is not Matcha's is tried from within the cluster before anything is put there."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightkube import Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from matcha.errors import ComponentFailed
from matcha.targets.kubernetes import rotation
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, failing
from support.small_stack import SmallStack, usual, with_env
from support.stores import cluster

STEP = "foundation/bucket-check"
NO_BUCKET = "The object store at https://s3.example.org refused GET s3://company/: it has no such bucket."


@pytest.fixture
def client(api_server: Path, namespace: str) -> Client:
    return cluster(api_server, namespace).client


@pytest.fixture
def based(stack: SmallStack, client: Client) -> SmallStack:
    """With images only, on a bucket of somebody else's; not provisioned."""
    stack.options |= {"storage": "s3://company/ml?endpoint=https://s3.example.org", "storage_secret": "keys"}
    keys = {"access-key": "a", "secret-key": "hunter2"}
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=keys))
    return stack


def steps(stack: SmallStack) -> dict[str, str]:
    return {step.key: step.reason for step in stack.plan().steps}


def tried(client: Client) -> set[str]:
    """Each try by its uid."""
    return {str(job.metadata.uid) for job in client.list(Job) if job.metadata}


def failed(client: Client) -> list[int]:
    """How many pods of each try did not succeed."""
    return sorted(job.status.failed or 0 for job in client.list(Job) if job.status)


def test_a_bucket_that_is_missing_is_told_before_anything_is_started(
    based: SmallStack, client: Client, node: Kubelet, proxy: FaultyProxy
) -> None:
    node.says["bucket-check"] = failing(NO_BUCKET, 13)
    with pytest.raises(ComponentFailed, match="bucket-check did not come up") as told:
        based.provision()
    assert told.value.details == NO_BUCKET and "its job failed, and would again" in told.value.message
    assert failed(client) == [1]
    assert "targets.kubernetes.storage" in told.value.resolution and "Secret keys" in told.value.resolution
    assert told.value.resolution.endswith("then: matcha provision")
    assert not list(client.list(Deployment)) and not list(client.list(StatefulSet))
    assert steps(based)[STEP] == "the bucket has not been tried"
    answer = {"status": 200, "body": f"2026-01-01T00:00:00Z {NO_BUCKET}\n", "content_type": "text/plain"}
    proxy.add(Fault("GET", "/log", times=99, **answer))  # type: ignore[arg-type]
    assert ("bucket-check", NO_BUCKET) in based.logs("bucket-check")
    node.says.clear()
    based.provision()
    assert steps(based) == {} and based.status().healthy


def test_a_bucket_is_tried_again_where_it_or_its_keys_are_others(
    based: SmallStack, client: Client, node: Kubelet
) -> None:
    based.provision()
    first = tried(client)
    assert len(first) == 1
    based.services = (usual()[0], with_env(usual()[1], MORE="1"))
    based.provision()
    assert tried(client) == first
    client.patch(Secret, "keys", {"stringData": {"secret-key": "3"}}, patch_type=PatchType.MERGE)
    assert steps(based)[STEP] == rotation.CHANGED
    node.says["bucket-check"] = failing("the secret key is wrong", 20)
    with pytest.raises(ComponentFailed):
        based.provision()
    assert steps(based)[STEP] == rotation.CHANGED
    node.says.clear()
    based.provision()
    second = tried(client)
    assert len(second) == 1 and second != first and steps(based) == {}
    before = based.options["storage"]
    based.options["storage"] = "s3://company/ml?endpoint=https://other.example.org"
    assert steps(based)[STEP] == "the bucket has not been tried"
    node.says["bucket-check"] = failing("it does not answer", 10)
    with pytest.raises(ComponentFailed):
        based.provision()
    assert failed(client) == [0, 2]
    based.options["storage"] = before
    based.provision()
    assert tried(client) > second and steps(based) == {} and based.status().healthy


def test_what_is_in_the_store_of_matcha_is_not_in_a_bucket(based: SmallStack) -> None:
    """Its volume stays, and says nothing of what is elsewhere."""
    outside, based.options, based.archive = based.options, {}, True
    based.provision()
    assert steps(based) == {}
    based.options = outside
    found = steps(based)
    assert found["stores"] == found["environment/plain"] == "not there yet"
    based.provision()
    assert steps(based) == {}


def test_who_has_the_store_of_matcha_has_nothing_tried(stack: SmallStack) -> None:
    assert STEP not in steps(stack)
    stack.options |= {"storage": "s3://b", "storage_secret": "keys"}
    assert STEP in steps(stack)
