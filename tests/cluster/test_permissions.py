"""What a user can do who is no administrator, and what Matcha says where a right is missing."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightkube import ApiError, Client
from lightkube.models.apiextensions_v1 import (
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion,
    CustomResourceValidation,
    JSONSchemaProps,
)
from lightkube.models.core_v1 import HostPathVolumeSource, ObjectReference, PersistentVolumeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.admissionregistration_v1 import (
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
)
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace, PersistentVolume, PersistentVolumeClaim
from lightkube.resources.rbac_authorization_v1 import ClusterRole, ClusterRoleBinding

from matcha.events import Event
from matcha.host.findings import Finding
from matcha.targets.kubernetes import foundations, permissions, rotation
from matcha.targets.kubernetes.cluster import Forbidden
from matcha.targets.kubernetes.doctor import OPENSHIFT
from matcha.targets.kubernetes.names import MINE
from support.apiserver import as_user
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, kubelet
from support.matcha import until
from support.rights import RBAC, but, grant, without
from support.small_stack import SmallStack, namespace_is_gone, there, usual, with_database
from support.stores import cluster


@pytest.fixture
def alice(api_server: Path, tmp_path: Path, namespace: str, node: Kubelet) -> SmallStack:
    """Her stack; what she may do is still to be said."""
    return SmallStack(tmp_path, as_user(api_server, "alice"), namespace)


def notes(events: list[Event]) -> list[str]:
    return [e.message for e in events if e.phase == "note"]


def test_the_ready_role_is_enough(api_server: Path, alice: SmallStack) -> None:
    grant(api_server, alice.namespace, permissions.role(), "alice")
    assert permissions.missing(cluster(alice.kubeconfig, alice.namespace)) == []
    alice.services = (with_database(usual()[0]), usual()[1])
    plan = alice.plan()
    [about] = [note for note in plan.notes if "Pod Security" in note]
    assert about.startswith(f"You may not see the namespace {alice.namespace} itself")
    alice.provision()
    assert alice.plan().steps == ()
    alice.services = usual()[:1]
    alice.provision()
    left = there(api_server, alice.namespace)
    assert "Service/front" not in left and "StatefulSet/mysql" not in left
    events: list[Event] = []
    alice.destroy(emit=events.append)
    assert there(api_server, alice.namespace) == set()
    namespace, unchecked = notes(events)
    assert namespace == f"You may not see the namespace {alice.namespace} itself: it stays, whoever made it."
    kinds, _, rest = unchecked.partition(": ")
    assert re.fullmatch(r"You may not list \w+, \w+, \w+ and \d+ other kinds", kinds)
    assert rest == (
        "of these it was not checked that nothing is left. An administrator can: kubectl get "
        "$(kubectl api-resources --namespaced --verbs=list -o name | paste -sd, -) "
        f"-n {alice.namespace} -l app.kubernetes.io/managed-by=matcha"
    )


def test_a_destroy_says_that_it_could_not_look_for_volumes_that_stay(
    api_server: Path, alice: SmallStack
) -> None:
    grant(api_server, alice.namespace, permissions.role(), "alice")
    admin, name = cluster(api_server, alice.namespace).client, f"{alice.namespace}-store"
    spec = PersistentVolumeSpec(
        accessModes=["ReadWriteOnce"],
        capacity={"storage": "100Gi"},
        claimRef=ObjectReference(name="object-store", namespace=alice.namespace),
        hostPath=HostPathVolumeSource(path="/nowhere"),
    )
    admin.create(PersistentVolume(metadata=ObjectMeta(name=name), spec=spec))
    try:
        alice.provision()
        until(lambda: admin.get(PersistentVolumeClaim, "object-store").status.phase == "Bound", 60)  # type: ignore[union-attr]
        events: list[Event] = []
        alice.destroy(emit=events.append)
        assert any(note.startswith("You may not see PersistentVolumes") for note in notes(events))
    finally:
        admin.delete(PersistentVolume, name)


def test_the_doctor_says_what_it_could_not_check(api_server: Path, alice: SmallStack) -> None:
    grant(api_server, alice.namespace, without("events", "cronjobs"), "alice")
    found = {f.check: f for f in alice.target().examine(None, (), fix=False)}
    assert found["cluster"].ok and found["lock"].ok
    assert "cannot be seen" in found["namespace"].message
    assert "cannot be seen" in found["storage"].message
    assert {"namespace", "storage", "addresses"} <= {name for name, f in found.items() if not f.checked}
    assert found["cluster"].checked and found["lock"].checked
    assert found["cluster"].message.startswith(f"{alice.target()._cluster.named} answers")
    assert not found["permissions"].ok
    assert "get, list events (why a pod is not made)" in found["permissions"].message
    assert "cronjobs.batch" in found["permissions"].message


def test_the_doctor_knows_openshift_and_how_pods_run_there(api_server: Path, alice: SmallStack) -> None:
    """By the group of its rules for pods, which anybody may ask for."""
    grant(api_server, alice.namespace, permissions.role(), "alice")

    def told() -> dict[str, Finding]:
        return {f.check: f for f in alice.target().examine(None, (), fix=False)}

    found = told()
    assert "users" not in found
    assert found["addresses"].ok and "cannot be seen" in found["addresses"].message
    admin = SmallStack(alice.folder.parent, api_server, alice.namespace).target()
    addresses = {f.check: f for f in admin.examine(None, (), fix=False)}["addresses"]
    assert addresses.ok and "get IPv4 addresses" in addresses.message
    with openshift(api_server):
        until(lambda: "users" in told(), 30)
        assert not told()["users"].ok
        assert "run-as" in told()["users"].fix
        alice.options = {"run_as": "cluster"}
        assert "users" not in told()


@contextlib.contextmanager
def openshift(api_server: Path) -> Iterator[None]:
    """A kind of its API; without its admission."""
    names = {"plural": "securitycontextconstraints", "kind": "SecurityContextConstraints"}
    schema = JSONSchemaProps(type="object", x_kubernetes_preserve_unknown_fields=True)
    made = CustomResourceDefinition(
        metadata=ObjectMeta(name=f"{names['plural']}.{OPENSHIFT}"),
        spec=CustomResourceDefinitionSpec(
            group=OPENSHIFT,
            names=CustomResourceDefinitionNames(**names),
            scope="Cluster",
            versions=[
                CustomResourceDefinitionVersion(
                    name="v1",
                    served=True,
                    storage=True,
                    schema=CustomResourceValidation(openAPIV3Schema=schema),
                )
            ],
        ),
    )
    admin = cluster(api_server, "default")
    admin.create(made)
    try:
        yield
    finally:
        admin.delete(CustomResourceDefinition, str(made.metadata and made.metadata.name))


def test_whoever_may_not_read_events_does_without(api_server: Path, alice: SmallStack) -> None:
    grant(api_server, alice.namespace, without("events", "replicasets", "pods/log"), "alice")
    alice.provision()
    assert alice.plan().steps == ()
    events: list[Event] = []
    alice.destroy(emit=events.append)
    [unchecked] = [note for note in notes(events) if note.startswith("You may not list ")]
    assert "ReplicaSet" in unchecked
    assert there(api_server, alice.namespace) == set()


def test_who_may_not_list_some_kinds_has_a_status(
    api_server: Path, stack: SmallStack, alice: SmallStack
) -> None:
    """What it could compare is left out."""
    stack.provision()
    grant(api_server, alice.namespace, without("networkpolicies", "cronjobs"), "alice")
    assert alice.status().healthy


def test_who_may_not_read_the_lock_has_a_status(
    api_server: Path, stack: SmallStack, alice: SmallStack
) -> None:
    """It only tells who is changing the stack."""
    stack.provision()
    role = but("secrets")
    role.rules = [rule for rule in role.rules or () if "leases" not in (rule.resources or ())]
    grant(api_server, alice.namespace, role, "alice")
    found = alice.status()
    assert found.healthy and not found.lock
    assert [note for note in found.notes if note.endswith("You may not read Lease matcha-lock.")]
    assert rotation.CLOSED in alice.plan().notes


def test_a_plan_says_what_a_run_will_do_without(api_server: Path, alice: SmallStack) -> None:
    grant(api_server, alice.namespace, permissions.role(), "alice")
    alice.archive = True
    [nodes] = [note for note in alice.plan().notes if "list nodes" in note]
    assert "environments are built for one of them" in nodes
    alice.archive = False
    assert not [note for note in alice.plan().notes if "list nodes" in note]
    grant(api_server, alice.namespace, without("events"), "alice")
    unseen = "You may not list events: why a pod"
    assert [note for note in alice.plan().notes if note.startswith(unseen)]
    alice.provision()
    plan = alice.plan()
    assert not plan.steps and [note for note in plan.notes if note.startswith(unseen)]


def test_a_right_that_is_missing_is_named(api_server: Path, alice: SmallStack) -> None:
    grant(api_server, alice.namespace, without("networkpolicies"), "alice")
    with pytest.raises(Forbidden, match="You may not list NetworkPolic") as told:
        alice.provision()
    assert told.value.resolution == "matcha doctor"
    role = permissions.role()
    assert role.rules
    role.rules = [
        PolicyRule(apiGroups=r.apiGroups, resources=r.resources, verbs=["get", "list"])
        if "networkpolicies" in (r.resources or ())
        else r
        for r in role.rules
    ]
    grant(api_server, alice.namespace, role, "alice")
    with pytest.raises(Forbidden, match="You may not apply NetworkPolicy matcha-"):
        alice.provision()
    grant(api_server, alice.namespace, permissions.role(), "alice")
    alice.provision()
    assert alice.plan().steps == ()


# -- users of a whole cluster, with some rights to namespaces -----------------------------------------------


@pytest.fixture
def everywhere(api_server: Path, tmp_path: Path, name: str) -> Iterator[SmallStack]:
    """Alice's, in a namespace that does not exist; she may make and see them, and not delete them."""
    admin = cluster(api_server, "default")
    rules = [
        *(permissions.role().rules or ()),
        PolicyRule(apiGroups=[""], resources=["namespaces"], verbs=["get", "create"]),
    ]
    admin.apply(ClusterRole(metadata=ObjectMeta(name=name), rules=rules))
    admin.apply(
        ClusterRoleBinding(
            metadata=ObjectMeta(name=name),
            roleRef=RoleRef(apiGroup=RBAC, kind="ClusterRole", name=name),
            subjects=[Subject(apiGroup=RBAC, kind="User", name="alice")],
        )
    )
    with kubelet(api_server, name):
        yield SmallStack(tmp_path, as_user(api_server, "alice"), name)
    for kind in (ClusterRoleBinding, ClusterRole, Namespace):
        admin.delete(kind, name)


