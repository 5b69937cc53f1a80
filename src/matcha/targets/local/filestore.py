"""The state record and its lock as files of the project.

The lock is a lease: it names its owner, expires unless renewed, and is free at once when its process is
gone from this machine. Every change of either file happens under a short exclusive lock on `guard`, so a
holder that lost the lease while it slept finds out before it writes.

On a full disk no lease can be written. What makes room there holds `guard` itself instead, to its end: that
takes no room, keeps everybody else out, and ends with the process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from matcha import state as states
from matcha.errors import MatchaError, StateUnreadable
from matcha.events import Emit
from matcha.host.files import NoRoom, drop_half_written, guarded, hide_from_git, remove_empty, write_private
from matcha.host.leases import (
    LEASE,
    Lease,
    Mine,
    decoded,
    is_abandoned,
    is_corrupt,
    lost,
    new_lease,
    public,
    queue,
)
from matcha.host.processes import where
from matcha.state import State
from matcha.target import LockInfo

MAKING_ROOM = frozenset(("destroy",))  # operations that must not need any
_POLL = 0.2


class FileStore:
    """`matcha.target.StateStore` in the folder `root`. `clock` gives Unix seconds."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._path = root / "state.json"
        self._lock = root / "lock"
        self._guard = root / "guard"
        self._clock = clock
        self._unwritten: Lease | None = None  # held without a file, under `_whole`
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
        return decoded(raw, self._path, lambda: self._keep(raw))

    def set_aside(self) -> None:
        """Take a corrupt record away, so that a stack can be provisioned; its copy stays."""
        with self._guarded():
            if self.is_corrupt():
                self._path.replace(self._copy())

    def is_corrupt(self) -> bool:
        """Whether there is a record that cannot be read by any Matcha; one of a newer Matcha is not meant."""
        try:
            return is_corrupt(self._path.read_bytes())
        except OSError:
            return False

    def _copy(self) -> Path:
        """Beside the record, named by the record's own time so that there is one for each."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._path.stat().st_mtime))
        return self._path.with_name(f"state.json.corrupt-{stamp}")

    def _keep(self, raw: bytes) -> str:
        """Says where the copy is; nothing where it cannot be made."""
        try:
            copy = self._copy()
            if not copy.exists():
                write_private(copy, raw)
        except (OSError, MatchaError):
            return ""
        return f"A copy of it is {copy}."

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
        return queue(lambda: self._try(operation), wait=wait, emit=emit, clock=self._clock, pause=_POLL)

    def _try(self, operation: str) -> Mine | Lease:
        with contextlib.ExitStack() as guard:
            guard.enter_context(guarded(self._guard))
            held = self._read_lock()
            if held and not self._is_over(held):
                return held
            lease = new_lease(operation, self._clock(), where())
            try:
                self._write_lock(lease)
                hide_from_git(self._root)
            except NoRoom:
                if operation not in MAKING_ROOM:
                    raise
                self._unwritten, self._whole = lease, guard.pop_all()
            return Mine(lease)

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
        return None if held is None or self._is_over(held) else public(held)

    def stale(self) -> LockInfo | None:
        """A lock that its owner left behind; it is in nobody's way."""
        held = self._read_lock()
        return public(held) if held and self._is_over(held) else None

    def break_lock(self) -> LockInfo | None:
        if not self._lock.exists():
            return None
        with guarded(self._guard):
            held = self._read_lock()
            self._lock.unlink(missing_ok=True)
            self._tidy()
            return public(held) if held else None

    def _fence(self, token: str) -> Lease:
        held = self._read_lock()
        if held is None or held.token != token:
            raise lost(held, self._clock())
        return held

    def _read_lock(self) -> Lease | None:
        if self._unwritten:
            return self._unwritten
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(self._lock.read_bytes(), type=Lease)
        return None

    def _write_lock(self, lease: Lease) -> None:
        write_private(self._lock, msgspec.json.encode(lease))

    def _is_over(self, held: Lease) -> bool:
        return is_abandoned(held, where()) or held.expires < self._clock()
