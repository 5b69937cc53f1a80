"""The runtime facts of a stack's services, for `matcha status`: few calls, side by side."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.core_v1 import Pod

from matcha.host.ports import HOST
from matcha.target import ServiceStatus
from matcha.targets.kubernetes import look, why
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.compare import amount, editors
from matcha.targets.kubernetes.names import MANAGER

METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods"


def statuses(cluster: Cluster, names: Sequence[str], ports: Mapping[str, int]) -> list[ServiceStatus]:
    """Of the services of these names. `ports`: loopback port of each `service/port`."""
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(memory, cluster)
        found = look.everything(cluster, (Deployment, StatefulSet, Pod))
        used = asked.result()
    pods = why.by_owner(found.of(Pod))
    return [_status(name, found, pods.get(name, []), used, ports) for name in names]


def _status(
    name: str, found: look.Found, pods: list[Pod], used: Mapping[str, int], ports: Mapping[str, int]
) -> ServiceStatus:
    workload = found.workload(name)
    verdict = why.judge(workload, pods)
    of_pods = [used[n] for n in (p.metadata.name or "" for p in pods if p.metadata) if n in used]
    own = {k.partition("/")[2]: n for k, n in ports.items() if k.startswith(f"{name}/")}
    number = own.get("http") or next(iter(own.values()), 0)
    return ServiceStatus(
        name=name,
        condition=verdict.condition,
        address=f"http://{HOST}:{number}" if number else "",
        detail=verdict.detail or _changed(workload),
        memory=sum(of_pods) if of_pods else -1,
        restarts=verdict.restarts,
        uptime=_age(pods) if verdict.condition == "running" else 0.0,
    )


def _changed(workload: Any) -> str:
    """By whom, where others changed it; what, only a plan can tell."""
    others = editors(workload.to_dict(), MANAGER) if workload else []
    return f"changed by {', '.join(others)}: matcha plan shows what" if others else ""


def _age(pods: list[Pod]) -> float:
    started = [p.status.startTime for p in pods if p.status and p.status.startTime]
    now = datetime.datetime.now(datetime.timezone.utc)
    return max((now - max(started)).total_seconds(), 0.0) if started else 0.0


def memory(cluster: Cluster) -> dict[str, int]:
    """Bytes by pod, where the cluster measures them; otherwise nothing."""
    answer: Any = cluster.raw(METRICS.format(cluster.namespace)) or {}
    return {
        item["metadata"]["name"]: int(sum(amount(c["usage"]["memory"]) or 0 for c in item["containers"]))
        for item in answer.get("items", ())
    }
