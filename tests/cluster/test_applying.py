"""Applying a stack to a real API server: order, ownership, repair, pruning, waiting."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from lightkube import ApiError, Client
from lightkube.models.apps_v1 import DeploymentSpec
from lightkube.models.batch_v1 import JobSpec
from lightkube.models.core_v1 import (
    Container,
    ObjectReference,
    PodSpec,
    PodTemplateSpec,
    ResourceQuotaSpec,
)
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import NetworkPolicySpec
from lightkube.resources.apps_v1 import Deployment, ReplicaSet, StatefulSet
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import (
    ConfigMap,
    PersistentVolumeClaim,
    Pod,
    PodBinding,
    ResourceQuota,
    Secret,
    ServiceAccount,
)
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.networking_v1 import NetworkPolicy
from lightkube.resources.policy_v1 import PodDisruptionBudget
from lightkube.types import CascadeType, PatchType

from matcha.errors import BadInput, ComponentFailed, MatchaError
from matcha.events import Event
from matcha.targets.kubernetes import raising, removal
from matcha.targets.kubernetes.cluster import Conflict, Forbidden
from matcha.targets.kubernetes.look import KINDS, everything
from matcha.targets.kubernetes.names import COMPONENT, INSTANCE, MANAGED_BY, NAME, labels
from matcha.targets.kubernetes.removal import ORDER, RECORD
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, crashing, failing, running, well
from support.matcha import until
from support.small_stack import SmallStack, namespace_is_gone, there, usual, with_database, with_env
from support.stores import cluster

OTHERS = (Pod, ReplicaSet)  # made by the cluster's own controllers


def reasons(stack: SmallStack) -> dict[str, str]:
    return {step.key: step.reason for step in stack.plan().steps}


def stop(stack: SmallStack) -> None:
    target = stack.target()
    token = target.store().acquire("stop", wait=5, emit=lambda _: None).token
    try:
        target.stop(lambda _: None)
    finally:
        target.store().release(token)


def editor(api_server: Path, namespace: str) -> Client:
    """Somebody else, by hand."""
    made = cluster(api_server, namespace)
    made._given = Client(made.config, namespace=namespace, field_manager="kubectl-edit")
    return made.client


# -- applying -----------------------------------------------------------------------------------------------


def test_objects_are_applied_in_the_order_of_need(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    stack.provision()
    urls = [urlsplit(path) for method, path in proxy.requests if method == "PATCH"]
    applied = [
        "/".join(url.path.split("/")[-2:]) for url in urls if "/apis/" in url.path or "/api/" in url.path
    ]
    place = {name: number for number, name in reversed(list(enumerate(applied)))}
    workloads = [number for name, number in place.items() if name.startswith(("deployments", "statefulsets"))]
    assert max(n for name, n in place.items() if name.startswith("networkpolicies")) < min(workloads)
    for first, then in (
        ("serviceaccounts/back", "statefulsets/back"),
        ("configmaps/back-files", "statefulsets/back"),
        ("configmaps/back-live", "statefulsets/back"),
        ("persistentvolumeclaims/back-data", "statefulsets/back"),
        ("services/back", "statefulsets/back"),
        ("statefulsets/back", "serviceaccounts/front"),
        ("statefulsets/object-store", "statefulsets/back"),
    ):
        assert place[first] < place[then], (first, then)
    assert all(parse_qs(url.query) == {"fieldManager": ["matcha"]} for url in urls)
    found = everything(cluster(api_server, stack.namespace)).objects.values()
    for obj in [o for o in found if type(o) not in OTHERS]:
        managers = {m.manager for m in obj.metadata.managedFields if not m.subresource}
        assert managers == {"matcha"}, obj.metadata.name


def test_an_unchanged_second_pass_lists_each_kind_once_and_writes_nothing(
    stack: SmallStack, proxy: FaultyProxy
) -> None:
    stack.provision()
    made = len(proxy.requests)
    assert not stack.provision().changed
    asked = proxy.requests[made:]
    lists = [path for method, path in asked if method == "GET" and "labelSelector" in path]
    assert len(lists) == len(set(lists)) == len(KINDS) - 1
    assert len([path for _, path in asked if "/secrets" in path]) == 1, "by its name"
    writes = [path for method, path in asked if method != "GET"]
    assert all("/leases" in path or "/configmaps/matcha-state" in path for path in writes), "but the lock's"


def test_a_plan_reads_only(stack: SmallStack, proxy: FaultyProxy) -> None:
    assert reasons(stack)["service/front"] == "not there yet"
    assert {method for method, _ in proxy.requests} == {"GET"}


# -- what others do -----------------------------------------------------------------------------------------


@dataclass
class Edit:
    kind: Any
    name: str
    change: dict[str, Any]
    step: str = "service/front"
    says: str = ""
    by: str = " by kubectl-edit"
    style: PatchType = PatchType.STRATEGIC


def containers(name: str = "front", **fields: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": name, **fields}]}}}}


EDITS = (
    Edit(Deployment, "front", {"spec": {"replicas": 2}}, says="spec.replicas"),
    Edit(Deployment, "front", containers(image="other:1"), says="image"),
    Edit(Deployment, "front", containers(env=[{"name": "DEBUG", "value": "1"}]), says="env"),
    Edit(Deployment, "front", containers("spy", image="spy:1"), says="containers"),
    Edit(Deployment, "front", containers(env=[{"name": "HOME", "$patch": "delete"}]), says="env", by=""),
    Edit(StatefulSet, "back", containers("back", args=["nothing"]), "service/back", "args"),
    Edit(ServiceObject, "front", {"spec": {"selector": {NAME: "back"}}}, says="spec.selector"),
    Edit(ServiceObject, "front", {"spec": {"selector": {"track": "none"}}}, says="spec.selector"),
    Edit(
        NetworkPolicy,
        "matcha-back",
        {"spec": {"podSelector": {"matchLabels": {"track": "none"}}}},
        "foundation/network",
        "spec.podSelector.matchLabels",
        style=PatchType.MERGE,
    ),
    Edit(ServiceObject, "front", {"spec": {"ports": [{"port": 8082, "targetPort": 1}]}}, says="targetPort"),
    Edit(
        NetworkPolicy,
        "matcha-back",
        {"spec": {"ingress": [{}]}},
        "foundation/network",
        "spec.ingress",
        style=PatchType.MERGE,
    ),
    Edit(ConfigMap, "front-files", {"data": {"server.py": "import evil"}}, says="data.server.py"),
    Edit(ConfigMap, "back-live", {"data": {"models.json": "[1]"}}, "service/back", "models.json"),
    Edit(ServiceAccount, "front", {"automountServiceAccountToken": True}, says="automount"),
    Edit(
        ServiceAccount,
        "front",
        [{"op": "remove", "path": "/automountServiceAccountToken"}],
        says="automount",
        style=PatchType.JSON,
        by="",
    ),
    Edit(PodDisruptionBudget, "front", {"spec": {"maxUnavailable": 0}}, says="spec.maxUnavailable"),
)


def pods(**fields: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": fields}}}


SPY = {"name": "spy", "image": "spy:1"}
ELSEWHERE = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
        }
    }
}
ADDED = (
    Edit(ServiceObject, "front", {"spec": {"externalIPs": ["1.2.3.4"]}}, says="spec.externalIPs"),
    Edit(ServiceObject, "front", {"spec": {"ports": [{"port": 22, "name": "ssh"}]}}, says="spec.ports[22]"),
    Edit(ServiceObject, "front", {"spec": {"type": "NodePort"}}, says="spec.type"),
    Edit(ServiceObject, "front", {"spec": {"publishNotReadyAddresses": True}}, says="publishNotReady"),
    Edit(Deployment, "front", {"spec": {"paused": True}}, says="spec.paused"),
    Edit(Deployment, "front", {"spec": {"minReadySeconds": 5}}, says="spec.minReadySeconds"),
    Edit(
        StatefulSet,
        "back",
        {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}},
        "service/back",
        "updateStrat",
    ),
    Edit(Deployment, "front", pods(initContainers=[SPY]), says="template.spec.initContainers"),
    Edit(Deployment, "front", pods(hostPID=True), says="hostPID"),
    Edit(Deployment, "front", pods(hostIPC=True, shareProcessNamespace=True), says="hostIPC"),
    Edit(Deployment, "front", pods(hostNetwork=True), says="hostNetwork"),
    Edit(Deployment, "front", pods(tolerations=[{"operator": "Exists"}]), says="tolerations"),
    Edit(
        Deployment, "front", pods(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["back"]}]), says="hostAliases"
    ),
    Edit(Deployment, "front", pods(nodeName="there"), says="nodeName"),
    Edit(Deployment, "front", pods(nodeSelector={"gpu": "a100"}), says="nodeSelector"),
    Edit(Deployment, "front", pods(affinity=ELSEWHERE), says="affinity"),
    Edit(Deployment, "front", pods(dnsConfig={"nameservers": ["1.2.3.4"]}), says="dnsConfig"),
    Edit(Deployment, "front", pods(dnsPolicy="Default"), says="dnsPolicy"),
    Edit(Deployment, "front", pods(serviceAccountName="default"), says="serviceAccountName"),
    Edit(Deployment, "front", pods(imagePullSecrets=[{"name": "theirs"}]), says="imagePullSecrets"),
    Edit(Deployment, "front", pods(securityContext={"supplementalGroups": [0]}), says="supplementalGroups"),
    Edit(
        Deployment, "front", containers(envFrom=[{"secretRef": {"name": "matcha-secrets"}}]), says="envFrom"
    ),
    Edit(
        Deployment,
        "front",
        containers(lifecycle={"postStart": {"exec": {"command": ["id"]}}}),
        says="postStart",
    ),
    Edit(Deployment, "front", containers(workingDir="/root"), says="workingDir"),
    Edit(Deployment, "front", containers(imagePullPolicy="Never"), says="imagePullPolicy"),
    Edit(Deployment, "front", containers(ports=[{"containerPort": 22}]), says="ports[22]"),
    Edit(Deployment, "front", containers(resources={"limits": {"cpu": "1"}}), says="limits.cpu"),
    Edit(
        Deployment,
        "front",
        containers(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        says="capabilities.add",
    ),
    Edit(Deployment, "front", containers(securityContext={"runAsUser": 0}), says="runAsUser"),
    Edit(
        Deployment,
        "front",
        containers(
            volumeMounts=[{"name": "tmp", "mountPath": "/etc/other"}],
        ),
        says="volumeMounts",
    ),
    Edit(
        Deployment,
        "front",
        containers(livenessProbe={"httpGet": None, "exec": {"command": ["false"]}}),
        says="livenessProbe",
    ),
    Edit(
        Deployment,
        "front",
        containers(
            env=[{"name": "HOME", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
        ),
        says="env",
    ),
    Edit(
        StatefulSet,
        "object-store",
        containers("object-store", command=["sh"]),
        "foundation/object-store",
        "command",
    ),
    Edit(
        PodDisruptionBudget,
        "front",
        {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}},
        says="unhealthyPod",
    ),
    Edit(
        NetworkPolicy,
        "matcha-back",
        [{"op": "add", "path": "/spec/ingress/0/from/0/namespaceSelector", "value": {}}],
        "foundation/network",
        "spec.ingress",
        style=PatchType.JSON,
    ),
    Edit(
        NetworkPolicy,
        "matcha-back",
        [{"op": "add", "path": "/spec/ingress/0/ports/0/endPort", "value": 65535}],
        "foundation/network",
        "spec.ingress",
        style=PatchType.JSON,
    ),
    Edit(
        NetworkPolicy,
        "matcha-back",
        {"spec": {"podSelector": {"matchExpressions": [{"key": "never", "operator": "Exists"}]}}},
        "foundation/network",
        "spec.podSelector",
        style=PatchType.MERGE,
    ),
)


@pytest.mark.sweep(sample=("changed",))
@pytest.mark.parametrize(
    "edits", [EDITS, ADDED[::3], ADDED], ids=["changed", "some of what was added", "added"]
)
def test_what_others_changed_shows_in_the_plan_and_is_repaired(
    api_server: Path, stack: SmallStack, edits: tuple[Edit, ...]
) -> None:
    stack.provision()
    other = editor(api_server, stack.namespace)
    for edit in edits:
        other.patch(edit.kind, edit.name, edit.change, patch_type=edit.style)
        told = reasons(stack)
        assert list(told) == [edit.step], edit
        found = told[edit.step]
        assert f"{edit.kind.__name__} {edit.name} was changed{edit.by}: " in found
        assert edit.says in found, edit
        assert any(found in detail for detail in stack.details().values()), edit
        stack.provision()
        assert reasons(stack) == {}, edit
        assert set(stack.details().values()) == {""}, edit


def test_what_a_cut_short_provision_did_not_take_away_goes_with_the_next(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    stack.provision()
    stack.services = (usual()[0],)
    fault = proxy.add(Fault("DELETE", "/networkpolicies/matcha-front", status=403))
    with pytest.raises(Forbidden):
        stack.provision()
    assert fault.came.is_set() and "NetworkPolicy/matcha-front" in there(api_server, stack.namespace)
    stack.provision()
    assert "NetworkPolicy/matcha-front" not in there(api_server, stack.namespace)


def test_a_port_that_was_opened_in_a_policy_is_seen(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    other = editor(api_server, stack.namespace)
    policy = other.get(NetworkPolicy, "matcha-back")
    assert policy.spec and policy.spec.ingress and policy.spec.ingress[0].ports
    policy.spec.ingress[0].ports.append(type(policy.spec.ingress[0].ports[0])(port=22, protocol="TCP"))
    other.replace(policy)
    assert "spec.ingress" in reasons(stack)["foundation/network"]
    stack.provision()
    assert reasons(stack) == {}


def test_what_matcha_does_not_set_is_left_to_others(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    other = editor(api_server, stack.namespace)
    mark = {"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "ours"}}}
    for kind, name in ((Deployment, "front"), (ServiceObject, "front"), (ConfigMap, "back-live")):
        other.patch(kind, name, mark)
    restarted = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    other.patch(Deployment, "front", {"spec": {"template": restarted}})
    assert reasons(stack).get("service/front", "still starting") == "still starting"
    assert "changed by" not in " ".join(stack.details().values())
    front = with_env(usual()[1], NEW="1")
    stack.services = (usual()[0], front)
    stack.provision()
    found = other.get(Deployment, "front")
    assert found.metadata and (found.metadata.labels or {})["team"] == "blue"


def test_what_others_deleted_is_made_again(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    other = editor(api_server, stack.namespace)
    gone: tuple[tuple[Any, str], ...] = (
        (ServiceObject, "back"),
        (PodDisruptionBudget, "back"),
        (ConfigMap, "back-files"),
        (ServiceAccount, "front"),
        (Deployment, "front"),
        (StatefulSet, "object-store"),
        (NetworkPolicy, "matcha-default"),
        (ConfigMap, "matcha-notes"),
    )
    before = there(api_server, stack.namespace)
    for kind, name in gone:
        other.delete(kind, name)
    told = reasons(stack)
    assert told["service/back"] in ("Service back is missing", "ConfigMap back-files is missing")
    assert told["foundation/network"] == "NetworkPolicy matcha-default is missing"
    assert told["service/front"] == told["foundation/object-store"] == "not there yet"
    stack.provision()
    assert reasons(stack) == {}
    lasting = {n for n in before if not n.startswith(("Pod/", "ReplicaSet/"))}
    assert lasting <= there(api_server, stack.namespace)


def test_a_workload_is_made_anew_where_it_cannot_be_changed(api_server: Path, stack: SmallStack) -> None:
    """As an earlier Matcha may have made it; the volume stays."""
    stack.provision()
    client = cluster(api_server, stack.namespace).client
    old, claim = client.get(StatefulSet, "back"), client.get(PersistentVolumeClaim, "back-data")
    client.delete(StatefulSet, "back", cascade=CascadeType.ORPHAN)
    until(lambda: not list(client.list(StatefulSet, fields={"metadata.name": "back"})), 30)
    old.metadata = ObjectMeta(name="back", labels=old.metadata.labels, annotations=old.metadata.annotations)
    old.spec.podManagementPolicy = "OrderedReady"
    client.create(old)
    assert "podManagementPolicy" in reasons(stack)["service/back"]
    stack.provision()
    assert client.get(StatefulSet, "back").spec.podManagementPolicy == "Parallel"
    assert client.get(PersistentVolumeClaim, "back-data").metadata.uid == claim.metadata.uid
    assert not reasons(stack)


def test_a_mark_that_was_taken_off_is_put_back(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    editor(api_server, stack.namespace).patch(
        ServiceObject, "front", {"metadata": {"labels": {MANAGED_BY: "me"}}}
    )
    assert "Service front" in reasons(stack)["service/front"]
    stack.provision()
    assert reasons(stack) == {}


def test_another_manager_is_named_and_overruled_only_on_demand(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    operator = cluster(api_server, stack.namespace).client
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3}}
    params = {"patch_type": PatchType.APPLY, "field_manager": "gitops", "force": True}
    operator.patch(Deployment, "front", theirs, **params)
    assert "Deployment front was changed by gitops: spec.replicas" in reasons(stack)["service/front"]
    with pytest.raises(Conflict) as told:
        stack.provision()
    assert "Deployment front is managed by somebody else" in told.value.message
    assert "gitops" in told.value.details and ".spec.replicas" in told.value.details
    assert told.value.resolution == "matcha provision --force"
    found = operator.get(Deployment, "front")
    assert found.spec and found.spec.replicas == 3
    stack.provision(force=True)
    found = operator.get(Deployment, "front")
    assert found.spec and found.spec.replicas == 1
    assert reasons(stack) == {}


def test_what_another_manager_applies_besides_is_taken_out_only_on_demand(
    api_server: Path, stack: SmallStack
) -> None:
    stack.provision()
    operator = cluster(api_server, stack.namespace).client
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", **pods(tolerations=[{"operator": "Exists"}])}
    operator.patch(Deployment, "front", theirs, patch_type=PatchType.APPLY, field_manager="gitops")
    where = "spec.template.spec.tolerations"
    assert f"Deployment front was changed by gitops: {where}" in reasons(stack)["service/front"]
    with pytest.raises(Conflict) as told:
        stack.provision()
    assert "Deployment front is managed by somebody else" in told.value.message
    assert told.value.details == f'conflict with "gitops": .{where}'
    assert told.value.resolution == "matcha provision --force"
    assert operator.get(Deployment, "front").spec.template.spec.tolerations
    stack.provision(force=True)
    assert not operator.get(Deployment, "front").spec.template.spec.tolerations
    assert reasons(stack) == {}


def test_what_was_restored_from_a_backup_is_no_change(api_server: Path, stack: SmallStack) -> None:
    """Whoever makes an object owns what the API server fills in, too."""
    stack.provision()
    backup = editor(api_server, stack.namespace)
    for kind, name in (
        (Deployment, "front"),
        (StatefulSet, "back"),
        (ServiceObject, "front"),
        (NetworkPolicy, "matcha-back"),
        (PodDisruptionBudget, "front"),
    ):
        saved = backup.get(kind, name)
        backup.delete(kind, name, cascade=CascadeType.FOREGROUND)
        until(lambda kind=kind, name=name: cluster_lacks(backup, kind, name), 60)
        saved.metadata = ObjectMeta(
            name=name, labels=saved.metadata.labels, annotations=saved.metadata.annotations
        )
        saved.status = None
        until(lambda saved=saved: is_taken_back(backup, saved), 60)
    until(lambda: reasons(stack) == {}, 60)  # the pods come again
    for kind, name in ((Deployment, "front"), (ServiceObject, "front")):  # owners may be wiped out as well
        backup.patch(kind, name, {"metadata": {"managedFields": [{}]}}, patch_type=PatchType.MERGE)
    stack.services = (usual()[0], with_env(usual()[1], NEW="1"))
    stack.provision()
    assert reasons(stack) == {}


def is_taken_back(client: Client, saved: Any) -> bool:
    """A Service's address is free a moment after the Service is gone."""
    try:
        client.create(saved)
    except ApiError as error:
        assert "already allocated" in str(error), error
        return False
    return True


