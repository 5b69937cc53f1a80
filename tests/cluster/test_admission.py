"""What the default stack consists of, as a real API server takes it in a namespace of Matcha's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube import ApiError, Client
from lightkube.models.core_v1 import (
    Container,
    PodSpec,
    PodTemplateSpec,
    ServicePort,
    ServiceSpec,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import (
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
)
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import Namespace, Pod, Secret, ServiceAccount
from lightkube.resources.core_v1 import Service as ServiceObject

from matcha import planning, registry
from matcha.service import service_digest
from matcha.targets.kubernetes import KubernetesOptions, desired, foundations, look
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.names import ADMITTED, MANAGER
from matcha.targets.kubernetes.raising import Raiser
from matcha.targets.kubernetes.setting import Setting, setting
from support.matcha import until
from support.rights import limit_volumes
from support.small_stack import SmallStack
from support.stores import cluster

METADATA_NAME = "kubernetes.io/metadata.name"  # label of every namespace
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "outside": {
        "storage": "s3://company/ml?endpoint=https://s3.example.org",
        "storage-secret": "bucket-keys",
        "database": "mysql://db.example.org:3307",
        "database-secret": "db-login",
        "run-as": "cluster",
        "registry-mirror": "mirror.example.org/hub",
        "pull-secret": "mirror-login",
    },
    "neighbour": {"storage": "s3://ml?endpoint=http://minio.storage:9000", "storage-secret": "bucket-keys"},
}


@pytest.fixture
def restricted(api_server: Path, name: str) -> Iterator[Cluster]:
    """A namespace as `provision` makes it."""
    admin = cluster(api_server, name)
    admin.create(foundations.namespace(name))
    yield admin
    admin.delete(Namespace, name)


def whole(options: dict[str, Any]) -> tuple[Setting, list[Any]]:
    """The default stack, and every object of it, those of Jobs included."""
    components = [c(c.Options()) for fs in registry.component_catalogue().values() for c in fs.values()]
    wanted = planning.want(components, ())
    found = setting(msgspec.convert(options, KubernetesOptions), wanted.services, wanted.environments)
    objects = desired.whole(found)
    return found, [desired.placeholders(objects, found.namespace), *objects]


def templates(objects: list[Any]) -> dict[str, PodTemplateSpec]:
    found = {}
    for obj in objects:
        if isinstance(obj, (Deployment, StatefulSet, Job)):
            found[f"{type(obj).__name__} {obj.metadata.name}"] = obj.spec.template
        if isinstance(obj, CronJob):
            found[f"CronJob {obj.metadata.name}"] = obj.spec.jobTemplate.spec.template
    return found


@pytest.mark.parametrize("name_of_options", OPTIONS)
def test_every_pod_of_the_default_stack_is_admitted(restricted: Cluster, name_of_options: str) -> None:
    _, objects = whole(OPTIONS[name_of_options])
    for obj in objects:
        if isinstance(obj, ServiceAccount):
            restricted.apply(obj)
    trying = Client(restricted.config, namespace=restricted.namespace, field_manager=MANAGER, dry_run=True)
    found = templates(objects)
    kinds = {name.partition(" ")[0] for name in found}
    own = set() if name_of_options == "outside" else {"StatefulSet", "CronJob"}
    assert kinds >= {"Deployment", "Job", *own}
    try:
        for name, template in found.items():
            pod = Pod(metadata=ObjectMeta(name="tried", labels=template.metadata.labels), spec=template.spec)
            made = trying.create(pod)
            assert made.metadata and made.metadata.uid, name
        loose = PodSpec(containers=[Container(name="main", image="none:1")])
        restricted.apply(ServiceAccount(metadata=ObjectMeta(name="default")))
        with pytest.raises(ApiError, match="violates PodSecurity"):
            trying.create(Pod(metadata=ObjectMeta(name="loose"), spec=loose))
    finally:
        trying.close()


@pytest.mark.parametrize("name_of_options", OPTIONS)
def test_the_default_stack_is_taken_and_seen_as_it_was_asked_for(
    restricted: Cluster, name_of_options: str
) -> None:
    """No value is rendered otherwise than the API server writes it back: that would be drift for ever."""
    found, everything = whole(OPTIONS[name_of_options])
    objects = [o for o in everything if not isinstance(o, Secret)]  # which nobody applies: values are made
    Raiser(restricted, lambda: None).apply(objects)
    seen = look.everything(restricted)
    digests = {s.name: service_digest(s, found.environment(s.environment)) for s in found.services}
    for key, wanted in desired.steps(found).items():
        assert look.changed(wanted, seen, digests.get(key.partition("/")[2], "")) == "", key
    assert {desired.ref(obj) for obj in objects} <= set(seen.objects)
    assert not [o for o in seen.objects.values() if ADMITTED in (o.metadata.annotations or {})]


# -- what no right would help with --------------------------------------------------------------------------


@pytest.mark.parametrize(("bounds", "said"), [({"max": "1Gi"}, "maximum"), ({"min": "50Gi"}, "minimum")])
def test_a_limit_range_that_refuses_a_volume_is_no_missing_right(
    api_server: Path, stack: SmallStack, bounds: dict[str, str], said: str
) -> None:
    limit_volumes(api_server, stack.namespace, **bounds)
    with pytest.raises(Forbidden) as told:
        stack.provision()
    assert told.value.message.startswith("A limit range of the namespace does not allow to apply Persistent")
    assert f"{said} storage usage per PersistentVolumeClaim is" in told.value.details
    assert told.value.resolution.startswith("Change targets.kubernetes.storage-size in matcha.yaml")
    stack.options |= {"storage_size": next(iter(bounds.values()))}
    with pytest.raises(Forbidden) as told:
        stack.provision()
    assert told.value.resolution.startswith("Change targets.kubernetes.volume-size in matcha.yaml")


def test_a_policy_that_refuses_is_no_missing_right(api_server: Path, stack: SmallStack, name: str) -> None:
    admin = cluster(api_server, stack.namespace)
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["services"]}
    refusing = {"expression": "false", "message": "no Services here", "reason": "Forbidden"}
    matched = {
        "resourceRules": [rule],
        "namespaceSelector": {"matchLabels": {METADATA_NAME: stack.namespace}},
    }
    spec = {"failurePolicy": "Fail", "matchConstraints": matched, "validations": [refusing]}
    bound = {"policyName": name, "validationActions": ["Deny"]}
    admin.apply(ValidatingAdmissionPolicy.from_dict({"metadata": {"name": name}, "spec": spec}))
    admin.apply(ValidatingAdmissionPolicyBinding.from_dict({"metadata": {"name": name}, "spec": bound}))
    try:
        until(lambda: _is_refused(admin), 60)
        with pytest.raises(Forbidden) as told:
            stack.provision()
    finally:
        admin.delete(ValidatingAdmissionPolicyBinding, name)
        admin.delete(ValidatingAdmissionPolicy, name)
    assert told.value.message.startswith("A policy of the cluster does not allow to apply Service ")
    assert "no Services here" in told.value.details
    assert "the policy that is named" in told.value.resolution


def _is_refused(admin: Cluster) -> bool:
    """The API server takes up a policy some time after it was made."""
    ports = ServiceSpec(ports=[ServicePort(port=80)])
    trying = Client(admin.config, namespace=admin.namespace, dry_run=True)
    try:
        with contextlib.closing(trying):
            trying.create(ServiceObject(metadata=ObjectMeta(name="tried"), spec=ports))
    except ApiError as error:
        return "no Services here" in str(error)
    return False
