"""What the cluster shows of a workload, in words: whether it runs, and if not, why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, Pod

from matcha.target import Condition
from matcha.targets.kubernetes.names import NAME

# How sure it is that waiting does not help: `never` ends it at once, `hardly` after a while.
Hope = Literal["yes", "hardly", "never"]

_WRONG = {
    "CreateContainerConfigError": "hardly",
    "CreateContainerError": "hardly",
    "InvalidImageName": "never",
    "ErrImagePull": "hardly",
    "ImagePullBackOff": "hardly",
    "ErrImageNeverPull": "never",
    "CrashLoopBackOff": "never",
}
_PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


REVISIONS = ("controller-revision-hash", "pod-template-hash")  # labels of pods


class Verdict(msgspec.Struct, frozen=True):
    """`log`: the last lines that a container which ended left, as far as the cluster kept them."""

    condition: Condition
    detail: str = ""
    hope: Hope = "yes"
    log: str = ""
    restarts: int = 0


def judge(
    workload: Deployment | StatefulSet | None, pods: Sequence[Pod], events: Iterable[Event] = ()
) -> Verdict:
    """`pods` are those of the workload, whatever their age."""
    if workload is None:
        return Verdict("absent")
    assert workload.spec is not None
    if workload.spec.replicas == 0:
        return Verdict("stopped")
    restarts = sum(s.restartCount for pod in pods for s in _statuses(pod))
    if is_rolled_out(workload):
        return Verdict("running", restarts=restarts)
    found = _worst(workload, _newest(workload, pods), events)
    return msgspec.structs.replace(found, restarts=restarts)


def is_rolled_out(workload: Deployment | StatefulSet) -> bool:
    """Every pod is ready and of the newest description."""
    status, spec, metadata = workload.status, workload.spec, workload.metadata
    if status is None or metadata is None:
        return False
    wanted = 1 if spec.replicas is None else spec.replicas
    if (status.observedGeneration or 0) < (metadata.generation or 0) or (status.readyReplicas or 0) < wanted:
        return False
    if isinstance(workload, StatefulSet):
        return (status.updatedReplicas or 0) >= wanted and (status.replicas or 0) == wanted
    return (status.updatedReplicas or 0) >= wanted and (status.replicas or 0) == (status.updatedReplicas or 0)


def _newest(workload: Deployment | StatefulSet, pods: Sequence[Pod]) -> list[Pod]:
    """Pods of the description that holds now: an earlier one that failed says nothing of it. Those that are
    leaving count, too: they may be what is waited for.
    """
    staying = [pod for pod in pods if not is_leaving(pod)]
    revisions = _revisions(workload, staying)
    return [pod for pod in pods if is_leaving(pod) or _label(pod, REVISIONS) in revisions]


def _revisions(workload: Deployment | StatefulSet, pods: Sequence[Pod]) -> set[str]:
    """Labels that tell such pods; none where there can be none yet. A Deployment does not name its own: they
    are those of the pods that were made last.
    """
    status, generation = workload.status, (workload.metadata and workload.metadata.generation) or 0
    if status is None or (status.observedGeneration or 0) < generation:
        return set()
    if isinstance(workload, StatefulSet):
        return {workload.status.updateRevision or ""} if workload.status else set()
    made = [str(pod.metadata.creationTimestamp) if pod.metadata else "" for pod in pods]
    newest = {_label(pod, REVISIONS) for pod, when in zip(pods, made, strict=True) if when == max(made)}
    return newest if status.updatedReplicas else set()


def _label(pod: Pod, names: Sequence[str]) -> str:
    labels = (pod.metadata.labels if pod.metadata else None) or {}
    return next((labels[name] for name in names if name in labels), "")


def is_leaving(pod: Pod) -> bool:
    return pod.metadata is not None and pod.metadata.deletionTimestamp is not None


def is_ready(pod: Pod) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or ()
    return any(c.type == "Ready" and c.status == "True" for c in conditions) and not is_leaving(pod)


def _worst(workload: Any, pods: Sequence[Pod], events: Iterable[Event]) -> Verdict:
    staying = [pod for pod in pods if not is_leaving(pod)]
    if not staying:
        return _without_pods(workload, pods, events)
    verdicts = [_pod(pod, events) for pod in staying]
    order: dict[str, int] = {"never": 0, "hardly": 1, "yes": 2}
    return min(verdicts, key=lambda v: (order[v.hope], not v.detail))


def _without_pods(workload: Any, pods: Sequence[Pod], events: Iterable[Event]) -> Verdict:
    """Nothing is there to run: somebody refuses to make it (a quota, a policy), or it is still leaving."""
    if pods:
        return Verdict("starting", "waiting for the old pod to end")
    conditions = (workload.status.conditions if workload.status else None) or ()
    refused = [c.message for c in conditions if c.type == "ReplicaFailure" and c.status == "True"]
    refused += [e.message for e in events if e.reason == "FailedCreate" and e.message]
    if refused:
        return Verdict("failed", f"no pod may be made: {refused[-1]}", "hardly")
    return Verdict("starting", "waiting for its pod to be made")


def _pod(pod: Pod, events: Iterable[Event]) -> Verdict:
    if is_ready(pod):
        return Verdict("running")
    if waiting := _unscheduled(pod, events):
        return waiting
    if pod.status and pod.status.reason == "Evicted":
        return Verdict("starting", f"evicted: {pod.status.message or 'the node was short of resources'}")
    for status in _statuses(pod):
        if found := _container(status):
            return found
    return _progress(pod)


def _unscheduled(pod: Pod, events: Iterable[Event]) -> Verdict | None:
    conditions = (pod.status.conditions if pod.status else None) or ()
    reasons = [c.message for c in conditions if c.type == "PodScheduled" and c.status == "False"]
    if not reasons:
        return None
    name = pod.metadata.name if pod.metadata else ""
    scaling = [e for e in events if e.involvedObject.name == name and e.reason == "TriggeredScaleUp"]
    if scaling:
        return Verdict("starting", f"waiting for a new node: {reasons[0]}")
    return Verdict("starting", f"no node takes it: {reasons[0]}", "hardly")


def _container(status: ContainerStatus) -> Verdict | None:
    """Why a container does not run; None where it does, or has not been tried."""
    waiting = status.state.waiting if status.state else None
    last = status.lastState.terminated if status.lastState else None
    ended = (status.state.terminated if status.state else None) or last
    if waiting and waiting.reason in _WRONG:
        hope: Any = _WRONG[waiting.reason]
        if waiting.reason in _PULLS:
            said = waiting.message or waiting.reason
            return Verdict("failed", f"the image {status.image} cannot be had: {said}", hope)
        if waiting.reason == "CrashLoopBackOff":
            return Verdict("failed", _ending(status.name, ended), "never", (ended and ended.message) or "")
        return Verdict("failed", f"{status.name}: {waiting.message or waiting.reason}", hope)
    if ended and ended.exitCode:
        hope = "never" if status.restartCount >= 2 else "yes"
        return Verdict("starting", _ending(status.name, ended), hope, ended.message or "")
    return None


def _ending(name: str, ended: Any) -> str:
    if ended is None:
        return f"{name} ends again and again"
    if ended.reason == "OOMKilled":
        return f"{name} needed more memory than its limit and was ended"
    return f"{name} ended with exit code {ended.exitCode}"


def _progress(pod: Pod) -> Verdict:
    """What a pod that comes up is at."""
    for status in (pod.status.initContainerStatuses if pod.status else None) or ():
        if not status.ready:
            what = "its environment is unpacked" if status.name == "environment" else f"{status.name} runs"
            return Verdict(
                "starting", what if status.state and status.state.running else "its image is pulled"
            )
    running = [s for s in _main_statuses(pod) if s.state and s.state.running]
    if running:
        return Verdict("starting", "waiting for its health check")
    return Verdict("starting", "its image is pulled")


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from (pod.status.initContainerStatuses if pod.status else None) or ()
    yield from _main_statuses(pod)


def _main_statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from (pod.status.containerStatuses if pod.status else None) or ()


def judge_job(job: Job | None, pods: Sequence[Pod], events: Iterable[Event] = ()) -> Verdict:
    """`present` once it succeeded."""
    if job is None:
        return Verdict("absent")
    for condition in (job.status.conditions if job.status else None) or ():
        if condition.status == "True" and condition.type in ("Complete", "SuccessCriteriaMet"):
            return Verdict("present")
        if condition.status == "True" and condition.type in ("Failed", "FailureTarget"):
            reason = condition.message or condition.reason or "it failed"
            return Verdict("failed", reason, "never", last_words(pods))
    return _under_way([pod for pod in pods if not is_leaving(pod)], events)


def _under_way(pods: Sequence[Pod], events: Iterable[Event]) -> Verdict:
    """A Job tries again by itself, in a new pod: only what no pod could do ends the wait."""
    if not pods:
        refused = [e.message for e in events if e.reason == "FailedCreate" and e.message]
        if refused:
            return Verdict("failed", f"no pod may be made: {refused[-1]}", "hardly")
        return Verdict("starting", "waiting for its pod to be made")
    newest = max(pods, key=lambda p: str(p.metadata.creationTimestamp if p.metadata else ""))
    found = _pod(newest, events)
    if found.condition == "running":
        return Verdict("starting", "its job runs")
    return found if found.hope != "never" else msgspec.structs.replace(found, hope="hardly")


def last_words(pods: Sequence[Pod]) -> str:
    """The last lines that containers which failed left."""
    ended = [s.state.terminated for pod in pods for s in _statuses(pod) if s.state and s.state.terminated]
    said = [e.message for e in ended if e.exitCode and e.message]
    return said[-1] if said else ""


def by_owner(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Pods by the name of the service they belong to."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        labels = (pod.metadata.labels if pod.metadata else None) or {}
        found.setdefault(labels.get(NAME, ""), []).append(pod)
    return found
