"""Until somebody has taken up the stack's Gateway, and its route."""

from __future__ import annotations

import time

from matcha.errors import MatchaError
from matcha.events import Emit, Event
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.exposed import checking
from matcha.targets.kubernetes.exposed.conditions import judge
from matcha.targets.kubernetes.exposed.objects import GATEWAY
from matcha.targets.kubernetes.exposed.options import Expose

SECONDS = 60.0  # for a controller to look at it; addresses and certificates may take longer
POLL = 1.0


class NotExposed(MatchaError):
    """Everything else of the stack is made all the same."""

    stops = False


def taken_up(cluster: Cluster, expose: Expose, emit: Emit) -> None:
    """Raises NotExposed where nobody takes it up."""
    key, began = f"foundation/{GATEWAY}", time.monotonic()
    while not (found := judge(expose, checking.parts(cluster, expose))).taken_up:
        waited = time.monotonic() - began
        if waited > SECONDS:
            raise NotExposed(
                f"Applications do not reach models at {expose.models}: {found.detail}.",
                details=f"Nobody looked at it for {SECONDS:.0f} s.",
                resolution=f"{found.resolution}, then: matcha provision",
            )
        emit(Event(key, "progress", f"{found.detail} ({waited:.0f} s)", waited))
        time.sleep(POLL)
    if not found.reachable:
        emit(
            Event(key, "note", f"Applications do not reach models yet: {found.detail}. matcha status tells.")
        )
