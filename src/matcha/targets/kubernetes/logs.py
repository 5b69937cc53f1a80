"""Log lines of a service's pods."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lightkube.resources.core_v1 import Pod

from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.names import selector
from matcha.targets.kubernetes.why import is_leaving

AGAIN = 1.0  # seconds between looks for the pod that takes the place of one that ended


def pod_lines(cluster: Cluster, service: str, lines: int, follow: bool) -> Iterator[str]:
    """The last `lines`; with `follow` every further one, also of the pods that come after. Nothing, so far,
    of a service that has not run.
    """
    if not follow:
        for pod in _pods(cluster, service):
            yield from _of(cluster, pod, service, lines, False)
        return
    tail = lines
    while True:
        for pod in _pods(cluster, service)[-1:]:
            yield from _of(cluster, pod, service, tail, True)
            tail = 0
        time.sleep(AGAIN)


def _pods(cluster: Cluster, service: str) -> list[str]:
    """Names, oldest first."""
    found = [p for p in cluster.found(Pod, selector(service)) if not is_leaving(p)]
    return [p.metadata.name for p in sorted(found, key=lambda p: str(p.metadata.creationTimestamp))]


def _of(cluster: Cluster, pod: str, container: str, lines: int, follow: bool) -> Iterator[str]:
    try:
        found = cluster.call(
            lambda: cluster.client.log(
                pod, container=container, follow=follow, tail_lines=lines, newlines=False
            ),
            f"read the log of {pod}",
        )
        yield from found
    except ClusterError as error:
        if error.status not in (400, 404):  # it has not started, or is gone
            raise
