"""The state record and its lock: what survives other processes, kills, sleeps and damage."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from matcha.errors import Locked, MatchaError, StateUnreadable
from matcha.events import Event, silent
from matcha.host.files import guarded
from matcha.state import State
from matcha.targets.local.filestore import LEASE, FileStore

STATE = State(stack_id="abc", stack="default", target="local")

HAMMER = """
import sys
from pathlib import Path
from matcha.events import silent
from matcha.targets.local.filestore import FileStore
store = FileStore(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    token = store.acquire("count", wait=60, emit=silent).token
    state = store.read()
    store.write(state.next(facts={**state.facts, "n": str(int(state.facts["n"]) + 1)}), token)
    store.release(token)
"""

HOLD = """
import sys, time
from pathlib import Path
from matcha.events import silent
from matcha.targets.local.filestore import FileStore
FileStore(Path(sys.argv[1])).acquire("hold", wait=5, emit=silent)
print("held", flush=True)
time.sleep(60)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / ".matcha"


def _take(store: FileStore, operation: str = "test") -> str:
    return store.acquire(operation, wait=0, emit=silent).token


def test_a_record_is_read_as_it_was_written_and_is_private(root: Path) -> None:
    store = FileStore(root)
    assert store.read() is None
    store.write(STATE, _take(store))
    assert FileStore(root).read() == STATE
    assert stat.S_IMODE((root / "state.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert (root / ".gitignore").read_text() == "*\n"


def test_reading_and_looking_at_the_lock_make_nothing(root: Path) -> None:
    store = FileStore(root)
    assert (store.read(), store.lock(), store.break_lock()) == (None, None, None)
    store.release("no token")
    assert not root.exists()


def test_a_released_lock_without_a_record_leaves_nothing(root: Path) -> None:
    store = FileStore(root)
    token = _take(store)
    store.write(STATE, token)
    store.delete(token)
    store.release(token)
    assert not root.exists()


def test_what_killed_writers_left_goes_with_the_record(root: Path) -> None:
    store = FileStore(root)
    token = _take(store)
    for name in (".state.json.abc", ".lock.def", "..gitignore.ghi"):
        (root / name).touch()
    store.delete(token)
    store.release(token)
    assert not root.exists()


def test_a_second_taker_is_told_who_holds_it(root: Path) -> None:
    store = FileStore(root)
    _take(store, "provision")
    with pytest.raises(Locked, match=rf"pid {os.getpid()}\): provision, since \d+ s") as told:
        _take(FileStore(root))
    assert told.value.resolution == "matcha force-unlock"


def test_waiting_says_for_whom_and_then_takes_it(root: Path) -> None:
    store = FileStore(root)
    token = _take(store, "provision")
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        store.release(token)

    taken = FileStore(root).acquire("destroy", wait=60, emit=hear)
    assert taken.operation == "destroy"
    assert len(events) == 1
    assert f"(pid {os.getpid()}): provision" in events[0].message


def test_an_expired_lock_is_free_and_its_holder_can_no_longer_write(root: Path) -> None:
    clock = Clock()
    store = FileStore(root, clock)
    old = _take(store)
    store.write(STATE, old)
    clock.now += LEASE + 1
    store.write(STATE.next(), old)  # nobody took it meanwhile
    new = _take(store)
    attempts: list[Callable[[], None]] = [
        lambda: store.write(STATE, old),
        lambda: store.renew(old),
        lambda: store.delete(old),
    ]
    for attempt in attempts:
        with pytest.raises(Locked):
            attempt()
    store.release(old)
    store.write(STATE.next().next(), new)
    assert (store.read() or STATE).serial == 2


def test_a_renewed_lock_stays(root: Path) -> None:
    clock = Clock()
    store = FileStore(root, clock)
    token = _take(store)
    for _ in range(3):
        clock.now += LEASE - 1
        store.renew(token)
    with pytest.raises(Locked):
        _take(store)


def test_a_broken_lock_fences_its_holder(root: Path) -> None:
    store = FileStore(root)
    token = _take(store, "provision")
    broken = FileStore(root).break_lock()
    assert broken is not None
    assert broken.operation == "provision"
    with pytest.raises(Locked, match="lost the stack's lock"):
        store.write(STATE, token)
    assert store.read() is None


def test_the_lock_of_a_killed_process_is_free_at_once(root: Path) -> None:
    with _holder(root) as holder:
        store = FileStore(root)
        with pytest.raises(Locked, match=f"pid {holder.pid}"):
            _take(store)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert store.lock() is None
        assert store.stale() is not None
        assert _take(store)


def test_the_lock_of_a_reused_pid_is_free(root: Path) -> None:
    store = FileStore(root)
    _take(store)
    lock = root / "lock"
    data = msgspec.json.decode(lock.read_bytes())
    lock.write_bytes(msgspec.json.encode({**data, "born": "another birth"}))
    assert _take(store)


def test_the_lock_of_another_machine_is_kept_until_it_expires(root: Path) -> None:
    clock = Clock()
    store = FileStore(root, clock)
    _take(store)
    lock = root / "lock"
    data = msgspec.json.decode(lock.read_bytes())
    lock.write_bytes(msgspec.json.encode({**data, "machine": "elsewhere", "pid": 2**22 - 1}))
    with pytest.raises(Locked):
        _take(store)
    clock.now += LEASE + 1
    assert _take(store)


def test_processes_that_hammer_lose_no_update(root: Path) -> None:
    store = FileStore(root)
    token = _take(store)
    store.write(msgspec.structs.replace(STATE, facts={"n": "0"}), token)
    store.release(token)
    hammers = [subprocess.Popen([sys.executable, "-c", HAMMER, root, "40"]) for _ in range(3)]
    readings = []
    while any(h.poll() is None for h in hammers):
        readings.append(int((store.read() or STATE).facts["n"]))
    assert [h.returncode for h in hammers] == [0, 0, 0]
    assert (store.read() or STATE).facts["n"] == "120"
    assert readings == sorted(readings)
    assert {p.name for p in root.iterdir()} == {"state.json", ".gitignore", "guard"}


def test_a_killed_writer_leaves_a_whole_record(root: Path) -> None:
    store = FileStore(root)
    token = _take(store)
    store.write(msgspec.structs.replace(STATE, facts={"n": "0", "bulk": "x" * 200_000}), token)
    store.release(token)
    for _ in range(4):
        before = _count(store)
        hammer = subprocess.Popen([sys.executable, "-c", HAMMER, root, "100000"], stderr=subprocess.DEVNULL)
        _await_more(store, before)
        time.sleep(random.uniform(0, 0.1))
        hammer.kill()
        hammer.wait()
        assert len((store.read() or STATE).facts["bulk"]) == 200_000
        store.release(_take(store))


def _count(store: FileStore) -> int:
    return int((store.read() or STATE).facts["n"])


def _await_more(store: FileStore, count: int) -> None:
    deadline = time.monotonic() + 60
    while _count(store) <= count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b'{"schema_version": []}',
        b'{"schema_version": 1, "stack_id": "../../etc", "stack": "a", "target": "local"}',
    ],
)
def test_a_corrupt_record_is_named_kept_and_never_replaced(root: Path, raw: bytes) -> None:
    root.mkdir()
    path = root / "state.json"
    path.write_bytes(raw)
    for _ in range(3):
        with pytest.raises(StateUnreadable, match="corrupt") as told:
            FileStore(root).read()
    copies = list(root.glob("state.json.corrupt-*"))
    assert [c.read_bytes() for c in copies] == [raw]
    assert str(path) in told.value.message
    assert str(copies[0]) in told.value.details
    assert path.read_bytes() == raw


def test_a_corrupt_record_is_set_aside_when_asked_and_no_other(root: Path) -> None:
    root.mkdir()
    path, store = root / "state.json", FileStore(root)
    store.set_aside()
    path.write_bytes(b'{"schema_version": 99}')
    store.set_aside()
    assert path.read_bytes() == b'{"schema_version": 99}'
    path.write_bytes(b"{")
    store.set_aside()
    assert store.read() is None
    assert [c.read_bytes() for c in root.glob("state.json.corrupt-*")] == [b"{"]
    store.write(STATE, _take(store))
    store.set_aside()
    assert store.read() == STATE


def test_a_newer_record_says_what_to_do(root: Path) -> None:
    root.mkdir()
    (root / "state.json").write_bytes(b'{"schema_version": 99, "unknown": 1}')
    with pytest.raises(StateUnreadable, match="newer Matcha") as told:
        FileStore(root).read()
    assert told.value.resolution == "pip install --upgrade matcha-ml"


def test_deleting_a_record_takes_its_copies_along(root: Path) -> None:
    root.mkdir()
    (root / "state.json").write_bytes(b"{")
    store = FileStore(root)
    with pytest.raises(StateUnreadable):
        store.read()
    token = _take(store)
    store.delete(token)
    store.release(token)
    assert not root.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_named(root: Path) -> None:
    root.parent.chmod(0o500)
    try:
        with pytest.raises(MatchaError, match="cannot be written"):
            _take(FileStore(root))
    finally:
        root.parent.chmod(0o700)


def test_a_root_that_is_a_file_or_points_nowhere_is_named(root: Path) -> None:
    root.symlink_to(root.parent / "nowhere" / "at all")
    with pytest.raises(MatchaError, match=str(root)):
        _take(FileStore(root))
    root.unlink()
    root.touch()
    assert FileStore(root).read() is None
    with pytest.raises(MatchaError, match="cannot be written"):
        _take(FileStore(root))


def test_a_stuck_guard_ends_in_an_error(root: Path) -> None:
    with (
        guarded(root / "guard"),
        pytest.raises(MatchaError, match="stays locked"),
        guarded(root / "guard", wait=0.2),
    ):
        pass


class _holder:  # noqa: N801 - reads as a call
    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen([sys.executable, "-c", HOLD, self._root], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def test_reads_wait_for_nobody(root: Path) -> None:
    """Neither for the stack's lock nor for the guard of a write, for which they would wait in vain."""
    store = FileStore(root)
    token = _take(store)
    store.write(STATE, token)
    with guarded(root / "guard"):
        reader = FileStore(root)
        assert reader.read() == STATE
        assert getattr(reader.lock(), "token", "") == token


FULL = """
import subprocess, sys, threading
from pathlib import Path
import pytest
from matcha.errors import MatchaError
from matcha.events import silent
from matcha.state import State
from matcha.targets.local import filestore
from matcha.host.files import NoRoom, guarded

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
root = disk / ".matcha"
store = filestore.FileStore(root)
token = store.acquire("provision", wait=5, emit=silent).token
store.write(State(stack_id="abc", stack="default", target="local"), token)
store.release(token)
with (disk / "data").open("wb", buffering=0) as file, pytest.raises(OSError):
    while True:
        file.write(bytes(512))

with pytest.raises(NoRoom, match="lock cannot be written"):
    store.acquire("provision", wait=0, emit=silent)
token = store.acquire("destroy", wait=0, emit=silent).token
other = filestore.FileStore(root)
with pytest.raises(MatchaError, match="stays locked"), guarded(root / "guard", wait=0.1):
    pass  # what everybody who changes something has to hold
store.renew(token)
assert other.read() == store.read() != None
store.delete(token)
assert store.read() is None
store.release(token)
assert list(disk.iterdir()) == [disk / "data"]
(disk / "data").unlink()
again = store.acquire("provision", wait=0, emit=silent)
assert other.lock().token == again.token
"""


def test_on_a_full_disk_destroy_locks_without_writing(tmp_path: Path) -> None:
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no user mount a disk of its own")
    done = subprocess.run(
        [*inside, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
