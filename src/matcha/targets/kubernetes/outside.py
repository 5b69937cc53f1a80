"""Whether a bucket that is not Matcha's can be used: tried once from within the cluster, by a Job. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightkube.models.core_v1 import Container
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ServiceAccount

from matcha.service import Resources, digest_of
from matcha.targets.kubernetes import archives, code
from matcha.targets.kubernetes.names import BUCKET_CHECK, MANAGER, labels
from matcha.targets.kubernetes.pod import FINAL, LOCKED, SCRATCH, account, job, resources, template
from matcha.targets.kubernetes.setting import Setting

SECONDS = 60  # for the store to answer
MISSING = 13  # exit code for a bucket that is not there
JOB_SECONDS = 1200  # with the time that an image and a node take


def identity() -> ServiceAccount:
    """What stays there of it."""
    return account(BUCKET_CHECK, MANAGER)


def check(setting: Setting) -> Iterator[Any]:
    """The Job, and what it stands on besides `identity`."""
    yield code.folder_map(code.POD_CODE)
    yield Job(
        metadata=ObjectMeta(
            name=f"{BUCKET_CHECK}-{digest(setting)[:8]}",
            labels=labels(BUCKET_CHECK, MANAGER, archives.own_version()),
        ),
        spec=job(
            template(
                setting,
                BUCKET_CHECK,
                MANAGER,
                [_probe(setting)],
                volumes=[*archives.pod_code(), *archives.trust_volumes(setting)],
                restart="Never",
                version=archives.own_version(),
            ),
            tries=2,
            seconds=JOB_SECONDS,
            final=(MISSING, *FINAL),
        ),
    )


def digest(setting: Setting) -> str:
    """Of where it is. Its keys are told by the mark of secrets."""
    storage = setting.storage
    return digest_of((storage.url, storage.endpoint, storage.region))


def advice(setting: Setting) -> str:
    """What to do where it cannot be used."""
    options = "targets.kubernetes.storage in matcha.yaml"
    return f"Mend the bucket, {options}, or the Secret {setting.storage.secret}, then: matcha provision"


def _probe(setting: Setting) -> Container:
    return Container(
        name=BUCKET_CHECK,
        image=setting.base_image,
        command=["python", "-m", "matcha_pod", "probe"],
        args=["--at", setting.storage.url, "--deadline", str(SECONDS)],
        env=archives.variables(setting),
        resources=resources(Resources(cpu=0.05, memory=64)),
        volumeMounts=[
            SCRATCH[1],
            code.mount("pod-code", archives.POD_CODE),
            *archives.trust_mounts(setting),
        ],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )
