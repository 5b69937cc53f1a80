"""Secrets whose values change, or are lost, under a stack that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube import Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.types import PatchType

from matcha.access import Access, Output
from matcha.errors import ComponentFailed, MatchaError, NotProvisioned
from matcha.events import Event
from matcha.targets.kubernetes import raising, rotation
from matcha.targets.kubernetes.names import NAME, SECRETS, SECRETS_MARK
from matcha.targets.kubernetes.secrets import values
from matcha.views import statuses
from matcha.views.text import Paper, render
from support.apiserver import as_user
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet
from support.matcha import until
from support.rights import but, grant
from support.small_stack import Small, SmallStack, usual, with_database
from support.stores import cluster

KEYS = {"access-key": "a", "secret-key": "hunter2"}


@pytest.fixture
def client(api_server: Path, namespace: str) -> Client:
    return cluster(api_server, namespace).client


@pytest.fixture
def based(stack: SmallStack) -> SmallStack:
    """With a database server, provisioned."""
    stack.services = (with_database(usual()[0]), usual()[1])
    stack.provision()
    return stack


def steps(stack: SmallStack) -> dict[str, str]:
    return {step.key: step.reason for step in stack.plan().steps}


def pods(client: Client) -> dict[str, set[str]]:
    """Of those that stay, uids by service."""
    found: dict[str, set[str]] = {}
    for pod in client.list(Pod):
        assert pod.metadata and pod.metadata.labels and pod.metadata.uid
        if not pod.metadata.deletionTimestamp and "job-name" not in pod.metadata.labels:
            found.setdefault(pod.metadata.labels[NAME], set()).add(pod.metadata.uid)
    return found


def restarted(before: dict[str, set[str]], after: dict[str, set[str]]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def rotate(client: Client, name: str, **changed: str) -> None:
    keys = {key.replace("_", "-"): value for key, value in changed.items()}
    client.patch(Secret, name, {"stringData": keys}, patch_type=PatchType.MERGE)


def shown(stack: SmallStack) -> str:
    paper = Paper(width=300)
    return render(statuses.status_lines(stack.status(), paper), paper)


def mark_of(client: Client, kind: Any, name: str) -> str:
    return rotation.marked(client.get(kind, name))


# -- changed values -----------------------------------------------------------------------------------------


def test_exactly_the_pods_that_read_a_users_secret_start_anew_with_it(
    stack: SmallStack, client: Client
) -> None:
    stack.options |= {"storage": "s3://b/p", "storage_secret": "keys"}
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=KEYS))
    stack.provision()
    assert steps(stack) == {} and stack.details() == {"small": "", "network": "", "bucket-check": ""}
    before = pods(client)
    rotate(client, "keys", note="of no use to pods")
    assert steps(stack) == {}
    rotate(client, "keys", secret_key="hunter3")
    assert steps(stack) == dict.fromkeys(["foundation/bucket-check", "service/back"], rotation.CHANGED)
    assert "Small: its secrets changed" in shown(stack)
    assert shown(stack).endswith("Next: matcha provision\n")
    stack.provision()
    assert restarted(before, pods(client)) == {"back"}
    assert steps(stack) == {} and stack.details()["small"] == ""


def test_a_generated_secret_that_was_replaced_reaches_its_readers(based: SmallStack, client: Client) -> None:
    before = pods(client)
    rotate(client, SECRETS, web_token="another")
    assert steps(based) == {"service/back": rotation.CHANGED}
    based.provision()
    assert restarted(before, pods(client)) == {"back"}
    before = pods(client)
    rotate(client, SECRETS, object_store_secret_key="another")
    assert steps(based) == dict.fromkeys(["foundation/object-store", "service/back"], rotation.CHANGED)
    based.provision()
    assert restarted(before, pods(client)) == {"object-store", "back"}
    assert steps(based) == {}


def test_a_databases_other_password_is_told_to_its_server_first(based: SmallStack, client: Client) -> None:
    [job] = list(client.list(Job))
    assert job.metadata
    before = pods(client)
    rotate(client, SECRETS, database_app="another")
    assert steps(based) == dict.fromkeys(["foundation/mysql", "service/back"], rotation.CHANGED)
    based.provision()
    [anew] = list(client.list(Job))
    assert anew.metadata and anew.metadata.uid != job.metadata.uid
    assert restarted(before, pods(client)) == {"back"}
    assert steps(based) == {}


def test_a_mark_lets_nobody_try_passwords(based: SmallStack, client: Client) -> None:
    """Of the same value another stack has another mark, and no hash of the value is in it."""
    value = values(client.get(Secret, SECRETS))["web-token"]
    mark = mark_of(client, StatefulSet, "back")
    assert mark
    content = msgspec.json.encode([(SECRETS, "web-token", value)])
    assert not hashlib.sha256(content).hexdigest().startswith(mark)
    rotate(client, SECRETS, **{rotation.KEY: "of another stack"})
    assert set(steps(based).values()) == {rotation.CHANGED}
    based.provision()
    assert mark_of(client, StatefulSet, "back") != mark
    assert steps(based) == {}


def test_pods_without_a_mark_are_as_they_should_be(stack: SmallStack, client: Client) -> None:
    """As of whoever applies what `plan --output yaml` prints, which knows no value."""
    stack.provision()
    bare = {"spec": {"template": {"metadata": {"annotations": {SECRETS_MARK: None}}}}}
    client.patch(StatefulSet, "back", bare, patch_type=PatchType.MERGE)
    assert mark_of(client, StatefulSet, "back") == ""
    until(lambda: steps(stack) == {}, 60)  # once the pods without it are up
    assert stack.details()["small"] == ""
    before = pods(client)
    client.delete(ServiceObject, "back")
    stack.provision()
    assert restarted(before, pods(client)) == set()
    assert steps(stack) == {}


def test_a_users_secret_that_is_gone_ends_no_pod(stack: SmallStack, client: Client) -> None:
    """None would start without it; the doctor says that it is gone."""
    stack.options |= {"storage": "s3://b/p", "storage_secret": "keys"}
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=KEYS))
    stack.provision()
    mark, before = mark_of(client, StatefulSet, "back"), pods(client)
    client.delete(Secret, "keys")
    assert steps(stack) == {}
    assert not stack.doctor()["secrets"].ok
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=KEYS))
    assert steps(stack) == {}
    assert (mark_of(client, StatefulSet, "back"), pods(client)) == (mark, before)


def test_a_users_secret_that_comes_late_starts_no_pod_anew(stack: SmallStack, client: Client) -> None:
    """Pods wait for it, and start with it."""
    stack.options |= {"storage": "s3://b/p", "storage_secret": "keys"}
    stack.provision()
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData=KEYS))
    assert steps(stack) == {}


def test_who_may_not_read_secrets_does_without(
    api_server: Path, based: SmallStack, client: Client, tmp_path: Path
) -> None:
    grant(api_server, based.namespace, but("secrets"), "alice")
    alice = SmallStack(tmp_path, as_user(api_server, "alice"), based.namespace)
    alice.services = based.services
    rotate(client, SECRETS, web_token="another")
    assert steps(alice) == {} and rotation.CLOSED in alice.plan().notes
    assert alice.status().healthy and "secrets" not in shown(alice)
    client.delete(Deployment, "front")
    plan = alice.plan()
    assert [step.key for step in plan.steps] == ["service/front"]
    assert rotation.CLOSED in plan.notes
    alice.provision()
    assert steps(alice) == {}
    assert set(steps(based)) == {"service/back"}
    passwords = alice.doctor()["passwords"]
    assert passwords.ok and not passwords.checked and "cannot be seen" in passwords.message


# -- lost ones ----------------------------------------------------------------------------------------------


def test_lost_passwords_of_a_database_are_told_before_anything_is_done(
    based: SmallStack, client: Client
) -> None:
    kept = values(client.get(Secret, SECRETS))
    assert based.doctor()["passwords"].ok
    client.delete(Secret, SECRETS)
    before = pods(client)
    words = "The passwords that open the stack's database are gone; its volume is still there."
    assert f"mysql: {words} They stood in the Secret {SECRETS}" in shown(based)
    assert "its secrets" not in shown(based) and not based.status().healthy
    fix = f"Put the Secret {SECRETS} back, or start anew: matcha destroy --delete-data"
    assert shown(based).endswith(f"Next: {fix}\n")
    told = based.doctor()["passwords"]
    assert not told.ok and told.message.startswith(words) and told.fix == fix
    for asked in (based.plan, based.provision):
        with pytest.raises(MatchaError, match="passwords that open") as refused:
            asked()
        assert refused.value.resolution == fix
    assert not list(client.list(Secret)) and pods(client) == before
    client.create(Secret(metadata=ObjectMeta(name=SECRETS), stringData=kept), field_manager="matcha")
    assert steps(based) == {} and based.status().healthy and based.doctor()["passwords"].ok


@pytest.fixture
def keyed(stack: SmallStack) -> SmallStack:
    """A service that keeps what it stores in its own database with a secret. Not provisioned."""
    back = msgspec.structs.replace(with_database(usual()[0]), irreplaceable=("web-token",))
    stack.services = (back, usual()[1])
    return stack


@pytest.mark.parametrize("own", [True, False], ids=["own database", "the user's"])
def test_a_key_of_what_users_stored_is_never_made_anew(keyed: SmallStack, client: Client, own: bool) -> None:
    if not own:
        there = ObjectMeta(name="db")
        client.create(Secret(metadata=there, stringData={"password": "p", "username": "u"}))
        keyed.options |= {"database": "mysql://db.example:3306", "database_secret": "db"}
    keyed.provision()
    kept = values(client.get(Secret, SECRETS))
    lost: Any = {"data": {"web-token": None}}
    client.patch(Secret, SECRETS, lost, patch_type=PatchType.MERGE)
    before = pods(client)
    words = (
        f"web-token is gone from the Secret {SECRETS}: what users stored with it cannot be read without it."
    )
    for asked in (keyed.plan, keyed.provision, keyed.stop):
        with pytest.raises(MatchaError) as refused:
            asked()
        assert refused.value.message == words
        fix = refused.value.resolution
    assert fix.startswith(f"Put the Secret {SECRETS} back, or start anew")
    assert fix.endswith(": matcha destroy --yes --delete-data")
    assert ("tables are off mysql://db.example:3306" in fix) is not own
    assert "web-token" not in values(client.get(Secret, SECRETS)) and pods(client) == before
    assert f"Small: {words}" in shown(keyed) and shown(keyed).endswith(f"Next: {fix}\n")
    client.delete(Deployment, "front")
    assert shown(keyed).endswith(f"Next: {fix}\n")
    ill = [f for f in keyed.findings() if not f.ok and f.check != "storage"]  # of which it has no class
    assert {found.check for found in ill} == {"passwords", "services"}
    assert {found.fix for found in ill} == {fix}
    again: Any = {"stringData": {"web-token": kept["web-token"]}}
    client.patch(Secret, SECRETS, again, patch_type=PatchType.MERGE)
    keyed.provision()
    assert values(client.get(Secret, SECRETS)) == kept and keyed.status().healthy


class Asking(Small):
    """Its outputs and variables hold a secret."""

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {"token": Output(access.secret("web-token"), sensitive=True)}

    def client_env(self, access: Access) -> Mapping[str, Output]:
        return {"TOKEN": Output(access.secret("web-token"), sensitive=True)}


def test_who_asks_for_what_is_lost_is_sent_to_what_tells(keyed: SmallStack, client: Client) -> None:
    """A provision would be refused."""
    keyed.component = Asking
    keyed.provision()
    assert keyed.env()["TOKEN"].value == keyed.get("small")["small"]["token"].value
    client.delete(Secret, SECRETS)
    for asked in (keyed.env, partial(keyed.get, "small")):
        with pytest.raises(NotProvisioned) as told:
            asked()
        assert told.value.resolution == "matcha plan"
    keyed.destroy()  # and with it the forwards that it was asked by


def test_a_key_that_is_lost_while_a_provision_runs_is_not_made_anew(
    keyed: SmallStack, client: Client
) -> None:
    """Between its plan and its steps."""
    keyed.provision()
    client.delete(StatefulSet, "back")
    lost: Any = {"data": {"web-token": None}}

    def lose(event: Event) -> None:
        if event.subject == "service/back" and event.phase == "started":
            client.patch(Secret, SECRETS, lost, patch_type=PatchType.MERGE)

    with pytest.raises(MatchaError, match="web-token is gone from the Secret"):
        keyed.provision(emit=lose)
    assert "web-token" not in values(client.get(Secret, SECRETS))


def test_a_first_provision_that_ended_early_makes_the_keys_it_did_not_get_to(
    keyed: SmallStack, client: Client, proxy: FaultyProxy
) -> None:
    """Nothing was stored with them yet."""
    cut = proxy.add(Fault("POST", "/secrets", status=403, times=1000))
    with pytest.raises(MatchaError):
        keyed.provision()
    assert cut.came.is_set() and not list(client.list(Secret))
    proxy.heal()
    keyed.provision()
    assert "web-token" in values(client.get(Secret, SECRETS)) and keyed.status().healthy


def test_a_key_of_what_is_gone_with_its_volume_is_made_anew(keyed: SmallStack, client: Client) -> None:
    keyed.provision()
    for kind in (StatefulSet, PersistentVolumeClaim):
        client.delete(kind, "mysql")
    until(
        lambda: "mysql" not in [c.metadata and c.metadata.name for c in client.list(PersistentVolumeClaim)],
        30,
    )
    client.delete(Secret, SECRETS)
    keyed.provision()
    assert keyed.status().healthy


def test_other_lost_secrets_are_told_and_made_anew_in_one_run(stack: SmallStack, client: Client) -> None:
    stack.provision()
    client.delete(Secret, SECRETS)
    told = stack.doctor()["passwords"]
    assert not told.ok and f"The Secret {SECRETS} is gone, or empty" in told.message
    assert told.fix.endswith("matcha provision")
    assert "Small: its secrets are gone" in shown(stack)
    assert shown(stack).endswith("Next: matcha provision\n")
    before = pods(client)
    stack.provision()
    assert restarted(before, pods(client)) == {"object-store", "back"}
    assert steps(stack) == {} and stack.doctor()["passwords"].ok
    volume = client.get(PersistentVolumeClaim, "object-store")
    assert volume.metadata and not volume.metadata.deletionTimestamp


def test_a_lost_key_of_the_object_store_reaches_all_its_readers_in_one_run(
    stack: SmallStack, client: Client
) -> None:
    """Nothing that is in the plan is between the store and who reads its key."""
    stack.provision()
    lost = {"data": {"object-store-secret-key": None}}
    client.patch(Secret, SECRETS, lost, patch_type=PatchType.MERGE)
    before = pods(client)
    assert steps(stack) == dict.fromkeys(["foundation/object-store", "service/back"], rotation.LOST)
    stack.provision()
    assert restarted(before, pods(client)) == {"object-store", "back"}
    assert steps(stack) == {}


# -- set-ups ------------------------------------------------------------------------------------------------


def test_a_set_up_of_databases_that_failed_is_not_taken_for_done(
    stack: SmallStack, node: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.services = (with_database(usual()[0]), usual()[1])
    pulls = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    node.says["mysql-setup"] = lambda _: {
        "phase": "Pending",
        "containerStatuses": [
            {"name": "main", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": pulls}
        ],
    }
    with monkeypatch.context() as impatient:
        impatient.setattr(raising, "HARDLY", 2.0)
        for _ in range(2):
            with pytest.raises(ComponentFailed, match="mysql-setup did not come up"):
                stack.provision()
            assert steps(stack)["foundation/mysql"] == "its databases are not made"
    node.says.clear()
    stack.provision()
    assert steps(stack) == {}
