"""What a stack shows of itself in its namespace. Reads only: one list call a kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import (
    ConfigMap,
    Event,
    PersistentVolumeClaim,
    Pod,
    Secret,
    ServiceAccount,
)
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.networking_v1 import NetworkPolicy
from lightkube.resources.policy_v1 import PodDisruptionBudget

from matcha.service import Scale, service_digest
from matcha.state import State
from matcha.target import Seen, Snapshot
from matcha.targets.kubernetes import (
    admission,
    desired,
    facts,
    foundations,
    going,
    happened,
    outside,
    rotation,
    scaling,
    several,
    space,
    volumes,
    why,
)
from matcha.targets.kubernetes.archives import has_image
from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.compare import last_editor
from matcha.targets.kubernetes.exposed.kinds import OPTIONAL
from matcha.targets.kubernetes.exposed.objects import GATEWAY
from matcha.targets.kubernetes.names import (
    BUCKET_CHECK,
    DATABASE,
    DIGEST,
    MANAGER,
    NAME,
    NOTES,
    SECRETS,
    STORE,
)
from matcha.targets.kubernetes.owners import foreign
from matcha.targets.kubernetes.ownership import is_mine
from matcha.targets.kubernetes.rotation import Held
from matcha.targets.kubernetes.setting import Setting

WORKLOADS = (Deployment, StatefulSet)
KINDS: tuple[type[Any], ...] = (
    *WORKLOADS,
    Pod,
    ServiceObject,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    ServiceAccount,
    NetworkPolicy,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
    CronJob,
    Job,
    *OPTIONAL,
)


class Found(msgspec.Struct, frozen=True):
    """Everything of Matcha's in the namespace, by kind and name. `held` are the values of Secrets. `loose`:
    the namespace is (`space.is_loose`), and the user may change that.
    """

    objects: Mapping[desired.Ref, Any]
    held: Held = Held()
    loose: bool = False

    def get(self, kind: type[Any], name: str) -> Any:
        return self.objects.get((kind.__name__, name))

    def of(self, kind: type[Any]) -> list[Any]:
        return [obj for (k, _), obj in self.objects.items() if k == kind.__name__]

    def workload(self, name: str) -> Any:
        return self.get(Deployment, name) or self.get(StatefulSet, name)


def everything(cluster: Cluster, kinds: Iterable[type[Any]] = KINDS) -> Found:
    with ThreadPoolExecutor(8) as pool:
        owned = pool.map(partial(mine, cluster), kinds)
        return Found({desired.ref(obj): obj for objects in owned for obj in objects})


def mine(cluster: Cluster, kind: type[Any]) -> list[Any]:
    """Of this kind. Of claims also those whose label somebody took off: their data is not gone."""
    if kind is not PersistentVolumeClaim:
        return cluster.found(kind)
    return [claim for claim in cluster.found(kind, {}) if is_mine(claim.metadata.to_dict())]


def bare(cluster: Cluster) -> Found:
    """Everything but Secrets, which not everybody may list."""
    return everything(cluster, [kind for kind in KINDS if kind is not Secret])


def of_stack(cluster: Cluster, names: Iterable[str]) -> Found:
    """Everything, with the Secrets of these `names`; without any for who may not read them."""
    with ThreadPoolExecutor(2) as pool:
        held, loose = pool.submit(rotation.read, cluster, names), pool.submit(space.is_to_enforce, cluster)
        return Found(bare(cluster).objects, held.result(), loose.result())


def told(cluster: Cluster, claims: Sequence[PersistentVolumeClaim] | None = None) -> Sequence[Event]:
    """Events that still say something: reasons that stand nowhere else. Whoever may not read them does
    without, as the plan says. `claims`: those that are there, where they are known.
    """
    try:
        events = cluster.found(Event, {})
    except ClusterError:
        return []
    if claims is None:
        with contextlib.suppress(ClusterError):
            claims = cluster.found(PersistentVolumeClaim)
    return happened.timely(events, claims or ())


def snapshot(
    found: Found,
    setting: Setting,
    machines: frozenset[str] = frozenset(),
    state: State | None = None,
) -> Snapshot:
    """As `Target.observe`. `machines`: the kinds of node that pods may come to."""
    notes = found.get(ConfigMap, NOTES)
    stored = facts.stored(found.get(PersistentVolumeClaim, STORE), setting.storage)
    environments = {**facts.environments(notes, ""), **facts.environments(notes, stored)}
    shown = {
        **{f"secret/{name}": Seen("present") for name in _secrets(found.held, setting, state)},
        **{f"store/{area}": Seen("present") for area in facts.areas(notes, stored)},
        **{f"environment/{n}": Seen("present", d) for n, d in environments.items()},
        **{f"environment/{n}": s for n, s in _unbuilt(notes, environments, setting, machines)},
    }
    pods = why.by_owner(found.of(Pod))
    digests = {f"foundation/{f.name}": f.digest for f in desired.planned(setting)}
    for service in setting.services:
        digests[f"service/{service.name}"] = service_digest(service, setting.environment(service.environment))
    scales = scaling.scales(setting.services)
    for key, objects in desired.steps(setting).items():
        shown[key] = _seen(key, objects, found, pods, digests[key], scales)
    lacks = {
        foundations.NETWORK: space.LOOSE if found.loose else "",
        DATABASE: _databases(found, setting),
        BUCKET_CHECK: _bucket(found, setting),
    }
    for key, lack in ((f"foundation/{name}", lack) for name, lack in lacks.items() if lack):
        shown[key] = Seen(shown[key].condition, "", shown[key].detail or lack)
    seen = {k: s for k, s in {**shown, **_unknown(found, shown)}.items() if s.condition != "absent"}
    return Snapshot(seen, going.notes(found.of(PersistentVolumeClaim)))


def _unbuilt(
    notes: ConfigMap | None, built: Iterable[str], setting: Setting, machines: frozenset[str]
) -> Iterator[tuple[str, Seen]]:
    """Environments whose archive is there, but not for every kind of node."""
    built_on = facts.machines(notes)
    for environment in setting.environments:
        name = environment.name
        missing = machines - built_on.get(name, frozenset())
        if name in built and missing and not has_image(environment):
            yield name, Seen("present", "", f"not built for {', '.join(sorted(missing))} nodes")


def _secrets(held: Held, setting: Setting, state: State | None) -> Iterable[str]:
    """Those of the stack. Who may not read them goes by the record."""
    if held.is_open:
        return held.get(SECRETS)
    made = state is not None and "secrets" in state.resources
    return {name for service in setting.services for name in service.secrets.values()} if made else ()


def _databases(found: Found, setting: Setting) -> str:
    """Why the Job that makes them has to run, where its last one did not come to its end with the passwords
    of now. Its own traces go soon after.
    """
    if not foundations.needs_database(setting):
        return ""
    where = facts.place(found.get(PersistentVolumeClaim, DATABASE))
    digest, mark = facts.brought(found.get(ConfigMap, NOTES), facts.DATABASES, where)
    if digest != foundations.setup_digest(setting):
        return "its databases are not made"
    *_, job = foundations.database_setup(setting)
    return rotation.told(job.spec.template, mark, found.held)


def _bucket(found: Found, setting: Setting) -> str:
    """As `_databases`, of the Job that tries a bucket that is not Matcha's."""
    if setting.storage.own:
        return ""
    digest, mark = facts.brought(found.get(ConfigMap, NOTES), facts.BUCKET, setting.storage.url)
    if digest != outside.digest(setting):
        return "the bucket has not been tried"
    *_, job = outside.check(setting)
    return rotation.told(job.spec.template, mark, found.held)