@pytest.fixture
def no_levels(api_server: Path, name: str) -> Iterator[None]:
    """Users who are no administrators may not set Pod Security's labels."""
    admin = cluster(api_server, "default")
    spec: dict[str, Any] = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["namespaces"],
                }
            ],
            "objectSelector": {
                "matchExpressions": [{"key": "pod-security.kubernetes.io/enforce", "operator": "Exists"}]
            },
        },
        "validations": [
            {"expression": f"object.metadata.name != '{name}'", "message": "levels are set by administrators"}
        ],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    admin.apply(ValidatingAdmissionPolicy.from_dict({"metadata": {"name": name}, "spec": spec}))
    admin.apply(ValidatingAdmissionPolicyBinding.from_dict({"metadata": {"name": name}, "spec": binding}))
    _until_denied(api_server, name)
    yield
    admin.delete(ValidatingAdmissionPolicyBinding, name)
    admin.delete(ValidatingAdmissionPolicy, name)


def _until_denied(api_server: Path, name: str) -> None:
    """The API server takes up a policy some time after it was made."""
    deadline = time.monotonic() + 60
    trying = Client(cluster(api_server, name).config, namespace=name, dry_run=True)
    with contextlib.closing(trying), pytest.raises(ApiError, match="levels are set by administrators"):
        while time.monotonic() < deadline:
            trying.create(foundations.namespace(name))
            time.sleep(0.2)


