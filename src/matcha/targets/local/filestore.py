"""The state record and its lock as files of the project.

The lock is a lease: it names its owner, expires unless renewed, and is free at once when its process is
gone from this machine. Every change of either file happens under a short exclusive lock on `guard`, so a
holder that lost the lease while it slept finds out before it writes.

On a full disk no lease can be written. What makes room there holds `guard` itself instead, to its end: that
takes no room, keeps everybody else out, and ends with the process.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from matcha import state as states
from matcha.errors import Locked, MatchaError, StateUnreadable
from matcha.events import Emit, Event
from matcha.state import State
from matcha.target import LockInfo
from matcha.targets.local.files import NoRoom, drop_half_written, guarded, remove_empty, write_private
from matcha.targets.local.layout import is_stack_id
from matcha.targets.local.processes import birth, is_gone, where

LEASE = 60.0
MAKING_ROOM = frozenset(("destroy",))  # operations that must not need any
_POLL = 0.2
_REMIND = 5.0
_NO_RECORD = (msgspec.DecodeError, ValueError, TypeError, KeyError)  # what decoding one raises


class _Lease(LockInfo, frozen=True, kw_only=True):
    """`machine` tells apart hosts and process namespaces, `born` a process from a later one of its pid."""

    machine: str
    pid: int
    born: str


class _Version(msgspec.Struct):
    schema_version: int = 0


class FileStore:
    """`matcha.target.StateStore` in the folder `root`. `clock` gives Unix seconds."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._path = root / "state.json"
        self._lock = root / "lock"
        self._guard = root / "guard"
        self._clock = clock
        self._unwritten: _Lease | None = None  # held without a file, under `_whole`
        self._whole = contextlib.ExitStack()

    def read(self) -> State | None:
        try:
            raw = self._path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StateUnreadable(
                f"{self._path} cannot be read.", details=str(error), resolution="matcha doctor"
            ) from error
        try:
            return _decoded(raw)
        except _NO_RECORD as error:
            raise self._unreadable(raw, error) from error

    def _unreadable(self, raw: bytes, error: Exception) -> StateUnreadable:
        kept = self._keep(raw)
        details = f"{error}\nA copy of it is {kept}." if kept else str(error)
        if isinstance(error, _NewerError):
            return StateUnreadable(
                f"{self._path} was written by a newer Matcha.",
                details=details,
                resolution="pip install --upgrade matcha-ml",
            )
        return StateUnreadable(
            f"The record of this stack is corrupt: {self._path}",
            details=details,
            resolution="matcha doctor",
        )

    def set_aside(self) -> None:
        """Take a corrupt record away, so that a stack can be provisioned; its copy stays."""
        with self._guarded():
            if self.is_corrupt():
                self._path.replace(self._copy())

    def is_corrupt(self) -> bool:
        """Whether there is a record that cannot be read by any Matcha; one of a newer Matcha is not meant."""
        try:
            _decoded(self._path.read_bytes())
        except _NewerError:
            return False
        except _NO_RECORD:
            return True
        except OSError:
            return False
        return False

    def _copy(self) -> Path:
        """Beside the record, named by the record's own time so that there is one for each."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._path.stat().st_mtime))
        return self._path.with_name(f"state.json.corrupt-{stamp}")

    def _keep(self, raw: bytes) -> Path | None:
        """The copy; None where it cannot be made."""
        try:
            copy = self._copy()
            if not copy.exists():
                write_private(copy, raw)
        except (OSError, MatchaError):
            return None
        return copy

    def write(self, state: State, token: str) -> None:
        with self._guarded():
            self._fence(token)
            write_private(self._path, states.encode(state), durable=True)

    def delete(self, token: str) -> None:
        with self._guarded():
            self._fence(token)
            for path in (self._path, *self._root.glob("state.json.corrupt-*")):
                path.unlink(missing_ok=True)

    def acquire(self, operation: str, *, wait: float, emit: Emit) -> LockInfo:
        began = time.monotonic()
        reminded = -_REMIND
        while True:
            holder = self._try(operation)
            if isinstance(holder, _Mine):
                return holder.lease
            waited = time.monotonic() - began
            if waited >= wait:
                raise _held(holder, self._clock())
            if waited - reminded >= _REMIND:
                reminded = waited
                emit(Event("stack", "progress", f"waiting for {_who(holder, self._clock())}", waited))
            time.sleep(min(_POLL, wait - waited))

    def _try(self, operation: str) -> _Mine | _Lease:
        with contextlib.ExitStack() as guard:
            guard.enter_context(guarded(self._guard))
            held = self._read_lock()
            if held and not self._is_over(held):
                return held
            lease = _new_lease(operation, self._clock())
            try:
                self._write_lock(lease)
                self._write_ignore()
            except NoRoom:
                if operation not in MAKING_ROOM:
                    raise
                self._unwritten, self._whole = lease, guard.pop_all()
            return _Mine(lease)

    def _write_ignore(self) -> None:
        ignore = self._root / ".gitignore"
        if not ignore.exists():
            write_private(ignore, b"*\n")

    def _guarded(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._unwritten else guarded(self._guard)

    def renew(self, token: str) -> None:
        with self._guarded():
            held = self._fence(token)
            if not self._unwritten:
                self._write_lock(msgspec.structs.replace(held, expires=self._clock() + LEASE))

    def release(self, token: str) -> None:
        if not self._root.exists():
            return
        with self._guarded(), self._whole:
            held = self._read_lock()
            self._unwritten = None
            if held and held.token == token:
                self._lock.unlink(missing_ok=True)
            self._tidy()

    def _tidy(self) -> None:
        """Leaves no folder behind when there is no stack (any more). Under the guard."""
        for path in (self._path, self._lock, self._root / ".gitignore"):
            drop_half_written(path)
        if self._lock.exists() or {p.name for p in self._root.iterdir()} - {".gitignore", "guard"}:
            return
        (self._root / ".gitignore").unlink(missing_ok=True)
        self._guard.unlink(missing_ok=True)
        remove_empty(self._root)

    def lock(self) -> LockInfo | None:
        held = self._read_lock()
        return None if held is None or self._is_over(held) else _public(held)

    def stale(self) -> LockInfo | None:
        """A lock that its owner left behind; it is in nobody's way."""
        held = self._read_lock()
        return _public(held) if held and self._is_over(held) else None

    def break_lock(self) -> LockInfo | None:
        if not self._lock.exists():
            return None
        with guarded(self._guard):
            held = self._read_lock()
            self._lock.unlink(missing_ok=True)
            self._tidy()
            return _public(held) if held else None

    def _fence(self, token: str) -> _Lease:
        held = self._read_lock()
        if held is None or held.token != token:
            raise _lost(held, self._clock())
        return held

    def _read_lock(self) -> _Lease | None:
        if self._unwritten:
            return self._unwritten
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(self._lock.read_bytes(), type=_Lease)
        return None

    def _write_lock(self, lease: _Lease) -> None:
        write_private(self._lock, msgspec.json.encode(lease))

    def _is_over(self, held: _Lease) -> bool:
        dead = held.machine == where() and is_gone(held.pid, held.born)
        return dead or held.expires < self._clock()


