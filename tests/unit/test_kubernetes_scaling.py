"""How many pods a service has in a cluster, as it is rendered, counted and told."""

from __future__ import annotations

import datetime
from typing import Any

import kubernetes_validate
import msgspec
import pytest
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import ResourceQuota

from matcha import planning, registry
from matcha.component import Component
from matcha.service import Database, Probe, Scale, Service
from matcha.targets.kubernetes import KubernetesOptions, desired, quotas, scaling, several, workloads
from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.names import MANAGER
from matcha.targets.kubernetes.owners import foreign, released
from matcha.targets.kubernetes.raising import Raiser
from matcha.targets.kubernetes.setting import setting
from matcha.targets.kubernetes.why import Verdict

VERSIONS = ("1.30", "1.33", "1.35")
NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)


def components() -> list[Component]:
    return [cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()]


WANTED = planning.want(components(), ())


def server(**changes: Any) -> Service:
    [found] = [s for s in WANTED.services if s.name == "mlserver"]
    return msgspec.structs.replace(found, **changes)


def rendered(service: Service) -> dict[str, Any]:
    """By kind."""
    others = tuple(s for s in WANTED.services if s.name != service.name)
    found = setting(KubernetesOptions(), (*others, service), WANTED.environments)
    return {type(obj).__name__: obj for obj in desired.of_service(found, service)}


# -- what is rendered ---------------------------------------------------------------------------------------


def test_a_fixed_number_of_replicas_needs_no_autoscaler() -> None:
    found = rendered(server(scale=Scale(min=3, max=3)))
    assert found["Deployment"].spec.replicas == 3
    assert "HorizontalPodAutoscaler" not in found


