"""What `matcha doctor` says of a namespace in which a provision would be refused, or hang."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lightkube import ApiError
from lightkube.models.core_v1 import LimitRangeItem, LimitRangeSpec, ResourceQuotaSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.core_v1 import (
    ConfigMap,
    LimitRange,
    Namespace,
    Node,
    Pod,
    ResourceQuota,
    Secret,
)
from lightkube.resources.core_v1 import Service as ServiceObject

from matcha.errors import BadInput, MatchaError
from matcha.host.findings import Finding
from matcha.targets.kubernetes import doctor, here, rotation
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.jobs import gpus
from matcha.targets.kubernetes.names import SECRETS, STATE
from support.apiserver import as_user
from support.matcha import until
from support.rights import but, grant
from support.small_stack import SmallStack
from support.stores import cluster

ASK = "Ask an administrator for a larger quota, then: matcha provision"


def told(stack: SmallStack, check: str, *, fix: bool = False) -> list[Finding]:
    target, state = stack.target(), None
    with contextlib.suppress(MatchaError):
        state = target.store().read()
    services, environments = tuple(stack.services), (stack.environment,)
    found = target.examine(state, environments, fix=fix, services=services)
    return [f for f in found if f.check == check]


def ill(stack: SmallStack, check: str) -> dict[str, str]:
    return {f.message: f.fix for f in told(stack, check) if not f.ok}


@pytest.fixture
def admin(api_server: Path, stack: SmallStack) -> Cluster:
    return cluster(api_server, stack.namespace)


def quota(admin: Cluster, hard: dict[str, str]) -> None:
    """Made, and counted by the cluster."""
    admin.create(ResourceQuota(metadata=ObjectMeta(name="team"), spec=ResourceQuotaSpec(hard=hard)))
    until(lambda: _counted(admin) == set(hard), 60)


def _counted(admin: Cluster) -> set[str]:
    found = admin.get(ResourceQuota, "team")
    return set((found and found.status and found.status.used) or {})


# -- a namespace that goes ----------------------------------------------------------------------------------


@pytest.fixture
def leaving(api_server: Path, stack: SmallStack, admin: Cluster) -> Iterator[SmallStack]:
    """Its namespace is held by an object with a finalizer that nobody takes off."""
    held = ObjectMeta(name="held", finalizers=["example.com/never"])
    admin.create(ConfigMap(metadata=held))
    admin.delete(Namespace, stack.namespace)
    yield stack
    admin.patch(ConfigMap, "held", {"metadata": {"finalizers": None}})


def test_a_namespace_that_is_being_removed_is_told_with_what_holds_it(leaving: SmallStack) -> None:
    until(lambda: "example.com/never" in " ".join(ill(leaving, "namespace")), 60)
    [(message, fix)] = ill(leaving, "namespace").items()
    assert message.startswith(
        f"The namespace {leaving.namespace} is being removed: nothing can be made in it."
    )
    assert fix.startswith(f"kubectl wait --for=delete namespace/{leaving.namespace} ")


def test_a_cluster_that_is_too_old_is_told_before_anything_is_made(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("runs Kubernetes" in note for note in stack.plan().notes)
    monkeypatch.setattr(doctor, "CHECKED", ("1.97", "1.98"))
    assert any("its manifests are checked from 1.97 on" in note for note in stack.plan().notes)
    assert "Use a newer cluster." in ill(stack, "cluster").values()


def test_status_and_plan_name_a_namespace_that_goes(stack: SmallStack, admin: Cluster) -> None:
    """Its record is there yet."""
    stack.provision()
    assert stack.plan().notes == ()
    held = {"metadata": {"finalizers": ["example.com/never"]}}
    admin.patch(ConfigMap, STATE, held)
    admin.delete(Namespace, stack.namespace)
    said = f"The namespace {stack.namespace} is being removed, and the stack with it."
    try:
        until(lambda: admin.found(Deployment) == [], 60)
        until(lambda: admin.get(ConfigMap, STATE).metadata.deletionTimestamp, 60)  # kinds go one by one
        assert any(note.startswith(said) for note in stack.plan().notes)
        assert not stack.status().healthy
        assert stack.details()["small"].startswith(said)
    finally:
        admin.patch(ConfigMap, STATE, {"metadata": {"finalizers": None}})


# -- this machine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["XDG_DATA_HOME", "MATCHA_CACHE_DIR"])
def test_a_folder_that_takes_no_files_is_told(
    stack: SmallStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert ill(stack, "folders") == {}
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    [(message, fix)] = ill(stack, "folders").items()
    assert message.startswith(f"{tmp_path / 'file'} takes no files, for ")
    assert f"set {variable}" in fix


def test_a_disk_that_is_full_is_told() -> None:
    """As one: nothing is written to it."""
    known = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, known[1]))
    try:
        found = list(here.findings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, known)
    assert [f.ok for f in found] == [False, False]
    assert [f.ok for f in here.findings()] == [True]


# -- what others have there ---------------------------------------------------------------------------------


def test_what_others_have_by_names_of_the_stack_is_told_with_each_name(
    stack: SmallStack, api_server: Path
) -> None:
    assert ill(stack, "names") == {}
    theirs = cluster(api_server, stack.namespace).client
    theirs.create(ConfigMap(metadata=ObjectMeta(name=STATE), data={"a": "b"}), field_manager="helm")
    theirs.create(Secret(metadata=ObjectMeta(name="another")), field_manager="helm")
    port = {"ports": [{"port": 80}]}
    theirs.create(ServiceObject.from_dict({"metadata": {"name": "back"}, "spec": port}), field_manager="helm")
    found = ill(stack, "names")
    where = f"exists in the namespace {stack.namespace} and is not Matcha's. It was made by helm."
    assert {message.partition(" Nothing")[0] for message in found} == {
        f"ConfigMap {STATE} {where}",
        f"Service back {where}",
    }
    for message, fix in found.items():
        assert " ".join(message.split()[:2]) in fix
        assert "targets.kubernetes.namespace" in fix
    assert told(stack, "record", fix=True) == []
    assert theirs.get(ConfigMap, STATE).data == {"a": "b"}


def test_a_stack_that_is_there_is_in_nobodys_way(stack: SmallStack) -> None:
    stack.provision()
    assert [f.message for f in told(stack, "names")] == ["No name that the stack needs is taken by others."]


# -- quotas -------------------------------------------------------------------------------------------------


def test_without_a_quota_nothing_is_said_of_one(stack: SmallStack) -> None:
    assert told(stack, "quotas") == []


def test_quotas_that_are_too_small_are_told_with_what_is_missing(stack: SmallStack, admin: Cluster) -> None:
    quota(admin, {"pods": "1", "requests.memory": "100Mi", "requests.storage": "1Ti", "services": "50"})
    found = ill(stack, "quotas")
    assert set(found.values()) == {ASK}
    assert len(found) == 2
    memory, pods = sorted(found, key=lambda message: "pods" in message)
    assert pods.startswith("The quota team leaves 1 of pods, and the stack needs 3")
    assert memory.startswith("The quota team leaves 100Mi of requests.memory, and the stack needs ")


def test_what_others_use_of_a_quota_is_not_the_stacks_and_its_own_is(
    stack: SmallStack, admin: Cluster
) -> None:
    """Three pods of its own, and two of somebody else."""
    quota(admin, {"pods": "4"})
    stack.provision()
    assert ill(stack, "quotas") == {}
    container = {"name": "c", "image": "c:1"}
    admin.create(Pod.from_dict({"metadata": {"name": "theirs"}, "spec": {"containers": [container]}}))
    until(lambda: _used(admin) == "4", 60)
    [well] = told(stack, "quotas")
    assert well.ok
    assert well.message.endswith("Nearly used up: pods of the quota team (4 of 4).")
    admin.patch(ResourceQuota, "team", {"spec": {"hard": {"pods": "3"}}})
    assert list(ill(stack, "quotas")) == ["The quota team leaves 2 of pods, and the stack needs 3."]


def _used(admin: Cluster) -> str:
    found = admin.get(ResourceQuota, "team")
    assert found and found.status
    return str((found.status.used or {}).get("pods"))


def test_a_quota_for_limits_of_cpu_needs_defaults_for_them(stack: SmallStack, admin: Cluster) -> None:
    quota(admin, {"limits.cpu": "100"})
    [(message, fix)] = ill(stack, "quotas").items()
    assert message == "The quota team asks for limits.cpu, which the stack's pods do not say."
    assert fix == "Ask an administrator for a LimitRange with a default for it, then: matcha provision"
    default = LimitRangeItem(type="Container", default={"cpu": "1"})
    admin.create(LimitRange(metadata=ObjectMeta(name="usual"), spec=LimitRangeSpec(limits=[default])))
    assert ill(stack, "quotas") == {}


def test_who_may_not_see_quotas_is_told_so(api_server: Path, stack: SmallStack) -> None:
    mine = SmallStack(stack.folder, as_user(api_server, "alice"), stack.namespace)
    target = mine.target()
    [found] = [f for f in target.examine(None, (), fix=False) if f.check == "quotas"]
    assert (found.ok, found.message) == (True, "Quotas of the namespace cannot be seen.")
    assert not found.checked


# -- who may not list Secrets -------------------------------------------------------------------------------


@pytest.fixture
def viewer(api_server: Path, stack: SmallStack, tmp_path: Path) -> SmallStack:
    """May see quotas, and of Secrets read the stack's own alone, once it is there."""
    role = but("secrets")
    seen = PolicyRule(apiGroups=[""], resources=["resourcequotas", "limitranges"], verbs=["list"])
    own = PolicyRule(apiGroups=[""], resources=["secrets"], resourceNames=[SECRETS], verbs=["get"])
    role.rules = [*(role.rules or ()), seen, own]
    grant(api_server, stack.namespace, role, "bob")
    (tmp_path / "bob").mkdir()
    return SmallStack(tmp_path / "bob", as_user(api_server, "bob"), stack.namespace)


