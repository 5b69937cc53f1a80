"""Services with several replicas on a real API server: who says how many, and what becomes of that number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lightkube import Client
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import Pod
from lightkube.types import PatchType

from matcha.events import Event
from matcha.service import Scale, Service
from matcha.targets.kubernetes import permissions
from support.apiserver import as_user
from support.kubelet import Kubelet, unscheduled, well
from support.matcha import until
from support.plain import web
from support.rights import grant
from support.small_stack import SmallStack, there, with_env
from support.stores import cluster

SYNC = 60.0  # seconds in which the cluster's autoscaler looks at each, every 15 s


def front(low: int, high: int, **env: str) -> Service:
    scaled = msgspec.structs.replace(web("front", preferred=8082), scale=Scale(min=low, max=high))
    return with_env(scaled, **env)


@pytest.fixture
def stack(stack: SmallStack) -> SmallStack:
    stack.services = (front(2, 5),)
    return stack


def client(stack: SmallStack, api_server: Path, manager: str) -> Client:
    """As somebody who writes by this name."""
    made = cluster(api_server, stack.namespace)
    made._given = Client(made.config, namespace=stack.namespace, field_manager=manager)
    return made.client


def scaled(stack: SmallStack, api_server: Path, number: int) -> None:
    """As the autoscaler does."""
    change = {"spec": {"replicas": number}}
    client(stack, api_server, "kube-controller-manager").patch(
        Deployment.Scale, "front", change, patch_type=PatchType.MERGE
    )


def number(stack: SmallStack, api_server: Path) -> int:
    spec = cluster(api_server, stack.namespace).client.get(Deployment, "front").spec
    assert spec is not None and spec.replicas is not None
    return spec.replicas


def autoscaler(stack: SmallStack, api_server: Path) -> HorizontalPodAutoscaler | None:
    return cluster(api_server, stack.namespace).get(HorizontalPodAutoscaler, "front")


def stop(stack: SmallStack) -> None:
    stack.stop()


@contextlib.contextmanager
def numbers(stack: SmallStack, api_server: Path) -> Iterator[Callable[[], list[int]]]:
    """Every number of replicas that the Deployment is given while inside, one after the other."""
    seen: list[int] = []
    over = threading.Event()
    admin = cluster(api_server, stack.namespace).client
    version = admin.get(Deployment, "front").metadata.resourceVersion  # type: ignore[union-attr]

    def watch() -> None:
        for _, found in admin.watch(Deployment, resource_version=version, server_timeout=120):
            if over.is_set():
                return
            seen.append(found.spec.replicas)  # type: ignore[arg-type,union-attr]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def told() -> list[int]:
        return [n for place, n in enumerate(seen) if place == 0 or seen[place - 1] != n]

    try:
        yield told
    finally:
        over.set()
        mark = {"metadata": {"annotations": {"test": "over"}}}
        admin.patch(Deployment, "front", mark)
        thread.join(30)


def test_between_two_numbers_the_autoscaler_says_how_many(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    made = autoscaler(stack, api_server)
    assert made and made.spec is not None
    assert (made.spec.minReplicas, made.spec.maxReplicas) == (2, 5)
    assert number(stack, api_server) == 2
    assert not stack.provision().changed
    scaled(stack, api_server, 4)
    admin = cluster(api_server, stack.namespace).client
    until(lambda: admin.get(Deployment.Status, "front").status.readyReplicas == 4, 60)  # type: ignore[union-attr]
    assert stack.plan().steps == () and not stack.provision().changed
    assert set(stack.details().values()) == {""}
    state = stack.target().store().read()
    assert state is not None
    [shown] = [s for s in stack.target().status(state) if s.name == "front"]
    assert (shown.condition, shown.replicas) == ("running", (4, 4))
    with numbers(stack, api_server) as told:
        stack.services = (front(2, 5, NEW="1"),)
        stack.provision()
        assert number(stack, api_server) == 4
    assert set(told()) == {4}


def test_a_fixed_number_becomes_the_autoscalers_and_back_without_a_pod_less(
    api_server: Path, stack: SmallStack
) -> None:
    stack.services = (front(3, 3),)
    stack.provision()
    assert number(stack, api_server) == 3 and autoscaler(stack, api_server) is None
    with numbers(stack, api_server) as told:
        stack.services = (front(2, 5),)
        stack.provision()
        assert autoscaler(stack, api_server) is not None
        scaled(stack, api_server, 5)
        stack.services = (front(4, 4),)
        stack.provision()
        assert autoscaler(stack, api_server) is None
    assert told() == [3, 5, 4]
    assert stack.plan().steps == ()


def test_numbers_outside_of_the_two_are_brought_within(api_server: Path, stack: SmallStack) -> None:
    stack.services = (front(1, 1),)
    stack.provision()
    stack.services = (front(3, 4),)
    stack.provision()
    assert number(stack, api_server) == 3
    stack.services = (front(1, 2),)
    stack.provision()
    assert number(stack, api_server) == 2


def test_a_stopped_service_stays_so_and_comes_back_with_the_fewest(
    api_server: Path, stack: SmallStack
) -> None:
    stack.provision()
    scaled(stack, api_server, 4)
    stop(stack)

    def leaves_it_alone() -> bool:
        found = autoscaler(stack, api_server)
        known = {c.type: c for c in (found and found.status and found.status.conditions) or ()}
        return "ScalingActive" in known and known["ScalingActive"].reason == "ScalingDisabled"

    until(leaves_it_alone, SYNC, every=1)
    assert number(stack, api_server) == 0
    assert not [n for n in there(api_server, stack.namespace) if n.startswith("Pod/")]
    assert {s.action for s in stack.plan().steps} == {"start"}
    stack.provision()
    assert number(stack, api_server) == 2
    assert stack.plan().steps == ()


def test_what_others_change_of_it_is_theirs_no_more_but_for_the_number(
    api_server: Path, stack: SmallStack
) -> None:
    stack.provision()
    other = client(stack, api_server, "kubectl-edit")
    other.patch(Deployment, "front", {"spec": {"replicas": 3}})
    assert stack.plan().steps == ()
    other.patch(Deployment, "front", {"spec": {"replicas": 4, "minReadySeconds": 5}})
    [step] = stack.plan().steps
    assert "spec.minReadySeconds" in step.reason
    stack.provision()
    assert number(stack, api_server) == 4 and stack.plan().steps == ()
    other.patch(HorizontalPodAutoscaler, "front", {"spec": {"maxReplicas": 50}})
    [step] = stack.plan().steps
    assert step.reason == "HorizontalPodAutoscaler front was changed by kubectl-edit: spec.maxReplicas"
    stack.provision()
    made = autoscaler(stack, api_server)
    assert made and made.spec.maxReplicas == 5
    other.delete(HorizontalPodAutoscaler, "front")
    [step] = stack.plan().steps
    assert step.reason == "HorizontalPodAutoscaler front is missing"
    stack.provision()
    assert stack.plan().steps == ()


def test_nothing_of_it_is_left(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    assert "HorizontalPodAutoscaler/front" in there(api_server, stack.namespace)
    destroyed = stack.destroy()
    assert "HorizontalPodAutoscaler front" in destroyed.removed
    assert there(api_server, stack.namespace) == set()


def test_a_service_that_goes_takes_its_autoscaler_along(api_server: Path, stack: SmallStack) -> None:
    stack.services = (front(2, 5), web("other", preferred=8083))
    stack.provision()
    stack.services = (web("other", preferred=8083),)
    stack.provision()
    assert "HorizontalPodAutoscaler/front" not in there(api_server, stack.namespace)


def test_the_ready_role_is_enough_for_it(api_server: Path, stack: SmallStack, tmp_path: Path) -> None:
    grant(api_server, stack.namespace, permissions.role(), "alice")
    alice = SmallStack(tmp_path, as_user(api_server, "alice"), stack.namespace, *stack.services)
    alice.provision()
    assert alice.plan().steps == ()
    alice.services = (front(2, 2),)
    alice.provision()
    alice.stop()
    alice.destroy()
    assert there(api_server, stack.namespace) == set()


def test_a_cluster_that_measures_nothing_is_told_before_and_by_the_doctor(
    api_server: Path, stack: SmallStack
) -> None:
    """The API server of these tests has no metrics-server."""
    said = "The cluster does not measure the CPU of pods (metrics.k8s.io): front gets no more replicas"
    assert any(note.startswith(said) for note in stack.plan().notes)
    finding = stack.doctor()["metrics"]
    assert not finding.ok and finding.message.startswith(said) and "metrics-server" in finding.fix
    stack.services = (front(2, 2),)
    assert not any(said in note for note in stack.plan().notes)
    assert "metrics" not in stack.doctor()


def first_only(node: Kubelet, otherwise: Callable[[Pod], dict[str, Any]]) -> None:
    """One pod becomes ready; of every other it is told `otherwise`."""
    ready: list[str] = []

    def says(pod: Pod) -> dict[str, Any]:
        uid = str(pod.metadata and pod.metadata.uid)
        if not ready:
            ready.append(uid)
        return well(pod) if uid in ready else otherwise(pod)

    node.says["front"] = says


def test_a_service_does_its_work_while_not_all_replicas_do(
    api_server: Path, stack: SmallStack, node: Kubelet
) -> None:
    first_only(node, unscheduled("0/1 nodes are available: 1 Insufficient cpu."))
    stack.services = (front(1, 5),)
    events: list[Event] = []
    stack.provision(emit=events.append)
    scaled(stack, api_server, 3)

    def told() -> Any:
        [found] = stack.status().components
        return found

    until(lambda: told().detail.startswith("1 of 3 replicas are ready: no node takes it"), 60, every=0.5)
    assert told().condition == "running" and told().healthy
    assert stack.plan().steps == ()
    stack.services = (front(2, 5),)
    assert [s.key for s in stack.plan().steps] == ["service/front"]


def test_fewer_than_the_fewest_for_a_reason_that_stays_is_ill(
    api_server: Path, stack: SmallStack, node: Kubelet
) -> None:
    stack.services = (front(2, 2),)
    stack.provision()
    node.says["front"] = unscheduled("0/1 nodes are available: 1 Insufficient cpu.")
    admin = cluster(api_server, stack.namespace)
    gone = admin.found(Pod, {"app.kubernetes.io/name": "front"})[0]
    admin.client.delete(Pod, gone.metadata.name, grace_period=0)

    def told() -> Any:
        [found] = stack.status().components
        return found

    until(lambda: told().condition == "unhealthy", 60, every=0.5)
    assert told().detail.startswith("1 of 2 replicas are ready: no node takes it")
    assert [s.action for s in stack.plan().steps] == ["repair"]
    del node.says["front"]
    until(lambda: told().condition == "running", 60, every=0.5)
