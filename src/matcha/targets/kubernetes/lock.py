"""The lock of a stack as a Lease of its namespace.

Every change names the version of the Lease that it replaces, so that of several who want it one gets it.
Whether a holder has gone away is judged as Kubernetes' own leader election does: by having watched the Lease
stay the same for as long as it holds, on the clock of the one who watches. Clocks of two machines are never
compared.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease as LeaseObject

from matcha.errors import Locked, MatchaError
from matcha.host.leases import LEASE, Lease, Mine, is_abandoned, lost, new_lease
from matcha.targets.kubernetes import ownership
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Forbidden, Gone
from matcha.targets.kubernetes.names import LOCK, MANAGER, labels, put_instance
from matcha.targets.kubernetes.versions import TRIES, is_unsettled, remove, replace, version_of

_NOTED = ("operation", "token", "machine", "pid", "born")  # annotations; a Lease has fields for the rest


@dataclass
class _Held:
    """`seen` as it was last written. Before `until`, by the timer, nobody else can have taken it."""

    lease: Lease
    seen: LeaseObject
    until: float


class Terminating(MatchaError):
    """The namespace is being removed: it can be made again once it is gone."""


class ClusterLock:
    """`clock` gives Unix seconds, for people; `timer` seconds that pass while the machine sleeps too.

    `prepare` makes the namespace. `place` is compared with that of a lease to tell whose process is dead.
    """

    def __init__(
        self,
        cluster: Cluster,
        prepare: Callable[[], None],
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        place: str,
    ) -> None:
        self._cluster = cluster
        self._prepare = prepare
        self._clock = clock
        self._timer = timer
        self._place = place
        self._held: _Held | None = None
        self._watched: tuple[tuple[str, str], float] | None = None
        self._mutex = threading.RLock()

    # -- taking ----------------------------------------------------------------------------------------

    def attempt(self, operation: str) -> Mine | Lease:
        """Takes the lock if it is free; otherwise its holder, with the expiry that this process can tell.
        Raises Conflict where the Lease is somebody else's.
        """
        lease = new_lease(operation, self._clock(), self._place)
        began = self._timer()
        for left in reversed(range(TRIES)):
            found = self._cluster.get(LeaseObject, LOCK)
            ownership.refuse(self._cluster, found)
            holder = lease_of(found)
            if found and holder and holder.token == lease.token:  # written, but the answer was lost
                return self._got(lease, found, began)
            if found and holder and (remaining := self._remaining(found, holder)) > 0:
                return msgspec.structs.replace(holder, expires=self._clock() + remaining)
            try:
                return self._got(lease, self._put(self._wanted(lease, found)), began)
            except ClusterError as error:
                if not left or not is_unsettled(error):
                    raise
        raise AssertionError("unreachable")

    def _wanted(self, lease: Lease, over: LeaseObject | None) -> LeaseObject:
        wanted = object_of(lease, over)
        put_instance([wanted], self._cluster.namespace)
        return wanted

    def _got(self, lease: Lease, seen: LeaseObject, began: float) -> Mine:
        with self._mutex:
            self._held = _Held(lease, seen, began + LEASE)
        return Mine(lease)

    def _remaining(self, found: LeaseObject, holder: Lease) -> float:
        """Seconds until it can be taken, unless its holder renews it."""
        if is_abandoned(holder, self._place):
            return 0.0
        version, now = version_of(found), self._timer()
        if self._watched is None or self._watched[0] != version:
            self._watched = (version, now)
        lasts = float((found.spec and found.spec.leaseDurationSeconds) or LEASE)
        return self._watched[1] + lasts - now

    def _put(self, wanted: LeaseObject) -> LeaseObject:
        if wanted.metadata and wanted.metadata.resourceVersion:
            return replace(self._cluster, wanted)
        try:
            return self._create(wanted)
        except Gone:
            self._prepare()
            return self._create(wanted)

    def _create(self, wanted: LeaseObject) -> LeaseObject:
        try:
            made: LeaseObject = self._cluster.create(wanted)
        except Forbidden as error:
            if "being terminated" not in error.details:
                raise
            raise Terminating(
                f'The namespace "{self._cluster.namespace}" is being removed.',
                details=error.details,
                resolution="Repeat the command once it is gone.",
            ) from error
        return made

    # -- holding ---------------------------------------------------------------------------------------

    def renew(self, token: str) -> None:
        """Raises Locked when it is somebody else's by now, or nobody's."""
        with self._mutex:
            held = self._of(token)
            began = self._timer()
            lease = msgspec.structs.replace(held.lease, expires=self._clock() + LEASE)
            try:
                held.seen = self._renewed(held.seen, lease)
            except Locked:
                held.until = -math.inf
                raise
            held.lease, held.until = lease, began + LEASE

    def _renewed(self, seen: LeaseObject, lease: Lease) -> LeaseObject:
        for left in reversed(range(TRIES)):
            wanted = self._wanted(lease, seen)
            try:
                return replace(self._cluster, wanted)
            except ClusterError as error:
                if not is_unsettled(error):
                    raise
                seen = self._seen(lease.token)
                if _time_of(seen) == _time_of(wanted):  # written, but the answer was lost
                    return seen
                if not left:
                    raise
        raise AssertionError("unreachable")

    def ensure(self, token: str, left: float = 0.0) -> None:
        """Returns with more than `left` seconds to go, renewing where it takes that. Raises Locked."""
        for _ in range(TRIES):
            with self._mutex:
                if self._of(token).until - self._timer() > left:
                    return
                self.renew(token)
        raise Locked(
            "The cluster answers too slowly to hold the stack's lock.",
            details=f"Renewing it took longer than the {LEASE - left:.0f} s that one may pass.",
            resolution="matcha doctor",
        )

    def fence(self) -> None:
        """For what is written beside the record: returns with half the lease to go, or raises Locked."""
        held = self._held
        if held is None:
            raise lost(None, self._clock())
        self.ensure(held.lease.token, LEASE / 2)

    def _of(self, token: str) -> _Held:
        """Another store of this token may have taken it: then what is known of it begins here."""
        if self._held is None or self._held.lease.token != token:
            seen = self._seen(token)
            lease = lease_of(seen)
            assert lease is not None
            self._held = _Held(lease, seen, -math.inf)
        return self._held

    def _seen(self, token: str) -> LeaseObject:
        found = self._cluster.get(LeaseObject, LOCK)
        holder = lease_of(found)
        if found is None or holder is None or holder.token != token:
            raise lost(holder, self._clock())
        return found

    def lost(self) -> Locked:
        """For one who found out by what others wrote."""
        return lost(lease_of(self._cluster.get(LeaseObject, LOCK)), self._clock())

    # -- letting go ------------------------------------------------------------------------------------

    def release(self, token: str) -> None:
        """Nothing happens where it is not held with this token."""
        with self._mutex:
            mine = self._held if self._held and self._held.lease.token == token else None
            self._held = None if mine else self._held
            self._remove(mine.seen if mine else self._cluster.get(LeaseObject, LOCK), token)

    def take_away(self) -> Lease | None:
        """Removes the lock whoever holds it; what it was. Raises Conflict for a Lease of somebody else."""
        found = self._cluster.get(LeaseObject, LOCK)
        ownership.refuse(self._cluster, found)
        holder = lease_of(found)
        self._remove(found, holder.token if holder else "")
        return holder

    def _remove(self, found: LeaseObject | None, token: str) -> None:
        for left in reversed(range(TRIES)):
            holder = lease_of(found)
            if found is None or (holder.token if holder else "") != token:
                return
            try:
                remove(self._cluster, found)
                return
            except ClusterError as error:
                if not left or not is_unsettled(error):
                    raise
                found = self._cluster.get(LeaseObject, LOCK)

    # -- looking ---------------------------------------------------------------------------------------

    def holder(self) -> tuple[Lease | None, bool]:
        """Who holds it, and whether that seems over. At a glance nothing can be watched, so this trusts the
        holder's clock to be less than one lease off; it decides nothing.
        """
        found = self._cluster.get(LeaseObject, LOCK)
        holder = lease_of(found)
        if (
            found is None
            or holder is None
            or not ownership.is_mine(found.metadata.to_dict() if found.metadata else {})
        ):
            return None, True
        return holder, is_abandoned(holder, self._place) or holder.expires + LEASE < self._clock()


def lease_of(found: LeaseObject | None) -> Lease | None:
    """None where nobody holds it. Of a Lease that something else made only the owner is known."""
    if found is None or found.spec is None or not found.spec.holderIdentity:
        return None
    spec, notes = found.spec, (found.metadata and found.metadata.annotations) or {}
    noted = {name: str(notes.get(_key(name), "")) for name in _NOTED}
    return Lease(
        owner=found.spec.holderIdentity,
        operation=noted["operation"] or "something unknown",
        since=_seconds(spec.acquireTime),
        expires=_seconds(spec.renewTime) + (spec.leaseDurationSeconds or LEASE),
        token=noted["token"],
        machine=noted["machine"],
        pid=int(noted["pid"]) if noted["pid"].isdecimal() else 0,
        born=noted["born"],
    )


def object_of(lease: Lease, over: LeaseObject | None) -> LeaseObject:
    """What is to be written over `over`, if that is still there as it was."""
    before = (over.spec and over.spec.leaseTransitions) or 0 if over else 0
    former = lease_of(over)
    known = over.metadata if over and over.metadata else ObjectMeta()
    changes_hands = former is not None and former.token != lease.token
    return LeaseObject(
        metadata=ObjectMeta(
            name=LOCK,
            labels=labels(LOCK, MANAGER),
            annotations={_key(name): str(getattr(lease, name)) for name in _NOTED},
            resourceVersion=known.resourceVersion,
            uid=known.uid,  # without it, the API would make anew a Lease that is gone
        ),
        spec=LeaseSpec(
            holderIdentity=lease.owner,
            leaseDurationSeconds=int(LEASE),
            acquireTime=_moment(lease.since),
            renewTime=_moment(lease.expires - LEASE),
            leaseTransitions=before + changes_hands,
        ),
    )


def _key(name: str) -> str:
    return f"matcha-ml/{name}"


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


def _moment(seconds: float) -> datetime:
    """The API wants six digits behind the point, which a whole second would be written without."""
    found = datetime.fromtimestamp(seconds, timezone.utc)
    return found.replace(microsecond=found.microsecond or 1)


def _time_of(found: LeaseObject) -> datetime | None:
    return found.spec.renewTime if found.spec else None
