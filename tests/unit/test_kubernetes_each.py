"""Forwards to every pod of a service: real sockets, and a peer that speaks the API server's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha.access import ReplicatedAccess, replicas
from matcha.errors import MatchaError, NotProvisioned
from matcha.service import Environment, Scale
from matcha.state import State
from matcha.targets.kubernetes import KubernetesOptions
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.forward import each as forwards
from matcha.targets.kubernetes.forward.each import each
from matcha.targets.kubernetes.here import Here
from matcha.targets.kubernetes.refusals import ClusterError
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import setting
from support.plain import web
from support.podserver import Pods, serving

PORT = 8080


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def options(tmp_path: Path, pods: Pods) -> KubernetesOptions:
    kubeconfig = pods.kubeconfig(tmp_path / "kubeconfig", {"token": pods.token})
    return KubernetesOptions(kubeconfig=str(kubeconfig), namespace="ns")


def named(name: str) -> Any:
    async def answer(reader: Any, writer: Any) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the end
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode())
                await writer.drain()

    return answer


def ask(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_each_pod_that_runs_is_reached_by_itself(pods: Pods, options: KubernetesOptions) -> None:
    pods.put("web-1", "web", {PORT: pods.listen(named("one"))})
    pods.put("web-2", "web", {PORT: pods.listen(named("two"))}, ready=False)
    pods.put("web-3", "web", {PORT: pods.listen(named("three"))}, ending=True)
    pods.put("other-1", "other", {PORT: pods.listen(named("other"))})
    pods.put("web-4", "web", {PORT: pods.listen(named("four"))})
    pods._pods["web-4"]["status"]["phase"] = "Pending"
    before = threading.active_count()
    with each(options, "web", PORT) as found:
        assert {name: ask(address) for name, address in found.items()} == {"web-1": "one", "web-2": "two"}
        with ThreadPoolExecutor(20) as pool:
            told = list(pool.map(ask, [found["web-1"], found["web-2"]] * 20))
        assert told == ["one", "two"] * 20
    assert threading.active_count() <= before
    for address in found.values():
        with pytest.raises(OSError):
            ask(address)
    deadline = time.monotonic() + 10
    while pods.forwards:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pod_that_goes_ends_what_is_connected_and_takes_nothing_more(
    pods: Pods, options: KubernetesOptions
) -> None:
    begun = threading.Event()

    async def reset(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        writer.transport.abort()

    pods.put("web-1", "web", {PORT: pods.listen(named("one"))})
    pods.put("web-2", "web", {PORT: pods.listen(reset)})
    with each(options, "web", PORT) as found:
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(found["web-2"])
        assert begun.is_set()
        pods.drop("web-2")
        began = time.monotonic()
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(found["web-2"])
        assert time.monotonic() - began < 5, "no other pod is waited for"
        assert ask(found["web-1"]) == "one"


def test_what_a_pod_does_not_listen_on_is_an_error_at_once(pods: Pods, options: KubernetesOptions) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        pods.put("web-1", "web", {PORT: closed.getsockname()[1]}, ready=False)
        began = time.monotonic()
        with each(options, "web", PORT) as found, pytest.raises((OSError, http.client.HTTPException)):
            ask(found["web-1"])
        assert time.monotonic() - began < 5


def test_a_cluster_that_does_not_answer_is_not_waited_for_long(
    tmp_path: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "LOOK", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        kubeconfig = pods.kubeconfig(tmp_path / "silent", {"token": pods.token})
        kubeconfig.write_text(kubeconfig.read_text().replace(str(pods.port), str(silent.getsockname()[1])))
        options = KubernetesOptions(kubeconfig=str(kubeconfig), namespace="ns")
        began = time.monotonic()
        with pytest.raises(ClusterError, match="which pods of web run") as told, each(options, "web", PORT):
            pass
        assert told.value.details == "It did not answer in time."
        assert time.monotonic() - began < 5


def test_who_may_not_list_pods_is_told(pods: Pods, options: KubernetesOptions) -> None:
    pods.refuse["pods"] = 403
    with pytest.raises(ClusterError, match="which pods of web run"), each(options, "web", PORT):
        pass


class Once(dict[str, int]):
    """What is refused one time."""

    def get(self, key: str, default: Any = None) -> Any:
        return self.pop(key, default)


def test_a_cluster_that_is_busy_at_the_moment_is_asked_again(pods: Pods, options: KubernetesOptions) -> None:
    """Or a deploy would fail by it, with all its models loaded."""
    pods.put("web-1", "web", {PORT: pods.listen(named("one"))})
    for status in (429, 503):
        pods.refuse = Once(pods=status)
        with each(options, "web", PORT) as found:
            assert list(found) == ["web-1"]
        assert not pods.refuse


# -- as components see it -----------------------------------------------------------------------------------


def test_a_role_has_as_many_addresses_as_replicas(
    tmp_path: Path, pods: Pods, options: KubernetesOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = msgspec.structs.replace(web("web", "server", PORT), scale=Scale(min=2, max=4))
    once = web("once", "other", 8090)
    (tmp_path / "lock").touch()
    environment = Environment(name="plain", lock=tmp_path / "lock", image="i")
    found = setting(options, [several, once], [environment])
    state = State(stack_id="abc", stack="default", target="kubernetes")
    here = Here(tmp_path, options)
    monkeypatch.setattr(here, "_forwards", lambda *_: {"once/http": 1234, "web/http": 1235})
    access = here.access(state, found, Secrets(Cluster(options)))
    assert isinstance(access, ReplicatedAccess)
    pods.put("web-1", "web", {PORT: pods.listen(named("one"))})
    pods.put("web-2", "web", {PORT: pods.listen(named("two"))})
    with replicas(access, "server") as addresses:
        said = {name: ask(url.removeprefix("http://")) for name, url in addresses.items()}
    assert said == {"web-1": "one", "web-2": "two"}
    with replicas(access, "other") as addresses:
        assert addresses == {"once": "http://127.0.0.1:1234"}
    with pytest.raises(NotProvisioned), replicas(access, "nobody"):
        pass
    stopped = here.access(msgspec.structs.replace(state, phase="stopped"), found, Secrets(Cluster(options)))
    with pytest.raises(MatchaError, match="The stack is stopped"), replicas(stopped, "server"):
        pass
