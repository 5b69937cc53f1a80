"""Whether nodes with GPUs offer them to pods, and the plugin that has them do so.

NVIDIA's device plugin needs a folder of its node, which Pod Security forbids in the stack's namespace, and it
serves the whole cluster: it is put beside the cluster's own parts, where `targets.kubernetes.gpu-plugin` asks
for it, and stays when the stack goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightkube.models.apps_v1 import DaemonSetSpec
from lightkube.models.core_v1 import (
    Affinity,
    Capabilities,
    Container,
    EnvVar,
    HostPathVolumeSource,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PodSpec,
    PodTemplateSpec,
    SecurityContext,
    Volume,
)
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import Node

from matcha.host.findings import Finding
from matcha.job import Demand
from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.jobs.capacity import Label, offered, says
from matcha.targets.kubernetes.jobs.render import tolerations
from matcha.targets.kubernetes.names import MANAGED_BY, MANAGER
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.pod import at

IMAGE = "nvcr.io/nvidia/k8s-device-plugin:v0.17.1"
NAMESPACE, NAME = "kube-system", "matcha-nvidia-device-plugin"
FOLDER = "/var/lib/kubelet/device-plugins"
WHERE = f"a DaemonSet of {NAMESPACE}, for everybody in the cluster"


def findings(cluster: Cluster, options: KubernetesOptions) -> Iterator[Finding]:
    """None where no node says that it has GPUs, or nodes may not be listed."""
    try:
        nodes = cluster.found_global(Node)
    except ClusterError:
        return
    offering = [node for node in nodes if offered(node)]
    idle = [(node, label) for node in nodes if not offered(node) for label in says(node)]
    if idle:
        names = sorted({str(node.metadata.name) for node, _ in idle if node.metadata})
        yield _missing(cluster, options, names, sorted({label for _, label in idle}))
    elif offering:
        count = sum(offered(node) for node in offering)
        yield Finding(check="gpus", ok=True, message=f"{count} on {len(offering)} nodes, offered to pods.")


def _missing(
    cluster: Cluster, options: KubernetesOptions, names: Sequence[str], labels: Sequence[Label]
) -> Finding:
    have = "has GPUs and offers" if len(names) == 1 else "have GPUs and offer"
    said = f"{', '.join(names)} {have} none to pods: NVIDIA's device plugin does not run there."
    if not options.gpu_plugin:
        return Finding(
            check="gpus",
            ok=False,
            message=said,
            fix=f"Set targets.kubernetes.gpu-plugin: true, then: matcha doctor --fix ({WHERE})",
        )
    made = daemon_set(options, labels)
    return Finding(
        check="gpus",
        ok=False,
        message=said,
        fix="matcha doctor --fix",
        mend=lambda: cluster.apply(made),
        mended=f"NVIDIA's device plugin is installed as {NAME} ({WHERE}).",
    )


def daemon_set(options: KubernetesOptions, labels: Sequence[Label]) -> DaemonSet:
    """On nodes with one of these labels; where another plugin runs already, nodes have others."""
    mirror = options.registry_mirror.rstrip("/")
    marks = {"app.kubernetes.io/name": NAME, MANAGED_BY: MANAGER}
    terms = [NodeSelectorTerm(matchExpressions=[_picked(*label)]) for label in labels]
    node = NodeAffinity(requiredDuringSchedulingIgnoredDuringExecution=NodeSelector(nodeSelectorTerms=terms))
    container = Container(
        name="plugin",
        image=f"{mirror}/{IMAGE}" if mirror else IMAGE,
        env=[EnvVar(name="FAIL_ON_INIT_ERROR", value="false")],
        volumeMounts=[at("plugins", FOLDER)],
        securityContext=SecurityContext(
            allowPrivilegeEscalation=False, capabilities=Capabilities(drop=["ALL"])
        ),
    )
    return DaemonSet(
        metadata=ObjectMeta(name=NAME, namespace=NAMESPACE, labels=marks),
        spec=DaemonSetSpec(
            selector=LabelSelector(matchLabels=marks),
            template=PodTemplateSpec(
                metadata=ObjectMeta(labels=marks),
                spec=PodSpec(
                    containers=[container],
                    affinity=Affinity(nodeAffinity=node),
                    tolerations=tolerations(Demand(gpu=1)),
                    priorityClassName="system-node-critical",
                    automountServiceAccountToken=False,
                    volumes=[Volume(name="plugins", hostPath=HostPathVolumeSource(path=FOLDER))],
                ),
            ),
        ),
    )


def _picked(key: str, value: str) -> NodeSelectorRequirement:
    if value:
        return NodeSelectorRequirement(key=key, operator="In", values=[value])
    return NodeSelectorRequirement(key=key, operator="Exists")
