"""What a stack's data stands on, against a real API server: secrets, Jobs of a volume, what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube.models.core_v1 import HostPathVolumeSource, ObjectReference, PersistentVolumeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import PersistentVolume, PersistentVolumeClaim, Secret

from matcha.api import _locks
from matcha.component import Deployment
from matcha.errors import ComponentFailed, MatchaError
from matcha.events import Event, silent
from matcha.state import State
from matcha.targets.kubernetes.cluster import Conflict
from matcha.targets.kubernetes.names import SECRETS, SHARED
from matcha.targets.kubernetes.raising import Raiser
from matcha.targets.kubernetes.secrets import Secrets, values
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, crashing
from support.matcha import until
from support.small_stack import SmallStack, there, usual, with_database, with_env
from support.stores import cluster


def test_a_secret_is_kept_also_where_there_is_none_yet(api_server: Path, namespace: str) -> None:
    """As in a stack whose storage and database are others'."""
    there = cluster(api_server, namespace)
    secrets = Secrets(there)
    secrets.ensure([])
    assert there.get(Secret, SECRETS) is None
    secrets.keep("key", "value")
    secrets.keep("other", "one")
    assert values(there.get(Secret, SECRETS)) == {"key": "value", "other": "one"}
    assert secrets.get("key") == "value"


def jobs(stack: SmallStack, api_server: Path) -> dict[str, str]:
    """The uid of each kind of Job."""
    found = cluster(api_server, stack.namespace).found(Job)
    return {j.metadata.name.partition("-")[0]: j.metadata.uid for j in found}


def test_what_was_made_in_a_volume_that_is_lost_is_made_again(api_server: Path, stack: SmallStack) -> None:
    """The Jobs that made it are there still, and done."""
    back, front = usual()
    stack.services, stack.archive = (with_database(back), front), True
    stack.provision()
    before = jobs(stack, api_server)
    assert before.keys() == {"build", "mysql"}
    client = cluster(api_server, stack.namespace).client
    for name in ("mysql", "object-store"):
        client.delete(StatefulSet, name)
        client.delete(PersistentVolumeClaim, name)
    until(lambda: {c.metadata.name for c in client.list(PersistentVolumeClaim)} == {"back-data"}, 60)
    stack.provision()
    after = jobs(stack, api_server)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert stack.plan().steps == ()


def test_a_workload_that_takes_its_time_to_end_is_waited_for(api_server: Path, stack: SmallStack) -> None:
    """Longer than its pods have from SIGTERM to SIGKILL."""
    back, front = usual()
    stack.services = (msgspec.structs.replace(back, stop_seconds=100), front)
    stack.provision()
    there = cluster(api_server, stack.namespace)
    there.patch(StatefulSet, "back", {"metadata": {"finalizers": ["example.org/slow"]}})
    wanted = there.get(StatefulSet, "back")
    wanted.metadata = ObjectMeta(name="back", labels=wanted.metadata.labels)
    wanted.spec.podManagementPolicy = "OrderedReady"
    now = [0.0]

    def pause(seconds: float) -> None:
        """A second lasts ten, once its pods are gone."""
        now[0] += 10 * seconds
        if now[0] > 100:
            there.patch(StatefulSet, "back", {"metadata": {"finalizers": None}})

    Raiser(there, lambda: None, clock=lambda: now[0], pause=pause).apply([wanted])
    assert now[0] > 100
    assert there.get(StatefulSet, "back").spec.podManagementPolicy == "OrderedReady"


def notes(stack: SmallStack, **options: Any) -> list[str]:
    said: list[str] = []
    stack.destroy(emit=lambda e: said.append(e.message) if e.phase == "note" else None, **options)
    return said


def test_volumes_that_outlive_their_claims_are_named(api_server: Path, stack: SmallStack) -> None:
    client = cluster(api_server, stack.namespace).client
    kept, gone = (f"{stack.namespace}-{n}" for n in ("kept", "gone"))
    for name, claim, policy in ((kept, "back-data", "Retain"), (gone, "object-store", "Delete")):
        spec = PersistentVolumeSpec(
            accessModes=["ReadWriteOnce"],
            capacity={"storage": "100Gi"},
            claimRef=ObjectReference(name=claim, namespace=stack.namespace),
            hostPath=HostPathVolumeSource(path="/nowhere"),
            persistentVolumeReclaimPolicy=policy,
        )
        client.create(PersistentVolume(metadata=ObjectMeta(name=name), spec=spec))
    try:
        stack.provision()
        until(lambda: all(c.status.phase == "Bound" for c in client.list(PersistentVolumeClaim)), 60)
        assert not [said for said in notes(stack, delete_data=False) if "PersistentVolume" in said]
        stack.provision()
        [said] = [said for said in notes(stack) if "PersistentVolume" in said]
        assert f"PersistentVolume {kept} keeps the data of back-data" in said
        assert f"kubectl delete persistentvolume {kept}" in said
    finally:
        for name in (kept, gone):
            client.delete(PersistentVolume, name)


def test_what_is_in_storage_and_databases_of_others_is_said_to_stay(stack: SmallStack) -> None:
    back, front = usual()
    stack.services = (with_database(back), front)
    stack.options = {
        "storage": "s3://company/ml?endpoint=https://s3.example.org",
        "storage_secret": "keys",
        "database": "mysql://db.example.org?tls=true",
        "database_secret": "login",
    }
    stack.provision()
    said = notes(stack)
    assert "Objects of the stack stay in s3://company/ml: they are yours." in said
    assert "Tables of the stack stay on mysql://db.example.org: they are yours." in said


