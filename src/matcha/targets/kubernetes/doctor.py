"""What is wrong with the way to a cluster, with the cluster, and with the stack in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import (
    ConfigMap,
    LimitRange,
    ResourceQuota,
    Secret,
)
from lightkube.resources.storage_v1 import StorageClass

from matcha.errors import MatchaError, StateUnreadable
from matcha.host.findings import Finding, unseen
from matcha.state import State
from matcha.targets.kubernetes import (
    forwarding,
    given,
    going,
    here,
    look,
    measuring,
    ownership,
    passwords,
    permissions,
    quotas,
    running,
    space,
    unrecorded,
)
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict, Forbidden
from matcha.targets.kubernetes.exposed import checking
from matcha.targets.kubernetes.jobs import gpus
from matcha.targets.kubernetes.names import LOCK, NOTES, SECRETS, STATE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.setting import Setting
from matcha.targets.kubernetes.store import ClusterStore

OPENSHIFT = "security.openshift.io"  # the group of its rules for pods
RUN_ON = "1.34"  # by the tests, as a whole
CHECKED = ("1.30", "1.33", "1.35")  # the schemas that manifests are checked against
ROLE = "Ask an administrator for the Role in docs/kubernetes.md."
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """`recorded` is what the stack consists of as far as the record says, None without one."""

    cluster: Cluster
    store: ClusterStore
    options: KubernetesOptions
    state: State | None
    wanted: Callable[[], Sequence[Any]] = tuple  # every object of the stack
    recorded: Setting | None = None


def examine(patient: Patient, *, fix: bool) -> list[Finding]:
    """A cluster that cannot be reached is one finding, and ends the list."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += [_mended(f) if fix and f.mend and not f.ok else f for f in check(patient)]
        except MatchaError as error:
            details = f"{error.message} {error.details}".strip()
            found.append(Finding(check=name, ok=False, message=details, fix=_remedy(patient, error)))
            if check is _reachable:
                break
    return found


def _remedy(patient: Patient, error: MatchaError) -> str:
    """Errors of a cluster have people type what runs here."""
    if error.resolution != "matcha doctor":
        return error.resolution
    if isinstance(error, Forbidden):
        return ROLE
    server = patient.cluster.config.cluster.server
    return f"See that the cluster runs and {server} can be reached from here (network, VPN, proxy)."


def _mended(finding: Finding) -> Finding:
    assert finding.mend is not None
    try:
        finding.mend()
    except (MatchaError, OSError) as error:
        details, fix = (error.details, error.resolution) if isinstance(error, MatchaError) else ("", "")
        fix = finding.fix if fix in ("", "matcha doctor") else fix  # which is what runs here
        message = f"{finding.message} It could not be mended: {error} {details}".strip()
        return msgspec.structs.replace(finding, message=message, fix=fix, mend=None)
    said = finding.mended or finding.message
    return msgspec.structs.replace(finding, ok=True, fixed=True, mend=None, message=said)


def _reachable(patient: Patient) -> Iterator[Finding]:
    yield version(patient.cluster)


def version(cluster: Cluster) -> Finding:
    """Whether it runs a Kubernetes that the stack can run on."""
    known: Any = cluster.ask("/version")
    number = f"{known['major']}.{known['minor']}".rstrip("+")
    said = f"{cluster.named} answers and runs Kubernetes {number}"
    tried = f"Matcha is tested on {RUN_ON}"
    if _parts(number) < _parts(CHECKED[0]):
        return Finding(
            check="cluster",
            ok=False,
            message=f"{said}; {tried}, and its manifests are checked from {CHECKED[0]} on.",
            fix="Use a newer cluster.",
        )
    if _parts(number) > _parts(CHECKED[-1]):
        return Finding(
            check="cluster", ok=True, message=f"{said}, newer than any it was tried with; {tried}."
        )
    return Finding(check="cluster", ok=True, message=f"{said}; {tried}.")


def _parts(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split("."))


_API = "/api/v1/namespaces/default/services/kubernetes"


def _addresses(patient: Patient) -> Iterator[Finding]:
    yield addresses(patient.cluster.raw(_API))


