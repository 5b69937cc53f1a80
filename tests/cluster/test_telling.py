"""What `status`, `logs` and `doctor` tell of a stack, and a wait of what does not come up."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube import ApiError, Client
from lightkube.models.core_v1 import HostPathVolumeSource, ObjectReference, PersistentVolumeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret
from lightkube.resources.core_v1 import Event as ClusterEvent
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.networking_v1 import NetworkPolicy
from lightkube.resources.storage_v1 import StorageClass
from lightkube.types import PatchType

from matcha.access import Output
from matcha.errors import BadInput, ComponentFailed, MatchaError
from matcha.host.findings import Finding
from matcha.targets.kubernetes import KubernetesOptions, permissions, raising, unrecorded
from matcha.targets.kubernetes.links import Links
from matcha.targets.kubernetes.names import MANAGED_BY, MANAGER, NAME, STATE
from matcha.targets.kubernetes.statuses import KINDS
from matcha.targets.kubernetes.store import CONTENT
from matcha.views import statuses
from matcha.views.text import Paper, render
from support.apiserver import as_user
from support.faults import Fault, FaultyProxy
from support.kubelet import Kubelet, crashing, unscheduled
from support.matcha import until
from support.small_stack import Small, SmallStack, there, usual, with_database
from support.stores import cluster

AUTHORITIES = Path(__file__).parents[1] / "unit" / "cases" / "kubernetes" / "ca.pem"


@pytest.fixture
def based(stack: SmallStack) -> SmallStack:
    """With a database server, provisioned."""
    stack.services = (with_database(usual()[0]), usual()[1])
    stack.provision()
    return stack


def shown(stack: SmallStack) -> str:
    paper = Paper(width=200)
    return render(statuses.status_lines(stack.status(), paper), paper)


def by_hand(api_server: Path, stack: SmallStack, manager: str) -> Client:
    made = cluster(api_server, stack.namespace)
    made._given = Client(made.config, namespace=stack.namespace, field_manager=manager)
    return made.client


# -- status -------------------------------------------------------------------------------------------------


def test_a_well_stack_has_its_foundations_and_nothing_to_complain_of(based: SmallStack) -> None:
    found = based.status()
    assert found.healthy
    assert {f.name: f.condition for f in found.foundations} == {
        "network": "present",
        "object-store": "running",
        "mysql": "running",
    }
    assert shown(based).rstrip().splitlines()[-1].split()[:2] == ["mysql", "running"]


def test_a_foundation_that_is_gone_or_dead_is_not_well(
    api_server: Path, based: SmallStack, node: Kubelet
) -> None:
    client = cluster(api_server, based.namespace).client
    client.delete(StatefulSet, "object-store")
    until(lambda: not based.status().healthy, 30)
    assert "object-store  missing" in shown(based)
    node.says["mysql"] = crashing("InnoDB: no space left")
    client.delete(Pod, "mysql-0")

    def mysql() -> Any:
        return next(f for f in based.status().foundations if f.name == "mysql")

    until(lambda: mysql().condition == "failed", 30)
    assert "mysql: mysql ended with exit code 3" in shown(based)
    assert "2 of 4 not healthy" in shown(based)
    assert shown(based).endswith("Next: matcha provision\n")
    said = {f.message: f.fix for f in based.findings("services") if not f.ok}
    assert said == {
        "object-store is missing.": "matcha provision",
        "mysql is failed. mysql ended with exit code 3": "matcha provision",
    }


def test_a_change_by_hand_is_told_in_the_text_and_does_not_make_ill(
    api_server: Path, based: SmallStack
) -> None:
    edits: tuple[tuple[Any, str, dict[str, Any], str], ...] = (
        (ConfigMap, "back-live", {"data": {"models.json": "[1]"}}, "data.models.json"),
        (ServiceObject, "mysql", {"spec": {"selector": {NAME: "front"}}}, "spec.selector"),
        (NetworkPolicy, "matcha-back", {"spec": {"ingress": [{}]}}, "spec.ingress"),
        (CronJob, "mysql-dump", {"spec": {"schedule": "1 1 * * *"}}, "spec.schedule"),
    )
    for kind, name, change, path in edits:
        by_hand(api_server, based, "kubectl-edit").patch(kind, name, change, patch_type=PatchType.MERGE)
        said = shown(based)
        assert "Stack small on kubernetes: healthy" in said
        assert f"{kind.__name__} {name} was changed by kubectl-edit: {path}" in said, said
        assert said.endswith("Next: matcha provision\n")
        based.provision()
        assert "changed" not in shown(based)


def test_a_scale_by_hand_names_who_did_it(api_server: Path, based: SmallStack) -> None:
    """It writes a part of the object that has a history of its own."""
    client = by_hand(api_server, based, "kubectl")
    client.patch(Deployment.Scale, "front", {"spec": {"replicas": 2}}, patch_type=PatchType.MERGE)
    assert "Deployment front was changed by kubectl: spec.replicas" in shown(based)


def test_what_others_took_away_makes_ill(api_server: Path, based: SmallStack) -> None:
    cluster(api_server, based.namespace).client.delete(ServiceObject, "front")
    assert not based.status().healthy
    assert "Service front is missing" in shown(based)


def test_a_claim_whose_label_is_off_is_not_said_to_be_gone(api_server: Path, based: SmallStack) -> None:
    """It is there with its data; provision puts the label back."""
    client = by_hand(api_server, based, "kubectl")
    claim = client.get(PersistentVolumeClaim, "mysql")
    off: Any = {"metadata": {"labels": {MANAGED_BY: None}}}
    client.patch(PersistentVolumeClaim, "mysql", off, patch_type=PatchType.MERGE)
    said = f"PersistentVolumeClaim mysql was changed: metadata.labels.{MANAGED_BY}"
    assert f"mysql: {said}" in shown(based) and "gone" not in shown(based)
    plan = based.plan()
    assert {step.key: step.reason for step in plan.steps}["foundation/mysql"] == said
    based.provision()
    found = client.get(PersistentVolumeClaim, "mysql")
    assert claim.metadata and found.metadata and found.metadata.uid == claim.metadata.uid
    assert (found.metadata.labels or {})[MANAGED_BY] == MANAGER and not based.plan().steps


def test_status_costs_one_list_a_kind(based: SmallStack, proxy: FaultyProxy) -> None:
    made = len(proxy.requests)
    based.status()
    lists = [path for method, path in proxy.requests[made:] if method == "GET" and "labelSelector" in path]
    claims = [path for _, path in proxy.requests[made:] if path.partition("?")[0].endswith("claims")]
    assert (len(lists), len(claims)) == (len(KINDS) - 1, 1)  # claims also without Matcha's label
    assert len(proxy.requests) - made <= len(KINDS) + 5


def test_the_newest_dump_is_told_where_it_failed(api_server: Path, based: SmallStack) -> None:
    client = cluster(api_server, based.namespace).client
    cron = client.get(CronJob, "mysql-dump")
    assert cron.spec and cron.spec.jobTemplate.spec and cron.spec.jobTemplate.metadata

    def run(name: str, *, fails: bool) -> None:
        labels = cron.spec.jobTemplate.metadata.labels  # type: ignore[union-attr]
        spec = cron.spec.jobTemplate.spec  # type: ignore[union-attr]
        spec.backoffLimit, spec.suspend = 0, True  # type: ignore[union-attr]
        client.create(Job(metadata=ObjectMeta(name=name, labels=labels), spec=spec))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        kinds = ("FailureTarget", "Failed") if fails else ("SuccessCriteriaMet", "Complete")
        conditions = [
            {
                "type": kind,
                "status": "True",
                "reason": "BackoffLimitExceeded",
                "message": "it gave up",
                "lastTransitionTime": now,
            }
            for kind in kinds
        ]
        status: dict[str, Any] = {"conditions": conditions, "startTime": now}
        status |= {} if fails else {"completionTime": now}
        client.patch(Job.Status, name, {"status": status}, patch_type=PatchType.MERGE)

    run("mysql-dump-1", fails=True)
    assert not based.status().healthy
    assert "mysql-dump: the last dump of the databases failed: it gave up" in shown(based)
    assert shown(based).endswith("Next: matcha logs mysql-dump\n")
    time.sleep(1.1)  # creation times have whole seconds
    run("mysql-dump-2", fails=False)
    assert based.status().healthy


def test_get_of_a_stopped_stack_says_so_and_starts_no_forward(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.provision()
    stack.stop()
    state = stack.target().store().read()
    assert state and state.phase == "stopped"
    url = lambda self, access: {"small": {"url": Output(access.url("role-of-back"))}}  # noqa: ARG005, E731
    monkeypatch.setattr(Small, "resources", url)
    try:
        with pytest.raises(MatchaError, match="The stack is stopped") as told:
            stack.get()
        assert told.value.resolution == "matcha start"
        assert not Links(state.stack_id, KubernetesOptions()).home.exists()
    finally:
        stack.destroy()


# -- logs ---------------------------------------------------------------------------------------------------


def test_every_name_that_an_error_has_people_look_at_has_logs(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    """A wait that fails names the label of what it waited for: here of every pod that a stack can have. There
    is no node to give logs, so the proxy does.
    """
    stack.services, stack.archive = (with_database(usual()[0]), usual()[1]), True
    stack.provision()
    client = cluster(api_server, stack.namespace).client
    nightly = client.get(CronJob, "mysql-dump").spec.jobTemplate  # type: ignore[union-attr]
    client.create(Job(metadata=ObjectMeta(name="tonight"), spec=nightly.spec))
    until(lambda: "mysql-dump" in named(client), 60)
    pods = named(client)
    for pod in (pod for found in pods.values() for pod in found):
        answer = {"status": 200, "body": f"2026-01-01T00:00:00Z from {pod}\n", "content_type": "text/plain"}
        proxy.add(Fault("GET", f"/pods/{pod}/log", times=99, **answer))  # type: ignore[arg-type]
    jobs = {"mysql-setup", "mysql-dump", "environment-builder"}
    assert set(pods) == {"mysql", "object-store", "back", "front", *jobs}
    for name, found in pods.items():
        until(lambda name=name, found=found: heard(stack, name) == found, 30)  # type: ignore[misc]
    with pytest.raises(BadInput, match='Unknown component "mysq"') as told:
        stack.logs("mysq")
    assert told.value.resolution == 'Did you mean "mysql"?'


def named(client: Client) -> dict[str, set[str]]:
    """Names of pods by the label that they bear."""
    found: dict[str, set[str]] = {}
    for pod in client.list(Pod):
        assert pod.metadata and pod.metadata.labels and pod.metadata.name
        found.setdefault(pod.metadata.labels[NAME], set()).add(pod.metadata.name)
    return found


def heard(stack: SmallStack, name: str) -> set[str]:
    """The pods whose logs are shown for it."""
    said = stack.logs(name)
    assert {service for service, _ in said} <= {name}
    return {line.removeprefix("from ") for _, line in said}


def test_jobs_that_a_stack_does_not_have_have_no_logs(based: SmallStack) -> None:
    with pytest.raises(BadInput, match="environment-builder"):
        based.logs("environment-builder")


# -- waiting ------------------------------------------------------------------------------------------------


def test_pods_that_were_given_up_are_tried_anew_and_old_ends_do_not_count(
    api_server: Path, based: SmallStack, node: Kubelet
) -> None:
    """As after an outage of the database: what crashed for it is well again."""
    client = cluster(api_server, based.namespace).client
    node.says["back"] = crashing("no database")
    client.delete(Pod, "back-0")
    until(lambda: "exit code 3" in " ".join(based.details().values()), 30)
    node.says.clear()
    based.provision()
    assert based.status().healthy


def test_a_claim_that_cannot_be_made_is_named_with_its_reason(
    stack: SmallStack, monkeypatch: pytest.MonkeyPatch, node: Kubelet
) -> None:
    monkeypatch.setattr(raising, "HARDLY", 2.0)
    monkeypatch.setattr(raising, "EVENTS", 0.1)
    stack.options["storage_class"] = "there-is-none"
    node.says["object-store"] = lambda _: {"phase": "Pending"}
    with pytest.raises(ComponentFailed) as told:
        stack.provision()
    assert "its volume object-store is not there yet: " in told.value.message
    assert '"there-is-none" not found' in told.value.message
    assert told.value.resolution == "Mend what it names, then: matcha provision"


@pytest.fixture
def waiting(api_server: Path, stack: SmallStack) -> Iterator[Client]:
    """Volumes of a class that nobody makes any for, as a cluster's own controller says of every claim."""
    client = cluster(api_server, stack.namespace).client
    stack.options["storage_class"] = classed(client, f"class-{stack.namespace}", "Immediate")
    yield client
    client.delete(StorageClass, f"class-{stack.namespace}")
    for volume in (f"{stack.namespace}-{name}" for name in ("object-store", "back-data")):
        with contextlib.suppress(ApiError):
            client.delete(PersistentVolume, volume)


