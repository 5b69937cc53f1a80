"""Whether pods run with the values that Secrets hold now: each pod template bears a mark of what it reads.

A mark is keyed by a value of the stack's own Secret. It tells whoever may read workloads and not Secrets
nothing, not even whether a guess at a weak password is right. Pure, but for `read` and `put`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from lightkube.models.core_v1 import PodTemplateSpec
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Secret

from matcha.targets.kubernetes import admission
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.names import SECRETS, SECRETS_MARK
from matcha.targets.kubernetes.secrets import Secrets, values
from matcha.targets.kubernetes.setting import Setting

KEY = "pod-marks-key"  # the name of the secret that marks are keyed by
CLOSED = (
    "You may not read Secrets: whether their values are still those that pods started with was not checked."
)
CHANGED, LOST = "its secrets changed", "its secrets are gone"
MARKED = (Deployment, StatefulSet, Job)
Read = tuple[str, str]  # name of a Secret, and of a value in it


class Held(msgspec.Struct, frozen=True):
    """Values of Secrets, by name; None for one that is not there. Those that were not asked for, or may not
    be read, are not among them.
    """

    secrets: Mapping[str, Mapping[str, str] | None] = {}

    def get(self, name: str) -> Mapping[str, str]:
        return self.secrets.get(name) or {}

    @property
    def is_open(self) -> bool:
        """Whether the stack's own may be read."""
        return SECRETS in self.secrets


def names(setting: Setting) -> set[str]:
    """Of the Secrets that pods read: the stack's own, and the user's."""
    theirs = setting.options.database_secret if not setting.own_database else ""
    return {SECRETS, setting.storage.secret, *filter(None, [theirs])}


def read(cluster: Cluster, wanted: Iterable[str]) -> Held:
    """One call a name, side by side."""

    def one(name: str) -> dict[str, Mapping[str, str] | None]:
        try:
            found = cluster.get(Secret, name)
        except Forbidden:
            return {}
        return {name: None if found is None else values(found)}

    asked = sorted(wanted)
    with ThreadPoolExecutor(max(len(asked), 1)) as pool:
        return Held({name: held for each in pool.map(one, asked) for name, held in each.items()})


def reads(template: PodTemplateSpec) -> list[Read]:
    """What the pods read as variables; sorted, each once."""
    spec = template.spec
    containers = [
        *((spec.initContainers if spec else None) or ()),
        *((spec.containers if spec else None) or ()),
    ]
    sources = (v.valueFrom.secretKeyRef for c in containers for v in c.env or () if v.valueFrom)
    return sorted({(str(source.name), source.key) for source in sources if source})


def mark(template: PodTemplateSpec, held: Held) -> str:
    """Of the values as they are now; empty where that cannot be told, or where nothing is read."""
    read_, key = reads(template), held.get(SECRETS).get(KEY)
    if not key or not read_ or any(name not in held.secrets for name, _ in read_):
        return ""
    content = msgspec.json.encode([(name, value, held.get(name).get(value)) for name, value in read_])
    return hmac.digest(key.encode(), content, "sha256").hex()[:32]


def told(template: PodTemplateSpec, was: str, held: Held) -> str:
    """What there is to say of pods that were made when the mark was `was`; empty: nothing, or not known.

    A value that a user's Secret lacks is nothing to restart for: no pod would start without it.
    """
    read_ = reads(template)
    if not was or not held.is_open or any(name not in held.secrets for name, _ in read_):
        return ""
    missing = [name for name, value in read_ if value not in held.get(name)]
    if SECRETS in missing:
        return LOST
    if KEY not in held.get(SECRETS):
        return CHANGED  # its mark is none of the key's that will be
    return CHANGED if not missing and mark(template, held) != was else ""


def change(objects: Iterable[Any], there: Iterable[Any], held: Held) -> str:
    """As `told`, of the first of `objects` that has something; `there` is what the cluster has of each."""
    for obj, live in zip(objects, there, strict=True):
        known = isinstance(obj, MARKED) and live is not None
        if known and (said := told(_template(obj), marked(live), held)):
            return said
    return ""


def marked(live: Any) -> str:
    """The mark that a workload's pods bear; empty for one that bears none."""
    notes = _template(live).metadata
    return str(((notes.annotations if notes else None) or {}).get(SECRETS_MARK, ""))


def put(objects: Sequence[Any], setting: Setting, cluster: Cluster, secrets: Secrets) -> Sequence[Any]:
    """`objects`, their pods marked; they keep the mark that they have, or have none, where no other can be
    told. Values of the stack's own Secret that they read are generated first where they are lost.
    """
    reading = [obj for obj in objects if isinstance(obj, MARKED) and reads(_template(obj))]
    if not reading:
        return objects
    held = read(cluster, names(setting))
    own = {KEY} | {value for obj in reading for name, value in reads(_template(obj)) if name == SECRETS}
    if held.is_open and own - held.get(SECRETS).keys():
        secrets.ensure(sorted(own))
        held = read(cluster, names(setting))
    for obj in reading:
        _put(obj, held, cluster)
    return objects


def _put(obj: Any, held: Held, cluster: Cluster) -> None:
    template, live = _template(obj), cluster.get(type(obj), obj.metadata.name)
    was, found = marked(live) if live is not None else "", mark(template, held)
    # Pods that wait for a value are no reason to start anew once it is there.
    if not found or any(value not in held.get(name) for name, value in reads(template)):
        found = was
    elif live is not None and not was and _is_up(live) and not admission.drift(obj.to_dict(), live.to_dict()):
        return  # a first mark would be the only reason to start anew, and no plan tells it
    if found and template.metadata:
        template.metadata.annotations = {**(template.metadata.annotations or {}), SECRETS_MARK: found}


def _is_up(live: Any) -> bool:
    """Whether it has pods to lose."""
    return isinstance(live, (Deployment, StatefulSet)) and bool(live.status and live.status.readyReplicas)


def _template(obj: Any) -> PodTemplateSpec:
    found: PodTemplateSpec = obj.spec.template
    return found