def test_between_two_numbers_the_deployment_says_none_and_the_autoscaler_both() -> None:
    found = rendered(server(scale=Scale(min=2, max=6, cpu=55)))
    assert "replicas" not in found["Deployment"].to_dict()["spec"]
    spec = found["HorizontalPodAutoscaler"].to_dict()["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mlserver"}
    [metric] = spec["metrics"]
    assert metric["containerResource"]["container"] == "mlserver"
    assert metric["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 55}
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert up["stabilizationWindowSeconds"] < down["stabilizationWindowSeconds"]
    for document in (found["HorizontalPodAutoscaler"], found["Deployment"]):
        for version in VERSIONS:
            kubernetes_validate.validate(desired.document(document, "ns"), version, strict=True)


@pytest.mark.parametrize(
    "owns",
    [{"volumes": ("data",)}, {"databases": (Database("app"),)}, {"scale": None}],
    ids=lambda o: str(*o),
)
def test_what_keeps_data_of_its_own_runs_once_whatever_is_asked(owns: dict[str, Any]) -> None:
    found = rendered(server(**{"scale": Scale(min=2, max=6), **owns}))
    workload = found.get("Deployment") or found["StatefulSet"]
    assert workload.spec.replicas == 1
    assert "HorizontalPodAutoscaler" not in found
    assert workload.spec.template.spec.topologySpreadConstraints is None


def test_replicas_spread_over_machines_where_that_can_be() -> None:
    """The same for one and for many: to have a second one changes no pod that is there."""
    one, many = (rendered(server(scale=scale))["Deployment"] for scale in (Scale(), Scale(min=2, max=6)))
    assert one.spec.template == many.spec.template
    [spread] = many.spec.template.spec.topologySpreadConstraints
    assert spread.topologyKey == "kubernetes.io/hostname" and spread.whenUnsatisfiable == "ScheduleAnyway"
    assert spread.labelSelector.matchLabels == many.spec.selector.matchLabels


def test_a_pod_gets_requests_once_it_is_ready_and_is_given_the_time() -> None:
    health = Probe(path="/live", ready="/ready", start_timeout=100, ready_timeout=900)
    service = server(health=health)
    spec = rendered(service)["Deployment"].spec
    [container] = spec.template.spec.containers
    paths = [
        p.httpGet.path for p in (container.startupProbe, container.readinessProbe, container.livenessProbe)
    ]
    assert paths == ["/live", "/ready", "/live"]
    assert container.startupProbe.failureThreshold * container.startupProbe.periodSeconds == 100
    assert spec.progressDeadlineSeconds == 100 + 900 + 600
    assert workloads.ready_seconds(service) == 1000


# -- whose the number is ------------------------------------------------------------------------------------


class Contended:
    """A cluster in which somebody else is always faster: what Matcha owns never changes."""

    namespace = "ns"

    def __init__(self, there: Any) -> None:
        self.there = there
        self.applied: list[Any] = []

    def get(self, _: Any, name: str) -> Any:
        return self.there

    def own(self, found: Any, fields: Any) -> None:
        raise ClusterError("It has changed meanwhile.", status=409)

    def apply(self, obj: Any, **_: Any) -> Any:
        self.applied.append(obj)
        return obj


def test_a_number_is_left_to_the_autoscaler_or_nothing_is_applied() -> None:
    """Or all replicas but one would end."""
    wanted = rendered(server(scale=Scale(min=2, max=6)))["Deployment"]
    there = rendered(server(scale=Scale(min=2, max=2)))["Deployment"].to_dict()
    owned = {"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    there["metadata"]["managedFields"] = [owned]
    raiser = Raiser(Cluster(KubernetesOptions()), lambda: None, mine={desired.ref(wanted)})
    raiser._cluster = contended = Contended(Deployment.from_dict(there))  # type: ignore[assignment]
    with pytest.raises(ClusterError, match="changed meanwhile"):
        raiser.apply([wanted])
    assert contended.applied == []


def test_a_number_that_matcha_does_not_say_is_nobodys_change() -> None:
    edited = {
        "manager": "kubectl-edit",
        "operation": "Update",
        "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}}},
    }
    live = {"metadata": {"managedFields": [edited]}, "spec": {"replicas": 7, "paused": True}}
    assert [each.path for each in foreign({"spec": {}}, live, "Deployment")] == ["spec.paused"]


def test_matcha_lets_go_of_a_number_and_of_nothing_else() -> None:
    fields: dict[str, Any] = {"f:metadata": {}, "f:spec": {"f:replicas": {}, "f:template": {}}}
    own = {"manager": "matcha", "operation": "Apply", "fieldsV1": fields}
    other = {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:spec": {}}}
    found = released([own, other])
    assert found == [{**own, "fieldsV1": {"f:metadata": {}, "f:spec": {"f:template": {}}}}, other]
    assert released(found) is None
    assert released([{**own, "operation": "Update"}, other]) is None
    assert own["fieldsV1"] == {"f:metadata": {}, "f:spec": {"f:replicas": {}, "f:template": {}}}


# -- what several pods amount to ----------------------------------------------------------------------------


def workload(wanted: int, ready: int, *, old: int = 0, seen: int = 3) -> Any:
    template: dict[str, Any] = {"metadata": {}, "spec": {"containers": []}}
    status = {
        "observedGeneration": seen,
        "replicas": wanted + old,
        "updatedReplicas": wanted,
        "readyReplicas": ready,
    }
    return Deployment.from_dict(
        {
            "metadata": {"name": "web", "generation": 3},
            "spec": {"replicas": wanted, "selector": {}, "template": template},
            "status": status,
        }
    )


def rolled(newer: int, ready: int = 2) -> Any:
    """Pods of a new description take the place of two others."""
    made = workload(2, ready)
    made.status.updatedReplicas, made.status.replicas = newer, 3
    return made


COMES = Verdict("starting", "waiting for its health check")
STUCK = Verdict("starting", "no node takes it", "hardly", restarts=2)
CRASHES = Verdict("failed", "it ended with exit code 1", "never")
WELL = Verdict("running")
SCALE = Scale(min=2, max=5)


@pytest.mark.parametrize(
    ("verdict", "there", "condition", "detail"),
    [
        (WELL, workload(3, 3), "running", ""),
        (COMES, workload(3, 1), "running", "1 of 3 replicas are ready: waiting for its health check"),
        (STUCK, workload(3, 2), "running", "2 of 3 replicas are ready: no node takes it"),
        (STUCK, workload(3, 1), "unhealthy", "1 of 3 replicas are ready: no node takes it"),
        (CRASHES, workload(2, 1), "unhealthy", "1 of 2 replicas are ready: it ended with exit code 1"),
        (CRASHES, workload(2, 0), "failed", "it ended with exit code 1"),
        (CRASHES, workload(2, 2, old=1), "failed", "it ended with exit code 1"),  # which does not come up
        (COMES, workload(2, 2, seen=2), "starting", "waiting for its health check"),
        (COMES, rolled(1), "running", "1 of 2 replicas are new yet: waiting for its health check"),
        (STUCK, rolled(1), "starting", "no node takes it"),
        (COMES, rolled(1, ready=1), "starting", "waiting for its health check"),
    ],
)
def test_what_is_said_while_not_all_are_ready(
    verdict: Verdict, there: Any, condition: str, detail: str
) -> None:
    found = several.judged(verdict, there, SCALE)
    assert (found.condition, found.detail) == (condition, detail)
    assert found.restarts == verdict.restarts


@pytest.mark.parametrize(
    ("there", "done"),
    [
        (workload(2, 2), True),
        (workload(4, 2), True),  # more were wanted, and two are enough
        (workload(4, 1), False),
        (workload(2, 2, old=1), False),
        (workload(2, 2, seen=2), False),
        (workload(1, 1), True),  # the autoscaler has not looked yet, and somebody wants one
    ],
)
def test_a_description_is_rolled_out_once_the_fewest_are_ready(there: Any, done: bool) -> None:
    found = several.rolled_out(COMES, there, SCALE)
    assert (found.condition == "running") is done
    assert several.rolled_out(COMES, None, SCALE) == COMES


# -- what keeps an autoscaler from its work -----------------------------------------------------------------


def hpa(*conditions: dict[str, str], used: int | None = None) -> Any:
    metric: dict[str, Any] = {
        "type": "ContainerResource",
        "containerResource": {"container": "web", "name": "cpu"},
    }
    metric["containerResource"]["current"] = {"averageUtilization": used}
    status = {"currentReplicas": 2, "desiredReplicas": 2, "conditions": list(conditions)}
    target = {"kind": "Deployment", "name": "web"}
    return HorizontalPodAutoscaler.from_dict(
        {
            "metadata": {"name": "web"},
            "spec": {"minReplicas": 2, "maxReplicas": 5, "scaleTargetRef": target},
            "status": {**status, "currentMetrics": [metric] if used is not None else None},
        }
    )


def condition(kind: str, status: str, reason: str, message: str = "", at: str = "11:00") -> dict[str, str]:
    when = f"2026-01-01T{at}:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": when,
    }


UNMEASURED = (
    "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics "
    "for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the "
    "requested resource (get pods.metrics.k8s.io)"
)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, ""),
        (hpa(), ""),
        (hpa(condition("ScalingActive", "True", "ValidMetricFound")), ""),
        (hpa(condition("ScalingActive", "False", "ScalingDisabled")), ""),
        (hpa(condition("ScalingActive", "False", "FailedGetContainerResourceMetric", "m", at="11:59")), ""),
        (
            hpa(condition("ScalingActive", "False", "FailedGetContainerResourceMetric", UNMEASURED)),
            "stays at 2, for the cluster does not measure its CPU: the server could not find the requested "
            "resource (get pods.metrics.k8s.io)",
        ),
        (
            hpa(condition("ScalingLimited", "True", "TooManyReplicas"), used=140),
            "at its maximum of 5, and needs more: each uses 140 % of the CPU that it asks for",
        ),
        (hpa(condition("ScalingLimited", "True", "TooFewReplicas"), used=3), ""),
    ],
)
def test_what_is_said_of_an_autoscaler(found: Any, said: str) -> None:
    assert scaling.told(found, NOW) == said
    assert several.judged(WELL, workload(2, 2), SCALE, found, NOW).detail == said


# -- room ---------------------------------------------------------------------------------------------------


def test_quotas_have_to_have_room_for_the_fewest_and_are_told_of_the_most() -> None:
    others = tuple(s for s in WANTED.services if s.name != "mlserver")
    services = (*others, server(scale=Scale(min=2, max=6)))
    stack = desired.whole(setting(KubernetesOptions(), services, WANTED.environments))

    def room(cpu: str) -> quotas.Room:
        allowed = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": cpu}}}
        return quotas.room([ResourceQuota.from_dict(allowed)], stack, (), ())

    # 1.75 with one of them (test_kubernetes_quotas); each asks for half a core
    assert room("2.2").lacking == ("the quota q leaves 2.2 of requests.cpu, and the stack needs 2.25",)
    assert room("2.25").lacking == () and room("4.25").tight == ()
    assert room("4.2").tight == ("4.25 of requests.cpu, of which the quota q leaves less",)


def test_no_workload_but_a_deployment_leaves_its_number_to_others() -> None:
    whole = desired.whole(setting(KubernetesOptions(), WANTED.services, WANTED.environments))
    sets = [obj for obj in whole if isinstance(obj, StatefulSet)]
    assert sets and not any(map(scaling.leaves_number, whole))