def classed(client: Client, name: str, mode: str) -> str:
    made = StorageClass(
        metadata=ObjectMeta(name=name), provisioner="nobody.example.com", volumeBindingMode=mode
    )
    client.create(made)
    return name


def told(client: Client, claim: str, reason: str) -> bool:
    """Whether an event of this reason is there of the claim that is there."""
    uid = client.get(PersistentVolumeClaim, claim).metadata.uid  # type: ignore[union-attr]
    return any(e.reason == reason and e.involvedObject.uid == uid for e in client.list(ClusterEvent))


def bind(client: Client, stack: SmallStack, claim: str) -> None:
    spec = PersistentVolumeSpec(
        accessModes=["ReadWriteOnce"],
        capacity={"storage": "100Gi"},
        claimRef=ObjectReference(name=claim, namespace=stack.namespace),
        hostPath=HostPathVolumeSource(path="/nowhere"),
        storageClassName=stack.options["storage_class"],
    )
    name = f"{stack.namespace}-{claim}"
    client.create(PersistentVolume(metadata=ObjectMeta(name=name), spec=spec))
    until(lambda: _phase(client, claim) == "Bound", 60)


def _phase(client: Client, claim: str) -> str:
    status = client.get(PersistentVolumeClaim, claim).status
    return (status.phase if status else None) or ""


