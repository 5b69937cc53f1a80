"""Clusters whose admission changes what is applied, as Autopilot and Kyverno do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.types import PatchType

from matcha.targets.kubernetes.names import ADMITTED
from support.faults import FaultyProxy
from support.small_stack import SmallStack, usual, with_env
from support.stores import cluster
from support.webhook import Patch, mutating

MORE = "2Gi"


def as_a_cluster_likes_it(found: dict[str, Any]) -> Patch:
    """A variable in every container, and more memory than was asked for; nothing where both are there."""
    changes: Patch = []
    for number, container in enumerate(found["spec"]["template"]["spec"]["containers"]):
        path = f"/spec/template/spec/containers/{number}"
        variables = container.get("env") or []
        if "INJECTED" not in {v["name"] for v in variables}:
            value = [*variables, {"name": "INJECTED", "value": "1"}]
            changes.append({"op": "add", "path": f"{path}/env", "value": value})
        if not container["resources"]["requests"]["memory"].endswith("Gi"):
            changes += [
                {"op": "replace", "path": f"{path}/resources/{what}/memory", "value": MORE}
                for what in ("requests", "limits")
            ]
    return changes


@pytest.fixture
def changing(api_server: Path, namespace: str) -> Iterator[None]:
    with mutating(api_server, namespace, as_a_cluster_likes_it):
        yield


def containers(**fields: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "front", **fields}]}}}}


def test_what_admission_makes_of_it_is_no_drift_and_drift_is_still_seen(
    api_server: Path, stack: SmallStack, changing: None, proxy: FaultyProxy
) -> None:
    stack.provision()
    other = cluster(api_server, stack.namespace).client
    for kind, name in ((Deployment, "front"), (StatefulSet, "back"), (StatefulSet, "object-store")):
        [container] = other.get(kind, name).spec.template.spec.containers
        assert "INJECTED" in {v.name for v in container.env}
        assert container.resources.requests["memory"] == MORE
    assert stack.plan().steps == ()
    asked = len(proxy.requests)
    assert not stack.provision().changed
    assert {m for m, p in proxy.requests[asked:] if "/apps/" in p} == {"GET"}
    edits = (
        ("image", {"image": "other:1"}),
        ("env", {"env": [{"name": "INJECTED", "value": "2"}]}),
        ("env", {"env": [{"name": "DEBUG", "value": "1"}]}),
        ("memory", {"resources": {"requests": {"memory": "1Gi"}}}),
    )
    for what, edit in edits:
        other.patch(Deployment, "front", containers(**edit), patch_type=PatchType.STRATEGIC)
        [step] = stack.plan().steps
        assert step.key == "service/front" and what in step.reason, edit
        stack.provision()
        assert stack.plan().steps == (), edit
    [container] = other.get(Deployment, "front").spec.template.spec.containers
    assert {v.name: v.value for v in container.env}["INJECTED"] == "1"
    assert "DEBUG" not in {v.name for v in container.env}
    stack.services = (usual()[0], with_env(usual()[1], NEW="1"))
    assert [s.key for s in stack.plan().steps] == ["service/front"]
    stack.provision()
    assert stack.plan().steps == ()


def test_what_is_noted_of_admission_goes_with_it(api_server: Path, stack: SmallStack) -> None:
    with mutating(api_server, stack.namespace, as_a_cluster_likes_it):
        stack.provision()
    other = cluster(api_server, stack.namespace).client
    assert ADMITTED in other.get(Deployment, "front").metadata.annotations
    other.patch(Deployment, "front", containers(image="other:1"), patch_type=PatchType.STRATEGIC)
    stack.provision()
    found = other.get(Deployment, "front")
    assert ADMITTED not in found.metadata.annotations
    assert "INJECTED" not in {v.name for v in found.spec.template.spec.containers[0].env}
    assert stack.plan().steps == ()
