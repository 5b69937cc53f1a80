"""Several replicas of the real server behind one address: one list, no wrong answer, no request lost."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import Bench, Load, Make, Receiver, body, credit, versions
from serving_malformed import good
from serving_replicas import Spread, deployment, versions_of

from matcha.components.mlserver import MLServer
from matcha.components.mlserver.component import Options
from support.balancing import Balancer, balanced
from support.matcha import until

pytestmark = pytest.mark.stack

SERVER = MLServer(Options())
NONE = 1  # a port that nobody listens on


@pytest.fixture
def address() -> Iterator[Balancer]:
    with balanced(NONE) as made:
        yield made


@pytest.fixture
def pair(make_server: Make, address: Balancer, tmp_path: Path) -> Spread:
    """Two replicas that take requests, with the first version of credit."""
    benches = [make_server(name) for name in ("first", "second")]
    access = Spread(tmp_path / "access", {"model-deployer": address.url}, model_deployer=benches)
    access.write_live(deployment(1))
    for bench in benches:
        bench.env["MATCHA_HOSTS"] = f"127.0.0.1,localhost,127.0.0.1:{address.port}"
        bench.start()
        take(address, bench)
    return access


def take(address: Balancer, bench: Bench) -> None:
    """New connections go to it, too, once it says that it takes requests."""
    until(lambda: ready(bench), 60)
    address.ports = [*(port for port in address.ports if port != NONE), bench.http_port]


def ready(bench: Bench) -> bool:
    try:
        return httpx.get(f"{bench.url}/matcha/ready", timeout=5).is_success
    except httpx.HTTPError:
        return False


def leave(address: Balancer, bench: Bench) -> None:
    """As a cluster ends a pod: no new connections, and a little later the signal."""
    address.ports = [port for port in address.ports if port != bench.http_port]
    time.sleep(0.5)
    bench.running.send_signal(signal.SIGTERM)


def publish(access: Spread, *deployments: Any) -> dict[str, str]:
    return {r.name: r.error for r in SERVER.publish(access, deployments)}


class Through(Load):
    """Load on the address of all."""

    def __init__(self, address: Balancer, clients: int) -> None:
        super().__init__(address, "credit", body(*good()), clients)  # type: ignore[arg-type]


def test_a_new_version_answers_on_every_replica_and_loses_no_request(pair: Spread, address: Balancer) -> None:
    with Through(address, clients=4) as load:
        load.wait_for("1")
        assert publish(pair, deployment(2)) == {"credit": ""}
        done = len(load.answers)
        time.sleep(2)
    assert load.failures() == []
    assert set(versions(load.answers)) == {"1", "2"}
    assert {v for _, v in load.answers[done + 4 :]} == {"2"}, "once it is published nobody gets the old one"
    assert [r.error for r in SERVER.served(pair, (deployment(2),))] == [""]


def test_a_model_that_loads_on_one_replica_alone_is_served_by_none(pair: Spread) -> None:
    first, second = pair.benches["model-deployer"]
    folder, moved = second.root / "models" / "credit", second.root / "moved"
    folder.rename(moved)
    folder.write_text("a file where the copies of the model are kept")
    try:
        said = publish(pair, deployment(2))["credit"]
    finally:
        folder.unlink()
        moved.rename(folder)
    assert said.startswith("On second: ")
    assert "version 1 goes on answering" in said
    assert versions_of(first, second) == ["1", "1"]
    assert publish(pair, deployment(2)) == {"credit": ""}
    assert versions_of(first, second) == ["2", "2"]


def test_a_bad_model_is_tried_by_one_replica(pair: Spread, serving_models: Path) -> None:
    said = publish(pair, deployment(9, uri=str(serving_models / "broken")))["credit"]
    assert said.count("goes on answering") == 1
    first, second = pair.benches["model-deployer"]
    assert versions_of(first, second) == ["1", "1"]
    assert "the weights are gone" in first.log.read_text()
    assert "Traceback" not in second.log.read_text()


def test_a_replica_killed_midway_is_no_failure(pair: Spread) -> None:
    """Its successor has the list from the file."""
    first, second = pair.benches["model-deployer"]
    results: list[dict[str, str]] = []
    telling = threading.Thread(target=lambda: results.append(publish(pair, deployment(2))))
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # its tracker, which never answers
        known = second.env["MLFLOW_TRACKING_URI"]
        second.stop()
        second.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        second.start()
        until(lambda: ready(second), 60)
        telling.start()
        until(lambda: versions_of(first) == ["2"], 60)
        deaf.settimeout(60)
        with deaf.accept()[0]:
            assert telling.is_alive(), "it waits for every replica that is there"
            second.kill()
    telling.join(60)
    assert results == [{"credit": ""}]
    pair.write_live(deployment(2))
    second.env["MLFLOW_TRACKING_URI"] = known
    second.start()
    until(lambda: ready(second), 60)
    assert versions_of(first, second) == ["2", "2"]


def test_replicas_leave_and_come_without_failing_a_request(pair: Spread, address: Balancer) -> None:
    """A rolling update, with clients that keep their connections."""
    first, second = pair.benches["model-deployer"]
    with Through(address, clients=6) as load:
        load.wait_for("1")
        for bench in (first, second):
            leave(address, bench)
            assert bench.running.wait(30) == 0
            bench.start()
            take(address, bench)
            time.sleep(1)
    assert len(load.answers) > 100
    assert load.failures() == []
    assert {v for _, v in load.answers} == {"1"}


def test_a_client_that_pauses_is_answered_while_its_server_leaves(pair: Spread) -> None:
    """Its connection is as it was when it asks next, and ends with that answer."""
    first = pair.benches["model-deployer"][0]
    content = body(*good())
    url = f"{first.url}/v2/models/credit/infer"
    with httpx.Client(timeout=30) as client:
        assert client.post(url, json=content).headers.get("connection") != "close"
        first.running.send_signal(signal.SIGTERM)
        time.sleep(2)
        answer = client.post(url, json=content)
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    began = time.monotonic()
    assert first.running.wait(30) == 0
    assert time.monotonic() - began < 4, "nobody is waited for any more"


def test_a_grpc_client_goes_to_another_replica_without_a_failed_call(
    pair: Spread, serving_python: Path, tmp_path: Path
) -> None:
    """On one channel, whose calls all go to the first while it takes them."""
    first, second = pair.benches["model-deployer"]
    over, addresses = tmp_path / "over", f"127.0.0.1:{first.grpc_port},127.0.0.1:{second.grpc_port}"
    script = Path(__file__).with_name("serving_grpc_steady.py")
    asking = subprocess.Popen(
        [str(serving_python), str(script), addresses, str(over)], stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: grpc_calls(first) > 50, 60)
        first.stop()
        until(lambda: grpc_calls(second) > 50, 60)
    finally:
        over.touch()
        said, _ = asking.communicate(timeout=60)
    assert json.loads(said)["failures"] == []


def grpc_calls(bench: Bench) -> float:
    text = httpx.get(f"http://127.0.0.1:{bench.metrics_port}/metrics", timeout=10).text
    found = re.findall(r'^model_infer_request_success_total\{model="credit".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def test_what_replicas_serve_is_captured_once_each(make_server: Make, tmp_path: Path) -> None:
    receiver = Receiver()
    try:
        benches = [make_server(name, MATCHA_CAPTURE_URL=receiver.url) for name in ("first", "second")]
        for bench in benches:
            bench.start().put(credit(1))
            for _ in range(20):
                assert bench.infer("credit", {**body(*good()), "id": "the same"}).status_code == 200
        benches[0].stop()
        SERVER.flush(Spread(tmp_path / "access", {}, model_deployer=benches))
        lines = receiver.wait(40)
    finally:
        receiver.close()
    assert len(lines) == 40
    assert len({line["by"] for line in lines}) == 2


# A process of its own


def test_a_model_moves_to_a_process_of_its_own_and_back(
    pair: Spread, make_server: Make, address: Balancer
) -> None:
    alone = deployment(2, dedicated=True)
    with balanced(NONE) as own, Through(address, clients=4) as load:
        load.wait_for("1")
        children = [make_server(f"own-{n}", MATCHA_PROCESS="dedicated-credit") for n in (1, 2)]
        pair.benches["dedicated-credit"] = children
        pair.urls["dedicated-credit"] = own.url
        for child in children:
            child.env["MATCHA_HOSTS"] = f"127.0.0.1,127.0.0.1:{own.port}"
            child.start()
            take(own, child)
        assert publish(pair, alone) == {"credit": ""}
        load.wait_for("2")
        assert versions_of(*children) == ["2", "2"]
        assert [r.error for r in SERVER.served(pair, (alone,))] == [""]
        leave(own, children[0])
        assert children[0].running.wait(30) == 0
        assert publish(pair, deployment(3)) == {"credit": ""}
        load.wait_for("3")
        children[1].stop()
        time.sleep(1)
    assert load.failures() == []
    assert set(versions(load.answers)) == {"1", "2", "3"}
