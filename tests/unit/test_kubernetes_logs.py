"""`matcha logs` of pods: what crashed before, what a pod is stuck in, and connections that break."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matcha.api import inspect
from matcha.api._project import Project
from matcha.spec import Stack
from matcha.targets.kubernetes import KubernetesOptions, KubernetesTarget, logs
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Forbidden
from support.logserver import Logs, serving
from support.stores import close_all, known

RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
ENDED: dict[str, Any] = {"terminated": {"exitCode": 1}}
WAITING: dict[str, Any] = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    monkeypatch.setattr(logs, "AGAIN", 0.05)
    with serving() as made:
        yield made
        close_all()


@pytest.fixture
def cluster(server: Logs, tmp_path: Path) -> Cluster:
    options = KubernetesOptions(kubeconfig=str(server.kubeconfig(tmp_path / "kubeconfig")))
    return known(Cluster(options, sleep=lambda _: None))


def container(name: str, state: Any, restarts: int = 0, last: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": restarts,
        "state": state,
        **({"lastState": last} if last else {}),
    }


def shown(cluster: Cluster, name: str = "web", lines: int = 100) -> list[str]:
    return list(logs.pod_lines(cluster, name, lines, follow=False))


# -- which containers ---------------------------------------------------------------------------------------


def test_the_predecessor_that_crashed_is_shown_before_what_runs_now(server: Logs, cluster: Cluster) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING, 1, ENDED)])
    server.of("web-1", "web", previous=True).say(1, "starting", "no database")
    server.of("web-1", "web").say(5, "starting", "ready")
    assert shown(cluster) == ["starting", "no database", "starting", "ready"]
    assert shown(cluster, lines=3) == ["no database", "starting", "ready"]
    assert shown(cluster, lines=1) == ["ready"]


def test_one_that_waits_to_be_started_again_is_shown_once(server: Logs, cluster: Cluster) -> None:
    """The cluster then shows the one that crashed as the log of both."""
    server.pod("web-1", "web", main=[container("web", WAITING, 3, ENDED)])
    server.of("web-1", "web", previous=True).say(1, "no database")
    server.of("web-1", "web").say(1, "no database")
    assert shown(cluster) == ["no database"]


def test_of_a_pod_that_is_stuck_before_its_own_container_that_is_shown(
    server: Logs, cluster: Cluster
) -> None:
    waiting = container("web", {"waiting": {"reason": "PodInitializing"}})
    server.pod("web-1", "web", init=[container("environment", WAITING, 2, ENDED)], main=[waiting])
    server.of("web-1", "environment").say(1, "the archive is not there")
    assert shown(cluster) == ["the archive is not there"]
    done = {"terminated": {"exitCode": 0}}
    server.pod("web-1", "web", init=[container("environment", done)], main=[container("web", RUNNING)])
    server.of("web-1", "web").say(2, "ready")
    assert shown(cluster) == ["ready"]


def test_every_try_of_a_job_is_shown_whatever_its_containers_are_called(
    server: Logs, cluster: Cluster
) -> None:
    done = {"terminated": {"exitCode": 0}}
    server.pod(
        "dump-2", "mysql-dump", init=[container("dump", done)], main=[container("upload", ENDED)], made=2
    )
    server.pod("dump-1", "mysql-dump", init=[container("dump", ENDED)], main=[container("upload", WAITING)])
    server.of("dump-1", "dump").say(1, "access denied")
    server.of("dump-2", "upload").say(9, "no such bucket")
    assert shown(cluster, "mysql-dump") == ["access denied", "no such bucket"]


def test_lines_are_shown_as_they_were_written(server: Logs, cluster: Cluster) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING)])
    server.of("web-1", "web").say(1, "", "  indented", "2026-01-01T00:00:00Z its own time")
    assert shown(cluster) == ["", "  indented", "2026-01-01T00:00:00Z its own time"]


# -- following ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(20)
def test_all_lines_come_through_connections_that_break_again_and_again(
    server: Logs, cluster: Cluster
) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING)])
    found = logs.pod_lines(cluster, "web", 100, follow=True)
    log = server.of("web-1", "web")
    log.say(1, "first")
    assert next(found) == "first"
    wanted = [f"{second}-{n}" for second in range(2, 30) for n in range(3)]
    server.cut = [1, 0, 1, 4, 2, 5, 3, 7, 1, 6] * 3
    for second in range(2, 30):
        log.say(second, *(f"{second}-{n}" for n in range(2)))
        log.say(second, f"{second}-2", billionth=5)
    assert list(itertools.islice(found, len(wanted))) == wanted
    assert len(server.cut) < 30


@pytest.mark.timeout(20)
def test_no_old_lines_are_wanted(server: Logs, cluster: Cluster) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING)])
    log = server.of("web-1", "web")
    log.say(1, "old", "older")
    found = logs.pod_lines(cluster, "web", 0, follow=True)
    threading.Timer(0.3, log.say, (2, "new")).start()
    assert next(found) == "new"
    server.pod("web-2", "web", main=[container("web", RUNNING)], made=5)
    server.of("web-2", "web").say(9, "of the new pod", "from its first line on")
    log.over = True
    assert [next(found), next(found)] == ["of the new pod", "from its first line on"]


@pytest.mark.timeout(20)
def test_what_a_container_said_before_it_crashed_comes_though_the_connection_broke(
    server: Logs, cluster: Cluster
) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING)])
    log = server.of("web-1", "web")
    log.say(1, "a")
    found = logs.pod_lines(cluster, "web", 100, follow=True)
    assert next(found) == "a"
    server.cut = [0]
    server.logs["web-1", "web", True] = log
    server.logs.pop(("web-1", "web", False))
    new = server.of("web-1", "web")
    new.say(5, "started again")
    server.pod("web-1", "web", main=[container("web", RUNNING, 1, ENDED)])
    log.say(2, "no database")
    assert [next(found), next(found)] == ["no database", "started again"]


@pytest.mark.timeout(20)
def test_a_cluster_that_is_gone_ends_it_with_a_reason(server: Logs, cluster: Cluster) -> None:
    server.pod("web-1", "web", main=[container("web", RUNNING)])
    server.of("web-1", "web").say(1, "a", "b")
    found = logs.pod_lines(cluster, "web", 100, follow=True)
    assert next(found) == "a"
    server.over.set()
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(ClusterError, match="The cluster does not answer"):
        list(found)


@pytest.mark.timeout(20)
def test_one_of_several_that_may_not_be_read_is_told(server: Logs, cluster: Cluster, tmp_path: Path) -> None:
    for name in ("web", "other"):
        server.pod(f"{name}-1", name, main=[container(name, RUNNING)])
        server.of(f"{name}-1", name).say(1, "a")
    server.refuse = 403
    options = KubernetesOptions(kubeconfig=str(tmp_path / "kubeconfig"))
    target = KubernetesTarget(tmp_path, options)
    known(target._cluster)
    stack = Stack(name="s", target="kubernetes", target_is_written=True, components={}, targets={}, models={})
    with pytest.raises(Forbidden, match="You may not read the log"):
        next(inspect._interleaved(Project(tmp_path, stack, target), ["web", "other"], 10))


# -- several replicas ---------------------------------------------------------------------------------------


def replica(server: Logs, name: str, revision: str = "new", made: int = 0) -> None:
    server.pod(name, "web", main=[container("web", RUNNING)], made=made)
    server.pods[-1]["metadata"]["labels"]["pod-template-hash"] = revision


def test_lines_of_replicas_stand_by_their_times_each_with_whose_it_is(server: Logs, cluster: Cluster) -> None:
    for name in ("web-7d-aa", "web-7d-bb"):
        replica(server, name)
    server.of("web-7d-aa", "web").say(1, "first")
    server.of("web-7d-bb", "web").say(2, "second")
    server.of("web-7d-aa", "web").say(3, "third", "and its second line")
    assert shown(cluster) == ["[aa] first", "[bb] second", "[aa] third", "[aa] and its second line"]
    assert shown(cluster, lines=1) == ["[bb] second", "[aa] and its second line"]


def test_a_pod_and_its_successor_are_no_replicas(server: Logs, cluster: Cluster) -> None:
    replica(server, "web-7d-aa", "old")
    replica(server, "web-8e-bb", "new", made=5)
    server.of("web-7d-aa", "web").say(2, "old")
    server.of("web-8e-bb", "web").say(1, "new")
    assert shown(cluster) == ["old", "new"]


@pytest.mark.timeout(30)
def test_all_replicas_are_followed_and_those_that_come_later(
    server: Logs, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "JOINING", 0.1)
    replica(server, "web-7d-aa")
    first = server.of("web-7d-aa", "web")
    first.say(1, "old", "older")
    found = logs.pod_lines(cluster, "web", 1, follow=True)
    assert next(found) == "older"  # alone, it needs no name
    second = server.of("web-7d-bb", "web")
    second.say(2, "hello")
    replica(server, "web-7d-bb", made=3)
    assert next(found) == "[bb] hello"
    first.say(4, "both")
    assert next(found) == "[aa] both"
    second.over = True
    server.pods = [p for p in server.pods if p["metadata"]["name"] != "web-7d-bb"]
    said: list[str] = []
    for number in range(5, 59):
        first.say(number, f"line {number}")
        said.append(next(found))
        if said[-1].startswith("line"):
            break
        threading.Event().wait(0.1)
    assert said[-1] == f"line {4 + len(said)}", "one is left, and needs no name again"


@pytest.mark.timeout(20)
def test_a_replica_that_may_not_be_read_ends_it_with_the_reason(server: Logs, cluster: Cluster) -> None:
    replica(server, "web-7d-aa")
    server.of("web-7d-aa", "web").say(1, "a")
    server.refuse = 403
    with pytest.raises(Forbidden, match="You may not read the log"):
        next(logs.pod_lines(cluster, "web", 10, follow=True))
