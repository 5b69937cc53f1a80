"""Secrets that the user makes, and pods cannot start without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from lightkube.resources.core_v1 import Secret

from matcha.targets.kubernetes import space
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.options import KubernetesOptions

TLS = "expose.tls-secret"


class Named(msgspec.Struct, frozen=True):
    """A Secret by the option that names it, and the `keys` it has to have."""

    option: str
    name: str
    keys: tuple[str, ...]

    def lack(self, cluster: Cluster) -> str:
        """What the cluster has not of it; empty where all is there. Raises Forbidden."""
        found = cluster.get(Secret, self.name)
        missing = [key for key in self.keys if key not in ((found.data if found else None) or {})]
        if not missing:
            return ""
        return f"lacks {', '.join(missing)}" if found else "is not there"

    def fix(self, cluster: Cluster) -> str:
        """The commands that make it, and the namespace before it where there is none."""
        literals = " ".join(f"--from-literal={key}=..." for key in self.keys)
        if self.option == TLS:
            return (
                f"kubectl --namespace {cluster.namespace} create secret tls {self.name} --cert=... --key=..."
            )
        docker = "docker-registry", "--docker-server=... --docker-username=... --docker-password=..."
        kind, what = docker if self.option == "pull-secret" else ("generic", literals)
        made = f"kubectl --namespace {cluster.namespace} create secret {kind} {self.name} {what}"
        before = f"kubectl create namespace {cluster.namespace} && " if _is_nowhere(cluster) else ""
        return before + made


def _is_nowhere(cluster: Cluster) -> bool:
    """Whether there is surely no namespace."""
    try:
        return space.look(cluster) is None
    except Forbidden:
        return False


def named(options: KubernetesOptions) -> list[Named]:
    found = (
        Named("pull-secret", options.pull_secret, (".dockerconfigjson",)),
        Named("storage-secret", options.storage and options.storage_secret, ("access-key", "secret-key")),
        Named(TLS, options.expose.tls_secret if options.expose else "", ("tls.crt", "tls.key")),
        Named("database-secret", options.database and options.database_secret, ("username", "password")),
    )
    return [each for each in found if each.name]


def notes(cluster: Cluster, options: KubernetesOptions) -> Iterator[str]:
    """For a plan: what pods would wait for. Nothing of what the user may not see."""
    for each in named(options):
        with contextlib.suppress(Forbidden):
            if lack := each.lack(cluster):
                waits = "models are not reachable before" if each.option == TLS else "pods wait for it"
                told = f"The Secret {each.name} ({each.option}) {lack}, and {waits}"
                yield f"{told}: {each.fix(cluster)}"