def _seen(
    key: str,
    objects: list[Any],
    found: Found,
    pods: Mapping[str, list[Pod]],
    digest: str,
    scales: Mapping[str, Scale],
) -> Seen:
    name = key.partition("/")[2]
    there = [found.objects.get(desired.ref(obj)) for obj in objects]
    if not any(there) or (found.workload(name) is None and any(isinstance(o, WORKLOADS) for o in objects)):
        return Seen("absent")
    verdict = _condition(name, found, pods, scales.get(name))
    if detail := changed(objects, found, digest):
        return Seen(verdict.condition, "", detail.removeprefix("changed in matcha.yaml"))
    return Seen(verdict.condition, digest, verdict.detail)


def _condition(name: str, found: Found, pods: Mapping[str, list[Pod]], scale: Scale | None) -> why.Verdict:
    workload = found.workload(name)
    if not workload:
        return why.Verdict("present")
    verdict = why.judge(workload, pods.get(name, ()))
    return several.judged(verdict, workload, scale) if scale else verdict


def changed(objects: Iterable[Any], found: Found, digest: str | None = None) -> str:
    """The first difference between what is there and what is wanted, and who made it; empty: none. Values of
    secrets that pods read count.

    `digest`: of the service that is wanted; None where it is known to be that of what is there.
    """
    objects = sorted(objects, key=lambda obj: not isinstance(obj, PersistentVolumeClaim))  # data first
    stopped = _is_stopped(found.objects.get(desired.ref(obj)) for obj in objects)
    for obj in objects:
        kind, name = desired.ref(obj)
        one = found.objects.get((kind, name))
        if one is None:
            return _missing(kind, name)
        live = one.to_dict()
        if isinstance(obj, WORKLOADS) and digest is not None and marked(live) not in (None, digest):
            return "changed in matcha.yaml"
        if differs := next(_differing(obj.to_dict(), live, kind, stopped), None):
            path, editor = differs
            if kind == "PersistentVolumeClaim" and (option := volumes.option(live, path)):
                return f"{option} changed in matcha.yaml"
            return f"{kind} {name} was changed{f' by {editor}' if editor else ''}: {path}"
    there = [found.objects.get(desired.ref(obj)) for obj in objects]
    return rotation.change(objects, there, found.held)