def cluster_lacks(client: Client, kind: Any, name: str) -> bool:
    return not list(client.list(kind, fields={"metadata.name": name}))


def test_a_rollout_that_was_paused_goes_on(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    editor(api_server, stack.namespace).patch(Deployment, "front", {"spec": {"paused": True}})
    stack.services = (usual()[0], with_env(usual()[1], NEW="1"))
    stack.provision()
    assert reasons(stack) == {}
    assert not cluster(api_server, stack.namespace).get(Deployment, "front").spec.paused


def test_a_rollout_that_is_paused_while_it_is_waited_for_is_named(
    api_server: Path, stack: SmallStack, node: Kubelet
) -> None:
    stack.provision()
    node.says["front"] = lambda _: {"phase": "Pending"}
    other = editor(api_server, stack.namespace)

    def pause(event: Event) -> None:
        if event.subject == "service/front" and event.message.endswith(" s)") and not paused:
            paused.append(event.message)
            change = {"spec": {"paused": True, **containers(image="other:1")["spec"]}}
            other.patch(Deployment, "front", change, patch_type=PatchType.STRATEGIC)

    paused: list[str] = []
    stack.services = (usual()[0], with_env(usual()[1], NEW="1"))
    with pytest.raises(ComponentFailed) as told:
        stack.provision(emit=pause)
    assert "its rollout is paused (kubectl rollout pause)" in told.value.message
    assert told.value.resolution == "matcha provision"
    assert "its rollout is paused" in " ".join(stack.details().values())
    del node.says["front"]
    stack.provision()
    assert reasons(stack) == {}


# -- pruning ------------------------------------------------------------------------------------------------


def foreign(namespace: str) -> list[Any]:
    """Objects that look like Matcha's, and are not."""

    def meta(name: str, **labels: str) -> ObjectMeta:
        return ObjectMeta(
            name=name, labels={"app.kubernetes.io/part-of": "matcha", COMPONENT: "small", **labels}
        )

    pod = PodTemplateSpec(
        metadata=ObjectMeta(labels={"app": "theirs"}),
        spec=PodSpec(containers=[Container(name="main", image="their:1")]),
    )
    spec = DeploymentSpec(replicas=0, selector=LabelSelector(matchLabels={"app": "theirs"}), template=pod)
    mine = {MANAGED_BY: "Helm"}
    return [
        Deployment(metadata=meta("front-2", **{NAME: "front", **mine}), spec=spec),
        ConfigMap(metadata=meta("front-files-2", **{NAME: "front"}), data={"a": "b"}),
        ConfigMap(metadata=meta("code-0123456789abcdef", **{NAME: "code", MANAGED_BY: "matcha-fork"})),
        NetworkPolicy(metadata=meta("matcha-others"), spec=NetworkPolicySpec(podSelector=LabelSelector())),
        ServiceAccount(metadata=meta("front-account", **{NAME: "front"})),
        Secret(metadata=meta("matcha-secrets-2", **{NAME: "secrets"})),
        PersistentVolumeClaim.from_dict(
            {
                "metadata": {"name": "front-data", "labels": {NAME: "front", "matcha-ml/keeps-data": "true"}},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }
        ),
    ]


def test_only_what_matcha_made_is_pruned_and_destroyed(api_server: Path, stack: SmallStack) -> None:
    theirs = foreign(stack.namespace)
    admin = cluster(api_server, stack.namespace)
    for obj in theirs:
        admin.client.create(obj, field_manager="somebody")
    versions = {o.metadata.name: admin.get(type(o), o.metadata.name).metadata.resourceVersion for o in theirs}
    stack.provision()
    stack.services = (usual()[0],)
    assert reasons(stack)["service/front"] == "no longer wanted"
    assert "NetworkPolicy matcha-back was changed: spec.ingress" in reasons(stack)["foundation/network"]
    stack.provision()
    left = there(api_server, stack.namespace)
    assert {name for name in left if "front" in name} == set()
    assert {"StatefulSet/back", "PersistentVolumeClaim/back-data"} <= left
    assert reasons(stack) == {}
    stack.destroy()
    assert there(api_server, stack.namespace) == set()
    after = {o.metadata.name: admin.get(type(o), o.metadata.name).metadata.resourceVersion for o in theirs}
    assert after.keys() == versions.keys()
    assert {n for n in after if after[n] != versions[n]} <= {"front-2", "front-data"}, "by controllers"


def test_parts_that_a_service_no_longer_has_go(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    back, front = usual()
    stack.services = (
        msgspec.structs.replace(back, files={}, live={}, command=("-m", "http.server")),
        msgspec.structs.replace(front, volumes=("data",)),
    )
    stack.provision()
    left = there(api_server, stack.namespace)
    assert {"ConfigMap/back-files", "ConfigMap/back-live", "Deployment/front"} & left == set()
    assert {"StatefulSet/front", "ConfigMap/front-files", "ConfigMap/matcha-notes"} <= left
    assert reasons(stack) == {}


def test_a_database_that_nobody_needs_any_more_goes_but_for_its_data(
    api_server: Path, stack: SmallStack
) -> None:
    back, front = usual()
    stack.services = (with_database(back), front)
    stack.provision()
    with_it = there(api_server, stack.namespace)
    assert {"StatefulSet/mysql", "CronJob/mysql-dump", "Service/mysql"} <= with_it
    stack.services = usual()
    stack.provision()
    left = {
        n for n in there(api_server, stack.namespace) if "mysql" in n and not n.startswith(("Job", "Pod/"))
    }
    assert left == {"PersistentVolumeClaim/mysql"}
    assert reasons(stack) == {}


def test_a_start_takes_back_all_that_a_stop_did(api_server: Path, stack: SmallStack) -> None:
    """Nightly dumps too; and one who suspends them alone is seen."""
    back, front = usual()
    stack.services = (with_database(back), front)
    stack.provision()
    client = cluster(api_server, stack.namespace).client

    def suspended() -> bool | None:
        spec = client.get(CronJob, "mysql-dump").spec
        return spec.suspend if spec else None

    stop(stack)
    assert suspended() is True
    assert reasons(stack)["foundation/mysql"] == "stopped"
    stack.provision()
    assert suspended() is False
    assert reasons(stack) == {}
    editor(api_server, stack.namespace).patch(CronJob, "mysql-dump", {"spec": {"suspend": True}})
    assert (
        "CronJob mysql-dump was changed by kubectl-edit: spec.suspend" in reasons(stack)["foundation/mysql"]
    )
    stack.provision()
    assert suspended() is False and reasons(stack) == {}


# -- before anything is made


def test_nothing_is_made_before_it_is_agreed_to(
    api_server: Path, tmp_path: Path, name: str, through: tuple[FaultyProxy, Path]
) -> None:
    """Also where nobody can be asked, which the question itself raises."""
    proxy, kubeconfig = through
    new = SmallStack(tmp_path, kubeconfig, name)

    def unasked(_: Any) -> bool:
        raise BadInput("This has to be confirmed.")

    assert new.provision(confirm=lambda _: False).cancelled
    with pytest.raises(BadInput):
        new.provision(confirm=unasked)
    writes = {method for method, path in proxy.requests if "selfsubject" not in path} - {"GET"}
    assert not writes and namespace_is_gone(api_server, name)


def test_a_plan_that_was_agreed_to_is_asked_again_only_if_it_is_another_under_the_lock(
    stack: SmallStack, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    (tmp_path / "theirs").mkdir()
    theirs = SmallStack(tmp_path / "theirs", stack.kubeconfig, stack.namespace, usual()[0])

    def agree(plan: Any) -> bool:
        asked.append([step.key for step in plan.steps])
        if len(asked) == 1:
            theirs.provision()
        return True

    stack.provision(confirm=agree)
    assert "service/back" in asked[0] and asked[1:] == [["foundation/network", "service/front"]]
    stack.destroy()
    asked[1:] = []
    stack.provision(confirm=agree)
    assert len(asked) == 2 and asked[1] == asked[0] and reasons(stack) == {}


# -- jobs, and what does not come up ------------------------------------------------------------------------


def test_an_environment_is_built_by_a_job_that_may_change(
    api_server: Path, stack: SmallStack, node: Kubelet
) -> None:
    """A Job's description cannot be edited: one that could not pull its image is replaced."""
    stack.archive = True
    node.says["environment-builder"] = lambda _: {"phase": "Pending"}
    seen: list[str] = []

    def interrupted(event: Any) -> None:
        if event.subject == "environment/plain" and event.phase == "progress":
            seen.append(event.message)
            if len(seen) > 3:
                raise ComponentFailed("the test had enough")

    with pytest.raises(ComponentFailed):
        stack.provision(emit=interrupted)
    node.says.clear()
    stack.options["registry_mirror"] = "mirror.example.org"
    stack.provision()
    assert reasons(stack) == {}
    [job] = [n for n in there(api_server, stack.namespace) if n.startswith("Job/build-plain")]
    assert job


def test_a_build_that_fails_says_what_to_change_and_status_why(stack: SmallStack, node: Kubelet) -> None:
    said = "The packages could not be installed: the index shows a certificate that is not trusted here."
    stack.archive = True
    node.says["environment-builder"] = failing(said, 24)
    with pytest.raises(ComponentFailed, match="environment-builder did not come up") as told:
        stack.provision()
    assert told.value.details == said
    assert told.value.resolution == "Mend what it names, then: matcha provision"
    why = "its environment plain could not be built: its job failed, and would again"
    assert stack.details()["small"] == f"{why}; {said}"
    node.says["environment-builder"] = lambda _: {"phase": "Pending"}

    def interrupted(event: Any) -> None:
        if event.subject == "environment/plain" and event.phase == "progress":
            raise ComponentFailed("the test had enough")

    with pytest.raises(ComponentFailed):
        stack.provision(emit=interrupted)
    assert stack.details()["small"].startswith("its environment plain is being built: ")
    node.says.clear()
    stack.provision()
    assert stack.details()["small"] == ""


def test_a_job_that_runs_is_told_by_its_last_line_where_that_may_be_read(
    stack: SmallStack, node: Kubelet, proxy: FaultyProxy
) -> None:
    stack.archive = True
    answer = {"body": "2026-01-01T00:00:00Z installed after 35 s\n", "content_type": "text/plain"}
    proxy.add(Fault("GET", "/log", times=1, status=200, **answer))
    proxy.add(Fault("GET", "/log", times=99, status=403))
    node.says["environment-builder"] = lambda pod: {**running(pod), "phase": "Pending"}  # asked again

    def told(enough: str) -> str:
        def interrupted(event: Any) -> None:
            if event.phase == "progress" and event.message.startswith(enough):
                raise ComponentFailed(event.message)

        with pytest.raises(ComponentFailed) as found:
            stack.provision(emit=interrupted)
        return found.value.message

    assert told("its job runs").startswith("its job runs: installed after 35 s (")
    assert told("its job runs").startswith("its job runs (")
    node.says.clear()
    stack.provision()


@pytest.mark.parametrize(("service", "number"), [("back", 0), ("front", 1)])
def test_the_reason_why_a_pod_does_not_come_up_is_named(
    stack: SmallStack, node: Kubelet, service: str, number: int
) -> None:
    """And once it is mended, the pod that failed is neither waited for nor taken for the new one."""
    node.says[service] = crashing("no money")
    with pytest.raises(ComponentFailed) as told:
        stack.provision()
    assert f"{service} did not come up: {service} ended with exit code 3" in told.value.message
    assert told.value.details == "no money"
    assert told.value.resolution == f"matcha logs {service}"
    assert reasons(stack)[f"service/{service}"] == f"{service} ended with exit code 3"
    slow = {"phase": "Pending"}
    seen: dict[str, int] = {}

    def hesitant(pod: Pod) -> dict[str, Any]:
        assert pod.metadata and pod.metadata.name
        seen[pod.metadata.name] = seen.get(pod.metadata.name, 0) + 1
        return slow if seen[pod.metadata.name] < 10 else well(pod)

    node.says[service] = hesitant
    services = list(usual())
    services[number] = with_env(services[number], MONEY="some")
    stack.services = services
    stack.provision()
    assert reasons(stack) == {}


def quota(api_server: Path, namespace: str, **hard: str) -> None:
    spec = ResourceQuotaSpec(hard={k.replace("_", "."): v for k, v in hard.items()})
    admin = cluster(api_server, namespace)
    admin.create(ResourceQuota(metadata=ObjectMeta(name="small"), spec=spec))


def test_a_quota_that_allows_no_pod_is_named(
    api_server: Path, stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota(api_server, stack.namespace, pods="0")
    with monkeypatch.context() as impatient:
        impatient.setattr(raising, "HARDLY", 1.0)
        with pytest.raises(ComponentFailed, match=r"no pod may be made: .*exceeded quota: small"):
            stack.provision()
    cluster(api_server, stack.namespace).delete(ResourceQuota, "small")
    stack.provision()
    assert reasons(stack) == {}


def test_a_quota_that_allows_no_volume_is_not_said_to_be_a_permission(
    api_server: Path, stack: SmallStack
) -> None:
    quota(api_server, stack.namespace, persistentvolumeclaims="0")
    with pytest.raises(Forbidden) as told:
        stack.provision()
    assert "quota" in told.value.message and "exceeded quota: small" in told.value.details
    assert "You may not" not in told.value.message


def test_a_job_that_runs_is_not_waited_for_by_stop(
    api_server: Path, stack: SmallStack, node: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dump that began a moment ago, or the builder that a killed run left."""
    monkeypatch.setattr(removal, "GONE_SECONDS", 20.0)
    stack.provision()
    node.says["dump"] = lambda _: {"phase": "Running"}
    pod = PodTemplateSpec(
        metadata=ObjectMeta(labels=labels("dump", "mysql")),
        spec=PodSpec(containers=[Container(name="dump", image="dump:1")], restartPolicy="Never"),
    )
    admin, dumping = cluster(api_server, stack.namespace), {"job-name": "dump-now"}
    for name in ("dump-now", "dump-then"):
        made = ObjectMeta(name=name, labels=labels("dump", "mysql"))
        admin.create(Job(metadata=made, spec=JobSpec(template=pod)))
        until(lambda: {"Running"} == {p.status.phase for p in admin.found(Pod, dumping)}, 30)
        node.says["dump"] = well
    until(lambda: admin.get(Job, "dump-then").status.succeeded, 30)
    stop(stack)
    left = [p for p in admin.found(Pod) if p.status.phase != "Succeeded"]
    assert left == []
    assert admin.get(Job, "dump-now") is None
    assert admin.get(Job, "dump-then"), "its log may be looked at"


def test_a_stop_that_is_not_done_says_to_stop_again(
    api_server: Path, stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "GONE_SECONDS", 3.0)
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    [pod] = admin.found(Pod, {NAME: "back"})
    name = pod.metadata.name
    # On a node that does not answer. A finalizer would not do: the controllers let a pod without a node fail.
    where = PodBinding(metadata=ObjectMeta(name=name), target=ObjectReference(kind="Node", name="away"))
    with contextlib.suppress(
        msgspec.ValidationError
    ):  # the answer is a Status, which lightkube does not expect
        admin.client.create(where, name)
    assert admin.get(Pod, name).spec.nodeName == "away"
    with pytest.raises(MatchaError) as told:
        stop(stack)
    assert told.value.resolution == "matcha stop"
    assert name in told.value.details
    admin.client.delete(Pod, name, grace_period=0)


def test_a_stopped_stack_has_no_pod_and_comes_back(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    stop(stack)
    assert not [n for n in there(api_server, stack.namespace) if n.startswith("Pod/")]
    assert set(reasons(stack)) == {"foundation/object-store", "service/back", "service/front"}
    assert {s.action for s in stack.plan().steps} == {"start"}
    stack.provision()
    assert reasons(stack) == {}


def test_all_is_labelled_with_its_stack_and_what_is_not_yet_is_changed_in_place(
    api_server: Path, stack: SmallStack
) -> None:
    """As what a Matcha before this label made."""
    stack.services, stack.archive = (with_database(usual()[0]), usual()[1]), True
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    made = everything(admin, ORDER).objects
    assert {kind for kind, _ in made} >= {"Job", "CronJob", "Pod", "ReplicaSet", "Secret", "ServiceAccount"}
    for ref, obj in made.items():
        assert obj.metadata.labels.get(INSTANCE) == stack.namespace, ref
    # Made by others, written once, or applied with a Job that is done.
    others, once = ("Job", "Pod", "ReplicaSet", "Secret"), ("notes", "environment-builder", "mysql-setup")
    applied = {
        (kind, name): obj
        for (kind, name), obj in made.items()
        if kind not in others and (kind, name) not in RECORD and obj.metadata.labels[NAME] not in once
    }
    off = {"labels": {INSTANCE: None}}
    for (kind, name), obj in applied.items():
        pods = {"spec": {"template": {"metadata": off}}} if kind in ("Deployment", "StatefulSet") else {}
        admin.patch(type(obj), name, {"metadata": off, **pods})
    stack.provision()
    assert stack.plan().steps == ()
    for (kind, name), obj in applied.items():
        found = admin.get(type(obj), name)
        assert found.metadata.uid == obj.metadata.uid, (kind, name)
        assert found.metadata.labels.get(INSTANCE) == stack.namespace, (kind, name)
