"""The pieces that pods of the stack are made of: locked down, and nothing of the cluster's API. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightkube.models.batch_v1 import (
    JobSpec,
    PodFailurePolicy,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
)
from lightkube.models.core_v1 import (
    Capabilities,
    Container,
    EmptyDirVolumeSource,
    EnvVar,
    EnvVarSource,
    LocalObjectReference,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource,
    PodSecurityContext,
    PodSpec,
    PodTemplateSpec,
    ResourceRequirements,
    SeccompProfile,
    SecretKeySelector,
    SecurityContext,
    TopologySpreadConstraint,
    Volume,
    VolumeMount,
    VolumeResourceRequirements,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import PersistentVolumeClaim, ServiceAccount

from matcha.service import Resources
from matcha.targets.kubernetes.names import KEEPS, SECRETS, labels, selector
from matcha.targets.kubernetes.setting import REGION, Setting

USER = 10001  # any that is not root
OS = "kubernetes.io/os"  # label of nodes
DISK, DISK_LIMIT = "128Mi", "10Gi"  # of a pod's scratch folders and logs; artifacts pass through them whole
# Service meshes: a Job with a sidecar never ends, and init containers have no network beside one.
MESH_LABELS = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
MESH_NOTES = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
LOCKED = SecurityContext(
    allowPrivilegeEscalation=False,
    readOnlyRootFilesystem=True,
    capabilities=Capabilities(drop=["ALL"]),
)
KEPT_SECONDS = 600  # that a finished Job can be looked at
FINAL = (20, 21, 22, 23, 24)  # exit codes of `matcha_pod` after which the same command fails again
SCRATCH = (Volume(name="tmp", emptyDir=EmptyDirVolumeSource()), VolumeMount(name="tmp", mountPath="/tmp"))  # noqa: S108


def template(
    setting: Setting,
    name: str,
    component: str,
    containers: Sequence[Container],
    *,
    init: Sequence[Container] = (),
    volumes: Sequence[Volume] = (),
    annotations: Mapping[str, str] | None = None,
    grace: int = 30,
    user: int = USER,
    restart: str = "Always",
    nodes: Mapping[str, str] | None = None,
    version: str = "",
    spread: Sequence[TopologySpreadConstraint] = (),
) -> PodTemplateSpec:
    """A pod that satisfies the Pod Security level `restricted`. `grace` in seconds; `nodes`: their labels."""
    secret = setting.options.pull_secret
    return PodTemplateSpec(
        metadata=ObjectMeta(
            labels={**labels(name, component, version), **selector(name), **MESH_LABELS},
            annotations={**MESH_NOTES, **(annotations or {})},
        ),
        spec=PodSpec(
            containers=list(containers),
            initContainers=list(init) or None,
            volumes=[SCRATCH[0], *volumes],
            serviceAccountName=name,
            automountServiceAccountToken=False,
            enableServiceLinks=False,
            imagePullSecrets=[LocalObjectReference(name=secret)] if secret else None,
            restartPolicy=restart,
            nodeSelector={OS: "linux", **(nodes or {})},
            topologySpreadConstraints=list(spread) or None,
            terminationGracePeriodSeconds=grace,
            securityContext=_runs_as(None if setting.options.run_as == "cluster" else user),
        ),
    )


def job(
    pod: PodTemplateSpec,
    *,
    tries: int,
    seconds: int,
    final: Sequence[int] = (),
    kept: int | None = KEPT_SECONDS,
) -> JobSpec:
    """Pods one after the other until one succeeds: `tries` of them, and none after an exit code of the first
    container that is `final`. What its node loses is no try. `kept`: seconds after the end.
    """
    lost = PodFailurePolicyRule(
        action="Ignore",
        onPodConditions=[PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")],
    )
    return JobSpec(
        backoffLimit=tries - 1,
        activeDeadlineSeconds=seconds,
        ttlSecondsAfterFinished=kept,
        podFailurePolicy=PodFailurePolicy(rules=[*_hopeless(pod, final), lost]),
        template=pod,
    )


def _hopeless(pod: PodTemplateSpec, final: Sequence[int]) -> list[PodFailurePolicyRule]:
    if not final or pod.spec is None:
        return []
    codes = PodFailurePolicyOnExitCodesRequirement(
        operator="In", values=sorted(final), containerName=pod.spec.containers[0].name
    )
    return [PodFailurePolicyRule(action="FailJob", onExitCodes=codes)]


def _runs_as(user: int | None) -> PodSecurityContext:
    """None: whom the cluster assigns. OpenShift refuses a user outside of its namespace's range."""
    return PodSecurityContext(
        runAsNonRoot=True,
        runAsUser=user,
        runAsGroup=user,
        fsGroup=user,
        fsGroupChangePolicy="OnRootMismatch",
        seccompProfile=SeccompProfile(type="RuntimeDefault"),
    )