def test_names_are_checked_and_those_of_secrets_are_said_not_to_be(
    stack: SmallStack, viewer: SmallStack, api_server: Path
) -> None:
    stack.provision()
    unseen = "You may not list Secret: of these that was not checked."
    said = f"No name that the stack needs is taken by others. {unseen}"
    assert [(f.ok, f.checked, f.message) for f in told(viewer, "names")] == [(True, False, said)]
    port = {"ports": [{"port": 80}]}
    theirs = cluster(api_server, stack.namespace).client
    theirs.delete(ServiceObject, "back")
    theirs.create(ServiceObject.from_dict({"metadata": {"name": "back"}, "spec": port}), field_manager="helm")
    assert [m.partition(" exists")[0] for m in ill(viewer, "names")] == ["Service back"]


def test_quotas_are_checked_without_secrets(stack: SmallStack, viewer: SmallStack, admin: Cluster) -> None:
    stack.provision()
    quota(admin, {"pods": "3", "secrets": "1"})
    [found] = told(viewer, "quotas")
    assert found.ok, found.message


def test_who_may_read_the_stacks_own_secret_alone_plans(
    stack: SmallStack, viewer: SmallStack, admin: Cluster
) -> None:
    stack.provision()
    admin.delete(Deployment, "front")
    plan = viewer.plan()
    assert [step.key for step in plan.steps] == ["service/front"]
    assert rotation.CLOSED not in plan.notes