class _Mine(msgspec.Struct, frozen=True):
    lease: _Lease


class _NewerError(ValueError):
    pass


def _decoded(raw: bytes) -> State:
    version = msgspec.json.decode(raw, type=_Version).schema_version
    if version > states.SCHEMA_VERSION:
        raise _NewerError(f"Its schema is {version}; this Matcha knows {states.SCHEMA_VERSION}.")
    found = states.decode(raw)
    if not is_stack_id(found.stack_id):
        raise ValueError(f"`stack_id` is no name of a stack: {found.stack_id!r}")
    return found


def _new_lease(operation: str, now: float) -> _Lease:
    pid = os.getpid()
    return _Lease(
        owner=f"{_user()}@{socket.gethostname()} (pid {pid})",
        operation=operation,
        since=now,
        expires=now + LEASE,
        token=secrets.token_hex(16),
        machine=where(),
        pid=pid,
        born=birth(pid),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _public(held: _Lease) -> LockInfo:
    return LockInfo(
        owner=held.owner,
        operation=held.operation,
        since=held.since,
        expires=held.expires,
        token=held.token,
    )


def _who(held: LockInfo, now: float) -> str:
    return f"{held.owner}: {held.operation}, since {max(0, now - held.since):.0f} s"


def _held(held: LockInfo, now: float) -> Locked:
    return Locked(
        f"Somebody else is changing this stack: {_who(held, now)}.",
        details=f"The lock expires in {max(0, held.expires - now):.0f} s unless its owner renews it.",
        resolution="matcha force-unlock",
    )


def _lost(held: LockInfo | None, now: float) -> Locked:
    taken = f"It is held by {_who(held, now)}." if held else "It was removed."
    return Locked(
        "This run lost the stack's lock and stopped before changing the record.",
        details=taken,
        resolution="matcha status",
    )
