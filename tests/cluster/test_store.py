"""The state record and its lock in a cluster: what survives other people, kills, sleeps and damage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, Namespace, Pod

from matcha.errors import Locked, MatchaError, StateUnreadable
from matcha.events import Event, silent
from matcha.host.leases import LEASE
from matcha.targets.kubernetes import space
from matcha.targets.kubernetes.cluster import Forbidden
from matcha.targets.kubernetes.names import LOCK, MANAGED_BY, MANAGER, MINE, STATE
from matcha.targets.kubernetes.store import CONTENT, HOLDER, LARGEST
from support.apiserver import as_user
from support.small_stack import SmallStack
from support.stores import (
    ENOUGH,
    RECORD,
    Clock,
    allow,
    cluster,
    config_map,
    elsewhere,
    everything,
    lease,
    store,
    take,
)

PROCESS = """
import sys, time
from pathlib import Path
from matcha.errors import Locked
from matcha.events import silent
from support.stores import RECORD, store
held = store(Path(sys.argv[1]), sys.argv[2], sleep=lambda seconds: time.sleep(seconds / 20))
"""
HOLD = (
    PROCESS
    + """
held.acquire("hold", wait=5, emit=silent)
print("held", flush=True)
time.sleep(600)
"""
)
HAMMER = (
    PROCESS
    + """
for _ in range(int(sys.argv[3])):
    token = held.acquire("count", wait=200, emit=silent).token
    state = held.read()
    held.write(state.next(facts={"n": str(int(state.facts["n"]) + 1)}), token)
    held.release(token)
"""
)
SNATCH = (
    PROCESS
    + """
print("ready", flush=True)
sys.stdin.readline()
try:
    token = held.acquire("snatch", wait=0, emit=silent).token
    held.write(RECORD, token)
    print("got")
except Locked:
    print("missed")
