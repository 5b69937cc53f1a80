"""Whether a stack finds room in quotas: counted on what is rendered, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube.resources.core_v1 import LimitRange, Pod, ResourceQuota

from matcha import planning, registry
from matcha.component import Component
from matcha.targets.kubernetes import desired
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.quotas import room
from matcha.targets.kubernetes.setting import setting


def components() -> list[Component]:
    return [cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()]


WANTED = planning.want(components(), ())
STACK = desired.whole(setting(KubernetesOptions(), WANTED.services, WANTED.environments))


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> ResourceQuota:
    return ResourceQuota.from_dict(
        {"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}, "status": {"used": used or {}}}
    )


def pod(phase: str) -> Pod:
    container = {"name": "c", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}}
    return Pod.from_dict(
        {"metadata": {"name": "p"}, "spec": {"containers": [container]}, "status": {"phase": phase}}
    )


# What the stack asks for by docs/kubernetes.md, with the largest Job beside it.
@pytest.mark.parametrize(
    ("hard", "lacking"),
    [
        ({"requests.cpu": "1.75"}, ""),
        ({"requests.cpu": "1.7"}, "leaves 1.7 of requests.cpu, and the stack needs 1.75"),
        ({"cpu": "1700m"}, "leaves 1.7 of cpu, and the stack needs 1.75"),
        ({"pods": "8"}, ""),
        ({"pods": "7"}, "leaves 7 of pods, and the stack needs 8"),
        ({"count/pods": "7"}, "leaves 7 of count/pods"),
        ({"requests.storage": "35Gi"}, ""),
        ({"requests.storage": "34Gi"}, "leaves 34816Mi of requests.storage, and the stack needs 35840Mi"),
        ({"fast.storageclass.storage.k8s.io/persistentvolumeclaims": "2"}, "and the stack needs 3"),
        ({"count/deployments.apps": "3"}, "leaves 3 of count/deployments.apps, and the stack needs 4"),
        ({"count/ingresses.networking.k8s.io": "0"}, ""),
        ({"services.loadbalancers": "0", "requests.nvidia.com/gpu": "0"}, ""),
    ],
)
def test_what_a_stack_needs_of_a_quota(hard: dict[str, str], lacking: str) -> None:
    found = room([quota(hard)], STACK, (), ())
    assert lacking in " ".join(found.lacking)
    assert bool(found.lacking) == bool(lacking)
    assert found.unsaid == ()


def test_what_is_used_counts_less_what_is_the_stacks_own() -> None:
    tight = quota({"requests.cpu": "2"}, {"requests.cpu": "500m"})
    assert room([tight], STACK, (), ()).lacking == (
        "the quota q leaves 1.5 of requests.cpu, and the stack needs 1.75",
    )
    assert room([tight], STACK, [pod("Running")], ()).lacking == ()
    assert room([tight], STACK, [pod("Succeeded")], ()).lacking


def test_a_limit_is_the_request_where_none_is_said() -> None:
    tight = quota({"requests.memory": "4Gi"}, {"requests.memory": "1536Mi"})
    assert room([tight], STACK, (), ()).lacking
    assert room([tight], STACK, [pod("Running")], ()).lacking == ()


def test_what_is_nearly_used_up_is_said() -> None:
    found = room([quota({"pods": "20"}, {"pods": "18"})], STACK, [pod("Running")] * 18, ())
    assert found.nearly == ("pods of the quota q (18 of 20)",)
    assert room([quota({"pods": "20"}, {"pods": "17"})], STACK, [pod("Running")] * 17, ()).nearly == ()


def test_quotas_for_some_pods_only_are_passed_over() -> None:
    assert room([quota({"pods": "0"}, scopes=["BestEffort"])], STACK, (), ()).lacking == ()


def test_limits_that_pods_do_not_say_come_from_the_defaults_of_the_namespace() -> None:
    of_cpu = quota({"limits.cpu": "100"})
    assert room([of_cpu], STACK, (), ()).unsaid == (
        "the quota q asks for limits.cpu, which the stack's pods do not say",
    )
    for kind, gone in (("Container", True), ("Pod", False)):
        limits = {"limits": [{"type": kind, "default": {"cpu": "1"}}]}
        usual = LimitRange.from_dict({"metadata": {"name": "l"}, "spec": limits})
        assert (room([of_cpu], STACK, (), [usual]).unsaid == ()) is gone