FULL = "0/1 nodes are available: 1 Insufficient cpu"


@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "not bound"])
def test_a_full_cluster_is_not_taken_for_a_volume_that_is_waited_for(
    stack: SmallStack, waiting: Client, node: Kubelet, monkeypatch: pytest.MonkeyPatch, is_bound: bool
) -> None:
    """The event of a claim that waits for its volume outlives the wait by an hour."""
    stack.provision()
    until(lambda: told(waiting, "back-data", "ExternalProvisioning"), 60)
    if is_bound:
        bind(waiting, stack, "back-data")
    monkeypatch.setattr(raising, "HARDLY", 2.0)
    monkeypatch.setattr(raising, "PATIENCE", 10.0)
    monkeypatch.setattr(raising, "EVENTS", 0.1)
    node.says["back"] = unscheduled(f"{FULL}.")
    waiting.delete(Pod, "back-0")
    until(lambda: f"no node takes it: {FULL}" in stack.details()["small"], 30)
    with pytest.raises(ComponentFailed) as failed:
        stack.provision()
    assert failed.value.message == f"back did not come up: no node takes it: {FULL}."


def test_status_says_what_only_events_say(stack: SmallStack, waiting: Client, node: Kubelet) -> None:
    stack.provision()
    until(lambda: told(waiting, "back-data", "ExternalProvisioning"), 60)
    node.says["back"] = lambda _: {"phase": "Pending"}
    waiting.delete(Pod, "back-0")
    until(lambda: "its volume back-data is not there yet: " in stack.details()["small"], 30)
    assert "nobody.example.com" in stack.details()["small"]


