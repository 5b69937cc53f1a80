"""The kinds of machine that pods of the stack may come to run on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lightkube.resources.core_v1 import Event as ClusterEvent
from lightkube.resources.core_v1 import Node

from matcha.service import Environment
from matcha.targets.kubernetes.archives import MACHINE, has_image
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Forbidden
from matcha.targets.kubernetes.pod import OS


def machines(cluster: Cluster) -> frozenset[str]:
    """Such as amd64; none for a user who may not list nodes. Nodes that keep pods away do not count, nor do
    those of Windows.
    """
    try:
        nodes = cluster.found_global(Node)
    except ClusterError:
        return frozenset()
    return frozenset(filter(None, map(_machine, nodes)))


def hidden(cluster: Cluster, environments: Iterable[Environment]) -> list[str]:
    """For a plan: what a run does without because this user may not see it."""
    notes = []
    if any(not has_image(e) for e in environments) and _is_forbidden(lambda: cluster.found_global(Node)):
        notes.append(
            "You may not list nodes: whether they are of several architectures was not checked, and "
            "environments are built for one of them."
        )
    if _is_forbidden(lambda: cluster.found(ClusterEvent)):
        notes.append(
            "You may not list events: why a pod is not made, has no volume or finds no node will not be told."
        )
    return notes


def _is_forbidden(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Forbidden:
        return True
    return False


def _machine(node: Node) -> str:
    spec = node.spec
    taints = (spec.taints if spec else None) or ()
    if (spec and spec.unschedulable) or any(t.effect in ("NoSchedule", "NoExecute") for t in taints):
        return ""
    labels = (node.metadata.labels if node.metadata else None) or {}
    return str(labels.get(MACHINE, "")) if labels.get(OS, "linux") == "linux" else ""
