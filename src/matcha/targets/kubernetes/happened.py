"""What the events of a namespace say of one object. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence

from lightkube.resources.core_v1 import Event, PersistentVolumeClaim

# Of a volume claim: why it is not bound, or that it is made.
BINDING = (
    "ProvisioningFailed",
    "ProvisioningSucceeded",
    "FailedBinding",
    "Provisioning",
    "ExternalProvisioning",
)
_LONG_AGO = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def timely(events: Iterable[Event], claims: Iterable[PersistentVolumeClaim]) -> list[Event]:
    """Those that still say something: an event stays for an hour, also of a claim that has its volume by now,
    or that another one of its name has followed. `claims`: those that are there.
    """
    known = {c.metadata.name: c for c in claims if c.metadata}
    return [e for e in events if not _is_over(e, known.get(e.involvedObject.name))]


def _is_over(event: Event, claim: PersistentVolumeClaim | None) -> bool:
    about = event.involvedObject
    if about.kind != "PersistentVolumeClaim" or claim is None:
        return False
    is_bound = claim.status is not None and claim.status.phase == "Bound"
    return is_bound or not _is_same(about.uid, claim.metadata.uid if claim.metadata else None)


def _is_same(one: str | None, other: str | None) -> bool:
    return one == other or not one or not other


def newest(
    events: Iterable[Event], kind: str, name: str, reasons: Sequence[str], uid: str = ""
) -> Event | None:
    """The last event of these reasons about the object of this name, of this `uid` where one is given."""
    about = [
        e
        for e in events
        if e.reason in reasons and _is_about(e, kind, re.escape(name)) and _is_same(e.involvedObject.uid, uid)
    ]
    return max(about, key=_when, default=None)


def refusal(events: Iterable[Event], owner: str) -> str:
    """Why no pod may be made for this Deployment, StatefulSet or Job; empty where one could since.

    For a Deployment its ReplicaSet makes them, whose name is longer by one part.
    """
    made = ("FailedCreate", "SuccessfulCreate")
    whole, replica_set = re.escape(owner), rf"{re.escape(owner)}-[a-z0-9]+"
    about = [
        e
        for e in events
        if e.reason in made
        and (_is_about(e, "(StatefulSet|Job)?", whole) or _is_about(e, "ReplicaSet", replica_set))
    ]
    last = max(about, key=_when, default=None)
    return (last.message or "") if last and last.reason == "FailedCreate" else ""


def _is_about(event: Event, kind: str, name: str) -> bool:
    """Both are patterns."""
    about = event.involvedObject
    return bool(re.fullmatch(kind, about.kind or "") and re.fullmatch(name, about.name or ""))


def _when(event: Event) -> datetime.datetime:
    """Events that were counted up bear the time of the last; newer ways to write them have other fields."""
    series = event.series.lastObservedTime if event.series else None
    made = event.metadata.creationTimestamp
    return series or event.lastTimestamp or event.eventTime or made or _LONG_AGO
