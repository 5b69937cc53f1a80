"""What the cluster shows of a workload, in words: whether it runs, and if not, why. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from lightkube.models.batch_v1 import JobCondition
from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, Pod

from matcha.target import Condition
from matcha.targets.kubernetes import happened
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
_NAMED = re.compile(r'^.*?pods "[^"]*" is forbidden: ')  # what stands before the reason
# Of images, by registries: there is none of this name, or not for this node; or no such registry.
_REFUSED = re.compile(
    r"not found|manifest unknown|name unknown|denied|unauthorized|forbidden|no match for|no such host", re.I
)
_PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


_NODES = ("TriggeredScaleUp", "Nominated", "NotTriggerScaleUp")  # of pods: whether a node is added for them
REVISIONS = ("controller-revision-hash", "pod-template-hash")  # labels of pods
RUNS = "its job runs"
AGAIN = 2  # restarts after which a container does not come up by itself

Restarts = Mapping[tuple[str, str], int]  # of containers, by uid of the pod and name
_NONE: Restarts = {}


class Verdict(msgspec.Struct, frozen=True):
    """`log`: the last lines that a container which ended left, as far as the cluster kept them; of an image
    that cannot be had, all that the node says. `mend`: the command that helps, where one is known.
    """

    condition: Condition
    detail: str = ""
    hope: Hope = "yes"
    log: str = ""
    restarts: int = 0
    mend: str = ""


def judge(
    workload: Deployment | StatefulSet | None,
    pods: Sequence[Pod],
    events: Sequence[Event] = (),
    before: Restarts = _NONE,
) -> Verdict:
    """`pods` are those of the workload, whatever their age. `events`: of the namespace (`happened.timely`).
    What ended `before` says little of how it ends now.
    """
    if workload is None:
        return Verdict("absent")
    assert workload.spec is not None
    if workload.spec.replicas == 0:
        return Verdict("stopped")
    restarts = sum(s.restartCount for pod in pods for s in _statuses(pod))
    if is_rolled_out(workload):
        return Verdict("running", restarts=restarts)
    found = _paused(workload) or _worst(workload, _newest(workload, pods), events, before)
    return msgspec.structs.replace(found, restarts=restarts)


def _paused(workload: Deployment | StatefulSet) -> Verdict | None:
    """Somebody holds the change to its newest description; pods of the one before may well run."""
    if not isinstance(workload, Deployment):
        return None
    status, spec = workload.status, workload.spec
    wanted = 1 if spec.replicas is None else spec.replicas
    if not spec.paused or status is None or (status.updatedReplicas or 0) >= wanted:
        return None
    said = "its rollout is paused (kubectl rollout pause)"
    return Verdict("starting", said, "never", mend="matcha provision")


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
    """Labels that tell such pods; none where there can be none yet. Where a Deployment does not name its own,
    they are those of the pods that were made last.
    """
    status, generation = workload.status, (workload.metadata and workload.metadata.generation) or 0
    if status is None or (status.observedGeneration or 0) < generation:
        return set()
    if isinstance(workload, StatefulSet):
        return {workload.status.updateRevision or ""} if workload.status else set()
    if named := _named_revision(workload):
        return {named}
    made = [str(pod.metadata.creationTimestamp) if pod.metadata else "" for pod in pods]
    newest = {_label(pod, REVISIONS) for pod, when in zip(pods, made, strict=True) if when == max(made)}
    return newest if status.updatedReplicas else set()


def _named_revision(deployment: Deployment) -> str:
    """What makes its newest pods is named by its condition, as `ReplicaSet "front-5d4c" is progressing.`:
    pods of two descriptions may be of one second.
    """
    conditions = (deployment.status.conditions if deployment.status else None) or ()
    said = next((c.message or "" for c in conditions if c.type == "Progressing"), "")
    name = re.escape((deployment.metadata and deployment.metadata.name) or "")
    found = re.search(rf'"{name}-([a-z0-9]+)"', said)
    return found[1] if found else ""


def _label(pod: Pod, names: Sequence[str]) -> str:
    labels = (pod.metadata.labels if pod.metadata else None) or {}
    return next((labels[name] for name in names if name in labels), "")


def is_leaving(pod: Pod) -> bool:
    return pod.metadata is not None and pod.metadata.deletionTimestamp is not None


def is_ready(pod: Pod) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or ()
    return any(c.type == "Ready" and c.status == "True" for c in conditions) and not is_leaving(pod)


def restarts(
    workload: Deployment | StatefulSet | None, pods: Sequence[Pod], left_out: Collection[Pod] = ()
) -> Restarts:
    """As they are now, for `judge` to tell what comes after. Pods that the workload does not know of yet have
    come after, even if they have ended since.
    """
    newest = _newest(workload, pods) if workload else []
    staying = [pod for pod in newest if pod not in left_out]
    return {(_uid(pod), status.name): status.restartCount for pod in staying for status in _statuses(pod)}


def given_up(workload: Deployment | StatefulSet, pods: Sequence[Pod]) -> Iterator[Pod]:
    """Pods of the newest description that ended so often that the node waits minutes to try them again."""
    for pod in _newest(workload, pods):
        waiting = [s.state.waiting for s in _statuses(pod) if s.state and s.state.waiting]
        if not is_leaving(pod) and any(w.reason == "CrashLoopBackOff" for w in waiting):
            yield pod


def is_unexplained(pods: Sequence[Pod]) -> bool:
    """Whether only events say what is waited for: no pod is there, or one in which nothing runs yet."""
    return not pods or any(not is_ready(pod) and not _has_run(pod) and not _runs(pod) for pod in pods)


def _has_run(pod: Pod) -> bool:
    return pod.status is not None and pod.status.phase in ("Succeeded", "Failed")


def _runs(pod: Pod) -> bool:
    return any(status.state and status.state.running for status in _statuses(pod))


def has_begun(pod: Pod) -> bool:
    """Whether any of its containers ran."""
    states = [state for status in _statuses(pod) for state in (status.state, status.lastState)]
    return any(state and (state.running or state.terminated) for state in states)


def _worst(workload: Any, pods: Sequence[Pod], events: Sequence[Event], before: Restarts) -> Verdict:
    staying = [pod for pod in pods if not is_leaving(pod)]
    if not staying:
        return _without_pods(workload, pods, events)
    verdicts = [_pod(pod, events, before) for pod in staying]
    order: dict[str, int] = {"never": 0, "hardly": 1, "yes": 2}
    return min(verdicts, key=lambda v: (order[v.hope], not v.detail))


def _without_pods(workload: Any, pods: Sequence[Pod], events: Sequence[Event]) -> Verdict:
    """Nothing is there to run: somebody refuses to make it (a quota, a policy), or it is still leaving."""
    if pods:
        return Verdict("starting", "waiting for the old pod to end")
    conditions = (workload.status.conditions if workload.status else None) or ()
    refused = [c.message for c in conditions if c.type == "ReplicaFailure" and c.status == "True"]
    name = (workload.metadata.name if workload.metadata else None) or ""
    return _unmade(refused[-1] if refused else happened.refusal(events, name))


def _unmade(refusal: str) -> Verdict:
    if refusal:
        return Verdict("failed", f"no pod may be made: {_NAMED.sub('', refusal)}", "hardly")
    return Verdict("starting", "waiting for its pod to be made")


def _pod(pod: Pod, events: Sequence[Event], before: Restarts = _NONE) -> Verdict:
    if is_ready(pod):
        return Verdict("running")
    if waiting := _unscheduled(pod, events):
        return waiting
    if pod.status and pod.status.reason == "Evicted":
        return Verdict("starting", f"evicted: {pod.status.message or 'the node was short of resources'}")
    for status in _statuses(pod):
        if found := _container(status, before.get((_uid(pod), status.name))):
            return found
    return (None if has_begun(pod) else _volumes(pod, events)) or _progress(pod, events)


def _uid(pod: Pod) -> str:
    return (pod.metadata.uid if pod.metadata else None) or ""


def _name(pod: Pod) -> str:
    return (pod.metadata.name if pod.metadata else None) or ""


def _unscheduled(pod: Pod, events: Sequence[Event]) -> Verdict | None:
    conditions = (pod.status.conditions if pod.status else None) or ()
    reasons = [c.message for c in conditions if c.type == "PodScheduled" and c.status == "False"]
    if not reasons:
        return None
    said = (reasons[0] or "").rstrip(".")
    last = happened.newest(events, "Pod", _name(pod), _NODES, _uid(pod))
    if last and last.reason != "NotTriggerScaleUp":
        return Verdict("starting", f"waiting for a new node: {said}")
    claim = _claim(pod, events)
    if claim and "unbound immediate PersistentVolumeClaims" in said:  # no node is looked for before
        return claim
    tells = claim and (claim.hope == "hardly" or "volume" in said)
    detail = f"no node takes it: {said}" + (f"; {claim.detail}" if claim and tells else "")
    return Verdict("starting", detail, "hardly")


def _volumes(pod: Pod, events: Sequence[Event]) -> Verdict | None:
    """What is wrong with the volumes of a pod in which nothing has begun; None where nothing is said to be.

    A pod gets its node when all its claims are bound. A volume that another node has to let go takes minutes.
    """
    if not (pod.spec and pod.spec.nodeName):
        return _claim(pod, events)
    mounts = ("FailedMount", "FailedAttachVolume", "SuccessfulAttachVolume", "Pulling", "Pulled")
    last = happened.newest(events, "Pod", _name(pod), mounts, _uid(pod))
    if not last or not (last.reason or "").startswith("Failed"):
        return None
    said = last.message or ""
    slow = last.reason == "FailedAttachVolume" or "timed out" in said
    return Verdict("starting", f"its volumes cannot be had: {said}", "yes" if slow else "hardly")


def _claim(pod: Pod, events: Sequence[Event]) -> Verdict | None:
    for claim in _claims(pod):
        last = happened.newest(events, "PersistentVolumeClaim", claim, happened.BINDING)
        if last and last.reason != "ProvisioningSucceeded":
            hope: Any = "hardly" if "Failed" in (last.reason or "") else "yes"
            return Verdict("starting", f"its volume {claim} is not there yet: {last.message}", hope)
    return None


def _claims(pod: Pod) -> list[str]:
    volumes = (pod.spec.volumes if pod.spec else None) or ()
    return [v.persistentVolumeClaim.claimName for v in volumes if v.persistentVolumeClaim]


def _container(status: ContainerStatus, before: int | None) -> Verdict | None:
    """Why a container does not run; None where it does, or has not been tried.

    `before`: how often it had been started again before anybody waited; None: it was not there.
    """
    waiting = status.state.waiting if status.state else None
    last = status.lastState.terminated if status.lastState else None
    ended = (status.state.terminated if status.state else None) or last
    since = status.restartCount - (before or 0)
    if waiting and waiting.reason in _WRONG:
        hope: Any = _WRONG[waiting.reason]
        if waiting.reason in _PULLS:
            return _without_image(status.image, waiting.message or waiting.reason, hope)
        if waiting.reason == "CrashLoopBackOff":
            hope = hope if before is None or since >= AGAIN else "hardly"
            return Verdict("failed", _ending(status.name, ended), hope, (ended and ended.message) or "")
        return Verdict("failed", f"{status.name}: {waiting.message or waiting.reason}", hope)
    if ended and ended.exitCode:
        hope = "never" if since >= AGAIN else "yes"
        return Verdict("starting", _ending(status.name, ended), hope, ended.message or "")
    return None


def _without_image(image: str, said: str, hope: Hope) -> Verdict:
    """The reason first, of which nodes say every cause: the last one is where it began."""
    causes = [cause for cause in said.split(": ") if not cause.startswith(("http://", "https://"))]
    if len(causes) > 1:
        return Verdict("failed", f"its image cannot be had: {causes[-1].rstrip('.')} ({image})", hope, said)
    named = said if image in said else f"{said} ({image})"
    return Verdict("failed", f"its image cannot be had: {named}", hope)


def unstartable(pod: Pod | None) -> tuple[str, bool]:
    """What keeps containers of a pod that has its node from being started, empty for nothing, and whether
    that is for good: a registry or the node says of an image what trying again does not change.
    """
    if pod is None or is_leaving(pod):
        return "", False
    for status in _statuses(pod):
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason in _WRONG and waiting.reason != "CrashLoopBackOff":
            found, said = _container(status, None), waiting.message or ""
            never = _WRONG[waiting.reason] == "never" or (
                waiting.reason in _PULLS and bool(_REFUSED.search(said))
            )
            return found.detail if found else "", never
    return "", False


def _ending(name: str, ended: Any) -> str:
    if ended is None:
        return f"{name} ends again and again"
    if ended.reason == "OOMKilled":
        return f"{name} needed more memory than its limit and was ended"
    return f"{name} ended with exit code {ended.exitCode}"


def _progress(pod: Pod, events: Sequence[Event]) -> Verdict:
    """What a pod that comes up is at."""
    for status in (pod.status.initContainerStatuses if pod.status else None) or ():
        if status.state and status.state.running and not status.ready:
            is_unpacked = status.name == "environment"
            return Verdict(
                "starting", "its environment is being unpacked" if is_unpacked else f"{status.name} runs"
            )
    states = [status.state for status in _main_statuses(pod)]
    if any(state and state.running for state in states):
        return Verdict("starting", "waiting for its health check")
    if states and all(state and state.terminated for state in states):
        return Verdict("starting", "it has run")
    return Verdict("starting", _preparation(pod, events))


def _preparation(pod: Pod, events: Sequence[Event]) -> str:
    if not (pod.spec and pod.spec.nodeName):
        return "waiting for a node"
    steps = ("Pulling", "Pulled", "Created", "Started")
    last = happened.newest(events, "Pod", _name(pod), steps, _uid(pod))
    return "its image is being pulled" if last and last.reason == "Pulling" else "its node prepares it"


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from (pod.status.initContainerStatuses if pod.status else None) or ()
    yield from _main_statuses(pod)


def _main_statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from (pod.status.containerStatuses if pod.status else None) or ()


def judge_job(job: Job | None, pods: Sequence[Pod], events: Sequence[Event] = ()) -> Verdict:
    """`present` once it succeeded."""
    if job is None:
        return Verdict("absent")
    for condition in (job.status.conditions if job.status else None) or ():
        if condition.status == "True" and condition.type in ("Complete", "SuccessCriteriaMet"):
            return Verdict("present")
        if condition.status == "True" and condition.type in ("Failed", "FailureTarget"):
            return Verdict("failed", _reason(condition), "never", last_words(pods))
    name = (job.metadata.name if job.metadata else None) or ""
    return _under_way(name, [pod for pod in pods if not is_leaving(pod)], events)


def _reason(ended: JobCondition) -> str:
    """Of a policy, Kubernetes names the pod, the exit code and the rule's number: the last words say more."""
    if ended.reason == "PodFailurePolicy":
        return "its job failed, and would again"
    return ended.message or ended.reason or "it failed"


def _under_way(name: str, pods: Sequence[Pod], events: Sequence[Event]) -> Verdict:
    """A Job tries again by itself, in a new pod: only what no pod could do ends the wait."""
    if not pods:
        return _unmade(happened.refusal(events, name))
    newest = max(pods, key=lambda p: str(p.metadata.creationTimestamp if p.metadata else ""))
    found = _pod(newest, events)
    if found.condition == "running":
        return Verdict("starting", RUNS)
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
