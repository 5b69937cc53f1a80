"""What the pods of a service that may have several amount to. Pure."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler

from matcha.service import Scale
from matcha.targets.kubernetes import scaling
from matcha.targets.kubernetes.why import Verdict


def replicas(workload: Any) -> tuple[int, int]:
    """How many are ready, and how many there should be."""
    spec, status = workload.spec, workload.status
    return (status.readyReplicas if status else None) or 0, 1 if spec.replicas is None else spec.replicas


def rolled_out(verdict: Verdict, workload: Any, scale: Scale) -> Verdict:
    """For who waits for the newest description: the fewest that should be there are enough, since more may
    come and go at any time.
    """
    ready, wanted = replicas(workload) if workload else (0, 0)
    enough = ready >= min(scale.min, wanted) > 0
    return Verdict("running", restarts=verdict.restarts) if enough and _is_newest(workload) else verdict


def judged(
    verdict: Verdict,
    workload: Any,
    scale: Scale,
    autoscaler: HorizontalPodAutoscaler | None = None,
    now: datetime.datetime | None = None,
) -> Verdict:
    """`verdict` of a service of which some may do its work while others cannot yet.

    It is well as long as one is ready; and ill where fewer are than should be at least, for a reason that
    does not pass by itself. While pods of a new description take the place of others it is well, if as many
    as should be are ready; one that does not come up is told as for a single pod.
    """
    if workload is None or verdict.condition in ("absent", "stopped"):
        return verdict
    ready, wanted = replicas(workload)
    about = scaling.told(autoscaler, now or datetime.datetime.now(datetime.timezone.utc))
    if verdict.condition == "running":
        return _with(verdict, "running", about)
    if not ready or not _is_looked_after(workload):
        return verdict
    lacking = f"{ready} of {wanted} replicas are ready"
    is_ill = ready < scale.min and verdict.hope != "yes"
    if not _is_newest(workload):
        if ready < min(scale.min, wanted) or verdict.hope != "yes":
            return verdict
        lacking = f"{workload.status.updatedReplicas or 0} of {wanted} replicas are new yet"
    said = f"{lacking}: {verdict.detail}" if verdict.detail else lacking
    return _with(verdict, "unhealthy" if is_ill else "running", said, about)


def _with(verdict: Verdict, condition: Any, *said: str) -> Verdict:
    return msgspec.structs.replace(verdict, condition=condition, detail="; ".join(filter(None, said)))


def _is_looked_after(workload: Any) -> bool:
    """Whether what is said of it is of its newest description."""
    status, metadata = workload.status, workload.metadata
    return ((status.observedGeneration if status else None) or 0) >= (metadata.generation or 0)


def _is_newest(workload: Any) -> bool:
    """Whether every pod is of the newest description."""
    if not _is_looked_after(workload) or workload.status is None:
        return False
    return (workload.status.replicas or 0) == (workload.status.updatedReplicas or 0) > 0
