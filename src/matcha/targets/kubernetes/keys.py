"""Secrets without which what a service stored cannot be read: new ones are never made in their place."""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec
from lightkube.resources.core_v1 import PersistentVolumeClaim, Secret

from matcha.errors import MatchaError
from matcha.state import State
from matcha.targets.kubernetes import going, volumes
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.look import WORKLOADS, Found, everything
from matcha.targets.kubernetes.names import DATABASE, SECRETS
from matcha.targets.kubernetes.secrets import values
from matcha.targets.kubernetes.setting import Setting

KINDS = (*WORKLOADS, PersistentVolumeClaim)  # what `relied_on` looks at


class Relied(msgspec.Struct, frozen=True):
    """`names` of those that something was stored with. `database`: the user's, if it is in one."""

    names: frozenset[str] = frozenset()
    database: str = ""

    def lost(self, own: Container[str]) -> MatchaError | None:
        """Where some are not among the stack's `own`."""
        missing = sorted(name for name in self.names if name not in own)
        if not missing:
            return None
        # which keeps its tables whatever becomes of the stack
        anew = f", once the stack's tables are off {self.database}" if self.database else ""
        return MatchaError(
            f"{', '.join(missing)} is gone from the Secret {SECRETS}: what users stored with it cannot be "
            "read without it.",
            details="Nothing of that opens with a new one, so none is made. Pods that run have it still; "
            "none starts without.",
            resolution=f"Put the Secret {SECRETS} back, or start anew{anew}: "
            "matcha destroy --yes --delete-data",
        )

    def refuse(self, missing: Iterable[str]) -> None:
        """Raises what `lost` tells, where one of these is `missing`."""
        if error := Relied(self.names & set(missing), self.database).lost(()):
            raise error


def relied_on(setting: Setting, state: State | None, found: Found) -> Relied:
    """Those that services have started with, as the record says, or their workloads: before that nothing was
    stored, and nothing is in a database whose volume is gone.
    """
    if setting.own_database and found.get(PersistentVolumeClaim, DATABASE) is None:
        return Relied()
    started: Container[str] = state.resources if state else ()
    names = frozenset(
        name
        for service in setting.services
        if f"service/{service.name}" in started or found.workload(service.name) is not None
        for name in service.irreplaceable
    )
    return Relied(names, setting.options.database.partition("?")[0])


def refuse_end(cluster: Cluster, recorded: Setting | None, state: State | None) -> None:
    """Raises MatchaError where what only running pods have still would go with them; Forbidden for who may
    not tell.
    """
    if going.lives(cluster, DATABASE):
        volumes.refuse_lost_key(cluster)
    services = recorded.services if recorded else ()
    if recorded and (live := [s for s in services if s.irreplaceable and going.lives(cluster, s.name)]):
        found = everything(cluster, KINDS)
        relied = relied_on(msgspec.structs.replace(recorded, services=tuple(live)), state, found)
        if error := relied.lost(values(cluster.get(Secret, SECRETS))):
            raise error
