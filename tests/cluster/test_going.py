"""What would be lost with a pod that ends: volumes that are being deleted, passwords that only it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.core_v1 import PersistentVolumeClaim, Secret

from matcha.errors import MatchaError
from matcha.events import Event
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.names import SECRETS
from support.matcha import until
from support.small_stack import SmallStack, usual, with_database, with_env
from support.stores import cluster

CLAIM = "back-data"
SAID = f"PersistentVolumeClaim {CLAIM} is being deleted: all its data goes as soon as its pod ends."
HELD = "example.com/as-pvc-protection"  # which holds it only for pods that a node has


@pytest.fixture
def admin(api_server: Path, stack: SmallStack) -> Cluster:
    return cluster(api_server, stack.namespace)


@pytest.fixture
def leaving(admin: Cluster, stack: SmallStack) -> Iterator[SmallStack]:
    """A stack that is well, one of whose volumes was deleted."""
    stack.provision()
    admin.patch(PersistentVolumeClaim, CLAIM, {"metadata": {"finalizers": [HELD]}})
    admin.delete(PersistentVolumeClaim, CLAIM)
    yield stack
    let_go(admin)


def let_go(admin: Cluster) -> None:
    if admin.get(PersistentVolumeClaim, CLAIM):
        admin.patch(PersistentVolumeClaim, CLAIM, {"metadata": {"finalizers": None}})


def replicas(admin: Cluster) -> dict[str, int]:
    return {each.metadata.name: each.spec.replicas for each in admin.found(StatefulSet)}


def test_a_volume_that_is_being_deleted_is_told(leaving: SmallStack) -> None:
    plan = leaving.plan()
    assert plan.steps == ()
    [note] = [note for note in plan.notes if note.startswith(SAID)]
    assert "docs/kubernetes.md" in note
    assert not leaving.status().healthy
    assert leaving.details()["small"].startswith(SAID)
    assert "docs/kubernetes.md" in leaving.details()["small"]
    found = leaving.doctor()["volumes"]
    assert (found.ok, found.message) == (False, SAID)
    assert leaving.provision().plan.notes == plan.notes


def test_what_would_end_its_pod_is_refused(admin: Cluster, leaving: SmallStack) -> None:
    before = replicas(admin)
    with pytest.raises(MatchaError) as refused:
        leaving.stop()
    assert refused.value.message == SAID
    assert replicas(admin) == before
    back, front = usual()
    generation = admin.get(StatefulSet, "back").metadata.generation
    for services in ((with_env(back, NEW="1"), front), (front,)):
        leaving.services = services
        with pytest.raises(MatchaError) as refused:
            leaving.provision()
        assert refused.value.message == SAID
        assert admin.get(StatefulSet, "back").metadata.generation == generation


def test_data_that_is_gone_is_called_so(admin: Cluster, leaving: SmallStack) -> None:
    """Its pod too: a stop saves nothing any more, and loses nothing."""
    let_go(admin)
    until(lambda: admin.get(PersistentVolumeClaim, CLAIM) is None, 60)
    [step] = [step for step in leaving.plan().steps if step.key == "service/back"]
    lost = f"PersistentVolumeClaim {CLAIM} is missing: its data is gone; a new empty one is made"
    assert lost in step.reason
    leaving.stop()
    assert set(replicas(admin).values()) == {0}


def test_all_can_go_with_its_data(admin: Cluster, leaving: SmallStack) -> None:
    """As ever: the volume ends with its pod."""

    def waited(event: Event) -> None:
        if event.message.startswith(f"waiting for PersistentVolumeClaim {CLAIM}"):
            let_go(admin)

    leaving.destroy(delete_data=True, emit=waited)
    assert admin.found(PersistentVolumeClaim) == []


def test_a_stop_keeps_the_pods_that_alone_have_the_passwords(admin: Cluster, stack: SmallStack) -> None:
    back, front = usual()
    stack.services = (with_database(back), front)
    stack.provision()
    before, kept = replicas(admin), admin.get(Secret, SECRETS)
    admin.delete(Secret, SECRETS)
    with pytest.raises(MatchaError, match="passwords that open the stack's database are gone") as told:
        stack.stop()
    assert SECRETS in told.value.resolution
    assert replicas(admin) == before
    kept.metadata.resourceVersion = kept.metadata.uid = None
    kept.metadata.managedFields = None
    admin.create(kept)
    stack.stop()
    assert set(replicas(admin).values()) == {0}
    admin.delete(Secret, SECRETS)
    stack.stop()  # no pod has them any more
