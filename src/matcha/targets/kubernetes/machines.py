"""The kinds of machine that pods of the stack may come to run on."""

from __future__ import annotations

from lightkube.resources.core_v1 import Node

from matcha.targets.kubernetes.archives import MACHINE
from matcha.targets.kubernetes.cluster import Cluster, ClusterError
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


def _machine(node: Node) -> str:
    spec = node.spec
    taints = (spec.taints if spec else None) or ()
    if (spec and spec.unschedulable) or any(t.effect in ("NoSchedule", "NoExecute") for t in taints):
        return ""
    labels = (node.metadata.labels if node.metadata else None) or {}
    return str(labels.get(MACHINE, "")) if labels.get(OS, "linux") == "linux" else ""
