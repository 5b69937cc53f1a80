"""A job -> the objects that run it. Pure."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import msgspec
from lightkube.models.batch_v1 import (
    JobSpec,
    PodFailurePolicy,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
)
from lightkube.models.core_v1 import (
    Container,
    EmptyDirVolumeSource,
    EnvVar,
    PodTemplateSpec,
    ResourceRequirements,
    Toleration,
    Volume,
)
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Secret

from matcha.job import Demand, RemoteJob
from matcha.service import Resources
from matcha.targets.kubernetes import archives, code
from matcha.targets.kubernetes.inside.matcha_pod import relay
from matcha.targets.kubernetes.names import JOB, MANAGER, labels
from matcha.targets.kubernetes.pod import (
    DISK_LIMIT,
    FINAL,
    LOCKED,
    SCRATCH,
    at,
    cores,
    empty,
    literal,
    resources,
    secret_variable,
    template,
    variable,
)
from matcha.targets.kubernetes.resolve import ENVIRONMENT
from matcha.targets.kubernetes.setting import Setting, for_jobs

ROOT = "/matcha/project"
FETCHER = "code"  # the init container that lays the project out
# Runs beside the command. The node's kubelet ends it once the command has ended, whichever way, and its exit
# code says so. Where the machine was lost it has another. A machine that goes down tells both at once to end,
# and who would write their codes down: a second later nobody does.
WITNESS, ORDERLY = "witness", 86
WITNESSING = f'trap "sleep 1; exit {ORDERLY}" TERM; sleep infinity & wait'
GPU = "nvidia.com/gpu"
# Taints that keep others off nodes with GPUs: Azure's by convention, and Google's.
TOLERATED = (("sku", "gpu"), (GPU, ""))
CPU, MEMORY, MEMORY_LIMIT = 0.5, "1Gi", "4Gi"  # of a job that says nothing
TRIES = 4  # of what comes before the command; the command itself has one
KEPT_SECONDS = 86400  # that a job is shown, and its log kept, after its end
GRACE = 30
DISK = "512Mi"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")

COMMAND = "matcha-ml/command"  # annotation: what the user typed, as JSON
OWNER = "matcha-ml/submitted-by"  # annotation
CODE = "matcha-ml/code"  # annotation: where the archive of the project lies
PIPELINE, STEP = "matcha-ml/pipeline", "matcha-ml/step"  # annotations, of a job that is a pipeline's step
CANCELLED = "matcha-ml/cancelled-by"  # annotation
GIVEN_UP = "matcha-ml/given-up"  # annotation: why it could not be started


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its objects are made; its code is there already. `machine`: the kind of node that its
    environment is built for, empty for any; `priority`: a PriorityClass, empty for none.
    """

    name: str
    job: RemoteJob
    owner: str
    machine: str = ""
    priority: str = ""


def new_name(shown: Sequence[str]) -> str:
    """After the script that runs, or the program."""
    words = [PurePosixPath(word).name for word in shown]
    script = next((w.removesuffix(".py") for w in words if w.endswith(".py")), words[0] if words else "")
    stem = re.sub(r"[^a-z0-9]+", "-", script.lower()).strip("-")[:30].strip("-") or JOB
    letters = "bcdfghjklmnpqrstvwxz0123456789"  # no words come of these
    return f"{stem}-{''.join(secrets.choice(letters) for _ in range(5))}"


def secret(made: Made) -> Secret | None:
    """What the job's pods alone may read; None where there is nothing."""
    values = {name: output.value for name, output in made.job.env.items() if output.sensitive}
    if not values:
        return None
    return Secret(
        metadata=ObjectMeta(name=made.name, labels=labels(JOB, MANAGER)),
        stringData=dict(sorted(values.items())),
    )


def owned_by(job: Job) -> list[OwnerReference]:
    """For what goes with the job."""
    assert job.metadata and job.metadata.name and job.metadata.uid
    return [OwnerReference(apiVersion="batch/v1", kind="Job", name=job.metadata.name, uid=job.metadata.uid)]


def job(setting: Setting, made: Made) -> Job:
    setting = for_jobs(setting)
    notes = {
        COMMAND: msgspec.json.encode(made.job.shown).decode(),
        OWNER: made.owner,
        CODE: made.job.code,
        **({PIPELINE: made.job.pipeline, STEP: made.job.step} if made.job.step else {}),
    }
    return Job(
        metadata=ObjectMeta(name=made.name, labels=labels(JOB, MANAGER), annotations=notes),
        spec=JobSpec(
            backoffLimit=TRIES - 1,
            ttlSecondsAfterFinished=KEPT_SECONDS,
            podFailurePolicy=PodFailurePolicy(rules=_rules(made)),
            template=_pod(setting, made),
        ),
    )


