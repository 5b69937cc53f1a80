"""What is wrong with the way to a cluster, with the cluster, and with the stack in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from lightkube.resources.core_v1 import Namespace
from lightkube.resources.storage_v1 import StorageClass

from matcha.errors import MatchaError
from matcha.state import State
from matcha.targets.kubernetes import permissions
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Forbidden
from matcha.targets.kubernetes.links import Links, strays
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.store import ClusterStore

OLDEST = (1, 27)
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check. `fix` is what to do, or where `fixable` what `mend` does."""

    check: str
    ok: bool
    message: str
    fix: str = ""
    mend: Callable[[], object] | None = None
    fixed: bool = False

    @property
    def fixable(self) -> bool:
        return self.mend is not None


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    cluster: Cluster
    store: ClusterStore
    options: KubernetesOptions
    state: State | None


def examine(patient: Patient, *, fix: bool) -> list[Finding]:
    """A cluster that cannot be reached is one finding, and ends the list."""
    found: list[Finding] = []
    for check in (_reachable, _namespace, _permissions, _storage, _lock, _forwards):
        try:
            found += [_mended(f) if fix and f.mend and not f.ok else f for f in check(patient)]
        except MatchaError as error:
            details = f"{error.message} {error.details}".strip()
            found.append(Finding(check=check.__name__[1:], ok=False, message=details, fix=error.resolution))
            if check is _reachable:
                break
    return found


def _mended(finding: Finding) -> Finding:
    assert finding.mend is not None
    try:
        finding.mend()
    except (MatchaError, OSError) as error:
        message = f"{finding.message} It could not be mended: {error}"
        return msgspec.structs.replace(finding, message=message, mend=None)
    return msgspec.structs.replace(finding, ok=True, fixed=True, mend=None)


def _reachable(patient: Patient) -> Iterator[Finding]:
    context = patient.cluster.config.context_name
    version: Any = patient.cluster.ask("/version")
    number = f"{version['major']}.{version['minor']}".rstrip("+")
    if tuple(int(part) for part in number.split(".")) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding(
            check="cluster",
            ok=False,
            message=f"{context} runs Kubernetes {number}; Matcha is tested from {oldest} on.",
            fix="Use a newer cluster.",
        )
    else:
        yield Finding(check="cluster", ok=True, message=f"{context} answers and runs Kubernetes {number}.")


def _namespace(patient: Patient) -> Iterator[Finding]:
    name = patient.options.namespace
    try:
        there = patient.cluster.get_global(Namespace, name) is not None
    except Forbidden:
        yield Finding(
            check="namespace", ok=True, message=f"Whether {name} is there cannot be seen; it is used."
        )
        return
    if there:
        yield Finding(check="namespace", ok=True, message=f"The namespace {name} is there.")
    elif permissions.may(patient.cluster, "", "namespaces", "create", everywhere=True):
        yield Finding(check="namespace", ok=True, message=f"The namespace {name} is made by provision.")
    else:
        yield Finding(
            check="namespace",
            ok=False,
            message=f"There is no namespace {name}, and you may not make it.",
            fix=f"Ask an administrator for: kubectl create namespace {name}",
        )


def _permissions(patient: Patient) -> Iterator[Finding]:
    if lines := permissions.missing(patient.cluster):
        yield Finding(
            check="permissions",
            ok=False,
            message=f"You may not: {'; '.join(lines)}.",
            fix="Ask an administrator for the Role in docs/kubernetes.md.",
        )
    else:
        yield Finding(check="permissions", ok=True, message="You may do all that Matcha does.")


def _storage(patient: Patient) -> Iterator[Finding]:
    wanted = patient.options.storage_class
    try:
        classes = patient.cluster.found_global(StorageClass)
    except ClusterError:
        yield Finding(
            check="storage", ok=True, message="Storage classes cannot be seen; volumes are asked for."
        )
        return
    names = [c.metadata.name for c in classes]
    default = [c for c in classes if (c.metadata.annotations or {}).get(DEFAULT_CLASS) == "true"]
    if (wanted and wanted in names) or (not wanted and default):
        yield Finding(
            check="storage", ok=True, message=f"Volumes come from {wanted or default[0].metadata.name}."
        )
    else:
        lack = f"There is no storage class {wanted}." if wanted else "No storage class is the default one."
        yield Finding(
            check="storage",
            ok=False,
            message=lack,
            fix=f"Set targets.kubernetes.storage-class to one of: {', '.join(names) or '(there are none)'}",
        )


def _lock(patient: Patient) -> Iterator[Finding]:
    stale, held = patient.store.stale(), patient.store.lock()
    if stale:
        yield Finding(
            check="lock",
            ok=False,
            message=f"{stale.owner} left the lock of its {stale.operation} behind.",
            fix="matcha doctor --fix",
            mend=patient.store.break_lock,
        )
    else:
        who = (
            f"{held.owner} is changing the stack ({held.operation})."
            if held
            else "Nobody is changing the stack."
        )
        yield Finding(check="lock", ok=True, message=who)


def _gone(patient: Patient) -> list[Links]:
    """None where the record cannot be read: it may hold any stack."""
    try:
        state = patient.store.read()
    except MatchaError:
        return []
    return strays(patient.options, state.stack_id if state else "")


def _forwards(patient: Patient) -> Iterator[Finding]:
    """Whether this machine's forwards run, where it has any; some may lead to a stack that is gone."""
    for gone in _gone(patient):
        yield Finding(
            check="forwards",
            ok=False,
            message=f"This machine still has forwards to a stack that was destroyed ({gone.home}).",
            fix="matcha doctor --fix",
            mend=gone.remove,
        )
    if patient.state is None:
        return
    links = Links(patient.state.stack_id, patient.options)
    ports = links.ports()
    if ports:
        shown = ", ".join(f"{name} on {port}" for name, port in sorted(ports.items()))
        yield Finding(check="forwards", ok=True, message=f"Claimed on this machine: {shown}.")