def refuse_addresses(cluster: Cluster) -> None:
    """Raises MatchaError for a cluster where the stack's servers could not be reached."""
    found = addresses(cluster.raw(_API))
    if not found.ok:
        raise MatchaError(found.message, resolution=found.fix)


def addresses(service: Any) -> Finding:
    """Of the cluster, by its API's own Service; None where that may not be read."""
    spec: dict[str, Any] = (service or {}).get("spec") or {}
    ips = [str(ip) for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    if not ips:
        return unseen("addresses", "What addresses pods get cannot be seen; IPv4 is needed.")
    if ":" in ips[0]:
        return Finding(
            check="addresses",
            ok=False,
            message="The cluster gives pods IPv6 addresses first, and the stack's servers listen on IPv4.",
            fix="Use a cluster with IPv4, or with both of which IPv4 is the first.",
        )
    return Finding(check="addresses", ok=True, message="Pods get IPv4 addresses.")


def _users(patient: Patient) -> Iterator[Finding]:
    """Where the cluster wants to say itself as whom pods run."""
    if patient.options.run_as == "fixed" and patient.cluster.raw(f"/apis/{OPENSHIFT}") is not None:
        yield Finding(
            check="users",
            ok=False,
            message="This is OpenShift, which refuses pods that name their users.",
            fix="Set targets.kubernetes.run-as to: cluster",
        )


def _names(patient: Patient) -> Iterator[Finding]:
    """Whether somebody else has what provision would make."""
    found, closed = ownership.refusals(patient.cluster, _all(patient))
    for error in found:
        yield Finding(
            check="names", ok=False, message=f"{error.message} {error.details}", fix=error.resolution
        )
    unseen = f" You may not list {', '.join(closed)}: of these that was not checked." if closed else ""
    if not found:
        message = f"No name that the stack needs is taken by others.{unseen}"
        yield Finding(check="names", ok=True, checked=not closed, message=message)


def _all(patient: Patient) -> list[Any]:
    """What a stack has in its namespace, with what no step of a plan makes."""
    own: list[tuple[type[Any], str]] = [
        (ConfigMap, STATE),
        (ConfigMap, NOTES),
        (Lease, LOCK),
        (Secret, SECRETS),
    ]
    return [*patient.wanted(), *(kind(metadata=ObjectMeta(name=name)) for kind, name in own)]


def _quotas(patient: Patient) -> Iterator[Finding]:
    """Whether the stack finds room in what the namespace allows."""
    try:
        allowed = patient.cluster.found(ResourceQuota, {})
        defaults = patient.cluster.found(LimitRange, {})
    except Forbidden:
        yield unseen("quotas", "Quotas of the namespace cannot be seen.")
        return
    if not allowed:
        return
    there = [*look.bare(patient.cluster).objects.values(), *_own_secret(patient.cluster)]
    found = quotas.room(allowed, _all(patient), there, defaults)
    larger, default = "a larger quota", "a LimitRange with a default for it"
    ways = {**dict.fromkeys(found.lacking, larger), **dict.fromkeys(found.unsaid, default)}
    for said, way in ways.items():
        message, fix = (
            f"{said[:1].upper()}{said[1:]}.",
            f"Ask an administrator for {way}, then: matcha provision",
        )
        yield Finding(check="quotas", ok=False, message=message, fix=fix)
    if not ways:
        full = f" Nearly used up: {', '.join(found.nearly)}." if found.nearly else ""
        full += f" With all its replicas it would need {', '.join(found.tight)}." if found.tight else ""
        yield Finding(
            check="quotas", ok=True, message=f"The namespace's quotas have room for the stack.{full}"
        )


def _own_secret(cluster: Cluster) -> Iterator[Secret]:
    """Where it is there; for who may not see that, it is no more than one that is."""
    try:
        there = cluster.get(Secret, SECRETS)
    except Forbidden:
        there = Secret(metadata=ObjectMeta(name=SECRETS))
    yield from [there] if there else []


def _permissions(patient: Patient) -> Iterator[Finding]:
    exposes = patient.options.expose is not None
    if lines := permissions.missing(patient.cluster, exposes=exposes):
        yield Finding(
            check="permissions",
            ok=False,
            message=f"You may not: {'; '.join(lines)}.",
            fix=ROLE,
        )
    else:
        yield Finding(check="permissions", ok=True, message="You may do all that Matcha does.")


def _storage(patient: Patient) -> Iterator[Finding]:
    wanted = patient.options.storage_class
    try:
        classes = patient.cluster.found_global(StorageClass)
    except ClusterError:
        yield unseen("storage", "Storage classes cannot be seen; volumes are asked for.")
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


def _secrets(patient: Patient) -> Iterator[Finding]:
    for each in given.named(patient.options):
        lack = each.lack(patient.cluster)
        yield Finding(
            check="secrets",
            ok=not lack,
            message=f"The Secret {each.name} ({each.option}) {lack or 'is there'}.",
            fix=each.fix(patient.cluster) if lack else "",
        )


def _exposed(patient: Patient) -> Iterator[Finding]:
    """Whether the cluster has what exposing needs; the errors say what is missing."""
    if patient.options.expose is not None:
        checking.refuse(patient.cluster, patient.options)
        host = patient.options.expose.models
        yield Finding(
            check="expose", ok=True, message=f"The cluster has what exposing models at {host} needs."
        )


def _passwords(patient: Patient) -> Iterator[Finding]:
    return passwords.findings(patient.cluster, patient.recorded, patient.state)


def _services(patient: Patient) -> Iterator[Finding]:
    return running.findings(patient.cluster, patient.recorded, patient.state)


def _record(patient: Patient) -> Iterator[Finding]:
    try:
        there = patient.store.read() is not None
    except Conflict:
        return  # somebody else's, which `names` tells and nothing here takes away
    except StateUnreadable as error:
        if patient.store.is_corrupt():
            again = unrecorded.again(look.everything(patient.cluster, [ConfigMap]))
            fix, mend = "matcha doctor --fix", patient.store.set_aside
            yield Finding(
                check="record",
                ok=False,
                message=f"{error.message}.",
                fix=fix,
                mend=mend,
                mended=f"The stack's record could not be read, and was set aside. {again}".strip(),
            )
        else:
            yield Finding(check="record", ok=False, message=f"{error.message}.", fix=error.resolution)
        return
    found = None if there else look.everything(patient.cluster, (*look.WORKLOADS, ConfigMap))
    if found and any(found.of(kind) for kind in look.WORKLOADS):
        yield Finding(
            check="record",
            ok=False,
            message=f"The stack in the namespace has none. {unrecorded.again(found)}".strip(),
            fix="matcha provision, which takes over what is there. Models have to be deployed again.",
        )
        return
    message = "The stack's record can be read." if there else "There is no stack in the namespace yet."
    yield Finding(check="record", ok=True, message=message)


def _lock(patient: Patient) -> Iterator[Finding]:
    stale, held = patient.store.stale(), patient.store.lock()
    if stale:
        yield Finding(
            check="lock",
            ok=False,
            message=f"{stale.owner} left the lock of its {stale.operation} behind.",
            fix="matcha doctor --fix",
            mend=patient.store.break_lock,
            mended=f"The lock that {stale.owner} left behind ({stale.operation}) was taken away.",
        )
    else:
        who = (
            f"{held.owner} is changing the stack ({held.operation})."
            if held
            else "Nobody is changing the stack."
        )
        yield Finding(check="lock", ok=True, message=who)


def _forwards(patient: Patient) -> Iterator[Finding]:
    return forwarding.findings(patient.store, patient.options, patient.state)


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "cluster": _reachable,
    "addresses": _addresses,
    "namespace": lambda patient: space.findings(patient.cluster),
    "users": _users,
    "permissions": _permissions,
    "names": _names,
    "quotas": _quotas,
    "metrics": lambda patient: measuring.findings(patient.cluster, patient.wanted()),
    "storage": _storage,
    "expose": _exposed,
    "secrets": _secrets,
    "passwords": _passwords,
    "services": _services,
    "volumes": lambda patient: going.findings(patient.cluster),
    "gpus": lambda patient: gpus.findings(patient.cluster, patient.options),
    "lock": _lock,
    "folders": lambda _: here.findings(),
    "forwards": _forwards,
    "record": _record,
}
