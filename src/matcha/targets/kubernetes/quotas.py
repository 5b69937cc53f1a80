"""Whether the quotas of a namespace leave room for a stack. Pure.

Amounts are by the names that quotas have for them (`requests.cpu`, `pods`, `count/jobs.batch`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from lightkube.core.resource import api_info
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod

from matcha.targets.kubernetes import scaling
from matcha.targets.kubernetes.compare import amount

NEARLY = 0.9  # of what a quota allows
_OVER = ("Succeeded", "Failed")
_CLASS = ".storageclass.storage.k8s.io/"
Amounts = Counter[str]


class Room(msgspec.Struct, frozen=True):
    """What is said of quotas: what a stack does not get, what its pods would have to say to get any, and what
    is nearly used up though it gets it. `tight`: what it does not get once it has all the replicas that it
    may have.
    """

    lacking: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    nearly: tuple[str, ...] = ()
    tight: tuple[str, ...] = ()


def room(quotas: Iterable[Any], wanted: Sequence[Any], there: Iterable[Any], defaults: Iterable[Any]) -> Room:
    """`wanted` are the stack's objects, `there` those that it has already, `defaults` the LimitRanges. Quotas
    for some pods only are passed over.
    """
    needed, has, silent = _needed(wanted), _all(map(_live, there)), _unsaid(wanted) - _given(defaults)
    grown = _needed(wanted, most_replicas=True)
    lacking, unsaid, nearly, tight = [], [], [], []
    for quota in quotas:
        if quota.spec is None or quota.spec.scopes or quota.spec.scopeSelector:
            continue
        status = quota.status
        used = (status.used if status else None) or {}
        for name, allowed in (quota.spec.hard or {}).items():
            known, hard, taken = _plain(name), amount(allowed), amount(used.get(name, 0)) or 0.0
            what = f"the quota {quota.metadata.name}"
            if known in silent:
                unsaid.append(f"{what} asks for {known}, which the stack's pods do not say")
            elif hard is not None and known in needed:
                free = hard - max(0.0, taken - has[known])
                if round(needed[known] - free, 3) > 0:
                    left, wish = _told(known, max(0.0, free)), _told(known, needed[known])
                    lacking.append(f"{what} leaves {left} of {name}, and the stack needs {wish}")
                    continue
                if round(grown[known] - free, 3) > 0:
                    tight.append(f"{_told(known, grown[known])} of {name}, of which {what} leaves less")
                if taken >= NEARLY * hard:
                    nearly.append(f"{name} of {what} ({_told(known, taken)} of {allowed})")
    return Room(tuple(lacking), tuple(unsaid), tuple(nearly), tuple(tight))


def _plain(name: str) -> str:
    """The name that amounts here are by. What is counted for one storage class is counted for all."""
    name = name.partition(_CLASS)[2] or name
    return f"requests.{name}" if name in ("cpu", "memory", "ephemeral-storage") else name


def _needed(wanted: Sequence[Any], *, most_replicas: bool = False) -> Amounts:
    """At the same time: of the Jobs, one after the other, the most that one takes."""
    number = scaling.least(wanted, most=most_replicas)
    jobs = [_pods(o, number) for o in wanted if isinstance(o, (Job, CronJob))]
    most: Amounts = Counter()
    for each in jobs:
        most |= each
    return _all(
        [
            *(_counted(o) for o in wanted),
            *(_pods(o, number) for o in wanted if not isinstance(o, (Job, CronJob))),
            most,
        ]
    )


def _all(amounts: Iterable[Amounts]) -> Amounts:
    found: Amounts = Counter()
    for each in amounts:
        found.update(each)
    return found


def _live(obj: Any) -> Amounts:
    if not isinstance(obj, Pod):
        return _counted(obj)
    return Counter() if obj.status and obj.status.phase in _OVER else _counted(obj) + _pod(obj.spec)


def _counted(obj: Any) -> Amounts:
    info = api_info(type(obj))
    group = info.resource.group
    found: Amounts = Counter({f"count/{info.plural}" + (f".{group}" if group else ""): 1})
    if not group:
        found[info.plural] = 1
    if isinstance(obj, PersistentVolumeClaim):
        found["requests.storage"] = amount(obj.spec.resources.requests["storage"]) or 0  # type: ignore[assignment,index,union-attr]
    return found


def _templates(obj: Any, number: Mapping[str, int]) -> Iterator[Any]:
    """Of its pods, as many as it has at a time. `number`: of those that say none, by name."""
    spec: Any = getattr(obj, "spec", None)
    if isinstance(obj, (Deployment, StatefulSet)):
        name = (obj.metadata and obj.metadata.name) or ""
        yield from [spec.template.spec] * (number.get(name, 1) if spec.replicas is None else spec.replicas)
    elif isinstance(obj, Job):
        yield spec.template.spec
    elif isinstance(obj, CronJob):
        yield spec.jobTemplate.spec.template.spec


def _pods(obj: Any, number: Mapping[str, int]) -> Amounts:
    return _all(_pod(spec) + Counter({"pods": 1, "count/pods": 1}) for spec in _templates(obj, number))


def _pod(spec: Any) -> Amounts:
    """Init containers run before the others, one after the other."""
    found = _all(map(_container, spec.containers))
    for each in spec.initContainers or ():
        found |= _container(each)
    return found


def _container(container: Any) -> Amounts:
    return Counter({name: amount(value) or 0 for name, value in _said(container).items()})


def _said(container: Any) -> dict[str, Any]:
    """A limit counts as the request where none is said."""
    asked = container.resources
    limits, requests = (asked.limits, asked.requests) if asked else ({}, {})
    return {
        **{f"limits.{name}": value for name, value in (limits or {}).items()},
        **{f"requests.{name}": value for name, value in {**(limits or {}), **(requests or {})}.items()},
    }


def _unsaid(wanted: Iterable[Any]) -> set[str]:
    """What a container says nothing of, and a quota for it would have it say."""
    specs = [spec for obj in wanted for spec in _templates(obj, {})]
    containers = [c for spec in specs for c in (*spec.containers, *(spec.initContainers or ()))]
    names = {f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "memory")}
    return {name for c in containers for name in names - set(_said(c))}


def _given(defaults: Iterable[Any]) -> set[str]:
    """What containers that say nothing get."""
    found: set[str] = set()
    for each in defaults:
        for limit in each.spec.limits if each.spec else ():
            if limit.type == "Container":
                found |= {f"limits.{name}" for name in limit.default or ()}
                found |= {f"requests.{name}" for name in limit.defaultRequest or ()}
    return found


def _told(name: str, value: float) -> str:
    return f"{value / 2**20:.0f}Mi" if "memory" in name or "storage" in name else f"{value:g}"
