"""Environments in a cluster: an official image, or an archive that a Job builds once into the object store.

Pods that use an archive unpack it into a folder of their own before they start, so that scaling out needs no
package index. Pure.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightkube.models.core_v1 import (
    ConfigMapVolumeSource,
    Container,
    EnvVar,
    KeyToPath,
    PodSpec,
    Volume,
    VolumeMount,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, ServiceAccount

from matcha._version import __version__
from matcha.service import Environment, Resources, digest_of
from matcha.targets.kubernetes import base, code
from matcha.targets.kubernetes.names import MANAGER, labels
from matcha.targets.kubernetes.pod import (
    DISK_LIMIT,
    FINAL,
    LOCKED,
    SCRATCH,
    account,
    at,
    empty,
    job,
    resources,
    storage_variables,
    template,
    variable,
)
from matcha.targets.kubernetes.resolve import ENVIRONMENT
from matcha.targets.kubernetes.setting import Setting

_PACKAGE = Path(__file__).resolve().parents[2]  # Matcha's own
BUILDER = "environment-builder"
UNPACKER = "environment"
POD_CODE = "/matcha/pod"
LOCK = "/matcha/lock/requirements.lock"
MACHINE = "kubernetes.io/arch"  # label of nodes
# The largest environment of Matcha's own takes 934 MB and packs to 308 MB; PyTorch's with CUDA 8 GB and more.
UNPACKED, BUILT = "3Gi", "4Gi"
BUILT_LIMIT = "24Gi"  # while it is packed it is there twice
BUILD_SECONDS = 3600
_KERNELS = {"amd64": "x86_64", "arm64": "aarch64"}


def has_image(environment: Environment) -> bool:
    return bool(environment.image)


def version(environment: Environment) -> str:
    """Of the tool that the environment is named after, or of Matcha, whose own program runs in what it brings
    along for no tool; empty where no label could hold it.
    """
    if environment.image:
        return image_version(environment.image)
    pin = rf"^{re.escape(environment.name)}(?:\[[\w,-]+\])?==(\S+)"
    found = re.search(pin, environment.lock.read_text(encoding="utf-8"), re.MULTILINE)
    if found:
        return _as_label(found[1])
    return own_version() if environment.lock.is_relative_to(_PACKAGE) else ""


def own_version() -> str:
    """Matcha's."""
    return _as_label(__version__)


def image_version(image: str) -> str:
    tag = "" if "@" in image else image.rpartition("/")[2].partition(":")[2]
    return _as_label(tag.removeprefix("v").removesuffix("-full"))


