"""Keys of the object store for jobs: when a stack has them, and what becomes of them when it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightkube import Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.core_v1 import Pod, Secret
from lightkube.types import PatchType

from matcha.access import Output
from matcha.errors import NotProvisioned
from matcha.targets.kubernetes import rotation
from matcha.targets.kubernetes.names import NAME, SECRETS, STORE
from matcha.targets.kubernetes.secrets import values
from matcha.targets.kubernetes.setting import JOBS_ACCESS_KEY, JOBS_SECRET_KEY
from support.small_stack import Small, SmallStack
from support.stores import cluster

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Lending(Small):
    """Whose clients have an area of their own."""

    def stores(self) -> tuple[str, ...]:
        return ("shared",)


@pytest.fixture
def client(api_server: Path, namespace: str) -> Client:
    return cluster(api_server, namespace).client


def steps(stack: SmallStack) -> dict[str, str]:
    return {step.key: step.reason for step in stack.plan().steps}


def of_jobs(stack: SmallStack) -> dict[str, Output]:
    """Variables of a job that is submitted now."""
    target = stack.target()
    state = target.store().read()
    assert state
    return dict(target.inside(state).store_env())


def held(client: Client, *names: str) -> list[str]:
    found = values(client.get(Secret, SECRETS))
    return [found[name] for name in names]


def uids(client: Client) -> dict[str, str]:
    """Of pods that stay, by service."""
    found = [pod.metadata for pod in client.list(Pod) if pod.metadata and not pod.metadata.deletionTimestamp]
    return {(meta.labels or {})[NAME]: str(meta.uid) for meta in found}


def opened(client: Client) -> str:
    """Resources that the policy of the store's bucket names."""
    made = client.get(StatefulSet, STORE)
    assert made.spec and made.spec.template.spec
    [before] = made.spec.template.spec.initContainers or ()
    *_, policy = before.args or ()
    return str([each["Resource"] for each in json.loads(policy)["Statement"]])


def test_jobs_have_keys_that_open_less_than_those_of_users(stack: SmallStack, client: Client) -> None:
    stack.provision()
    theirs = held(client, JOBS_ACCESS_KEY, JOBS_SECRET_KEY)
    found = of_jobs(stack)
    assert [found[name] for name in KEYS] == [Output(value, sensitive=True) for value in theirs]
    users = stack.env()
    assert not {users[name].value for name in KEYS} & set(theirs)
    stack.destroy()  # and with it the forwards that users have


def test_a_stack_without_keys_for_jobs_runs_none_until_it_is_provisioned(
    stack: SmallStack, client: Client
) -> None:
    """As one of an earlier Matcha is, and one that somebody took them from. Only the store starts anew."""
    stack.provision()
    before, was = uids(client), held(client, JOBS_ACCESS_KEY, JOBS_SECRET_KEY)
    lost = {"data": dict.fromkeys((JOBS_ACCESS_KEY, JOBS_SECRET_KEY))}
    client.patch(Secret, SECRETS, lost, patch_type=PatchType.MERGE)
    with pytest.raises(NotProvisioned, match="no keys for jobs") as caught:
        of_jobs(stack)
    assert caught.value.resolution == "matcha provision"
    assert steps(stack) == {"foundation/object-store": rotation.LOST}
    stack.provision()
    assert {name for name, uid in uids(client).items() if before[name] != uid} == {STORE}
    assert steps(stack) == {}
    fresh = held(client, JOBS_ACCESS_KEY, JOBS_SECRET_KEY)
    assert not set(fresh) & set(was)
    assert [of_jobs(stack)[name].value for name in KEYS] == fresh


def test_the_areas_of_clients_are_open_to_jobs_as_long_as_they_are_wanted(
    stack: SmallStack, client: Client
) -> None:
    stack.component = Lending
    stack.provision()
    assert "matcha/shared/*" in opened(client)
    assert steps(stack) == {} and stack.details()[STORE] == ""
    stack.component = Small
    assert list(steps(stack)) == ["foundation/object-store"]
    assert stack.details()[STORE] == ""  # nobody changed it: it is as it was provisioned
    stack.provision()
    assert "shared" not in opened(client)
    assert steps(stack) == {}


def test_a_bucket_of_the_user_s_has_the_user_s_keys_for_jobs_too(stack: SmallStack, client: Client) -> None:
    theirs = {"access-key": "a", "secret-key": "hunter2"}
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=theirs))
    stack.options |= {"storage": "s3://b/p", "storage_secret": "keys"}
    stack.provision()
    assert [of_jobs(stack)[name].value for name in KEYS] == ["a", "hunter2"]
    assert JOBS_ACCESS_KEY not in values(client.get(Secret, SECRETS))
