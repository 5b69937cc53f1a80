"""Whether what Matcha generated for a stack is still there."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lightkube.resources.core_v1 import PersistentVolumeClaim, Secret

from matcha.host.findings import Finding, unseen
from matcha.state import State
from matcha.targets.kubernetes import foundations, keys, look, volumes
from matcha.targets.kubernetes.cluster import Cluster, Forbidden
from matcha.targets.kubernetes.names import DATABASE, SECRETS
from matcha.targets.kubernetes.secrets import values
from matcha.targets.kubernetes.setting import Setting


def findings(cluster: Cluster, recorded: Setting | None, state: State | None) -> Iterator[Finding]:
    """Those that Matcha generated for the stack, and made its data with."""
    try:
        own = values(cluster.get(Secret, SECRETS))
    except Forbidden:
        yield unseen(
            "passwords", "Whether what the stack generated for its pods is still there cannot be seen."
        )
        return
    claim = cluster.get(PersistentVolumeClaim, DATABASE)
    lost = volumes.lost_key(claim, own)
    if lost is None and recorded:
        relied = keys.relied_on(recorded, state, look.everything(cluster, keys.KINDS))
        lost = relied.lost(own)
    missing = _missing(recorded, own) if recorded else []
    if lost:
        yield Finding(
            check="passwords", ok=False, message=f"{lost.message} {lost.details}", fix=lost.resolution
        )
    elif missing:
        lack = f"lacks {', '.join(missing)}" if own else "is gone, or empty"
        yield Finding(
            check="passwords",
            ok=False,
            message=f"The Secret {SECRETS} {lack}: what the stack generated for its pods. Those that run "
            "have it still. New values open nothing that was encrypted with the old ones.",
            fix=f"Put the Secret {SECRETS} back, or have new ones made: matcha provision",
        )
    elif recorded:
        yield Finding(check="passwords", ok=True, message="What the stack generated for its pods is there.")


def _missing(recorded: Setting, own: Collection[str]) -> list[str]:
    named = {name for service in recorded.services for name in service.secrets.values()}
    return sorted({*foundations.secret_names(recorded), *named} - set(own))