def test_last_words_give_no_secret_away(api_server: Path, stack: SmallStack, node: Kubelet) -> None:
    back, front = usual()
    stack.provision()
    value = Secrets(cluster(api_server, stack.namespace)).get("web-token")
    node.says["front"] = crashing(f"denied with {value}")
    stack.services = (back, with_env(front, NEW="1"))
    with pytest.raises(ComponentFailed) as failed:
        stack.provision()
    assert "denied with ********" in failed.value.details
    assert value not in f"{failed.value.message} {failed.value.details}"


def test_the_packages_of_a_teammates_model_are_known_to_all(
    api_server: Path, stack: SmallStack, tmp_path: Path
) -> None:
    """Their lock is made once, and goes with the stack."""
    stack.provision()
    mine = stack.target()
    token = mine.store().acquire("deploy", wait=5, emit=silent).token
    state = mine.store().read()
    assert state
    _locks.made(mine, state, "0a1b", lambda lock: lock.write_bytes(b"numpy==2.0.0\n"))
    mine.observe(state, stack.services, (stack.environment,))
    mine.settle()  # what is no longer wanted goes, and this is no part of a service
    mine.store().release(token)
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs = SmallStack(folder, stack.kubeconfig, stack.namespace).target()
    found = _locks.lock(theirs, state, "0a1b")
    assert found.is_relative_to(folder) and found.read_text() == "numpy==2.0.0\n"
    with pytest.raises(MatchaError, match="not known on this machine"):
        _locks.lock(theirs, state, "0b")
    token = theirs.store().acquire("deploy", wait=5, emit=silent).token
    _locks.made(theirs, state, "0a1b", lambda _: pytest.fail("it is there"))
    theirs.store().release(token)
    stack.destroy()
    assert there(api_server, stack.namespace) == set()


def test_what_was_shared_for_models_goes_when_none_needs_it(stack: SmallStack) -> None:
    stack.provision()
    mine, model = stack.target(), Deployment(name="m", asked="m", uri="m", environment="0a1b")

    def deployed(*digests: str) -> State:
        """As a deploy leaves it that shared these, and may have been killed before it came to the second."""
        token = mine.store().acquire("deploy", wait=5, emit=silent).token
        state = mine.store().read()
        assert state
        for digest in digests:
            _locks.made(mine, state, digest, lambda lock: lock.write_bytes(b"numpy==2.0.0\n"))
        mine.share("other", "text")
        mine.store().write(state.with_deployment(model), token)
        mine.store().release(token)
        return state.with_deployment(model)

    state = deployed("0a1b", "0c2d")
    token = mine.store().acquire("deploy", wait=5, emit=silent).token
    _locks.drop_unused(mine, state)
    mine.store().release(token)
    assert sorted(mine.shares()) == ["lock-0a1b", "other"]
    stack.undeploy("m")
    assert list(mine.shares()) == ["other"]

    token = mine.store().acquire("deploy", wait=5, emit=silent).token
    _locks.made(mine, state, "0e3f", lambda lock: lock.write_bytes(b"numpy==2.0.0\n"))
    mine.store().release(token)
    stack.services = (usual()[0],)
    stack.provision()
    assert list(mine.shares()) == ["other"]


def test_what_was_shared_stays_where_it_cannot_be_listed(stack: SmallStack, proxy: FaultyProxy) -> None:
    """It is no reason for a provision to fail once all is done."""
    forbidden = proxy.add(Fault("GET", f"name%3D{SHARED}", status=403, times=1000))
    stack.provision()
    assert forbidden.came.is_set()
    assert stack.status().phase == "ready"


def test_a_secret_of_somebody_else_is_left_alone(api_server: Path, stack: SmallStack) -> None:
    theirs = cluster(api_server, stack.namespace)
    given = Secret(metadata=ObjectMeta(name=SECRETS), stringData={"database-root": "short"})
    theirs.client.create(given, field_manager="kubectl-create")
    for refused in (stack.plan, stack.provision):
        with pytest.raises(Conflict, match=r"Secret matcha-secrets exists .* is not Matcha's"):
            refused()
    with pytest.raises(Conflict):
        Secrets(theirs).ensure(["key"])
    assert values(theirs.get(Secret, SECRETS)) == {"database-root": "short"}


def test_lost_passwords_of_a_database_are_not_made_anew(api_server: Path, stack: SmallStack) -> None:
    """New ones would not open it."""
    back, front = usual()
    stack.services = (with_database(back), front)
    stack.provision()
    there_ = cluster(api_server, stack.namespace)
    there_.delete(Secret, SECRETS)
    there_.delete(StatefulSet, "mysql")
    with pytest.raises(MatchaError, match="passwords that open the stack's database are gone") as told:
        stack.provision()
    assert "matcha destroy --delete-data" in told.value.resolution
    assert "database-root" not in values(there_.get(Secret, SECRETS))


def test_a_destroy_that_keeps_data_says_how_models_are_deployed_again(stack: SmallStack) -> None:
    """What they were is in the record alone, which goes."""
    stack.provision()
    store = stack.target().store()
    token = store.acquire("deploy", wait=5, emit=silent).token
    state = store.read()
    assert state
    store.write(state.with_deployment(Deployment(name="m", asked="m", uri="models:/credit/1")), token)
    store.release(token)
    events: list[Event] = []
    stack.destroy(delete_data=False, emit=events.append)
    [said] = [e.message for e in events if "deployed" in e.message]
    assert said.endswith("matcha deploy models:/credit/1 --name m")