def _as_label(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", text, re.ASCII) else ""


def address(setting: Setting, environment: Environment) -> str:
    """Where the archive lies. Another base image has another Python, so it is another archive; so is that of
    another kind of machine, which whoever runs there puts in.
    """
    name = f"{environment.name}-{_made_from(setting, environment)}-{{machine}}"
    return f"{setting.storage.url}/environments/{name}.tar.gz"


def placed(setting: Setting, environment: Environment, machine: str) -> str:
    """`address` on a kind of node (`amd64`): an archive bears the name that the kernel has for it."""
    return address(setting, environment).replace("{machine}", _KERNELS.get(machine, machine))


def read_by(pods: PodSpec) -> set[str]:
    """Where an archive that they unpack may lie, by whatever kind of machine they come to."""
    found = [c.args[1] for c in pods.initContainers or () if c.name == UNPACKER and c.args]
    return {at.replace("{machine}", kernel) for at in found for kernel in _KERNELS.values()}


def _made_from(setting: Setting, environment: Environment) -> str:
    return digest_of((environment.digest, setting.options.image))


def job_name(setting: Setting, environment: Environment, machine: str = "") -> str:
    short = f"-{_made_from(setting, environment)[:8]}" + (f"-{machine}" if machine else "")
    return _job_stem(environment) + short


def _job_stem(environment: Environment) -> str:
    return f"build-{environment.name}"[:40].rstrip("-")


def builds(job: str, environment: Environment) -> bool:
    """Whether a Job of this name builds some version of the environment, whose lock need not be known."""
    return re.fullmatch(rf"{re.escape(_job_stem(environment))}-[0-9a-f]{{8}}(-\w+)?", job) is not None


def builder(
    setting: Setting, environment: Environment, machine: str = ""
) -> tuple[ServiceAccount, ConfigMap, ConfigMap, Job]:
    """The Job that makes the archive, and what it stands on. `machine`: on which kind of node (`amd64`)."""
    name = job_name(setting, environment, machine)
    lock = ConfigMap(
        metadata=ObjectMeta(name=name, labels=labels(BUILDER, MANAGER)),
        data={"requirements.lock": environment.lock.read_text(encoding="utf-8")},
    )
    build = Job(
        metadata=ObjectMeta(name=name, labels=labels(BUILDER, MANAGER, version(environment))),
        spec=job(
            template(
                setting,
                BUILDER,
                MANAGER,
                [_build(setting, environment)],
                volumes=[*volumes(setting), _lock(name)],
                restart="Never",
                nodes={MACHINE: machine} if machine else {},
                version=version(environment),
            ),
            tries=3,
            seconds=BUILD_SECONDS,
            final=FINAL,
        ),
    )
    return account(BUILDER, MANAGER), code.folder_map(code.POD_CODE), lock, build


def _build(setting: Setting, environment: Environment) -> Container:
    index = setting.options.index_url
    indexes = [variable(n, index) for n in ("UV_INDEX_URL", "PIP_INDEX_URL")] if index else []
    return Container(
        name=BUILDER,
        image=setting.base_image,
        command=["python", "-m", "matcha_pod", "build"],
        args=[
            *("--lock", LOCK, "--path", ENVIRONMENT, "--to", address(setting, environment)),
            *("--python", base.wanted(setting.options, environment)),
            *("--deadline", str(BUILD_SECONDS - 300)),  # before the Job's own, which would hide the reason
        ],
        env=[*variables(setting), *indexes],
        resources=resources(
            Resources(cpu=0.5, memory=512), memory_limit=2048, disk=BUILT, disk_limit=BUILT_LIMIT
        ),
        volumeMounts=[
            SCRATCH[1],
            code.mount("pod-code", POD_CODE),
            code.mount("lock", "/matcha/lock"),
            at(UNPACKER, ENVIRONMENT),
            *trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def unpacker(setting: Setting, environment: Environment) -> Container:
    """The init container that lays the archive out at ENVIRONMENT."""
    return Container(
        name=UNPACKER,
        image=setting.base_image,
        command=["python", "-m", "matcha_pod", "unpack"],
        args=["--from", address(setting, environment), "--path", ENVIRONMENT],
        env=variables(setting),
        resources=resources(Resources(cpu=0.1, memory=64), memory_limit=512, disk=UNPACKED),
        volumeMounts=[
            SCRATCH[1],
            code.mount("pod-code", POD_CODE),
            at(UNPACKER, ENVIRONMENT),
            *trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def volumes(setting: Setting) -> list[Volume]:
    """Of a pod that holds an environment."""
    return [*pod_code(), empty(UNPACKER, DISK_LIMIT), *trust_volumes(setting)]


def variables(setting: Setting) -> list[EnvVar]:
    return [
        *storage_variables(setting),
        variable("PYTHONPATH", POD_CODE),
        variable("PYTHONUNBUFFERED", "1"),
        variable("HOME", "/tmp"),  # noqa: S108 - of the container
        *trust_variables(setting),
    ]


def pod_code() -> list[Volume]:
    """The program that runs in pods."""
    return [code.volume("pod-code", code.folder_name(code.POD_CODE), code.contents(code.POD_CODE))]


def _lock(name: str) -> Volume:
    items = [KeyToPath(key="requirements.lock", path="requirements.lock")]
    return Volume(name="lock", configMap=ConfigMapVolumeSource(name=name, items=items))


# -- certificates that pods trust besides their image's --------------------------------------------------

TRUST = "ca-bundle"
TRUST_NAME = "ca-bundle.crt"
TRUST_FILE = f"/matcha/trust/{TRUST_NAME}"


def trust_volumes(setting: Setting) -> list[Volume]:
    if not setting.trust:
        return []
    return [Volume(name=TRUST, configMap=ConfigMapVolumeSource(name=TRUST))]


def trust_mounts(setting: Setting) -> list[VolumeMount]:
    return [code.mount(TRUST, "/matcha/trust")] if setting.trust else []


def trust_variables(setting: Setting) -> list[EnvVar]:
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE")
    return [variable(name, TRUST_FILE) for name in names] if setting.trust else []
