"""The fake target's record: one file and one lock file, without the care a real target takes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from matcha.errors import Locked, StateUnreadable
from matcha.events import Emit, Event
from matcha.state import State, decode, encode
from matcha.target import LockInfo

LEASE = 60.0


def replace(path: Path, content: bytes) -> None:
    """Whole or not at all, for readers that take no lock."""
    half = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    half.write_bytes(content)
    half.replace(path)


class FakeStore:
    """Implements `matcha.target.StateStore` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "state.json"
        self._lock = folder / "lock.json"

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Its file may go with the folder: who waited for it then takes a new one."""
        with contextlib.ExitStack() as stack:
            while not self._take(stack):
                stack.close()
            yield

    def _take(self, stack: contextlib.ExitStack) -> bool:
        path = self._folder / "mutex"
        with contextlib.suppress(FileNotFoundError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(path.open("w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
            return os.path.samestat(os.fstat(handle.fileno()), path.stat())
        return False

    def read(self) -> State | None:
        if not self._state.exists():
            return None
        try:
            return decode(self._state.read_bytes())
        except msgspec.MsgspecError as error:
            raise StateUnreadable(
                f"{self._state} cannot be read: {error}", resolution="matcha doctor"
            ) from error

    def write(self, state: State, token: str) -> None:
        with self.mutex():
            self._check(token)
            replace(self._state, encode(state))

    def delete(self, token: str) -> None:
        self._check(token)
        self._state.unlink(missing_ok=True)

    def acquire(self, operation: str, *, wait: float, emit: Emit) -> LockInfo:
        deadline = time.time() + wait
        while (info := self._try(operation)) is None:
            holder = self.lock()
            if time.time() > deadline:
                who = f"{holder.owner} ({holder.operation})" if holder else "somebody"
                raise Locked(f"{who} is changing this stack.", resolution="matcha force-unlock")
            emit(Event("lock", "progress", f"waiting for {holder.owner}" if holder else "waiting"))
            time.sleep(0.05)
        return info

    def _try(self, operation: str) -> LockInfo | None:
        with self.mutex():
            if self.lock():
                return None
            now = time.time()
            owner = f"pid {os.getpid()}"
            info = LockInfo(
                owner=owner, operation=operation, since=now, expires=now + LEASE, token=uuid.uuid4().hex
            )
            replace(self._lock, msgspec.json.encode(info))
            return info

    def lock(self) -> LockInfo | None:
        if not self._lock.exists():
            return None
        info = msgspec.json.decode(self._lock.read_bytes(), type=LockInfo)
        return info if info.expires > time.time() else None

    def renew(self, token: str) -> None:
        with self.mutex():
            info = self._check(token)
            renewed = msgspec.structs.replace(info, expires=time.time() + LEASE)
            replace(self._lock, msgspec.json.encode(renewed))

    def release(self, token: str) -> None:
        holder = self.lock()
        if holder and holder.token == token:
            self._unlock()

    def break_lock(self) -> LockInfo | None:
        holder = self.lock()
        if holder:
            self._unlock()
        return holder

    def _unlock(self) -> None:
        """Without a record the folder goes, unless a target keeps something in it."""
        with self.mutex():
            self._lock.unlink(missing_ok=True)
            if {path.name for path in self._folder.iterdir()} == {"mutex"}:
                shutil.rmtree(self._folder)

    def _check(self, token: str) -> LockInfo:
        holder = self.lock()
        if holder is None or holder.token != token:
            raise Locked("This run no longer holds the stack's lock.", resolution="matcha status")
        return holder