sys.stdin.readline()
"""
)


def _process(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


@contextmanager
def _ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    return process.stdout.readline()


def _go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"go\n")
    process.stdin.flush()


# -- one holder ---------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    assert held.read() is None
    token = take(held, "provision")
    held.write(RECORD, token)
    held.write(RECORD.next(), token)
    assert store(api_server, namespace).read() == RECORD.next()
    found, lock = config_map(api_server, namespace), lease(api_server, namespace)
    assert found and found.metadata and set(found.data or {}) == {CONTENT}
    assert lock and lock.metadata and lock.spec
    for labels in (found.metadata.labels, lock.metadata.labels):
        assert MINE.items() <= (labels or {}).items()
    assert lock.spec.leaseDurationSeconds == LEASE
    assert f"(pid {os.getpid()})" in (lock.spec.holderIdentity or "")
    assert (lock.metadata.annotations or {})["matcha-ml/operation"] == "provision"


def test_reading_and_looking_at_the_lock_make_nothing(api_server: Path, name: str) -> None:
    held = store(api_server, name)
    assert (held.read(), held.lock(), held.stale(), held.break_lock()) == (None, None, None, None)
    held.release("no token")
    assert name not in {n.metadata.name for n in cluster(api_server, name).client.list(Namespace)}


def test_a_released_lock_without_a_record_leaves_nothing(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    held.release(take(held))
    assert everything(api_server, namespace) == set()
    token = take(held)
    held.write(RECORD, token)
    held.delete(token)
    assert held.read() is None
    held.release(token)
    assert everything(api_server, namespace) == set()


def test_a_released_lock_keeps_a_record(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    held.write(RECORD, token)
    held.release(token)
    assert held.lock() is None
    assert held.read() == RECORD
    assert everything(api_server, namespace) == {STATE}
    with pytest.raises(Locked):
        held.write(RECORD.next(), token)


def test_another_store_of_the_process_goes_on_with_the_token(api_server: Path, namespace: str) -> None:
    token = take(store(api_server, namespace))
    store(api_server, namespace).write(RECORD, token)
    store(api_server, namespace).renew(token)
    store(api_server, namespace).release(token)
    assert store(api_server, namespace).read() == RECORD
    assert everything(api_server, namespace) == {STATE}


def test_labels_and_notes_of_others_stay_on_the_record(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    held.write(RECORD, token)
    change = {"metadata": {"labels": {"team": "blue"}, "annotations": {"backup": "nightly"}}}
    cluster(api_server, namespace).patch(ConfigMap, STATE, change)
    held.write(RECORD.next(), token)
    found = config_map(api_server, namespace)
    assert found and found.metadata
    assert (found.metadata.labels or {})["team"] == "blue"
    assert (found.metadata.annotations or {})["backup"] == "nightly"
    assert held.read() == RECORD.next()


def test_a_record_that_somebody_deleted_is_written_anew(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    held.write(RECORD, token)
    cluster(api_server, namespace).delete(ConfigMap, STATE)
    held.write(RECORD.next(), token)
    assert held.read() == RECORD.next()


def test_a_record_too_large_for_a_config_map_is_refused(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    large = msgspec.structs.replace(RECORD, facts={"bulk": "x" * (LARGEST - 2000)})
    held.write(large, token)
    with pytest.raises(MatchaError, match="too large"):
        held.write(msgspec.structs.replace(RECORD, facts={"bulk": "x" * LARGEST}), token)
    assert held.read() == large


def test_threads_of_one_run_write_renew_and_fence_side_by_side(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)

    def write(n: int) -> None:
        held.write(msgspec.structs.replace(RECORD, serial=n), token)

    jobs: list[Callable[[], None]] = [held.fence, lambda: held.renew(token)]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(job) for _ in range(20) for job in jobs]
        asked += [pool.submit(write, n) for n in range(20)]
        for job in asked:
            job.result(120)
    write(99)
    assert (held.read() or RECORD).serial == 99
    held.release(token)
    assert everything(api_server, namespace) == {STATE}


# -- several who want it ------------------------------------------------------------------------------------


def test_a_second_taker_is_told_who_holds_it(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    take(held, "provision")
    with pytest.raises(Locked, match=rf"pid {os.getpid()}\): provision, since \d+ s") as told:
        take(store(api_server, namespace))
    assert told.value.resolution == "matcha force-unlock"
    assert "expires in 60 s" in told.value.details
    seen = store(api_server, namespace).lock()
    assert seen and seen.operation == "provision" and type(seen).__name__ == "LockInfo"


def test_waiting_says_for_whom_and_then_takes_it(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held, "provision")
    waiting = threading.Event()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        waiting.set()

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(store(api_server, namespace).acquire, "destroy", wait=100, emit=emit)
        assert waiting.wait(60)
        held.release(token)
        assert taken.result(60).operation == "destroy"
    assert f"(pid {os.getpid()}): provision" in events[0].message


def test_threads_that_race_for_it_get_it_once(api_server: Path, namespace: str) -> None:
    for _ in range(3):
        stores = [store(api_server, namespace) for _ in range(6)]
        got = _race([lambda s=s: take(s) for s in stores])
        assert len(got) == 1
        stores[next(iter(got))].release(got.popitem()[1])


def test_an_expired_lock_is_taken_over_once(api_server: Path, namespace: str) -> None:
    old = take(store(api_server, namespace))
    timers = [Clock() for _ in range(6)]
    stores = [elsewhere(api_server, namespace, timer) for timer in timers]
    assert _race([lambda s=s: take(s) for s in stores]) == {}
    for timer in timers:
        timer.now += LEASE
    got = _race([lambda s=s: take(s) for s in stores])
    assert len(got) == 1
    assert old not in got.values()
    found = lease(api_server, namespace)
    assert found and found.spec and found.spec.leaseTransitions == 1


def _race(attempts: list[Callable[[], str]]) -> dict[int, str]:
    """All at once; what those returned that were not locked out."""
    start = threading.Barrier(len(attempts))

    def run(attempt: Callable[[], str]) -> str | None:
        start.wait(60)
        try:
            return attempt()
        except Locked:
            return None

    with ThreadPoolExecutor(len(attempts)) as pool:
        results = list(pool.map(run, attempts, timeout=120))
    return {i: r for i, r in enumerate(results) if r is not None}


def test_processes_that_make_the_first_record_at_once_make_one(api_server: Path, namespace: str) -> None:
    snatchers = [_process(SNATCH, api_server, namespace) for _ in range(4)]
    with _ended(*snatchers):
        assert {_line(s) for s in snatchers} == {b"ready\n"}
        for snatcher in snatchers:
            _go(snatcher)
        assert sorted(_line(s) for s in snatchers) == [b"got\n", *[b"missed\n"] * 3]
    assert store(api_server, namespace).read() == RECORD


def test_processes_that_hammer_lose_no_update(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    held.write(msgspec.structs.replace(RECORD, facts={"n": "0"}), token)
    held.release(token)
    hammers = [_process(HAMMER, api_server, namespace, 8) for _ in range(3)]
    with _ended(*hammers):
        assert [h.wait(250) for h in hammers] == [0, 0, 0]
    assert (held.read() or RECORD).facts["n"] == "24"
    assert everything(api_server, namespace) == {STATE}


# -- holders that went away ---------------------------------------------------------------------------------


def test_an_expired_lock_is_free_and_its_holder_can_no_longer_write(api_server: Path, namespace: str) -> None:
    asleep, timer = Clock(), Clock()  # the first machine's clock does not even notice
    first = store(api_server, namespace, timer=asleep)
    old = take(first)
    first.write(RECORD, old)
    second = elsewhere(api_server, namespace, timer)
    with pytest.raises(Locked):
        take(second)
    timer.now += LEASE - 1
    with pytest.raises(Locked, match="Somebody else") as told:
        take(second)
    assert "expires in 1 s" in told.value.details
    timer.now += 1
    new = take(second, "destroy")
    attempts: list[Callable[[], None]] = [
        lambda: first.write(RECORD.next(), old),
        lambda: first.delete(old),
        lambda: first.renew(old),
        first.fence,
        lambda: store(api_server, namespace).write(RECORD.next(), old),
    ]
    for attempt in attempts:
        with pytest.raises(Locked, match="lost the stack's lock") as told:
            attempt()
        assert "destroy" in told.value.details
    first.release(old)
    assert second.read() == RECORD
    second.write(RECORD.next().next(), new)
    second.delete(new)
    with pytest.raises(Locked):
        first.write(RECORD, old)
    second.release(new)
    with pytest.raises(Locked, match="lost the stack's lock") as told:
        first.write(RECORD, old)
    assert told.value.details == "It was removed."
    assert everything(api_server, namespace) == set()


def test_a_holder_that_slept_is_fenced_before_there_is_a_record(api_server: Path, namespace: str) -> None:
    timer = Clock()
    first, second = store(api_server, namespace), elsewhere(api_server, namespace, timer)
    old = take(first)
    with pytest.raises(Locked):
        take(second)
    timer.now += LEASE
    take(second)
    with pytest.raises(Locked, match="lost"):
        first.write(RECORD, old)
    assert second.read() is None


def test_a_holder_that_slept_goes_on_where_nobody_took_it(api_server: Path, namespace: str) -> None:
    timer, clock = Clock(), Clock(time.time())
    held = store(api_server, namespace, timer=timer, clock=clock)
    token = take(held)
    held.write(RECORD, token)
    before = lease(api_server, namespace)
    timer.now += 10 * LEASE
    clock.now += 10 * LEASE
    held.write(RECORD.next(), token)
    after = lease(api_server, namespace)
    assert held.read() == RECORD.next()
    assert before and before.spec and after and after.spec
    assert after.spec.renewTime > before.spec.renewTime  # type: ignore[operator]


def test_a_renewed_lock_stays(api_server: Path, namespace: str) -> None:
    timer = Clock()
    first, second = store(api_server, namespace), elsewhere(api_server, namespace, timer)
    token = take(first)
    for _ in range(3):
        with pytest.raises(Locked):
            take(second)
        first.renew(token)
        timer.now += 2 * LEASE


@pytest.mark.parametrize("skew", [-1e6, 1e6])
def test_clocks_of_two_machines_are_not_compared(api_server: Path, namespace: str, skew: float) -> None:
    timer = Clock()
    first = store(api_server, namespace, clock=lambda: time.time() + skew)
    second = elsewhere(api_server, namespace, timer)
    take(first)
    with pytest.raises(Locked):
        take(second)
    timer.now += LEASE
    assert take(second)


def test_one_who_waits_takes_over_what_nobody_renews(api_server: Path, namespace: str) -> None:
    timer = Clock()
    take(store(api_server, namespace), "provision")
    events: list[Event] = []
    began = timer.now
    elsewhere(api_server, namespace, timer).acquire("destroy", wait=10 * LEASE, emit=events.append)
    assert LEASE <= timer.now - began <= LEASE + 1
    assert len(events) == LEASE / 5
    assert all(": provision, since " in e.message for e in events)


def test_the_lock_of_a_killed_process_is_free_at_once(api_server: Path, namespace: str) -> None:
    holder = _process(HOLD, api_server, namespace)
    with _ended(holder):
        assert _line(holder) == b"held\n"
        held = store(api_server, namespace)
        with pytest.raises(Locked, match=f"pid {holder.pid}"):
            take(held)
        assert held.lock() is not None
        assert held.stale() is None
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        assert held.lock() is None
        assert held.stale() is not None
        assert take(held)


def test_only_a_dead_process_of_this_machine_is_seen_as_dead(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    take(held)
    cluster(api_server, namespace).patch(
        Lease, LOCK, {"metadata": {"annotations": {"matcha-ml/born": "another birth"}}}
    )
    with pytest.raises(Locked):
        take(elsewhere(api_server, namespace))
    assert take(held)


def test_a_lock_that_another_matcha_made_is_waited_for(api_server: Path, namespace: str) -> None:
    """One that says less than this one's does."""
    timer, made = Clock(), {"name": LOCK, "labels": {MANAGED_BY: MANAGER}}
    held = elsewhere(api_server, namespace, timer)
    admin = cluster(api_server, namespace)
    admin.create(Lease.from_dict({"metadata": made, "spec": {"holderIdentity": "somebody"}}))
    with pytest.raises(Locked, match="somebody: something unknown"):
        take(held)
    timer.now += LEASE
    held.release(take(held))
    admin.create(Lease.from_dict({"metadata": made, "spec": {}}))
    assert take(held)


