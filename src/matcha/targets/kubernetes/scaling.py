"""How many pods run a service, and who says so. Pure.

Between two numbers the cluster's autoscaler does: what Matcha applies says none then (decision 19).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from lightkube.models.autoscaling_v2 import (
    ContainerResourceMetricSource,
    CrossVersionObjectReference,
    HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec,
    HPAScalingPolicy,
    HPAScalingRules,
    MetricSpec,
    MetricTarget,
)
from lightkube.models.core_v1 import TopologySpreadConstraint
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler

from matcha.service import Scale, Service
from matcha.targets.kubernetes.names import labels, selector

HOST = "kubernetes.io/hostname"  # label of nodes
REVISION = "pod-template-hash"  # label of pods
# A model that loads, or a first request, is no load that another replica would take off.
UP_SECONDS, DOWN_SECONDS = 30, 300  # of the past, of which the least, or the most, that was needed counts
STEP_SECONDS = 60  # in which at most one replica goes
UNMEASURED_SECONDS = 120.0  # that a cluster may take to measure pods that are new


def bounds(service: Service) -> Scale:
    """What has a volume or a database runs once: two of it would write there at the same time."""
    return Scale() if service.scale is None or service.volumes or service.databases else service.scale


def may_be_several(service: Service) -> bool:
    return bounds(service).max > 1


def is_autoscaled(service: Service) -> bool:
    found = bounds(service)
    return found.min < found.max


def replicas(service: Service) -> int | None:
    """None: the autoscaler says."""
    return None if is_autoscaled(service) else bounds(service).min


def leaves_number(obj: Any) -> bool:
    """Whether this is a Deployment as Matcha renders one whose number of pods is the autoscaler's."""
    if not isinstance(obj, Deployment):
        return False
    assert obj.spec is not None
    return obj.spec.replicas is None


def autoscaler(service: Service) -> HorizontalPodAutoscaler:
    """By the CPU of the service's own container: what a cluster puts beside it need not ask for any."""
    wanted = bounds(service)
    cpu = ContainerResourceMetricSource(
        name="cpu",
        container=service.name,
        target=MetricTarget(type="Utilization", averageUtilization=wanted.cpu),
    )
    return HorizontalPodAutoscaler(
        metadata=ObjectMeta(name=service.name, labels=labels(service.name, service.role)),
        spec=HorizontalPodAutoscalerSpec(
            scaleTargetRef=CrossVersionObjectReference(
                apiVersion="apps/v1", kind="Deployment", name=service.name
            ),
            minReplicas=wanted.min,
            maxReplicas=wanted.max,
            metrics=[MetricSpec(type="ContainerResource", containerResource=cpu)],
            behavior=HorizontalPodAutoscalerBehavior(
                scaleUp=HPAScalingRules(
                    stabilizationWindowSeconds=UP_SECONDS,
                    selectPolicy="Max",
                    policies=[
                        HPAScalingPolicy(type="Percent", value=100, periodSeconds=15),
                        HPAScalingPolicy(type="Pods", value=2, periodSeconds=15),
                    ],
                ),
                scaleDown=HPAScalingRules(
                    stabilizationWindowSeconds=DOWN_SECONDS,
                    selectPolicy="Max",
                    policies=[HPAScalingPolicy(type="Pods", value=1, periodSeconds=STEP_SECONDS)],
                ),
            ),
        ),
    )


def spread(service: Service) -> list[TopologySpreadConstraint]:
    """Over machines, as far as there are; also where it runs once, so that a second one changes no pod."""
    if service.scale is None or service.volumes or service.databases:
        return []
    return [
        TopologySpreadConstraint(
            maxSkew=1,
            topologyKey=HOST,
            whenUnsatisfiable="ScheduleAnyway",
            labelSelector=LabelSelector(matchLabels=selector(service.name)),
            matchLabelKeys=[REVISION],
        )
    ]


def least(objects: Iterable[Any], *, most: bool = False) -> dict[str, int]:
    """Name of each Deployment that is autoscaled -> the fewest pods that it has, or the most."""
    specs = [obj.spec for obj in objects if isinstance(obj, HorizontalPodAutoscaler)]
    return {s.scaleTargetRef.name: s.maxReplicas if most else s.minReplicas or 1 for s in specs}


def told(found: HorizontalPodAutoscaler | None, now: datetime.datetime) -> str:
    """What keeps the autoscaler from doing what it is for; empty where nothing does."""
    if found is None or found.status is None or found.spec is None:
        return ""
    known = {c.type: c for c in found.status.conditions or ()}
    active, limited = known.get("ScalingActive"), known.get("ScalingLimited")
    if active and active.status == "False":
        if active.reason == "ScalingDisabled" or _is_new(active, now):
            return ""
        number = found.status.currentReplicas
        return f"stays at {number}, for the cluster does not measure its CPU: {_said(active.message)}"
    if limited and limited.status == "True" and limited.reason == "TooManyReplicas":
        return f"at its maximum of {found.spec.maxReplicas}, and needs more{_use(found)}"
    return ""


def _is_new(condition: Any, now: datetime.datetime) -> bool:
    since = condition.lastTransitionTime
    return since is not None and (now - since).total_seconds() < UNMEASURED_SECONDS


def _said(message: str | None) -> str:
    """The last cause: what stands before it is which metric it was."""
    return (message or "no reason given").rpartition(": ")[2].strip().rstrip(".")


def _use(found: HorizontalPodAutoscaler) -> str:
    metrics: Any = (found.status and found.status.currentMetrics) or ()
    used = [m.containerResource.current.averageUtilization for m in metrics if m and m.containerResource]
    return f": each uses {used[0]} % of the CPU that it asks for" if used and used[0] is not None else ""


def within(service: Service, number: int) -> int:
    """The nearest number of pods to `number` that the service may have."""
    wanted = bounds(service)
    return min(max(number, wanted.min), wanted.max)


def scales(services: Iterable[Service]) -> Mapping[str, Scale]:
    return {s.name: bounds(s) for s in services if may_be_several(s)}
