"""What others have in the namespace by the names of Matcha's own: it is neither written over nor removed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightkube import Client
from lightkube.models.apps_v1 import DeploymentSpec, StatefulSetSpec
from lightkube.models.batch_v1 import JobSpec
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec, ServicePort, ServiceSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, PersistentVolumeClaim
from lightkube.resources.core_v1 import Service as ServiceObject

from matcha.targets.kubernetes.cluster import Conflict
from matcha.targets.kubernetes.names import LOCK, MANAGED_BY, NAME, STATE
from matcha.targets.kubernetes.raising import Raiser
from support.faults import FaultyProxy
from support.small_stack import SmallStack, there, usual
from support.stores import cluster


def helm(api_server: Path, namespace: str) -> Client:
    """Somebody else's tool, which writes by updates."""
    made = cluster(api_server, namespace)
    made._given = Client(made.config, namespace=namespace, field_manager="helm")
    return made.client


def theirs() -> dict[str, Any]:
    """As a chart would have them, with the names of the small stack's own."""
    marks = {"app": "web", MANAGED_BY: "Helm"}
    pod = PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "web"}),
        spec=PodSpec(containers=[Container(name="main", image="their:1")]),
    )
    picked = LabelSelector(matchLabels={"app": "web"})
    claim = {
        "metadata": {"name": "back-data", "labels": {"app": "web"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }
    return {
        "deployment": Deployment(
            metadata=ObjectMeta(name="front", labels=marks),
            spec=DeploymentSpec(replicas=0, selector=picked, template=pod),
        ),
        "stateful set": StatefulSet(
            metadata=ObjectMeta(name="back", labels=marks),
            spec=StatefulSetSpec(serviceName="back", replicas=0, selector=picked, template=pod),
        ),
        "service": ServiceObject(
            metadata=ObjectMeta(name="front"),
            spec=ServiceSpec(selector={"app": "web"}, ports=[ServicePort(port=80)]),
        ),
        "volume": PersistentVolumeClaim.from_dict(claim),
        "config map": ConfigMap(metadata=ObjectMeta(name="front-files"), data={"theirs": "kept"}),
    }


@pytest.mark.parametrize("what", theirs())
def test_what_is_not_matchas_is_refused_before_anything_is_made(
    api_server: Path, stack: SmallStack, what: str
) -> None:
    other, obj = helm(api_server, stack.namespace), theirs()[what]
    made = other.create(obj)
    for attempt in (stack.plan, stack.provision, lambda: stack.provision(force=True)):
        with pytest.raises(Conflict) as told:
            attempt()
        kind, name = type(obj).__name__, obj.metadata.name
        assert told.value.message == (
            f"{kind} {name} exists in the namespace {stack.namespace} and is not Matcha's."
        )
        assert ("Helm" if obj.metadata.labels and MANAGED_BY in obj.metadata.labels else "helm") in (
            told.value.details
        )
        assert "another namespace in matcha.yaml" in told.value.resolution
    assert there(api_server, stack.namespace) == set()
    stack.destroy()
    found = other.get(type(obj), obj.metadata.name)
    assert found.metadata.uid == made.metadata.uid
    assert found.metadata.labels == obj.metadata.labels and found.metadata.deletionTimestamp is None
    assert "matcha" not in {m.manager for m in found.metadata.managedFields}


def test_what_others_made_since_the_plan_is_refused_too(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    """Asked for once more before the first write of a step; what a Job replaces as well."""
    other, objects = helm(api_server, stack.namespace), theirs()
    made = [other.create(obj) for obj in objects.values()]
    raiser = Raiser(cluster(stack.kubeconfig, stack.namespace), lambda: None)
    for obj in made:
        wanted = type(obj)(metadata=ObjectMeta(name=obj.metadata.name), **_spec(obj))
        with pytest.raises(Conflict, match="is not Matcha's"):
            raiser.apply([ConfigMap(metadata=ObjectMeta(name="before")), wanted])
    assert proxy.count("PATCH") == proxy.count("DELETE") == 0
    pod = PodTemplateSpec(
        spec=PodSpec(containers=[Container(name="main", image="their:1")], restartPolicy="Never")
    )
    build = ObjectMeta(name="build", labels={NAME: "build"})
    other.create(Job(metadata=build, spec=JobSpec(suspend=True, template=pod)))
    with pytest.raises(Conflict, match="Job build exists"):
        raiser._remove(Job, "build")
    assert proxy.count("DELETE") == 0


def _spec(obj: Any) -> dict[str, Any]:
    return {"data": {"mine": "now"}} if isinstance(obj, ConfigMap) else {"spec": obj.spec}


def test_a_plan_says_that_it_takes_apart_what_it_does_not_name(stack: SmallStack) -> None:
    """The stack of another project in the same namespace is not told from this one's former self."""
    stack.provision()
    assert stack.plan().notes == ()
    stack.services = usual()[:1]
    plan = stack.plan()
    assert ("service/front", "remove") in {(s.key, s.action) for s in plan.steps}
    [note] = [n for n in plan.notes if "holds one stack" in n]
    assert "do not go on: set targets.kubernetes.namespace to another one in matcha.yaml" in note


@pytest.mark.parametrize("delete_data", [True, False])
def test_a_record_of_others_is_refused_and_left(
    api_server: Path, stack: SmallStack, delete_data: bool
) -> None:
    client = helm(api_server, stack.namespace)
    client.create(ConfigMap(metadata=ObjectMeta(name=STATE), data={"state.json": "theirs"}))
    refused = [stack.plan, stack.provision, stack.status, stack.stop, stack.target().store().is_corrupt]
    refused += [stack.target().store().set_aside, partial(stack.destroy, delete_data=delete_data)]
    for refuse in refused:
        with pytest.raises(Conflict, match=rf"ConfigMap {STATE} exists in the namespace .* is not Matcha's"):
            refuse()
    found = client.get(ConfigMap, STATE)
    assert found.data == {"state.json": "theirs"}
    assert found.metadata and not found.metadata.labels and not found.metadata.annotations
    assert there(api_server, stack.namespace) == set()


def test_a_lease_of_others_is_refused_and_left(api_server: Path, stack: SmallStack) -> None:
    client = helm(api_server, stack.namespace)
    wanted = Lease(metadata=ObjectMeta(name=LOCK), spec=LeaseSpec(holderIdentity="", leaseDurationSeconds=1))
    version = client.create(wanted).metadata
    for refuse in (stack.provision, stack.target().store().break_lock):
        with pytest.raises(Conflict, match=rf"Lease {LOCK} exists in the namespace .* is not Matcha's"):
            refuse()
    assert stack.target().store().lock() is None
    found = client.get(Lease, LOCK).metadata
    assert version and found and found.resourceVersion == version.resourceVersion
    assert stack.destroy().nothing
    assert there(api_server, stack.namespace) == set()