def _missing(kind: str, name: str) -> str:
    if kind == "PersistentVolumeClaim":
        return f"{kind} {name} is missing: its data is gone; a new empty one is made"
    return f"{kind} {name} is missing"


def marked(live: Mapping[str, Any]) -> str | None:
    """The digest of the description that a service's workload was made from; foundations bear none."""
    found = (live["metadata"].get("annotations") or {}).get(DIGEST)
    return None if found is None else str(found)


def _is_stopped(there: Iterable[Any]) -> bool:
    """Whether one of these is a workload without replicas."""
    return any(isinstance(o, WORKLOADS) and o.spec.replicas == 0 for o in there)


def _differing(
    wanted: dict[str, Any], live: dict[str, Any], kind: str, stopped: bool
) -> Iterator[tuple[str, str]]:
    """Paths, each with who changed it. What was stopped has no replicas and is suspended, and is not
    different for it.
    """
    for path in admission.drift(wanted, live):
        if not (stopped and path in ("spec.replicas", "spec.suspend")):
            yield path, last_editor(live, MANAGER)
    for each in foreign(wanted, live, kind):
        yield each.path, each.owner


def _unknown(found: Found, shown: Mapping[str, Seen]) -> dict[str, Seen]:
    """Workloads of Matcha's that the stack no longer wants, and what exposed its models."""
    extra: dict[str, Seen] = {}
    gateway = f"foundation/{GATEWAY}"
    if gateway not in shown and any(found.of(kind) for kind in OPTIONAL):
        extra[gateway] = Seen("present")
    for kind in WORKLOADS:
        for obj in found.of(kind):
            name = obj.metadata.labels.get(NAME, obj.metadata.name)
            if not {f"service/{name}", f"foundation/{name}"} & set(shown):
                extra[f"service/{name}"] = Seen("running")
    return extra
