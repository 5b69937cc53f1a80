"""The record and the lock where answers are lost, servers are busy and requests arrive late."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.core_v1 import Namespace

from matcha.errors import Locked
from matcha.host.leases import LEASE
from matcha.targets.kubernetes.cluster import TRIES, ClusterError
from matcha.targets.kubernetes.names import STATE
from matcha.targets.kubernetes.store import ClusterStore
from support.faults import Fault, FaultyProxy, faulty
from support.stores import RECORD, Clock, cluster, elsewhere, everything, lease, store, take

LEASES, RECORDS = "/leases", "/configmaps"
MADE = f"{RECORDS}/{STATE}"
FAULTS: dict[str, dict[str, Any]] = {
    "busy": {"status": 429, "retry_after": 1},
    "broken": {"status": 500},
    "broken but done": {"status": 500, "after": True},
    "not there yet": {"status": 503},
    "request lost": {},
    "answer lost": {"after": True},
    "every answer lost": {"after": True, "times": 1000},
}
any_fault = pytest.mark.parametrize("how", FAULTS)


class Way:
    """A store that reaches the API through a faulty proxy, never sleeping."""

    def __init__(self, proxy: FaultyProxy, kubeconfig: Path, namespace: str) -> None:
        self.proxy = proxy
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.pauses: list[float] = []
        self.faults: list[Fault] = []

    def store(self, **more: Any) -> ClusterStore:
        through = cluster(self.kubeconfig, self.namespace, sleep=self.pauses.append)
        return ClusterStore(through, **more)

    def fail(self, method: str, part: str, how: str) -> None:
        self.faults.append(self.proxy.add(Fault(method, part, **FAULTS[how])))


@pytest.fixture
def way(api_server: Path, namespace: str, tmp_path: Path) -> Iterator[Way]:
    with faulty(api_server, tmp_path) as (proxy, kubeconfig):
        made = Way(proxy, kubeconfig, namespace)
        yield made
        assert all(fault.came.is_set() for fault in made.faults)


@any_fault
@pytest.mark.parametrize("part", [LEASES, RECORDS])
def test_a_lock_is_taken_once_whatever_happens_on_the_way(
    api_server: Path, way: Way, part: str, how: str
) -> None:
    way.fail("POST", part, how)
    held = way.store()
    token = take(held)
    found = lease(api_server, way.namespace)
    assert found and found.metadata and found.spec
    assert (found.metadata.annotations or {})["matcha-ml/token"] == token
    assert found.spec.leaseTransitions == 0
    held.write(RECORD, token)
    with pytest.raises(Locked):
        take(store(api_server, way.namespace))
    held.release(token)
    assert everything(api_server, way.namespace) == {STATE}


@any_fault
def test_a_write_is_neither_lost_nor_undone(api_server: Path, way: Way, how: str) -> None:
    held = way.store()
    token = take(held)
    way.fail("PUT", MADE, how)
    held.write(RECORD, token)
    assert store(api_server, way.namespace).read() == RECORD
    held.write(RECORD.next(), token)
    assert store(api_server, way.namespace).read() == RECORD.next()


@any_fault
def test_a_claim_over_a_record_keeps_it(api_server: Path, way: Way, how: str) -> None:
    first = store(api_server, way.namespace)
    token = take(first)
    first.write(RECORD, token)
    first.release(token)
    way.fail("PUT", MADE, how)
    held = way.store()
    token = take(held)
    assert held.read() == RECORD
    held.write(RECORD.next(), token)
    assert held.read() == RECORD.next()


@any_fault
def test_a_renewal_renews(api_server: Path, way: Way, how: str) -> None:
    timer = Clock()
    held, other = way.store(), elsewhere(api_server, way.namespace, timer)
    token = take(held)
    with pytest.raises(Locked):
        take(other)
    timer.now += LEASE
    way.fail("PUT", LEASES, how)
    held.renew(token)
    with pytest.raises(Locked, match="Somebody else"):
        take(other)
    held.write(RECORD, token)


@any_fault
def test_a_record_is_deleted_and_the_lock_released(api_server: Path, way: Way, how: str) -> None:
    held = way.store()
    token = take(held)
    held.write(RECORD, token)
    way.fail("DELETE", MADE, how)
    held.delete(token)
    way.fail("DELETE", LEASES, how)
    held.release(token)
    assert everything(api_server, way.namespace) == set()


@any_fault
def test_the_namespace_is_made_whatever_happens_on_the_way(api_server: Path, way: Way, how: str) -> None:
    name = way.namespace = f"{way.namespace}-new"
    way.fail("POST", "/api/v1/namespaces?", how)
    held = way.store()
    held.write(RECORD, take(held))
    assert store(api_server, name).read() == RECORD
    cluster(api_server, name).delete(Namespace, name)


def test_a_busy_server_says_how_long_to_wait(way: Way) -> None:
    way.proxy.add(Fault("PUT", MADE, times=2, status=429, retry_after=7))
    held = way.store()
    held.write(RECORD, take(held))
    assert way.pauses == [7.0, 7.0]


def test_a_server_that_stays_broken_is_named_and_the_lock_is_free(api_server: Path, way: Way) -> None:
    way.proxy.add(Fault("POST", RECORDS, times=TRIES, status=500, message="etcd is ill"))
    with pytest.raises(ClusterError, match="refused to create ConfigMap") as told:
        take(way.store())
    assert "etcd is ill" in told.value.details
    assert take(store(api_server, way.namespace))


def test_a_cluster_that_is_away_lets_a_run_end(api_server: Path, way: Way) -> None:
    held = way.store()
    token = take(held)
    held.write(RECORD, token)
    for method in ("GET", "PUT", "DELETE"):
        way.proxy.add(Fault(method, times=1000))
    with pytest.raises(ClusterError, match="does not answer"):
        held.write(RECORD.next(), token)
    held.release(token)
    assert store(api_server, way.namespace).read() == RECORD
    assert lease(api_server, way.namespace) is not None


@pytest.mark.parametrize("verb", ["write", "delete"])
def test_what_was_long_on_its_way_changes_nothing(api_server: Path, way: Way, verb: str) -> None:
    timer = Clock()
    first, second = way.store(), elsewhere(api_server, way.namespace, timer)
    old = take(first)
    first.write(RECORD, old)
    with pytest.raises(Locked):
        take(second)
    late = way.proxy.add(Fault("PUT" if verb == "write" else "DELETE", MADE, hold=True))
    with ThreadPoolExecutor(1) as pool:
        asked = (
            pool.submit(first.write, RECORD.next(), old)
            if verb == "write"
            else pool.submit(first.delete, old)
        )
        assert late.came.wait(60)
        timer.now += LEASE
        new = take(second)
        late.let_go.set()
        with pytest.raises(Locked, match="lost the stack's lock"):
            asked.result(60)
    assert second.read() == RECORD
    second.write(RECORD.next().next(), new)
    assert second.read() == RECORD.next().next()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_claim_that_comes_too_late_disturbs_nobody(api_server: Path, way: Way, method: str) -> None:
    asleep, timer = Clock(), Clock()
    first, second = way.store(timer=asleep), elsewhere(api_server, way.namespace, timer)
    late = way.proxy.add(Fault(method, RECORDS, hold=True))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(take, first)
        assert late.came.wait(60)
        with pytest.raises(Locked):
            take(second)
        timer.now += LEASE
        asleep.now += LEASE
        new = take(second)
        late.let_go.set()
        with pytest.raises(Locked, match="lost the stack's lock"):
            asked.result(60)
    second.write(RECORD, new)
    assert second.read() == RECORD
    assert second.lock()


def test_a_fence_asks_the_cluster_only_when_half_the_lease_is_over(api_server: Path, way: Way) -> None:
    timer = Clock()
    held = way.store(timer=timer)
    with pytest.raises(Locked):
        held.fence()
    token = take(held)
    asked = len(way.proxy.requests)
    timer.now += LEASE / 2 - 1
    held.fence()
    assert len(way.proxy.requests) == asked
    timer.now += 1
    held.fence()
    assert [m for m, _ in way.proxy.requests[asked:]] == ["PUT"]
    held.fence()
    assert len(way.proxy.requests) == asked + 1
    timer.now += LEASE
    way.proxy.add(Fault("PUT", LEASES, status=500))
    held.fence()
    assert store(api_server, way.namespace).break_lock()
    with pytest.raises(Locked):
        held.renew(token)
    with pytest.raises(Locked):
        held.fence()
    held.release(token)
    with pytest.raises(Locked):
        held.fence()


def test_a_fence_is_not_passed_by_a_renewal_that_took_too_long(way: Way) -> None:
    timer = Clock()
    slow = cluster(way.kubeconfig, way.namespace, sleep=timer.sleep)
    held = ClusterStore(slow, timer=timer)
    take(held)
    timer.now += LEASE
    way.proxy.add(Fault("PUT", LEASES, times=TRIES - 1, status=429, retry_after=20))
    held.fence()
    assert way.proxy.count("PUT", LEASES) == TRIES + 1  # the one that was late, and one in time


def test_how_many_calls_a_run_costs(way: Way) -> None:
    held = way.store()
    token = take(held)
    held.write(RECORD, token)
    held.write(RECORD.next(), token)
    held.read()
    held.release(token)
    assert [m for m, _ in way.proxy.requests] == ["GET", "POST", "GET", "POST", "PUT", "PUT", "GET", "DELETE"]
