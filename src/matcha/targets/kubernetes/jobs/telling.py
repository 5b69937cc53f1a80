"""What the cluster shows of a job, as its user sees it. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from lightkube.models.core_v1 import ContainerStateTerminated, ContainerStatus
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, Pod

from matcha.job import OVER, JobCondition, JobStatus
from matcha.targets.kubernetes import why
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.jobs.render import (
    CANCELLED,
    COMMAND,
    GIVEN_UP,
    GPU,
    MEMORY_LIMIT,
    OWNER,
    PIPELINE,
    STEP,
)
from matcha.targets.kubernetes.names import JOB

OOM = "OOMKilled"
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # of a shell, for what cannot be started
# What the scheduler says of ways that no job takes.
_ENDLESS = re.compile(r"\.? (?:no new claims to deallocate|preemption: )")
# What a node says of a container that was gone when it came back: its exit code is none.
_LOST = ("Unknown", "ContainerStatusUnknown")
_UNSTARTED = ("StartError", "ContainerCannotRun")


def status(job: Job, pods: Sequence[Pod], events: Sequence[Event] = ()) -> JobStatus:
    """`pods` are the job's, of whatever age."""
    metadata, pod = job.metadata, newest(pods)
    notes = _notes(job)
    ended = main(pod).state.terminated if pod and main(pod) and main(pod).state else None  # type: ignore[union-attr]
    condition, detail, resolution = _condition(job, pods, events, notes, ended)
    begun = (ended and ended.startedAt) or _running_since(pod)
    asked = _asked(job)
    return JobStatus(
        name=(metadata.name if metadata else None) or "",
        condition=condition,
        command=tuple(msgspec.json.decode(notes.get(COMMAND) or "[]", type=list[str])),
        detail=detail,
        exit_code=_code(ended) if ended and condition in OVER else -1,
        created=_seconds(metadata.creationTimestamp if metadata else None),
        started=_seconds(begun),
        ended=_ended(job, ended) if condition in OVER else 0.0,
        gpu=int(amount(asked.get(GPU, 0)) or 0),
        cpu=amount(asked.get("cpu", 0)),
        memory=asked.get("memory"),
        node=(pod.spec.nodeName or "") if pod and pod.spec else "",
        owner=notes.get(OWNER, ""),
        resolution=resolution,
        pipeline=notes.get(PIPELINE, ""),
        step=notes.get(STEP, ""),
    )


def newest(pods: Sequence[Pod]) -> Pod | None:
    """The one that counts: of those that stay, if any do."""
    staying = [pod for pod in pods if not why.is_leaving(pod)] or list(pods)
    return max(staying, key=lambda p: str(p.metadata.creationTimestamp if p.metadata else ""), default=None)


def main(pod: Pod | None) -> ContainerStatus | None:
    """That of the command; None where the node has said nothing of it yet."""
    statuses = (pod.status.containerStatuses if pod and pod.status else None) or ()
    return next((status for status in statuses if status.name == JOB), None)


def has_begun(pod: Pod | None) -> bool:
    found = main(pod)
    return bool(found and found.state and (found.state.running or found.state.terminated))


def lost(pods: Sequence[Pod]) -> int:
    """How many of them their nodes lost."""
    return sum(any(c.type == "DisruptionTarget" for c in _conditions(pod)) for pod in pods)


def _condition(
    job: Job,
    pods: Sequence[Pod],
    events: Sequence[Event],
    notes: Any,
    ended: ContainerStateTerminated | None,
) -> tuple[JobCondition, str, str]:
    verdict = why.judge_job(job, pods, events)
    if verdict.condition == "present":  # also where it was cancelled a moment too late
        return "succeeded", "", ""
    if by := notes.get(CANCELLED):
        return ("cancelled" if verdict.condition == "failed" else "running", f"cancelled by {by}", "")
    if verdict.condition == "failed" and verdict.hope == "never":
        return ("failed", *_failure(job, pods, verdict, ended))
    pod = newest(pods)
    if has_begun(pod):
        return "running", _stuck(pods) or _coming_back(ended), ""
    if pod is None or not (pod.spec and pod.spec.nodeName):
        return "queued", _stuck(pods) or _ENDLESS.split(verdict.detail)[0], ""
    return "starting", verdict.detail, ""


