"""Whether the cluster measures what an autoscaler goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from matcha.host.findings import Finding
from matcha.targets.kubernetes import scaling
from matcha.targets.kubernetes.cluster import Cluster

API = "/apis/metrics.k8s.io/v1beta1"
FIX = "Have an administrator install metrics-server, or ask for a fixed number of replicas."


def lack(cluster: Cluster, objects: Iterable[Any]) -> str:
    """That it does not, where one of `objects` is an autoscaler; empty otherwise."""
    names = scaling.least(objects)
    if not names or cluster.raw(API) is not None:
        return ""
    return (
        f"The cluster does not measure the CPU of pods (metrics.k8s.io): {', '.join(sorted(names))} "
        "gets no more replicas under load than it has at least."
    )


def findings(cluster: Cluster, objects: Iterable[Any]) -> Iterator[Finding]:
    objects = list(objects)
    if said := lack(cluster, objects):
        yield Finding(check="metrics", ok=False, message=said, fix=FIX)
    elif names := scaling.least(objects):
        message = f"The cluster measures the CPU by which {', '.join(sorted(names))} gets replicas."
        yield Finding(check="metrics", ok=True, message=message)