# -- before the first step ----------------------------------------------------------------------------------


def test_a_plan_refuses_an_environment_that_the_image_cannot_have(stack: SmallStack) -> None:
    """Its build would say so minutes later."""
    stack.options["image"] = "python:3.13-slim"
    target, archive = stack.target(), msgspec.structs.replace(stack.environment, image="", python="<3.13")
    snapshot = target.observe(None, stack.services, (archive,))
    with pytest.raises(BadInput, match=r"The environment plain needs Python <3\.13, not 3\.13") as refused:
        target.preflight((archive,), snapshot)
    assert "targets.kubernetes.image in matcha.yaml to python:3.12-slim" in refused.value.resolution


@pytest.fixture
def gpu_node(api_server: Path, namespace: str) -> Iterator[str]:
    """A node that says that it has GPUs, without the plugin that offers them."""
    admin = cluster(api_server, namespace).client
    name = f"gpu-{namespace}"
    labels = {"kubernetes.azure.com/accelerator": "nvidia"}
    admin.create(Node(metadata=ObjectMeta(name=name, labels=labels)))
    yield name
    admin.delete(Node, name)
    with contextlib.suppress(ApiError):
        admin.delete(DaemonSet, gpus.NAME, namespace=gpus.NAMESPACE)


def test_gpus_that_no_pod_gets_are_told_and_the_plugin_comes_where_it_is_asked_for(
    stack: SmallStack, api_server: Path, gpu_node: str
) -> None:
    admin = cluster(api_server, stack.namespace).client
    [told] = stack.findings("gpus")
    assert not told.ok and told.message.startswith(f"{gpu_node} has GPUs and offers none to pods")
    assert "gpu-plugin: true" in told.fix
    assert not stack.findings("gpus", fix=True)[0].ok  # not without being asked for
    stack.options["gpu_plugin"] = True
    [mended] = stack.findings("gpus", fix=True)
    assert mended.ok and mended.fixed, mended
    made = admin.get(DaemonSet, gpus.NAME, namespace=gpus.NAMESPACE)
    assert made.spec and made.spec.template.spec
    pod = made.spec.template.spec
    assert {(t.key, t.value) for t in pod.tolerations or ()} == {("sku", "gpu"), ("nvidia.com/gpu", None)}
    assert pod.affinity and "kubernetes.azure.com/accelerator" in str(pod.affinity.to_dict())
    offered = {"status": {"allocatable": {"nvidia.com/gpu": "2"}, "capacity": {"nvidia.com/gpu": "2"}}}
    admin.patch(Node.Status, gpu_node, offered)
    [well] = stack.findings("gpus")
    assert (well.ok, well.message) == (True, "2 on 1 nodes, offered to pods.")


def test_who_may_not_install_the_plugin_is_told(stack: SmallStack, api_server: Path, gpu_node: str) -> None:
    mine = SmallStack(stack.folder, as_user(api_server, "alice"), stack.namespace)
    assert not mine.findings("gpus")  # nor list nodes