def test_without_a_right_to_delete_namespaces_it_is_said_to_stay(
    api_server: Path, everywhere: SmallStack
) -> None:
    everywhere.provision()
    found = cluster(api_server, everywhere.namespace).get_global(Namespace, everywhere.namespace)
    assert found.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert everywhere.plan().notes == ()
    events: list[Event] = []
    everywhere.destroy(emit=events.append)
    assert there(api_server, everywhere.namespace) == set()
    assert not namespace_is_gone(api_server, everywhere.namespace)
    [staying] = [note for note in notes(events) if "you may not delete it" in note]
    assert f"kubectl delete namespace {everywhere.namespace}" in staying


def test_without_a_right_to_pod_securitys_labels_matcha_does_without(
    api_server: Path, everywhere: SmallStack, no_levels: None
) -> None:
    everywhere.provision()
    found = cluster(api_server, everywhere.namespace).get_global(Namespace, everywhere.namespace)
    assert not [key for key in found.metadata.labels if key.startswith("pod-security")]
    assert everywhere.plan().steps == ()
    everywhere.services = usual()[:1]
    [note] = [n for n in everywhere.plan().notes if "Pod Security" in n]
    assert f"kubectl label namespace {everywhere.namespace}" in note
    everywhere.destroy()
    assert there(api_server, everywhere.namespace) == set()


