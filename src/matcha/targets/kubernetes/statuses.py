"""The runtime facts of a stack's services and foundations, for `matcha status`: one list call a kind, side by
side.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, PersistentVolumeClaim, Pod, Secret

from matcha.errors import MatchaError
from matcha.host.ports import HOST
from matcha.service import Scale, Service, service_digest
from matcha.state import State
from matcha.target import ServiceStatus
from matcha.targets.kubernetes import (
    archives,
    desired,
    going,
    keys,
    look,
    rotation,
    scaling,
    several,
    space,
    volumes,
    why,
)
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.exposed import checking
from matcha.targets.kubernetes.exposed.conditions import judge
from matcha.targets.kubernetes.exposed.objects import GATEWAY
from matcha.targets.kubernetes.foundations import NETWORK
from matcha.targets.kubernetes.names import DATABASE, NAME, SECRETS
from matcha.targets.kubernetes.network import DATABASE_DUMP
from matcha.targets.kubernetes.setting import Setting

METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods"
NEEDED = (Deployment, StatefulSet, Pod)
KINDS = tuple(kind for kind in look.KINDS if kind is not Secret)


class Seen(msgspec.Struct, frozen=True):
    """`used` is memory by pod; `hidden` are kinds that this user may not list. `told`: events, where they are
    needed to say what is wrong.
    """

    found: look.Found
    pods: Mapping[str, list[Pod]]
    used: Mapping[str, int]
    hidden: frozenset[str]
    told: Sequence[Event]
    loose: bool = False  # the namespace, as `space.is_loose`


def statuses(
    cluster: Cluster,
    recorded: Setting,
    wanted: Setting | None,
    ports: Mapping[str, int],
    *,
    comparable: bool,
    state: State | None = None,
) -> list[ServiceStatus]:
    """Of what is `recorded` of the stack. `wanted` is what matcha.yaml has now: it tells what others changed,
    where the stack was made by the same options and the same Matcha (`comparable`). `ports`: loopback port of
    each `service/port`.
    """
    seen = _seen(cluster, recorded)
    lost = _lost(seen)
    keyless = {} if lost else _keyless_services(seen, recorded, state)
    if lost or keyless:  # nothing is made anew with secrets that are others now, before that is settled
        seen = msgspec.structs.replace(seen, found=look.Found(seen.found.objects))
    wanted = wanted if comparable else None
    services = [
        _unbuilt(_of_pods(s, _of_service(wanted, s.name, seen), seen, ports), recorded, seen)
        for s in recorded.services
    ]
    laid = desired.laid(recorded).items()
    foundations = [
        msgspec.structs.replace(_status(name, parts, seen, {}, comparable), foundation=True)
        for name, parts in laid
    ]
    foundations = [_loose(f) if seen.loose else f for f in foundations]
    foundations = [_exposed(cluster, recorded, f) for f in foundations]
    services = [_keyless(s, keyless.get(s.name)) for s in services]
    foundations = [_keyless(f, lost if f.name == DATABASE else None) for f in foundations]
    told = [*services, *foundations, *_dumps(seen)]
    if ending := going.namespace(cluster, seen.found.objects.values()):
        return [msgspec.structs.replace(each, detail=ending) for each in told]
    return told


def _lost(seen: Seen) -> MatchaError | None:
    """That the passwords of the database are gone: what runs does so until it is started anew."""
    held = seen.found.held
    claim = seen.found.get(PersistentVolumeClaim, DATABASE)
    return volumes.lost_key(claim, held.get(SECRETS)) if held.is_open else None


def _keyless_services(seen: Seen, recorded: Setting, state: State | None) -> dict[str, MatchaError]:
    """As `_lost`, by the name of each service that stored something with a secret that is gone."""
    if not seen.found.held.is_open:
        return {}
    found = {}
    for service in recorded.services:
        alone = msgspec.structs.replace(recorded, services=(service,))
        if error := keys.relied_on(alone, state, seen.found).lost(seen.found.held.get(SECRETS)):
            found[service.name] = error
    return found


def _loose(status: ServiceStatus) -> ServiceStatus:
    if status.name != NETWORK:
        return status
    return msgspec.structs.replace(status, detail="; ".join(filter(None, (status.detail, space.LOOSE))))


def _exposed(cluster: Cluster, recorded: Setting, status: ServiceStatus) -> ServiceStatus:
    """With what those say who run the Gateway."""
    expose = recorded.options.expose
    if status.name != GATEWAY or expose is None or status.condition != "present":
        return status
    found = judge(expose, checking.parts(cluster, expose))
    return msgspec.structs.replace(
        status,
        condition=status.condition if found.reachable else "unhealthy",
        detail="; ".join(filter(None, (status.detail, found.detail))),
        resolution=found.resolution,
    )


def _keyless(status: ServiceStatus, lost: MatchaError | None) -> ServiceStatus:
    if lost is None:
        return status
    return msgspec.structs.replace(
        status,
        condition="unhealthy" if status.condition == "running" else status.condition,
        detail=f"{lost.message} {lost.details}",
        resolution=lost.resolution,
    )


def _seen(cluster: Cluster, recorded: Setting) -> Seen:
    hidden = []

    def of(kind: type[Any]) -> list[Any]:
        try:
            return look.mine(cluster, kind)
        except Forbidden:
            if kind in NEEDED:
                raise
            hidden.append(kind.__name__)
            return []

    with ThreadPoolExecutor(10) as pool:
        used = pool.submit(memory, cluster)
        held = pool.submit(rotation.read, cluster, rotation.names(recorded))
        within = pool.submit(space.seen, cluster)
        listed = [obj for objects in pool.map(of, KINDS) for obj in objects]
    found = look.Found({desired.ref(obj): obj for obj in listed}, held.result())
    pods = why.by_owner(found.of(Pod))
    told, loose = _told(cluster, found, pods), space.is_loose(within.result())
    return Seen(found, pods, used.result(), frozenset(hidden), told, loose)


def _told(cluster: Cluster, found: look.Found, pods: Mapping[str, list[Pod]]) -> Sequence[Event]:
    """One call more, where only events say why something does not run."""
    names = [w.metadata.name for kind in look.WORKLOADS for w in found.of(kind)]
    starting = [n for n in names if why.judge(found.workload(n), pods.get(n, ())).condition == "starting"]
    unexplained = any(why.is_unexplained(pods.get(n, ())) for n in starting)
    return look.told(cluster, found.of(PersistentVolumeClaim)) if unexplained else ()


def _of_service(wanted: Setting | None, name: str, seen: Seen) -> Sequence[Any]:
    """What the service should consist of; nothing where matcha.yaml says something else than it was made
    from: then a difference need not be anybody's doing.
    """
    service = next((s for s in (wanted.services if wanted else ()) if s.name == name), None)
    workload = seen.found.workload(name)
    if wanted is None or service is None or workload is None:
        return ()
    environment = next((e for e in wanted.environments if e.name == service.environment), None)
    if environment is None or look.marked(workload.to_dict()) != service_digest(service, environment):
        return ()
    return desired.of_service(wanted, service)


def _of_pods(service: Service, objects: Sequence[Any], seen: Seen, ports: Mapping[str, int]) -> ServiceStatus:
    """As `_status`; with how many of its replicas are ready, where it may have several."""
    workload = seen.found.workload(service.name)
    if not scaling.may_be_several(service) or workload is None or workload.spec.replicas == 0:
        return _status(service.name, objects, seen, ports)
    found = _status(service.name, objects, seen, ports, scale=scaling.bounds(service))
    return msgspec.structs.replace(found, replicas=several.replicas(workload))


def _status(
    name: str,
    objects: Sequence[Any],
    seen: Seen,
    ports: Mapping[str, int],
    comparable: bool = True,
    scale: Scale | None = None,
) -> ServiceStatus:
    """`objects`: what it should consist of, where that is known; to compare with only where `comparable`.
    `scale`: where it may have several pods.
    """
    workload, pods = seen.found.workload(name), seen.pods.get(name, [])
    runs = workload is not None or not objects or any(isinstance(o, look.WORKLOADS) for o in objects)
    verdict = why.judge(workload, pods, seen.told) if runs else why.Verdict("present")
    if scale:
        verdict = several.judged(verdict, workload, scale, seen.found.get(HorizontalPodAutoscaler, name))
    if comparable and verdict.condition != "absent":
        verdict = _with_changes(verdict, objects, seen)
    leaving = going.of(seen.found.of(PersistentVolumeClaim), name)
    if leaving is not None:
        verdict = _losing(verdict, leaving)
    of_pods = [seen.used[n] for n in (p.metadata.name or "" for p in pods if p.metadata) if n in seen.used]
    own = {k.partition("/")[2]: n for k, n in ports.items() if k.startswith(f"{name}/")}
    number = own.get("http") or next(iter(own.values()), 0)
    return ServiceStatus(
        name=name,
        condition=verdict.condition,
        address=f"http://{HOST}:{number}" if number else "",
        detail=verdict.detail,
        memory=sum(of_pods) if of_pods else -1,
        restarts=verdict.restarts,
        uptime=_age(pods) if verdict.condition == "running" else 0.0,
        resolution=going.REMEDY if leaving is not None else "",
    )


def _unbuilt(status: ServiceStatus, recorded: Setting, seen: Seen) -> ServiceStatus:
    """Why a service is not there, where the Job that builds its environment tells."""
    if status.condition != "absent":
        return status
    service = next(s for s in recorded.services if s.name == status.name)
    environment = next((e for e in recorded.environments if e.name == service.environment), None)
    if environment is None or archives.has_image(environment):
        return status
    jobs = [j for j in seen.found.of(Job) if archives.builds(j.metadata.name or "", environment)]
    verdict = _of_job(max(jobs, key=_made), seen) if jobs else why.Verdict("absent")
    if verdict.condition in ("absent", "present"):
        return status
    has_failed = verdict.hope == "never"
    said = _told_by_end(verdict) if has_failed else verdict.detail
    what = "could not be built" if has_failed else "is being built"
    return msgspec.structs.replace(status, detail=f"its environment {environment.name} {what}: {said}")


def _made(job: Job) -> str:
    return str(job.metadata and job.metadata.creationTimestamp)


def _of_job(job: Job, seen: Seen) -> why.Verdict:
    labels = [(pod, (pod.metadata.labels if pod.metadata else None) or {}) for pod in seen.found.of(Pod)]
    own = [pod for pod, marks in labels if marks.get("job-name") == (job.metadata and job.metadata.name)]
    return why.judge_job(job, own, seen.told)


def _told_by_end(verdict: why.Verdict) -> str:
    """Why a Job failed, with the last that its pod said."""
    return "; ".join((verdict.detail, *verdict.log.strip().splitlines()[-1:]))


def _with_changes(verdict: why.Verdict, objects: Sequence[Any], seen: Seen) -> why.Verdict:
    """What others changed does not make it ill; what they took away does."""
    known = [o for o in objects if type(o).__name__ not in seen.hidden]
    missing = any(desired.ref(o) not in seen.found.objects for o in known)
    change = look.changed(known, seen.found)
    ill = missing and verdict.condition in ("running", "present")
    return msgspec.structs.replace(
        verdict,
        condition="unhealthy" if ill else verdict.condition,
        detail="; ".join(filter(None, (verdict.detail, change))),
    )


def _losing(verdict: why.Verdict, claim: PersistentVolumeClaim) -> why.Verdict:
    """It may run well, and is about to lose its data."""
    return msgspec.structs.replace(
        verdict,
        condition="unhealthy" if verdict.condition in ("running", "present") else verdict.condition,
        detail="; ".join(filter(None, (f"{going.told(claim)} {going.REMEDY}", verdict.detail))),
    )


def _dumps(seen: Seen) -> Iterator[ServiceStatus]:
    """How the newest dump went, where there was one; `provision` makes no other."""
    jobs = [j for j in seen.found.of(Job) if (j.metadata.labels or {}).get(NAME) == DATABASE_DUMP]
    if not jobs:
        return
    verdict = _of_job(max(jobs, key=_made), seen)
    if verdict.condition != "failed":
        yield ServiceStatus(name=DATABASE_DUMP, condition="present", foundation=True)
        return
    said = _told_by_end(verdict)
    yield ServiceStatus(
        name=DATABASE_DUMP,
        condition="failed",
        detail=f"the last dump of the databases failed: {said}",
        resolution=f"matcha logs {DATABASE_DUMP}",
        foundation=True,
    )


def _age(pods: list[Pod]) -> float:
    started = [p.status.startTime for p in pods if p.status and p.status.startTime]
    now = datetime.datetime.now(datetime.timezone.utc)
    return max((now - max(started)).total_seconds(), 0.0) if started else 0.0


def memory(cluster: Cluster) -> dict[str, int]:
    """Bytes by pod, where the cluster measures them; otherwise nothing."""
    answer: Any = cluster.raw(METRICS.format(cluster.namespace)) or {}
    return {
        item["metadata"]["name"]: int(sum(amount(c["usage"]["memory"]) or 0 for c in item["containers"]))
        for item in answer.get("items", ())
    }
