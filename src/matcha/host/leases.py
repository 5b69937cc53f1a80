"""What the stores of all targets share: a lock that expires, who holds it, and a record that may be damaged.

The lock is a lease: it names its owner, expires unless renewed, and is free at once when its process is gone
from this machine.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from matcha import state as states
from matcha.errors import Locked, StateUnreadable
from matcha.events import Emit, Event
from matcha.host.processes import birth, is_gone, where
from matcha.state import State
from matcha.target import LockInfo

LEASE = 60.0
REMIND = 5.0
_AWAKE_OR_NOT = getattr(time, "CLOCK_BOOTTIME", None) or time.CLOCK_MONOTONIC_RAW


class Lease(LockInfo, frozen=True, kw_only=True):
    """`machine` tells apart hosts and process namespaces, `born` a process from a later one of its pid."""

    machine: str
    pid: int
    born: str


class Mine(msgspec.Struct, frozen=True):
    """A lease that the attempt to take it got."""

    lease: Lease


def elapsed() -> float:
    """Seconds since some moment; they also pass while the machine sleeps."""
    return time.clock_gettime(_AWAKE_OR_NOT)


@cache
def machine() -> str:
    """Like `where`, for locks that other machines see too: two of one name are not taken for one."""
    try:
        return f"{where()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return f"{where()} {uuid.getnode():x}"


def new_lease(operation: str, now: float, place: str) -> Lease:
    """`place` is `where()` or `machine()`: what `is_abandoned` will compare."""
    pid = os.getpid()
    return Lease(
        owner=f"{person()} (pid {pid})",
        operation=operation,
        since=now,
        expires=now + LEASE,
        token=secrets.token_hex(16),
        machine=place,
        pid=pid,
        born=birth(pid),
    )


def person() -> str:
    """`user@machine`, for others to read."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def is_abandoned(lease: Lease, place: str) -> bool:
    """Whether its process ran in `place`, where this one runs, and has ended."""
    return lease.machine == place and is_gone(lease.pid, lease.born)


def public(lease: Lease) -> LockInfo:
    return LockInfo(
        owner=lease.owner,
        operation=lease.operation,
        since=lease.since,
        expires=lease.expires,
        token=lease.token,
    )


def queue(
    attempt: Callable[[], Mine | Lease],
    *,
    wait: float,
    emit: Emit,
    clock: Callable[[], float],
    pause: float,
    timer: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """`attempt` every `pause` seconds until it gets the lease. It returns the holder's where there is one.

    Raises Locked, naming the holder, after `wait` seconds by `timer`; `clock` is the one of the leases.
    """
    began = timer()
    reminded = -REMIND
    while True:
        holder = attempt()
        if isinstance(holder, Mine):
            return holder.lease
        waited = timer() - began
        if waited >= wait:
            raise held(holder, clock())
        if waited - reminded >= REMIND:
            reminded = waited
            emit(Event("stack", "progress", f"waiting for {who(holder, clock())}", waited))
        sleep(min(pause, wait - waited))


def who(holder: LockInfo, now: float) -> str:
    return f"{holder.owner}: {holder.operation}, since {max(0, now - holder.since):.0f} s"


def held(holder: LockInfo, now: float) -> Locked:
    return Locked(
        f"Somebody else is changing this stack: {who(holder, now)}.",
        details=f"The lock expires in {max(0, holder.expires - now):.0f} s unless its owner renews it.",
        resolution="matcha force-unlock",
    )


def lost(holder: LockInfo | None, now: float) -> Locked:
    """`holder` has it now; None where nobody has."""
    return Locked(
        "This run lost the stack's lock and stopped before changing the record.",
        details=f"It is held by {who(holder, now)}." if holder else "It was removed.",
        resolution="matcha status",
    )


class _Version(msgspec.Struct):
    schema_version: int = 0


class _NewerError(ValueError):
    pass


def decoded(raw: bytes, place: object, keep: Callable[[], str]) -> State:
    """The record that was read from `place`.

    Raises StateUnreadable for a corrupt or newer one; `keep` then copies it and says so, in a sentence.
    """
    try:
        return _decoded(raw)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(place, error, keep()) from error


def is_corrupt(raw: bytes) -> bool:
    """Whether no Matcha can read it, also no newer one."""
    try:
        _decoded(raw)
    except _NewerError:
        return False
    except (msgspec.DecodeError, ValueError, TypeError, KeyError):
        return True
    return False


def _decoded(raw: bytes) -> State:
    version = msgspec.json.decode(raw, type=_Version).schema_version
    if version > states.SCHEMA_VERSION:
        raise _NewerError(f"Its schema is {version}; this Matcha knows {states.SCHEMA_VERSION}.")
    found = states.decode(raw)
    if not states.is_stack_id(found.stack_id):
        raise ValueError(f"`stack_id` is no name of a stack: {found.stack_id!r}")
    return found


def _unreadable(place: object, error: Exception, kept: str) -> StateUnreadable:
    details = f"{error}\n{kept}" if kept else str(error)
    if isinstance(error, _NewerError):
        return StateUnreadable(
            f"{place} was written by a newer Matcha.",
            details=details,
            resolution="pip install --upgrade matcha-ml",
        )
    return StateUnreadable(
        f"The record of this stack is corrupt: {place}", details=details, resolution="matcha doctor"
    )
