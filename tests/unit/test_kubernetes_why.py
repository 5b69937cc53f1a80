"""What is said of a workload that does not run; and when two manifests are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.core_v1 import Event, Pod
from ruamel.yaml import YAML

from matcha.targets.kubernetes import why
from matcha.targets.kubernetes.compare import differences, last_editor

CASES = YAML(typ="safe").load(Path(__file__).parent / "cases" / "kubernetes" / "why.yaml")


def workload(case: dict[str, Any]) -> Any:
    if case is None:
        return None
    template = {"metadata": {}, "spec": {"containers": [{"name": "web"}]}}
    spec = {"replicas": case.get("replicas", 1), "selector": {}, "template": template}
    spec |= {"serviceName": "web"} if case["kind"] == "StatefulSet" else {}
    kind = {"Deployment": Deployment, "StatefulSet": StatefulSet}[case["kind"]]
    seen = {"replicas": 1, "updatedReplicas": 1, "observedGeneration": 3, "updateRevision": "new"}
    status = {**seen, **case.get("status", {})}
    return kind.from_dict({"metadata": {"name": "web", "generation": 3}, "spec": spec, "status": status})


def container(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": case["name"],
        "image": case.get("image", "i"),
        "imageID": "",
        "ready": False,
        "restartCount": case.get("restarts", 0),
        "state": case["state"],
        **({"lastState": {"terminated": case["last"]}} if "last" in case else {}),
    }


def pod(case: dict[str, Any]) -> Pod:
    labels = {label: case.get("revision", "new") for label in why.REVISIONS}
    metadata: dict[str, Any] = {"name": case.get("name", "web-1"), "uid": "uid", "labels": labels}
    metadata |= {"creationTimestamp": case["made"]} if "made" in case else {}
    metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if case.get("leaving") else {}
    conditions = [{"type": "Ready", "status": "True" if case.get("ready") else "False"}]
    if "unscheduled" in case:
        conditions.append({"type": "PodScheduled", "status": "False", "message": case["unscheduled"]})
    status: dict[str, Any] = {
        "conditions": conditions,
        "containerStatuses": [container(c) for c in case.get("containers", ())],
        "initContainerStatuses": [container(c) for c in case.get("init", ())],
    }
    if "evicted" in case:
        status |= {"reason": "Evicted", "message": case["evicted"], "phase": "Failed"}
    claims = [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in case.get("claims", ())]
    spec = {"containers": [], "volumes": claims, "nodeName": case.get("node")}
    return Pod.from_dict({"metadata": metadata, "spec": spec, "status": status})


def event(case: dict[str, Any]) -> Event:
    said = {"reason": case["reason"], "message": case["message"]}
    about = {"kind": case.get("kind", "Pod"), "name": case["about"], "uid": case.get("uid")}
    when = f"2026-01-01T00:00:0{case.get('at', 0)}Z"
    return Event.from_dict({"metadata": {}, "involvedObject": about, "lastTimestamp": when, **said})


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["case"])
def test_what_is_said_of_a_workload(case: dict[str, Any]) -> None:
    pods = [pod(p) for p in case.get("pods", ())]
    events = [event(e) for e in case.get("events", ())]
    before = {("uid", name): restarts for name, restarts in case.get("before", {}).items()}
    found = why.judge(workload(case["workload"]), pods, events, before)
    assert found == msgspec.convert(case["verdict"], why.Verdict)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("Deployment", {"observedGeneration": 2}),
        ("Deployment", {"updatedReplicas": 0}),
        ("StatefulSet", {"observedGeneration": 2}),
        ("StatefulSet", {"updateRevision": "old"}),
    ],
)
def test_what_ended_before_the_workload_knew_of_its_pod_counts(kind: str, status: dict[str, Any]) -> None:
    """A slow controller makes a pod first and says so later; the pod may have given up by then."""
    crashed = {"name": "web", "restarts": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    crashed["last"] = {"exitCode": 3}
    pods = [pod({"containers": [crashed]})]
    slow, known = workload({"kind": kind, "status": status}), workload({"kind": kind})
    assert why.judge(known, pods, before=why.restarts(slow, pods)).hope == "never"
    assert why.judge(known, pods, before=why.restarts(known, pods)).hope == "hardly"


SAME = [
    ({"cpu": "100m"}, {"cpu": "100m", "memory": "1Gi"}),
    ({"requests": {"memory": "1024Mi"}}, {"requests": {"memory": "1Gi"}}),
    ({"limits": {"cpu": "1000m"}}, {"limits": {"cpu": "1"}}),
    ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
    ({"ports": [{"name": "a", "port": 1}]}, {"ports": [{"name": "b", "port": 2}, {"name": "a", "port": 1}]}),
    ({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},) * 2,
    ({"emptyDir": {}}, {"emptyDir": {}}),
    ({"readOnly": False}, {}),
]
DIFFERENT = [
    ({"image": "a:1"}, {"image": "a:2"}, "image"),
    ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, "env[A].value"),
    ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "1"}, {"name": "B"}]}, "env"),
    ({"args": ["a", "b"]}, {"args": ["a", "c"]}, "args[1]"),
    ({"args": ["a"]}, {"args": ["a", "b"]}, "args"),
    ({"requests": {"memory": "1Gi"}}, {"requests": {"memory": "1G"}}, "requests.memory"),
    ({"spec": {"replicas": 1}}, {"spec": {"replicas": 3}}, "spec.replicas"),
    ({"labels": {"a": "b"}}, {}, "labels"),
]


@pytest.mark.parametrize(("wanted", "found"), SAME)
def test_what_the_cluster_adds_or_writes_otherwise_is_no_difference(wanted: Any, found: Any) -> None:
    assert list(differences(wanted, found)) == []


@pytest.mark.parametrize(("wanted", "found", "path"), DIFFERENT)
def test_a_difference_is_named_by_its_path(wanted: Any, found: Any, path: str) -> None:
    assert [each.path for each in differences(wanted, found)] == [path]


def test_who_changed_an_object_last_is_known() -> None:
    entries = [
        {"manager": "matcha", "operation": "Apply", "time": "2026-01-01T00:00:00Z"},
        {"manager": "kube-controller-manager", "operation": "Update", "time": "2026-01-04T00:00:00Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-01-03T00:00:00Z"},
        {"manager": "argocd", "operation": "Apply", "time": "2026-01-02T00:00:00Z"},
    ]
    assert last_editor({"metadata": {"managedFields": entries}}, "matcha") == "kubectl-edit"
    assert last_editor({"metadata": {"managedFields": entries[:2]}}, "matcha") == ""


@pytest.mark.parametrize(
    ("reason", "said", "never"),
    [
        ("InvalidImageName", "couldn't parse image name", True),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", True),
        ("ErrImagePull", 'failed to resolve "ghcr.io/a/b:9": ghcr.io/a/b:9: not found', True),
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization", True),
        ("ImagePullBackOff", 'Back-off pulling image "b:9": ErrImagePull: manifest unknown', True),
        ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit", False),
        ("ErrImagePull", "dial tcp: lookup ghrc.example: no such host", True),
        ("ErrImagePull", "dial tcp: lookup ghcr.io: i/o timeout", False),
        ("ImagePullBackOff", 'Back-off pulling image "b:9"', False),
        ("CreateContainerConfigError", 'secret "keys" not found', False),
    ],
)
def test_of_what_cannot_be_started_it_is_told_apart_what_waiting_does_not_help(
    reason: str, said: str, never: bool
) -> None:
    case = {"name": "web", "state": {"waiting": {"reason": reason, "message": said}}}
    found, for_good = why.unstartable(pod({"containers": [case], "node": "n1"}))
    assert found
    assert for_good is never


def test_what_comes_up_or_is_leaving_is_not_unstartable() -> None:
    coming = {"name": "web", "state": {"waiting": {"reason": "ContainerCreating"}}}
    refused = {"name": "web", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    assert why.unstartable(None) == ("", False)
    assert why.unstartable(pod({"containers": [coming]})) == ("", False)
    assert why.unstartable(pod({"containers": [refused], "leaving": True})) == ("", False)