def test_an_event_of_a_claim_that_was_made_anew_says_nothing_of_it(
    stack: SmallStack, waiting: Client, node: Kubelet
) -> None:
    """A failure stays in the events for an hour; the claim that it was about is gone."""
    kind = stack.options["storage_class"]
    stack.options["storage_class"] = "there-is-none"
    stack.provision()
    until(lambda: told(waiting, "back-data", "ProvisioningFailed"), 60)
    stack.destroy()
    waiting.delete(StorageClass, kind)  # it cannot be changed
    stack.options["storage_class"] = classed(waiting, kind, "WaitForFirstConsumer")
    stack.provision()
    node.says["back"] = unscheduled(f"{FULL}.")
    waiting.delete(Pod, "back-0")
    until(lambda: FULL in stack.details()["small"], 30)
    assert stack.details()["small"] == f"no node takes it: {FULL}"


def test_a_cluster_that_has_ipv6_first_is_refused_before_anything_is_made(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    shown = json.dumps({"spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"]}})
    answer = Fault("GET", "/services/kubernetes", times=9, status=200, body=shown)
    answer.content_type = "application/json"
    proxy.add(answer)
    for refused in (stack.plan, stack.provision):
        with pytest.raises(MatchaError, match="IPv6 addresses first") as told:
            refused()
        assert told.value.resolution.startswith("Use a cluster with IPv4")
    assert there(api_server, stack.namespace) == set()
    proxy.heal()


# -- doctor -------------------------------------------------------------------------------------------------


