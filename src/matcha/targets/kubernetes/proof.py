"""The proof that nothing of Matcha's is left: every kind that a namespace can hold is listed by label."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
from lightkube.core.resource import api_info

from matcha.targets.kubernetes import ownership, removal, space
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Forbidden, Gone
from matcha.targets.kubernetes.exposed.kinds import OPTIONAL
from matcha.targets.kubernetes.names import MANAGED_BY, MANAGER
from matcha.targets.kubernetes.removal import ORDER, RECORD, is_kept

# What says something of objects and is none itself: it outlives them, or is gone by itself.
_ABOUT_OTHERS = frozenset({"events.k8s.io", "metrics.k8s.io", "custom.metrics.k8s.io"})
_OF_MATCHA = f"{MANAGED_BY}={MANAGER}"
DERIVED_SECONDS = 30.0  # until the cluster's own controllers have taken away what they made for what is gone
POLL = 1.0
MOST_NAMED = 3


class Kind(NamedTuple):
    """`resource` as kubectl takes it: `ingresses.networking.k8s.io`."""

    name: str
    resource: str
    address: str


class Proof(msgspec.Struct, frozen=True):
    """Lines for a person: what is `left`, and what this did not look at, or may not take away."""

    left: list[str] = []
    unproved: list[str] = []


Unlistable = list[tuple[Kind, ClusterError]]


def proof(cluster: Cluster, delete_data: bool) -> Proof:
    """What follows from other objects is given time to go. Only of what can be listed is anything left for
    sure: the rest is said.
    """
    if left := removal.leftovers(cluster, delete_data):
        return Proof(left, [])
    left, unproved = _of_every_kind(cluster, delete_data)
    left += removal.namespace_left(cluster)
    # with the namespace goes all that was not looked at
    return Proof(left, [] if unproved and space.is_gone(cluster) else unproved)


def _of_every_kind(cluster: Cluster, delete_data: bool) -> tuple[list[str], list[str]]:
    listable, silent = kinds(cluster)
    deadline = time.monotonic() + DERIVED_SECONDS
    while True:
        left, unlistable = _left(cluster, listable, delete_data)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(POLL)
    unlabelled = ownership.unlabelled(cluster, ORDER, RECORD)
    return left, [*unlabelled, *silent, *_unlisted(cluster, unlistable)]


def kinds(cluster: Cluster) -> tuple[list[Kind], list[str]]:
    """Those of a namespace that can be listed, by the API's own word, each in the version it prefers; and, as
    lines for a person, which parts of the API did not say theirs. Matcha's own are known without.
    """
    groups, silent = _asked(cluster, "/apis")
    named = [
        g["preferredVersion"]["groupVersion"]
        for g in groups.get("groups") or ()
        if g["name"] not in _ABOUT_OTHERS
    ]
    addresses = ["/api/v1", *(f"/apis/{each}" for each in named)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda address: _asked(cluster, address), addresses))
    found = {
        kind.address: kind
        for address, (answer, _) in zip(addresses, answers, strict=True)
        for kind in _named(cluster, address, answer)
    }
    return list((_own(cluster) | found).values()), [*silent, *(line for _, said in answers for line in said)]


def _asked(cluster: Cluster, address: str) -> tuple[dict[str, Any], list[str]]:
    try:
        return cluster.ask(address, again=True), []
    except Gone:
        return {}, []
    except ClusterError as error:
        said = f"{address} does not say which kinds it has ({_why(error)}): of these it was not checked"
        return {}, [f"{said} that nothing is left. To look later: {_command(cluster)}"]


def _named(cluster: Cluster, address: str, answer: dict[str, Any]) -> Iterator[Kind]:
    group = address.removeprefix("/apis/").rpartition("/")[0] if address.startswith("/apis/") else ""
    for each in answer.get("resources") or ():
        if each["namespaced"] and "list" in each["verbs"] and each["kind"] != "Event":
            where = f"{address}/namespaces/{cluster.namespace}/{each['name']}"
            yield Kind(each["kind"], ".".join(filter(None, [each["name"], group])), where)


def _own(cluster: Cluster) -> dict[str, Kind]:
    """Kinds that Matcha makes and every cluster has, by their addresses."""
    kinds = [kind for kind in ORDER if kind not in OPTIONAL]
    found = [(kind.__name__, cluster.address(kind), api_info(kind)) for kind in kinds]
    return {
        address: Kind(name, ".".join(filter(None, [info.plural, info.resource.group])), address)
        for name, address, info in found
    }


def _left(cluster: Cluster, listable: list[Kind], delete_data: bool) -> tuple[list[str], Unlistable]:
    def of(kind: Kind) -> list[str] | ClusterError:
        try:
            found = cluster.metadata(kind.address, _OF_MATCHA)
        except Gone:  # such as a kind that went meanwhile
            return []
        except ClusterError as error:
            return error
        return [f"{kind.name} {each['name']}" for each in _counting(kind, found, delete_data)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(zip(listable, pool.map(of, listable), strict=True))
    left = [line for _, said in answers if not isinstance(said, ClusterError) for line in said]
    return left, [(kind, said) for kind, said in answers if isinstance(said, ClusterError)]


def _counting(kind: Kind, found: list[dict[str, Any]], delete_data: bool) -> Iterator[dict[str, Any]]:
    for each in found:
        stays = not delete_data and is_kept(kind.name, each["name"], each.get("labels"))
        if not stays and (kind.name, each["name"]) not in RECORD:
            yield each


# -- what was not looked at ---------------------------------------------------------------------------------


def _unlisted(cluster: Cluster, unlistable: Unlistable) -> Iterator[str]:
    closed = [kind for kind, error in unlistable if isinstance(error, Forbidden)]
    if closed:
        yield (
            f"You may not list {_few(closed)}: of these it was not checked that nothing is left. "
            f"An administrator can: {_command(cluster, closed)}"
        )
    reasons: dict[str, list[Kind]] = {}
    for kind, error in unlistable:
        if not isinstance(error, Forbidden):
            reasons.setdefault(_why(error), []).append(kind)
    for why, failed in reasons.items():
        yield (
            f"{_few(failed)} could not be listed ({why}): of these it was not checked that nothing is left. "
            f"To look later: {_command(cluster, failed)}"
        )


def _few(found: Sequence[Kind]) -> str:
    """Names; of many a few, those that Matcha makes before others."""
    names = [kind.name for kind in found]
    if len(names) <= MOST_NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} other kinds"


def _command(cluster: Cluster, found: Sequence[Kind] = ()) -> str:
    """That looks at these; at all there are where none or many are named."""
    named = ",".join(kind.resource for kind in found)
    if not 0 < len(found) <= MOST_NAMED + 1:
        named = "$(kubectl api-resources --namespaced --verbs=list -o name | paste -sd, -)"
    return f"kubectl get {named} -n {cluster.namespace} -l {_OF_MATCHA}"


def _why(error: ClusterError) -> str:
    said: Iterable[str] = (error.details or error.message).split()
    return " ".join(said).rstrip(".") or f"HTTP {error.status}"
