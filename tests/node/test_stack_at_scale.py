"""Models on several replicas of real pods, asked without a pause from inside of the cluster.

One stack for all; the tests stand in the order of its life, and each leaves it serving.
"""

from __future__ import annotations

import json
import random
import time

import pytest

from support.matcha import until
from support.scaled import NAME, PATIENCE, Scaled
from support.steady import Told, settled, steady

BATCH = 500  # rows that a replica holds at most before it hands them on
NOTICED = 5.0  # seconds until everybody knows that a pod is gone: its node, the API, the node's own rules


def well(told: Told, *factors: int) -> None:
    """Not one failed, and none was wrong."""
    assert told.failed == []
    assert told.wrong == []
    assert set(told.answered) == set(factors)


def test_replicas_run_and_are_told_of(scaled: Scaled) -> None:
    scaled.whole(2)
    shown = scaled.shown()
    assert shown["healthy"] and shown["replicas"] == [2, 2]
    lines = scaled.matcha("logs", "model-deployer", "--lines", "3").stdout
    for pod in scaled.ready():
        assert f"[{pod.rpartition('-')[2]}]" in lines


def test_nothing_fails_while_pods_are_rolled_evicted_and_models_redeployed(scaled: Scaled) -> None:
    before = scaled.rows()
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 5)
        scaled.provision(load=601)  # which changes every pod
        scaled.whole(2)
        assert asking.told().failed == [], "rolled"
        gone = scaled.ready()[0]
        scaled.evict(gone)
        until(lambda: gone not in [p["metadata"]["name"] for p in scaled.pods()], PATIENCE)
        scaled.whole(2)
        assert asking.told().failed == [], "evicted"
        scaled.deploy(2)
        settled(asking, 3)
        now = asking.told().answered
        settled(asking, 3)
        assert asking.told().answered[1] == now[1], "only the new version answers"
        told = asking.stop()
    well(told, 1, 2)
    assert scaled.captured(before + told.sum) == before + told.sum, "of all replicas, in one place"


def test_a_killed_replica_takes_only_what_was_under_way_on_it(scaled: Scaled) -> None:
    before = scaled.rows()
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 5)
        killed = scaled.ready()[0]
        at = scaled.kill(killed)
        until(lambda: killed not in scaled.ready(), 60)
        scaled.whole(2)
        settled(asking, 3)
        told = asking.stop()
    assert told.wrong == [] and set(told.answered) == {2}
    assert all(f.is_of(at, NOTICED) for f in told.failed), told.failed
    assert len(told.failed) <= 4 * NOTICED / 0.1
    print("failed on the killed replica:", len(told.failed), [f.why for f in told.failed])
    rows = scaled.captured(before + told.sum - BATCH) - before
    assert told.sum - BATCH <= rows <= told.sum + len(told.failed)


def test_replicas_come_with_the_load_and_go_without(scaled: Scaled) -> None:
    scaled.provision(least=1, most=3, target=60)
    # An administrator may look more often than Matcha asks for; nothing else is changed for the test.
    quick = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}}}
    scaled.matcha.kubectl("patch", "hpa", "mlserver", "--type=merge", f"--patch={json.dumps(quick)}")
    with steady(scaled.matcha, NAME, threads=2, pause=0.2) as asking:
        until(lambda: len(scaled.ready()) == 1, 300, every=2)
        with steady(scaled.matcha, NAME, "busy", threads=8, pause=0.0) as busy:
            until(lambda: len(scaled.ready()) >= 2, PATIENCE, every=2)
            settled(busy, 10)
            loaded = busy.stop()
        until(lambda: len(scaled.ready()) == len(scaled.pods()) == 1, 420, every=2)
        settled(asking, 5)
        told = asking.stop()
    well(told, 2)
    well(loaded, 2)
    assert scaled.matcha.json("plan")["steps"] == [] or "HorizontalPodAutoscaler" in str(
        scaled.matcha.json("plan")
    )
    scaled.provision(least=2, most=2)
    scaled.whole(2)


def test_a_model_gets_a_process_of_its_own_and_back_without_a_failed_request(scaled: Scaled) -> None:
    scaled.deploy(2)
    with steady(scaled.matcha, NAME) as asking:
        settled(asking, 3)
        scaled.deploy(3, "--dedicated")
        service = f"dedicated-{NAME}"
        scaled.whole(2, service)
        settled(asking, 3)
        now = asking.told().answered
        gone = scaled.ready(service)[0]
        scaled.evict(gone)
        until(lambda: gone not in [p["metadata"]["name"] for p in scaled.pods(service)], PATIENCE)
        scaled.whole(2, service)
        assert asking.told().answered[2] == now[2] and asking.told().failed == []
        scaled.deploy(1)
        until(lambda: scaled.pods(service) == [], PATIENCE, every=1)
        settled(asking, 3)
        told = asking.stop()
    well(told, 1, 2, 3)


@pytest.mark.sweep
@pytest.mark.parametrize("seconds", [75, 600])
def test_a_steady_load_through_whatever_happens(scaled: Scaled, seconds: int) -> None:
    """Kills, rolls, drains and redeploys in any order: what fails is what a kill took, and no more."""
    chance = random.Random(seconds)
    before, kills, version, load = scaled.rows(), list[float](), 1, scaled.options["load"]
    scaled.deploy(version)
    with steady(scaled.matcha, NAME) as asking:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            what = chance.choice(["kill", "roll", "evict", "redeploy"])
            if what == "kill":
                kills.append(scaled.kill(chance.choice(scaled.ready())))
            elif what == "evict":
                scaled.evict(chance.choice(scaled.ready()))
            elif what == "roll":
                load += 1
                scaled.provision(load=load)
            else:
                version = version % 3 + 1
                scaled.deploy(version)
            time.sleep(2)
            scaled.whole(2)
        told = asking.stop()
    assert told.wrong == []
    unexplained = [
        f for f in told.failed if not any(at <= f.ended and f.began <= at + NOTICED for at in kills)
    ]
    assert unexplained == [], (unexplained, kills)
    rows = scaled.captured(before + told.sum - BATCH * len(kills)) - before
    assert told.sum - BATCH * len(kills) <= rows <= told.sum + len(told.failed)
    print(
        f"{told.sum} answers, {len(told.failed)} failed at {len(kills)} kills, slowest {told.slowest:.2f} s"
    )