def test_the_doctor_has_findings_for_a_user_without_any_right(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    found = SmallStack(tmp_path, as_user(api_server, "alice"), namespace).doctor()
    ill = {name: f for name, f in found.items() if not f.ok}
    assert found["cluster"].ok and {"permissions", "lock"} <= set(ill)
    assert "Kubernetes 1." in found["cluster"].message
    assert {f.fix for f in ill.values()} == {"Ask an administrator for the Role in docs/kubernetes.md."}


def test_the_doctor_looks_for_the_secrets_of_the_user(api_server: Path, stack: SmallStack) -> None:
    stack.options |= {
        "pull_secret": "pull",
        "storage": "s3://b/p",
        "storage_secret": "keys",
        "database": "mysql://db:3306",
        "database_secret": "login",
    }
    client = cluster(api_server, stack.namespace).client
    client.create(Secret(metadata=ObjectMeta(name="keys"), stringData={"access-key": "a"}))
    client.create(Secret(metadata=ObjectMeta(name="login"), stringData={"username": "u", "password": "p"}))
    found = [f for f in stack.target().examine(None, (), fix=False) if f.check == "secrets"]
    told = {f.message: f for f in found}
    assert told["The Secret login (database-secret) is there."].ok
    pull = told["The Secret pull (pull-secret) is not there."]
    assert f"kubectl --namespace {stack.namespace} create secret docker-registry pull " in pull.fix
    keys = told["The Secret keys (storage-secret) lacks secret-key."]
    assert not keys.ok and "--from-literal=secret-key=..." in keys.fix
    assert permissions.missing(cluster(api_server, stack.namespace)) == []


def test_options_that_are_not_provisioned_yet_are_nobodys_doing(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    stack.options["storage_size"] = "30Gi"
    stack.options["run_as"] = "cluster"
    target = stack.target()
    state = target.store().read()
    assert state
    told = target.status(state, stack.services, (stack.environment,))
    assert {(fact.condition, fact.detail) for fact in told} <= {("running", ""), ("present", "")}
    stack.options.clear()
    cluster(api_server, stack.namespace).delete(NetworkPolicy, "matcha-back")
    assert "NetworkPolicy matcha-back is missing" in stack.details()["network"]


def test_the_doctor_sets_a_corrupt_record_aside(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    admin.patch(ConfigMap, STATE, {"data": {CONTENT: "{broken"}})

    def record(fix: bool) -> Finding:
        [found] = [f for f in stack.target().examine(None, [], fix=fix) if f.check == "record"]
        return found

    assert not record(fix=False).ok and record(fix=False).fix == "matcha doctor --fix"
    mended = record(fix=True)
    assert (mended.fixed, mended.message) == (
        True,
        "The stack's record could not be read, and was set aside.",
    )
    without = record(fix=False)
    assert (without.ok, without.message) == (False, "The stack in the namespace has none.")
    again = "Models have to be deployed again."
    assert without.fix == f"matcha provision, which takes over what is there. {again}"
    stack.provision()
    assert stack.plan().steps == () and record(fix=False).ok


def test_models_of_a_stack_whose_record_is_gone_are_named_with_what_deploys_them(
    api_server: Path, stack: SmallStack
) -> None:
    """As their servers have them; nobody changed anything."""
    served = [{"name": "movie", "uri": "models:/movie/3", "version": "3"}, {"name": "a", "uri": "runs:/1/m"}]
    back, front = usual()

    def serving(models: list[dict[str, str]]) -> None:
        live = {"deployments.json": json.dumps({"deployments": models})}
        stack.services = (msgspec.structs.replace(back, live=live), front)

    serving(served)
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    admin.patch(ConfigMap, STATE, {"data": {CONTENT: "{broken"}})
    commands = "matcha deploy runs:/1/m --name a; matcha deploy models:/movie/3 --name movie"
    mended = stack.doctor(fix=True)["record"]
    assert mended.fixed and mended.message.endswith(commands)
    without = stack.doctor()["record"]
    assert not without.ok and without.message.endswith(commands)
    serving([])  # as they are without a record
    plan = stack.plan()
    assert [note for note in plan.notes if note.endswith(commands)]
    assert {s.reason for s in plan.steps if s.key == "service/back"} == {unrecorded.GONE}
    stack.provision()
    assert stack.doctor()["record"].ok and not stack.plan().steps


def test_certificates_that_pods_trust_are_no_change_of_others(stack: SmallStack) -> None:
    """The Job of the nightly dump has them too. Who has not the file is told the rest."""
    shutil.copy(AUTHORITIES, stack.folder / "ca.pem")
    stack.options |= {"ca_bundle": "ca.pem"}
    stack.services = (with_database(usual()[0]), *usual()[1:])
    stack.provision()
    assert stack.status().healthy and not any(stack.details().values())
    (stack.folder / "ca.pem").unlink()
    assert stack.status().healthy and not any(stack.details().values())