def _rules(made: Made) -> list[PodFailurePolicyRule]:
    """What its node loses starts again and is no try; what the command ends with is its end. What comes
    before it is tried again unless the same would fail again, and so is a machine that was lost and came back
    before anybody missed it: the exit codes of its containers are made up then.
    """
    lost = PodFailurePolicyRule(
        action="Ignore",
        onPodConditions=[PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")],
    )
    before = [FETCHER] if made.job.environment is None else [archives.UNPACKER, FETCHER]
    return [
        lost,
        _fails(WITNESS, "In", [ORDERLY]),
        *(_fails(name, "In", sorted(FINAL)) for name in before),
    ]


def _fails(container: str, operator: str, values: list[int]) -> PodFailurePolicyRule:
    codes = PodFailurePolicyOnExitCodesRequirement(operator=operator, values=values, containerName=container)
    return PodFailurePolicyRule(action="FailJob", onExitCodes=codes)


def _pod(setting: Setting, made: Made) -> PodTemplateSpec:
    environment = made.job.environment
    found = template(
        setting,
        JOB,
        MANAGER,
        [_container(setting, made)],
        init=[
            *([archives.unpacker(setting, environment)] if environment else []),
            _fetcher(setting, made),
            _witness(setting),
        ],
        volumes=[
            *(archives.volumes(setting) if environment else _pod_code(setting)),
            empty("project", DISK_LIMIT),
            # Loaders of data hand batches over in it, and 64 MiB, the default, end them.
            Volume(name="shared", emptyDir=EmptyDirVolumeSource(medium="Memory")),
        ],
        grace=GRACE,
        restart="Never",
        nodes={archives.MACHINE: made.machine} if made.machine else {},
    )
    assert found.spec
    found.spec.tolerations = tolerations(made.job.demand) or None
    found.spec.priorityClassName = made.priority or None
    return found


def _pod_code(setting: Setting) -> list[Volume]:
    return [*archives.pod_code(), *archives.trust_volumes(setting)]


def tolerations(demand: Demand) -> list[Toleration]:
    """Of nodes that are kept for what needs GPUs."""
    if not demand.gpu:
        return []
    return [
        Toleration(key=key, operator="Equal" if value else "Exists", value=value or None, effect="NoSchedule")
        for key, value in TOLERATED
    ]


def _container(setting: Setting, made: Made) -> Container:
    environment = made.job.environment
    mounts = []
    if environment:
        mounts = [at(archives.UNPACKER, ENVIRONMENT), code.mount("pod-code", archives.POD_CODE)]
    return Container(
        name=JOB,
        image=setting.base_image if environment else made.job.image,
        command=[literal(word) for word in made.job.command],
        env=_env(setting, made),
        workingDir=str(PurePosixPath(ROOT, made.job.folder)),
        resources=demanded(made.job.demand),
        volumeMounts=[
            SCRATCH[1],
            at("project", ROOT),
            at("shared", "/dev/shm"),  # noqa: S108 - of the container
            *mounts,
            *archives.trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def demanded(demand: Demand) -> ResourceRequirements:
    """Memory that was asked for is the limit, too. CPU has none: what is idle may be used."""
    memory = _amount(demand.memory or MEMORY)
    gpus = {GPU: str(demand.gpu)} if demand.gpu else {}
    cpu = CPU if demand.cpu is None else demand.cpu
    return ResourceRequirements(
        requests={"cpu": cores(cpu), "memory": memory, "ephemeral-storage": DISK, **gpus},
        limits={"memory": _amount(demand.memory or MEMORY_LIMIT), "ephemeral-storage": DISK_LIMIT, **gpus},
    )


def _amount(text: str) -> str:
    """As Kubernetes writes it, whose thousand is a small k."""
    return text.strip().replace("K", "k") if text.strip().endswith("K") else text.strip()


def _env(setting: Setting, made: Made) -> list[EnvVar]:
    plain = {
        "HOME": "/tmp",  # noqa: S108 - of the container
        "PYTHONUNBUFFERED": "1",
        "MATCHA_JOB": made.name,
        "GIT_PYTHON_REFRESH": "quiet",  # MLflow's client looks for git, and says at length that there is none
        **_of_environment(made.job.environment is not None),
        **_of_relay(setting, made),
        **_of_devices(made.job.demand),
        **{name: output.value for name, output in made.job.env.items() if not output.sensitive},
    }
    if made.job.environment is not None:
        plain["PYTHONPATH"] = ":".join(filter(None, [plain.get("PYTHONPATH"), archives.POD_CODE]))
    hidden = sorted(name for name, output in made.job.env.items() if output.sensitive)
    return [
        *archives.trust_variables(setting),
        *(variable(name, literal(value)) for name, value in plain.items()),
        *(secret_variable(name, name, made.name) for name in hidden),
    ]


def _of_environment(is_own: bool) -> Mapping[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"VIRTUAL_ENV": ENVIRONMENT, "PATH": f"{ENVIRONMENT}/bin:{path}"} if is_own else {}


def _of_relay(setting: Setting, made: Made) -> Mapping[str, str]:
    """Where the job has Matcha's own code."""
    if made.job.environment is None:
        return {}
    return {"MATCHA_RELAY": "matcha_pod.relay", relay.ADDRESS: relay.address(setting.storage.url, made.name)}


def _of_devices(demand: Demand) -> Mapping[str, str]:
    threads = {} if demand.cpu is None else dict.fromkeys(THREADS, str(max(1, int(demand.cpu))))
    # Of a plain image the driver's runtime shows tools alone.
    return {**threads, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if demand.gpu else threads


def _fetcher(setting: Setting, made: Made) -> Container:
    """The init container that lays the project out at ROOT."""
    return Container(
        name=FETCHER,
        image=setting.base_image,
        command=["python", "-m", "matcha_pod", "extract"],
        args=["--from", made.job.code, "--path", ROOT],
        env=archives.variables(setting),
        resources=resources(Resources(cpu=0.1, memory=64), memory_limit=256, disk=DISK),
        volumeMounts=[
            SCRATCH[1],
            code.mount("pod-code", archives.POD_CODE),
            at("project", ROOT),
            *archives.trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def _witness(setting: Setting) -> Container:
    """Asks for nothing: what a job asks for is all that its node must have."""
    return Container(
        name=WITNESS,
        image=setting.base_image,
        command=["sh", "-c", WITNESSING],
        restartPolicy="Always",
        resources=resources(Resources(cpu=0, memory=0), memory_limit=64, disk="0"),
        securityContext=LOCKED,
    )