def test_a_cluster_that_refuses_the_level_is_asked_once(
    api_server: Path, tmp_path: Path, name: str, no_levels: None
) -> None:
    """Who may change namespaces may, and the cluster's policy says no."""
    admin = cluster(api_server, name)
    admin.create(Namespace(metadata=ObjectMeta(name=name, labels=MINE)))
    events: list[Event] = []
    try:
        with kubelet(api_server, name):
            stack = SmallStack(tmp_path, api_server, name)
            stack.provision(emit=events.append)
            assert any("levels are set by administrators" in note for note in notes(events))
            assert stack.plan().steps == ()
            found = stack.doctor()["namespace"]
            assert found.ok and "does not enforce Pod Security" in found.message
    finally:
        admin.delete(Namespace, name)


def test_without_a_right_to_make_namespaces_it_is_said_what_to_ask_for(
    api_server: Path, tmp_path: Path, name: str
) -> None:
    admin = cluster(api_server, "default")
    admin.apply(ClusterRole(metadata=ObjectMeta(name=name), rules=permissions.role().rules))
    admin.apply(
        ClusterRoleBinding(
            metadata=ObjectMeta(name=name),
            roleRef=RoleRef(apiGroup=RBAC, kind="ClusterRole", name=name),
            subjects=[Subject(apiGroup=RBAC, kind="User", name="bob")],
        )
    )
    with pytest.raises(Forbidden, match=f'There is no namespace "{name}", and you may not make it') as told:
        SmallStack(tmp_path, as_user(api_server, "bob"), name).provision()
    assert told.value.resolution == f"Ask an administrator for: kubectl create namespace {name}"
    for kind in (ClusterRoleBinding, ClusterRole):
        admin.delete(kind, name)


def test_a_question_whose_answer_was_lost_is_asked_again(
    through: tuple[FaultyProxy, Path], namespace: str
) -> None:
    """As where a busy cluster is asked many at once: it makes nothing."""
    proxy, kubeconfig = through
    fault = proxy.add(Fault("POST", "/selfsubjectaccessreviews", times=2))
    assert permissions.missing(cluster(kubeconfig, namespace)) == []
    assert fault.came.is_set()
