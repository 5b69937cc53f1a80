"""What tests of the record and the lock in a cluster share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap
from lightkube.resources.rbac_authorization_v1 import ClusterRole, ClusterRoleBinding, Role, RoleBinding

from matcha.events import silent
from matcha.state import State
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.names import LOCK, STATE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.permissions import may
from matcha.targets.kubernetes.store import ClusterStore
from support.matcha import until

RECORD = State(stack_id="abc", stack="default", target="kubernetes")
ENOUGH = {"configmaps": "get create update delete", "leases": "get create update delete"}
_MADE: list[Cluster] = []
_GROUPS = {"leases": "coordination.k8s.io"}


class Clock:
    """Of one machine: stands still but for what the test adds and what is slept on it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def cluster(kubeconfig: Path, namespace: str, **more: Any) -> Cluster:
    return known(Cluster(KubernetesOptions(kubeconfig=str(kubeconfig), namespace=namespace), **more))


def known(made: Cluster) -> Cluster:
    """`made`, which `close_all` will close."""
    _MADE.append(made)
    return made


def close_all() -> None:
    """Connections that are left to the garbage collector are a warning, and that an error."""
    while _MADE:
        made = vars(_MADE.pop())  # its `client` would make one
        for client in (made["_given"], *made["_former"]):
            if client:
                client.close()


def store(kubeconfig: Path, namespace: str, **more: Any) -> ClusterStore:
    return ClusterStore(cluster(kubeconfig, namespace), **more)


def elsewhere(kubeconfig: Path, namespace: str, timer: Clock | None = None, **more: Any) -> ClusterStore:
    """A store on another machine, whose clock for waiting is `timer`."""
    if timer:
        more = {"timer": timer, "sleep": timer.sleep, **more}
    return store(kubeconfig, namespace, place="elsewhere", **more)


def take(held: ClusterStore, operation: str = "test") -> str:
    return held.acquire(operation, wait=0, emit=silent).token


def lease(kubeconfig: Path, namespace: str) -> Lease | None:
    return cluster(kubeconfig, namespace).get(Lease, LOCK)


def config_map(kubeconfig: Path, namespace: str) -> ConfigMap | None:
    return cluster(kubeconfig, namespace).get(ConfigMap, STATE)


def everything(kubeconfig: Path, namespace: str) -> set[str]:
    """What Matcha has in the namespace."""
    seen = cluster(kubeconfig, namespace)
    return {f.metadata.name for kind in (ConfigMap, Lease) for f in seen.found(kind)}


def allow(kubeconfig: Path, namespace: str, user: str, rights: dict[str, str]) -> None:
    """Gives a user verbs (in one string) on resources; in all namespaces where `namespace` is `*`."""
    everywhere = namespace == "*"
    made, bound, of = (
        (ClusterRole, ClusterRoleBinding, "ClusterRole") if everywhere else (Role, RoleBinding, "Role")
    )
    rules = [
        PolicyRule(apiGroups=[_GROUPS.get(what, "")], resources=[what], verbs=verbs.split())
        for what, verbs in rights.items()
    ]
    admin = cluster(kubeconfig, namespace.replace("*", "default"))
    admin.apply(made(metadata=ObjectMeta(name=f"test-{user}"), rules=rules))
    admin.apply(
        bound(
            metadata=ObjectMeta(name=f"test-{user}"),
            roleRef=RoleRef(apiGroup="rbac.authorization.k8s.io", kind=of, name=f"test-{user}"),
            subjects=[Subject(apiGroup="rbac.authorization.k8s.io", kind="User", name=user)],
        )
    )
    theirs = cluster(kubeconfig.with_name(f"{user}.kubeconfig"), namespace.replace("*", "default"))
    wait_for(theirs, rules, everywhere=everywhere)


def wait_for(theirs: Cluster, rules: Iterable[PolicyRule], *, everywhere: bool = False) -> None:
    """Until the API server has heard of the rights: it learns of roles as everybody does, by a watch. Those
    to single objects come with the others of their role.
    """
    asked = [
        (g, r, v)
        for rule in rules
        if not rule.resourceNames
        for g in rule.apiGroups or ()
        for r in rule.resources or ()
        for v in rule.verbs
    ]
    for group, resource, verb in asked:
        until(lambda g=group, r=resource, v=verb: may(theirs, g, r, v, everywhere=everywhere), 30)  # type: ignore[misc]