def test_a_lock_long_unrenewed_is_shown_as_left_behind(api_server: Path, namespace: str) -> None:
    token = take(store(api_server, namespace, clock=lambda: time.time() - 3 * LEASE))
    seen = elsewhere(api_server, namespace)
    stale = seen.stale()
    assert seen.lock() is None
    assert stale and stale.token == token


# -- force ---------------------------------------------------------------------------------------------------


def test_a_broken_lock_fences_its_holder(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held, "provision")
    held.write(RECORD, token)
    broken = store(api_server, namespace).break_lock()
    assert broken and broken.operation == "provision" and broken.token == token
    for attempt in (lambda: held.write(RECORD.next(), token), lambda: held.delete(token)):
        with pytest.raises(Locked, match="lost the stack's lock"):
            attempt()
    assert held.read() == RECORD
    new = take(store(api_server, namespace))
    store(api_server, namespace).write(RECORD.next(), new)


def test_a_lock_broken_before_there_was_a_record_fences_too(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    assert store(api_server, namespace).break_lock()
    assert everything(api_server, namespace) == set()
    with pytest.raises(Locked, match="lost the stack's lock"):
        held.write(RECORD, token)
    held.release(token)
    assert everything(api_server, namespace) == set()


# -- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {CONTENT: ""},
        {CONTENT: "{"},
        {CONTENT: "[]"},
        {CONTENT: '{"schema_version": 1}'},
        {CONTENT: '{"schema_version": []}'},
        {CONTENT: '{"schema_version": 1, "stack_id": "../../etc", "stack": "a", "target": "local"}'},
        {"something": "else"},
    ],
)
def test_a_corrupt_record_is_named_kept_and_never_replaced(
    api_server: Path, namespace: str, content: dict[str, str]
) -> None:
    admin = cluster(api_server, namespace)
    admin.create(ConfigMap(metadata=ObjectMeta(name=STATE), data=content))
    held = store(api_server, namespace)
    for _ in range(2):
        token = take(held)
        with pytest.raises(StateUnreadable, match="corrupt") as told:
            held.read()
        held.release(token)
    copies = [c for c in admin.found(ConfigMap) if c.metadata.name != STATE]
    assert [c.data for c in copies] == [content]
    assert f"configmap/{STATE} in namespace {namespace}" in told.value.message
    assert f"configmap/{copies[0].metadata.name}" in told.value.details
    found = config_map(api_server, namespace)
    assert found and found.data == content
    token = take(held)
    held.delete(token)
    held.release(token)
    assert everything(api_server, namespace) == set()