def account(name: str, component: str) -> ServiceAccount:
    """An identity without any right in the cluster."""
    return ServiceAccount(
        metadata=ObjectMeta(name=name, labels=labels(name, component)), automountServiceAccountToken=False
    )


def variable(name: str, value: str) -> EnvVar:
    return EnvVar(name=name, value=value)


def secret_variable(name: str, key: str, secret: str = SECRETS) -> EnvVar:
    return EnvVar(name=name, valueFrom=EnvVarSource(secretKeyRef=SecretKeySelector(name=secret, key=key)))


def literal(value: str) -> str:
    """`value` where Kubernetes takes `$(...)` for a reference to another variable, and `$$` for a dollar."""
    return value.replace("$", "$$")


def storage_variables(setting: Setting) -> list[EnvVar]:
    """With which every S3 client finds the object store."""
    storage = setting.storage
    endpoint = [variable("AWS_ENDPOINT_URL", storage.endpoint)] if storage.endpoint else []
    return [
        *endpoint,
        # boto3 reads the second only.
        *(variable(name, storage.region or REGION) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")),
        secret_variable("AWS_ACCESS_KEY_ID", storage.access_key, storage.secret),
        secret_variable("AWS_SECRET_ACCESS_KEY", storage.secret_key, storage.secret),
    ]


def resources(
    asked: Resources, *, memory_limit: int = 0, disk: str = DISK, disk_limit: str = DISK_LIMIT
) -> ResourceRequirements:
    """Memory (MiB) is limited to twice the request where nothing else is said. CPU is not: a start may use
    what is idle. `disk` is for a whole pod, its folders that go with it included.
    """
    return ResourceRequirements(
        requests={"cpu": cores(asked.cpu), "memory": f"{asked.memory}Mi", "ephemeral-storage": disk},
        limits={
            "memory": f"{memory_limit or asked.most or 2 * asked.memory}Mi",
            "ephemeral-storage": disk_limit,
        },
    )


def cores(number: float) -> str:
    """As the API server writes it back: whole cores, otherwise thousandths."""
    thousandths = round(number * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def claim(setting: Setting, name: str, owner: str, component: str, size: str) -> PersistentVolumeClaim:
    """An object of its own: it outlives the workload, and goes only where its data may."""
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name=name, labels={**labels(owner, component), KEEPS: "true"}),
        spec=PersistentVolumeClaimSpec(
            accessModes=["ReadWriteOnce"],
            resources=VolumeResourceRequirements(requests={"storage": size}),
            storageClassName=setting.options.storage_class or None,
        ),
    )


def claimed(name: str, claim_name: str) -> Volume:
    return Volume(name=name, persistentVolumeClaim=PersistentVolumeClaimVolumeSource(claimName=claim_name))


def empty(name: str, limit: str = "") -> Volume:
    return Volume(name=name, emptyDir=EmptyDirVolumeSource(sizeLimit=limit or None))


def at(name: str, path: str) -> VolumeMount:
    return VolumeMount(name=name, mountPath=path)