def _failure(
    job: Job, pods: Sequence[Pod], verdict: why.Verdict, ended: ContainerStateTerminated | None
) -> tuple[str, str]:
    """Why, and what to do."""
    if ended is None or not ended.exitCode:
        return _unstarted(job, pods, verdict)
    if ended.reason == OOM:
        limit = _limits(job).get("memory") or MEMORY_LIMIT
        return f"it needed more memory than {limit}, and was ended", _more(job, 2 * (amount(limit) or 0))
    if ended.reason in _UNSTARTED:
        return f"its command could not be started: {_plain(ended.message or '')}", ""
    if ended.reason in _LOST:
        return "its node was lost in the middle of it, again and again", ""
    if evicted := next((p.status.message for p in pods if p.status and p.status.reason == "Evicted"), None):
        return f"its node ended it: {evicted}", ""
    return f"its command ended with exit code {ended.exitCode}", ""


def _unstarted(job: Job, pods: Sequence[Pod], verdict: why.Verdict) -> tuple[str, str]:
    if given_up := _notes(job).get(GIVEN_UP):
        return given_up, "matcha run --image IMAGE -- ..." if "image" in given_up else ""
    words = why.last_words(pods).strip().splitlines()
    return (words[-1] if words else verdict.detail), ""


def _more(job: Job, memory: float) -> str:
    """How its user asks for so many bytes."""
    if STEP in _notes(job):
        return f'ResourceSettings(memory="{memory / 2**20:.0f}MiB")'  # ZenML takes whole numbers
    size = f"{memory / 2**30:g}Gi" if memory >= 2**30 else f"{memory / 2**20:.0f}Mi"
    return f"matcha run --memory {size} -- ..."


def _plain(said: str) -> str:
    """The end of what the node's runtime says, which begins with its own names for things."""
    return said.rpartition("exec: ")[2].strip().rstrip(".") or said


def _code(ended: ContainerStateTerminated) -> int:
    if ended.reason in _UNSTARTED:
        return NOT_EXECUTABLE if "permission denied" in (ended.message or "") else NOT_FOUND
    if ended.reason in _LOST:
        return -1
    return ended.exitCode


def _stuck(pods: Sequence[Pod]) -> str:
    """A pod that leaves and does not go: on a node that is gone it stays until somebody says so."""
    leaving = [pod for pod in pods if why.is_leaving(pod)]
    if not leaving or len(leaving) < len(pods):
        return ""
    node = (leaving[-1].spec.nodeName if leaving[-1].spec else None) or "its node"
    return f"waiting for {node} to let go of it; if that is gone for good: kubectl delete node {node}"


def _coming_back(ended: ContainerStateTerminated | None) -> str:
    """Its node came back before it was missed, and another pod is made soon."""
    return "its node was lost; it starts again" if ended and ended.reason in _LOST else ""


def _notes(job: Job) -> dict[str, str]:
    return (job.metadata.annotations if job.metadata else None) or {}


def _asked(job: Job) -> dict[str, str]:
    found = _container(job)
    return dict((found.resources.requests if found and found.resources else None) or {})


def _limits(job: Job) -> dict[str, str]:
    found = _container(job)
    return dict((found.resources.limits if found and found.resources else None) or {})


def _container(job: Job) -> Any:
    containers = job.spec.template.spec.containers if job.spec and job.spec.template.spec else ()
    return next(iter(containers), None)


def _conditions(pod: Pod) -> Sequence[Any]:
    return (pod.status.conditions if pod.status else None) or ()


def _running_since(pod: Pod | None) -> datetime.datetime | None:
    found = main(pod)
    running = found.state.running if found and found.state else None
    return running.startedAt if running else None


def _ended(job: Job, ended: ContainerStateTerminated | None) -> float:
    conditions = (job.status.conditions if job.status else None) or ()
    times = [c.lastTransitionTime for c in conditions if c.type in ("Complete", "Failed")]
    return _seconds((ended and ended.finishedAt) or next(iter(times), None))


def _seconds(when: datetime.datetime | None) -> float:
    return when.timestamp() if when else 0.0