def test_who_only_looks_at_a_corrupt_record_writes_nothing(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    admin = cluster(api_server, namespace)
    admin.create(ConfigMap(metadata=ObjectMeta(name=STATE), data={CONTENT: "{"}))
    stack = SmallStack(tmp_path, api_server, namespace)
    for look in (store(api_server, namespace).read, stack.status, stack.plan, stack.logs, stack.doctor):
        with contextlib.suppress(StateUnreadable):
            look()
        assert everything(api_server, namespace) == set()  # the record itself has no label here
    with pytest.raises(StateUnreadable) as told:
        stack.status()
    assert "The record is left as it is." in told.value.details
    with pytest.raises(StateUnreadable) as kept:
        stack.provision()
    assert {STATE} < everything(api_server, namespace)
    assert "a copy is configmap/" in kept.value.details


def test_a_newer_record_says_what_to_do(api_server: Path, namespace: str) -> None:
    data = {CONTENT: '{"schema_version": 99, "unknown": 1}'}
    cluster(api_server, namespace).create(ConfigMap(metadata=ObjectMeta(name=STATE), data=data))
    with pytest.raises(StateUnreadable, match="newer Matcha") as told:
        store(api_server, namespace).read()
    assert told.value.resolution == "pip install --upgrade matcha-ml"


# -- the namespace, and what a user may not do --------------------------------------------------------------


def test_the_first_lock_makes_the_namespace(api_server: Path, name: str) -> None:
    held = store(api_server, name)
    token = take(held)
    held.write(RECORD, token)
    held.release(token)
    admin = cluster(api_server, name)
    made = admin.client.get(Namespace, name)
    assert made.metadata
    assert MINE.items() <= (made.metadata.labels or {}).items()
    privileged = Pod(
        metadata=ObjectMeta(name="root"), spec=PodSpec(containers=[Container(name="a", image="b")])
    )
    deadline = time.monotonic() + 60
    while True:  # until the namespace has its service account, that is what is missing
        with pytest.raises(Forbidden) as told:
            admin.create(privileged)
        if "violates PodSecurity" in told.value.details:
            break
        assert time.monotonic() < deadline, told.value.details
        time.sleep(0.1)
    admin.delete(Namespace, name)


def test_prepare_is_called_where_there_is_no_namespace_and_only_there(api_server: Path, name: str) -> None:
    admin, calls = cluster(api_server, name), []

    def prepare() -> None:
        calls.append(name)
        admin.create(Namespace(metadata=ObjectMeta(name=name)))

    held = store(api_server, name, prepare=prepare)
    for _ in range(2):
        held.release(take(held))
    assert calls == [name]
    admin.delete(Namespace, name)


def test_a_namespace_that_is_going_is_waited_for_and_named(api_server: Path, namespace: str) -> None:
    admin = cluster(api_server, namespace)
    told: list[str] = []
    stuck = ConfigMap(metadata=ObjectMeta(name="stuck", finalizers=["matcha-ml.test/stuck"]))
    admin.create(stuck)
    admin.delete(Namespace, namespace)
    try:
        with pytest.raises(MatchaError, match=f'"{namespace}" is being removed'):
            waiting = store(api_server, namespace)
            waiting.acquire("test", wait=1.5, emit=lambda event: told.append(event.message))
        assert told == [f'The namespace "{namespace}" is being removed.'] * len(told) and told
    finally:
        admin.patch(ConfigMap, "stuck", {"metadata": {"finalizers": None}})
    again = store(api_server, namespace, prepare=lambda: space.make(admin))
    again.release(again.acquire("test", wait=60, emit=silent).token)


def test_a_user_with_the_rights_on_two_kinds_of_objects_can_all_of_it(
    api_server: Path, namespace: str
) -> None:
    allow(api_server, namespace, "alice", ENOUGH)
    held = store(as_user(api_server, "alice"), namespace)
    token = take(held)
    held.write(RECORD, token)
    held.renew(token)
    assert held.read() == RECORD
    held.delete(token)
    held.release(token)
    take(held)
    assert held.break_lock()
    assert everything(api_server, namespace) == set()


@pytest.mark.parametrize(
    ("rights", "message"),
    [
        ({}, "You may not read Lease matcha-lock"),
        ({"leases": "get"}, "You may not create Lease matcha-lock"),
        ({"leases": "get create delete"}, "You may not read ConfigMap matcha-state"),
        ({**ENOUGH, "configmaps": "get"}, "You may not create ConfigMap matcha-state"),
    ],
)
def test_a_missing_right_is_named_and_no_lock_stays(
    api_server: Path, namespace: str, rights: dict[str, str], message: str
) -> None:
    allow(api_server, namespace, "alice", rights)
    with pytest.raises(Forbidden, match=message) as told:
        take(store(as_user(api_server, "alice"), namespace))
    assert '"alice" cannot' in told.value.details
    assert everything(api_server, namespace) == set()


def test_who_may_only_read_reads(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    held.write(RECORD, take(held))
    allow(api_server, namespace, "bob", {"configmaps": "get", "leases": "get"})
    seen = store(as_user(api_server, "bob"), namespace)
    assert seen.read() == RECORD
    assert seen.lock()


def test_a_corrupt_record_is_named_to_who_may_not_keep_it(api_server: Path, namespace: str) -> None:
    cluster(api_server, namespace).create(ConfigMap(metadata=ObjectMeta(name=STATE), data={CONTENT: "{"}))
    allow(api_server, namespace, "bob", {"configmaps": "get"})
    with pytest.raises(StateUnreadable, match="corrupt") as told:
        store(as_user(api_server, "bob"), namespace).read()
    assert "copy" not in told.value.details


def test_a_corrupt_record_that_cannot_be_copied_is_not_set_aside(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    content = {CONTENT: "{"}
    cluster(api_server, namespace).create(ConfigMap(metadata=ObjectMeta(name=STATE), data=content))
    allow(api_server, namespace, "bob", {"configmaps": "get list delete", "leases": "get"})
    bobs = SmallStack(tmp_path, as_user(api_server, "bob"), namespace)
    found = bobs.doctor(fix=True)["record"]
    assert (found.ok, found.fixed) == (False, False)
    assert "could not be copied, and was left as it is. You may not create ConfigMap" in found.message
    assert found.fix.startswith(f"kubectl --namespace {namespace} get configmap {STATE} --output yaml > ")
    left = config_map(api_server, namespace)
    assert left
    assert left.data == content


def test_a_copy_that_somebody_changed_is_none(api_server: Path, namespace: str) -> None:
    admin = cluster(api_server, namespace)
    admin.create(ConfigMap(metadata=ObjectMeta(name=STATE), data={CONTENT: "{"}))
    held = store(api_server, namespace)
    token = take(held)
    with pytest.raises(StateUnreadable):
        held.read()
    held.release(token)
    [copy] = [c for c in admin.found(ConfigMap) if c.metadata.name != STATE]
    admin.patch(ConfigMap, copy.metadata.name, {"data": {CONTENT: "another"}})
    with pytest.raises(MatchaError, match="could not be copied"):
        held.set_aside()
    assert config_map(api_server, namespace)
    admin.delete(ConfigMap, copy.metadata.name)
    held.set_aside()
    assert config_map(api_server, namespace) is None
    assert [c.data for c in admin.found(ConfigMap)] == [{CONTENT: "{"}]


def test_who_may_not_make_the_namespace_is_told_whom_to_ask(api_server: Path, name: str) -> None:
    allow(api_server, "*", "bob", ENOUGH)
    try:
        with pytest.raises(Forbidden, match=f'no namespace "{name}", and you may not make it') as told:
            take(store(as_user(api_server, "bob"), name))
        assert f"kubectl create namespace {name}" in told.value.resolution
    finally:
        allow(api_server, "*", "bob", {})


def test_the_holders_mark_is_the_locks_token(api_server: Path, namespace: str) -> None:
    held = store(api_server, namespace)
    token = take(held)
    found = config_map(api_server, namespace)
    assert found and found.metadata
    assert (found.metadata.annotations or {})[HOLDER] == token
    assert not found.data
    assert held.read() is None
