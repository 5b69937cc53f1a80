"""What is asked of a cluster before the first step changes anything there, and told with the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec
from lightkube.resources.core_v1 import Secret

from matcha.service import Environment
from matcha.target import Snapshot
from matcha.targets.kubernetes import (
    archives,
    base,
    desired,
    doctor,
    foundations,
    given,
    keys,
    leaving,
    measuring,
    ownership,
    space,
    volumes,
)
from matcha.targets.kubernetes.cluster import Cluster, ClusterError
from matcha.targets.kubernetes.exposed import checking
from matcha.targets.kubernetes.names import SECRETS
from matcha.targets.kubernetes.secrets import values
from matcha.targets.kubernetes.setting import Setting


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """`mine`: objects that were seen with Matcha's label. `former`: volumes that were seen without a record.
    `reads_secrets`: whether the user may.
    """

    setting: Setting
    snapshot: Snapshot
    mine: Collection[desired.Ref]
    former: Sequence[str]
    reads_secrets: bool
    relied: keys.Relied = keys.Relied()
    loose: bool = False  # the namespace: a step makes it enforce Pod Security


def check(cluster: Cluster, known: Known, environments: Sequence[Environment]) -> None:
    """Raises Conflict where something of somebody else has the name of what is to be made, MatchaError for a
    cluster without IPv4, for lost keys, and for environments that cannot be built.
    """
    doctor.refuse_addresses(cluster)
    checking.refuse(cluster, known.setting.options)
    planned = [o for step in desired.steps(known.setting).values() for o in step]
    if known.reads_secrets:
        planned += filter(None, [desired.placeholders(planned, cluster.namespace)])
    if foundations.needs_database(known.setting) and known.reads_secrets:
        volumes.refuse_lost_key(cluster)
    if known.relied.names and known.reads_secrets:
        known.relied.refuse(known.relied.names - values(cluster.get(Secret, SECRETS)).keys())
    ownership.refuse_planned(cluster, [o for o in planned if desired.ref(o) not in known.mine])
    for environment in _unbuilt(environments, known.snapshot):
        base.check(known.setting.options, environment)


def notes(
    cluster: Cluster, known: Known, environments: Sequence[Environment], project: Path
) -> Iterator[str]:
    """Where it goes, what is built there first, and what the user has to know of."""
    options = known.setting.options
    yield f"{cluster.named}, namespace {options.namespace}."
    with contextlib.suppress(ClusterError):  # some show it to administrators alone
        if not (version := doctor.version(cluster)).ok:
            yield version.message
    yield from leaving.notes(options, project)
    wanted = {f"service/{service.name}" for service in known.setting.services}
    there = known.snapshot.resources
    going = [key for key in there if key.startswith("service/") and key not in wanted]
    yield from space.takeover_notes(options.namespace, going, known.former)
    if missing := [e.name for e in _unbuilt(environments, known.snapshot)]:
        yield f"Environments built in the cluster, once: {', '.join(missing)}."
    yield from given.notes(cluster, options)
    planned = (o for step in desired.steps(known.setting).values() for o in step)
    if unmeasured := measuring.lack(cluster, planned):
        yield unmeasured
    yield from checking.notes(cluster, options)
    if not known.loose and (secure := space.security_note(cluster)):
        yield secure


def _unbuilt(environments: Sequence[Environment], snapshot: Snapshot) -> list[Environment]:
    return [
        e
        for e in environments
        if not archives.has_image(e) and f"environment/{e.name}" not in snapshot.resources
    ]
