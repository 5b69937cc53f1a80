"""Port-forwards: a real forwarder process, real sockets, and a peer that speaks the API server's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from matcha.errors import BadInput
from matcha.host.ports import is_free
from matcha.host.probe import ask
from matcha.state import State
from matcha.targets.kubernetes import doctor, forwarding
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.forward import tunnel
from matcha.targets.kubernetes.forward.api import Api
from matcha.targets.kubernetes.forward.config import Config, Forward, mark
from matcha.targets.kubernetes.forward.log import EVERY, Log, told
from matcha.targets.kubernetes.forward.pods import Pods as Watched
from matcha.targets.kubernetes.links import Links, plugin_environment, strays
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.store import ClusterStore
from support.podserver import Pods, serving

PATIENCE = 60.0  # seconds; the machine may be busy
ECHO, BIG, ASK, SLOW = 7, 8, 9, 10  # ports in the pods


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with serving(tmp_path) as found:
        yield found


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Big:
    """Sends as many bytes as a line asks for, then closes. `sent` counts."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(await reader.readline())
        piece = os.urandom(65536)
        while left > 0:
            writer.write(piece[:left])
            self.sent += min(left, len(piece))
            left -= len(piece)
            await writer.drain()


class Running:
    """A forwarder in a process of its own."""

    def __init__(self, folder: Path, kubeconfig: Path, ports: dict[str, int]) -> None:
        forwards = tuple(
            Forward(key=key, service=key.partition("/")[0], port=port, preferred=port, local=free_port())
            for key, port in ports.items()
        )
        self.config = Config(
            kubeconfig=str(kubeconfig),
            context="here",
            namespace="ns",
            health=free_port(),
            environment=str(folder / "plugin.json"),
            forwards=forwards,
        )
        self.path = folder / "forward.json"
        self.path.write_bytes(msgspec.json.encode(self.config))
        self.mark = mark(self.path.read_bytes())
        self._log = (folder / "log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "matcha.targets.kubernetes.forward", str(self.path)],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        wait(lambda: self.answer("/") == "")

    def answer(self, path: str) -> str:
        return ask(f"http://127.0.0.1:{self.config.health}{path}", 5.0)

    def connect(self, key: str) -> socket.socket:
        port = next(f.local for f in self.config.forwards if f.key == key)
        return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def close(self) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            self.process.kill()
            self._log.close()


@pytest.fixture
def forwarder(tmp_path: Path, pods: Pods) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(user: dict[str, Any] | None = None, **ports: int) -> Running:
        path = pods.kubeconfig(tmp_path / "kubeconfig", user or {"token": pods.token})
        running.append(Running(tmp_path, path, {f"app/{name}": port for name, port in ports.items()}))
        return running[-1]

    yield start
    for one in running:
        one.close()


def free_port() -> int:
    """Below those that the system gives to connections, which would take it again."""
    while not is_free(port := random.randrange(15000, 30000)):
        pass
    return port


def wait(done: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def said(link: socket.socket, data: bytes) -> bytes:
    """Sends `data` and returns as much of what comes back."""
    link.sendall(data)
    return received(link, len(data))


def received(link: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (data := link.recv(1 << 16)):
        found += data
    return found


def rest(link: socket.socket) -> bytes:
    found = b""
    while data := link.recv(1 << 16):
        found += data
    return found


# -- bytes ---------------------------------------------------------------------------------------------


def test_bytes_go_both_ways_at_once(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    data = os.urandom(12_000_000)
    with forwarder(echo=ECHO).connect("app/echo") as link:
        sender = threading.Thread(target=link.sendall, args=(data,))
        sender.start()
        back = received(link, len(data))
        sender.join()
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


def test_fifty_connections_at_once(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder(echo=ECHO)

    def talk(number: int) -> None:
        with running.connect("app/echo") as link:
            for turn in range(3):
                data = f"{number}-{turn};".encode() * 5000
                assert said(link, data) == data

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(talk, range(50)))
    wait(lambda: pods.forwards == 0)
    assert len([c for c in pods.calls if "watch=" in c]) == 1


def test_a_client_that_has_said_all_still_gets_its_answer(
    pods: Pods, forwarder: Callable[..., Running]
) -> None:
    answer = threading.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        while not answer.is_set():
            await asyncio.sleep(0.02)
        writer.write(b"the answer")

    pods.put("app-1", "app", {ASK: pods.listen(late)})
    with forwarder(ask=ASK).connect("app/ask") as link:
        link.sendall(b"a question\n")
        link.shutdown(socket.SHUT_WR)
        wait(lambda: pods.forwards == 1)
        time.sleep(3)  # longer than the forwarder takes to see that a client is gone
        answer.set()
        assert rest(link) == b"the answer"


def test_a_client_that_leaves_takes_its_connection_to_the_pod_with_it(
    pods: Pods, forwarder: Callable[..., Running]
) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder(echo=ECHO)
    with running.connect("app/echo") as link:
        assert said(link, b"x") == b"x"
        assert pods.forwards == 1
    wait(lambda: pods.forwards == 0, 10 if sys.platform == "linux" else 100)


def test_what_breaks_in_the_middle_is_not_taken_for_the_end(
    pods: Pods, forwarder: Callable[..., Running]
) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"half")
        await writer.drain()
        reset(writer)

    pods.put("app-1", "app", {ASK: pods.listen(half), ECHO: pods.listen(echo)})
    running = forwarder(ask=ASK, echo=ECHO)
    with running.connect("app/ask") as link, pytest.raises(ConnectionResetError):
        link.sendall(b"go\n")
        rest(link)
    with running.connect("app/echo") as link, pytest.raises(ConnectionResetError):
        assert said(link, b"half") == b"half"
        pods.down()
        rest(link)
    pods.up()


def reset(writer: asyncio.StreamWriter) -> None:
    link = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


def test_a_large_download_takes_no_more_memory_than_a_small_one(
    pods: Pods, forwarder: Callable[..., Running]
) -> None:
    big = Big()
    pods.put("app-1", "app", {BIG: pods.listen(big)})
    running = forwarder(big=BIG)
    with running.connect("app/big") as link:
        link.sendall(b"1000000\n")
        assert len(rest(link)) == 1_000_000
    before, size = running.memory(), 200_000_000
    with running.connect("app/big") as link:
        link.sendall(f"{size}\n".encode())
        # Nobody reads: everything on the way fills up, and no more than that is sent.
        seen = -1
        while seen != big.sent:
            seen = big.sent
            time.sleep(0.5)
        assert big.sent < size / 4
        assert running.memory() - before < 10_000_000
        got = 0
        while data := link.recv(1 << 20):
            got += len(data)
        assert got == size
    assert running.memory() - before < 10_000_000


def test_a_pod_that_does_not_read_stops_its_client(pods: Pods, forwarder: Callable[..., Running]) -> None:
    go = threading.Event()
    total = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal total
        while not go.is_set():
            await asyncio.sleep(0.02)
        while data := await reader.read(1 << 16):
            total += len(data)

    pods.put("app-1", "app", {SLOW: pods.listen(slow)})
    running = forwarder(slow=SLOW)
    size = 60_000_000
    with running.connect("app/slow") as link:
        link.settimeout(1.0)
        sent, piece = 0, memoryview(bytes(1 << 16))
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += link.send(piece)
        assert sent < size / 2
        assert running.memory() < 100_000_000
        go.set()
        link.settimeout(PATIENCE)
        link.sendall(bytes(size - sent))
        wait(lambda: total == size)


# -- pods ----------------------------------------------------------------------------------------------


def test_the_next_connection_goes_to_the_new_pod(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ASK: pods.listen(saying(b"old"))})
    running = forwarder(ask=ASK)
    with running.connect("app/ask") as first, running.connect("app/ask") as second:
        assert said(first, b"?..") == said(second, b"?..") == b"old"
        pods.put("app-2", "app", {ASK: pods.listen(saying(b"new"))}, ready=False)
        pods.drop("app-1")
        with pytest.raises(ConnectionResetError):
            rest(first)
        with pytest.raises(ConnectionResetError):
            rest(second)
    with running.connect("app/ask") as link:
        link.sendall(b"?..")
        link.settimeout(0.5)
        with pytest.raises(TimeoutError):
            link.recv(1)  # it waits for the pod
        link.settimeout(PATIENCE)
        pods.put("app-2", "app", {ASK: pods.listen(saying(b"new"))})
        assert received(link, 3) == b"new"
    assert "the pod is gone" in running.log()


def saying(word: bytes) -> Callable[..., Any]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(word)
            await writer.drain()

    return handler


def test_a_pod_that_is_ending_gets_no_new_connection(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ASK: pods.listen(saying(b"old"))})
    running = forwarder(ask=ASK)
    with running.connect("app/ask") as kept:
        assert said(kept, b"?..") == b"old"
        pods.put("app-2", "app", {ASK: pods.listen(saying(b"new"))})
        pods.put("app-1", "app", {ASK: free_port()}, ending=True)
        wait(lambda: ask_once(running) == b"new")
        assert [ask_once(running) for _ in range(3)] == [b"new"] * 3
        assert said(kept, b"?..") == b"old"


def ask_once(running: Running) -> bytes:
    with running.connect("app/ask") as link:
        return said(link, b"?..")


def test_connections_spread_over_a_service_s_pods(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ASK: pods.listen(saying(b"one"))})
    pods.put("app-2", "app", {ASK: pods.listen(saying(b"two"))})
    pods.put("other", "another", {ASK: pods.listen(saying(b"bad"))})
    running = forwarder(ask=ASK)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(running.connect("app/ask")) for _ in range(4)]
        assert sorted(said(link, b"?..") for link in links) == [b"one", b"one", b"two", b"two"]


def test_connections_one_after_the_other_take_turns(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ASK: pods.listen(saying(b"one"))})
    pods.put("app-2", "app", {ASK: pods.listen(saying(b"two"))})
    running = forwarder(ask=ASK)
    asked = []
    for _ in range(6):
        asked.append(ask_once(running))
        wait(lambda: pods.forwards == 0)
    assert sorted(asked) == [b"one"] * 3 + [b"two"] * 3


def test_what_a_pod_refused_is_said_again(pods: Pods, forwarder: Callable[..., Running]) -> None:
    """A container that just died is ready for a moment longer."""
    pods.put("app-1", "app", {ASK: free_port()})
    running = forwarder(ask=ASK)
    with running.connect("app/ask") as link:
        link.sendall(b"abc")
        wait(lambda: "refused" in running.log())
        pods.put("app-1", "app", {ASK: pods.listen(echo)})
        assert received(link, 3) == b"abc"
    assert "app/ask: works again" in running.log()


def test_an_idle_forwarder_asks_nothing(pods: Pods, forwarder: Callable[..., Running]) -> None:
    forwarder(echo=ECHO)
    assert pods.calls == []


# -- the cluster ---------------------------------------------------------------------------------------


def test_a_cluster_that_goes_and_comes_back(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder(echo=ECHO)
    with running.connect("app/echo") as link:
        assert said(link, b"before") == b"before"
        pods.down()
        with pytest.raises(ConnectionResetError):
            rest(link)
    with running.connect("app/echo") as link:
        link.sendall(b"after")
        wait(lambda: "the cluster: ConnectError" in running.log())
        pods.up()
        assert received(link, 5) == b"after"
    assert "the cluster: works again" in running.log()


def test_who_signs_in_anew_does_so_once(
    tmp_path: Path, pods: Pods, forwarder: Callable[..., Running]
) -> None:
    """The token of the kubeconfig's credential plugin expires under many connections at once."""
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    (tmp_path / "token").write_text(pods.token)
    (tmp_path / "plugin.json").write_text(json.dumps({"PLUGIN_TOKEN_FILE": str(tmp_path / "token")}))
    running = forwarder({"exec": plugin(tmp_path)}, echo=ECHO)
    with running.connect("app/echo") as link:
        assert said(link, b"x") == b"x"
    pods.token = "second-SECRET"
    (tmp_path / "token").write_text(pods.token)

    def talk(_: int) -> bytes:
        with running.connect("app/echo") as link:
            return said(link, b"hello")

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(talk, range(20))) == {b"hello"}
    assert (tmp_path / "runs").read_text() == "..", "one run for each token"
    assert "SECRET" not in running.log()


def plugin(folder: Path) -> dict[str, Any]:
    script = folder / "plugin"
    script.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(f"""\
            import json, os, time
            open({str(folder / "runs")!r}, "a").write(".")
            open({str(folder / "seen")!r}, "w").write(json.dumps(dict(os.environ)))
            time.sleep(0.3)
            token = open(os.environ["PLUGIN_TOKEN_FILE"]).read()
            print(json.dumps({{"kind": "ExecCredential", "status": {{"token": token}}}}))
            """)
    )
    script.chmod(0o700)
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}


def test_a_plugin_that_fails_is_told_of_and_tried_again(
    tmp_path: Path, pods: Pods, forwarder: Callable[..., Running]
) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder({"exec": plugin(tmp_path)}, echo=ECHO)
    with running.connect("app/echo") as link:
        link.sendall(b"hello")
        wait(lambda: "cannot sign in" in running.log())
        (tmp_path / "token").write_text(pods.token)
        (tmp_path / "plugin.json").write_text(json.dumps({"PLUGIN_TOKEN_FILE": str(tmp_path / "token")}))
        assert received(link, 5) == b"hello"


def test_a_plugin_runs_without_what_the_user_no_longer_has(
    tmp_path: Path, pods: Pods, forwarder: Callable[..., Running]
) -> None:
    """Credentials that expired would otherwise stay in the forwarder's own environment."""
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    (tmp_path / "token").write_text(pods.token)
    given = {"PLUGIN_TOKEN_FILE": str(tmp_path / "token")}
    (tmp_path / "plugin.json").write_text(json.dumps({**given, "AWS_ACCESS_KEY_ID": "old"}))
    running = forwarder({"exec": plugin(tmp_path)}, echo=ECHO)
    with running.connect("app/echo") as link:
        assert said(link, b"x") == b"x"
    assert "AWS_ACCESS_KEY_ID" in json.loads((tmp_path / "seen").read_text())
    pods.token = "second"
    (tmp_path / "token").write_text(pods.token)
    (tmp_path / "plugin.json").write_text(json.dumps(given))
    with running.connect("app/echo") as link:
        assert said(link, b"x") == b"x"
    assert "AWS_ACCESS_KEY_ID" not in json.loads((tmp_path / "seen").read_text())


def test_a_watch_that_is_ending_is_none(pods: Pods, tmp_path: Path) -> None:
    """Who comes in the moment in which it is cancelled, and not over, has one of their own."""
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    path = pods.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})

    async def two_in_a_row() -> str:
        watched = Watched(api(path), "ns", ["app"], Log(lambda _: None))
        async with watched.watched():
            await asyncio.wait_for(watched.take("app"), PATIENCE)
        watched._end_if_idle()  # what the timer does after a minute
        async with watched.watched():
            found = await asyncio.wait_for(watched.take("app"), 10)
        watched.close()
        return found.name

    assert asyncio.run(two_in_a_row()) == "app-1"


def api(kubeconfig: Path) -> Api:
    return Api(
        Config(
            kubeconfig=str(kubeconfig), context="here", namespace="ns", health=0, environment="", forwards=()
        )
    )


def test_a_cluster_behind_another_name(tmp_path: Path) -> None:
    """Its certificate is for the kubeconfig's `tls-server-name`, as through a tunnel."""
    with serving(tmp_path, "kube.internal") as pods:
        pods.put("app-1", "app", {ECHO: pods.listen(echo)})
        name = {"tls-server-name": "kube.internal"}
        path = pods.kubeconfig(tmp_path / "kubeconfig", {"token": pods.token}, **name)
        running = Running(tmp_path, path, {"app/echo": ECHO})
        try:
            with running.connect("app/echo") as link:
                assert said(link, b"x") == b"x"
        finally:
            running.close()


def test_a_kubeconfig_that_changes_is_read_anew(
    tmp_path: Path, pods: Pods, forwarder: Callable[..., Running]
) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder(echo=ECHO)
    with running.connect("app/echo") as kept:
        assert said(kept, b"x") == b"x"
        pods.token = "second"
        pods.kubeconfig(tmp_path / "kubeconfig", {"token": "second"})
        with running.connect("app/echo") as link:
            assert said(link, b"hello") == b"hello"
        assert said(kept, b"y") == b"y"


@pytest.mark.parametrize(("last", "what"), [("pods", "403"), ("portforward", "403"), ("pods", "401")])
def test_what_the_cluster_forbids_ends_at_once(
    last: str, what: str, pods: Pods, forwarder: Callable[..., Running]
) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    pods.refuse = {last: int(what)}
    running = forwarder({"token": "first-SECRET" if what == "401" else "first"}, echo=ECHO)
    for _ in range(5):
        with running.connect("app/echo") as link, pytest.raises(ConnectionResetError):
            rest(link)
    lines = [line for line in running.log().splitlines() if "app/echo: " in line]
    assert len(lines) == 1 and f"refused by the test: {what} ({what})" in lines[0]
    assert "SECRET" not in running.log()
    pods.refuse, pods.token = {}, "first-SECRET" if what == "401" else "first"
    with running.connect("app/echo") as link:
        assert said(link, b"hello") == b"hello"


# -- the process ---------------------------------------------------------------------------------------


def test_a_port_that_another_program_has_is_waited_for(pods: Pods, tmp_path: Path) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    path = pods.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        patched = pytest.MonkeyPatch.context()
        monkeypatch = stack.enter_context(patched)
        ports = iter([other.getsockname()[1], free_port(), free_port()])
        monkeypatch.setattr(f"{__name__}.free_port", lambda: next(ports))
        running = Running(tmp_path, path, {"app/taken": ECHO, "app/echo": ECHO})
        stack.callback(running.close)
        assert running.answer(f"/{running.mark}") == "answers 503"
        assert "another program has it" in running.log()
        with running.connect("app/echo") as link:
            assert said(link, b"x") == b"x"
        other.close()
        wait(lambda: running.answer(f"/{running.mark}") == "")
        assert running.answer("/another") == "answers 503"
        with running.connect("app/taken") as link:
            assert said(link, b"x") == b"x"


def test_it_ends_when_asked_whatever_is_open(pods: Pods, forwarder: Callable[..., Running]) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})
    running = forwarder(echo=ECHO)
    with running.connect("app/echo") as link:
        assert said(link, b"x") == b"x"
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0
        with pytest.raises(ConnectionResetError):
            rest(link)
    assert "Traceback" not in running.log()


def test_the_same_trouble_is_told_once_a_minute() -> None:
    lines: list[str] = []
    now = [0.0]
    log = Log(lines.append, lambda: now[0])
    for _ in range(10):
        log.trouble("a", "bad\nnews")
    log.trouble("b", "other")
    assert [line[20:] for line in lines] == ["a: bad news\n", "b: other\n"]
    now[0] = EVERY
    log.trouble("a", "bad")
    assert lines[-1].endswith("a: bad (9 times more since the last line)\n")
    for _ in range(3):
        log.well("a")
        log.trouble("a", "bad")
    assert [line[20:] for line in lines[3:]] == ["a: works again\n"]
    group = RuntimeError("a group")
    group.exceptions = [OSError("inner")]  # type: ignore[attr-defined]
    assert told(group) == "OSError: inner"


# -- a connection that says nothing --------------------------------------------------------------------


class Proxy:
    """Before the API server; where it is `deaf` it swallows what the client sends."""

    def __init__(self, port: int) -> None:
        self.deaf = False
        self._port = port

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
            while data := await source.read(65536):
                if not (up and self.deaf):
                    sink.write(data)

        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(copy(reader, up_writer, True)),
                    asyncio.ensure_future(copy(up_reader, writer, False)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            up_writer.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "PING", 0.05)
    monkeypatch.setattr(tunnel, "PONG", 0.5)


def through(pods: Pods, folder: Path, talk: Callable[[tunnel.Tunnel, Proxy], Any]) -> None:
    """`talk` over a tunnel in this process, through a proxy."""
    proxy = Proxy(pods.port)
    server = {"server": f"https://127.0.0.1:{pods.listen(proxy)}"}
    path = pods.kubeconfig(folder / "kubeconfig", {"token": pods.token}, **server)
    config = Config(
        kubeconfig=str(path), context="here", namespace="ns", health=0, environment="", forwards=()
    )

    async def main() -> None:
        async with tunnel.opened(Api(config), "ns", "app-1", ECHO) as found:
            await asyncio.wait_for(talk(found, proxy), PATIENCE)

    asyncio.run(main())


def test_a_silent_end_is_noticed(pods: Pods, tmp_path: Path, quick: None) -> None:
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})

    async def talk(link: tunnel.Tunnel, proxy: Proxy) -> None:
        keeping = asyncio.ensure_future(link.keep())
        await link.send(b"x")
        assert await link.receive() == b"x"
        reading = asyncio.ensure_future(link.receive())
        await asyncio.sleep(1.0)
        assert not keeping.done()  # it answers
        proxy.deaf = True
        with pytest.raises(tunnel.Broken, match="no sign of the other end"):
            await keeping
        reading.cancel()

    through(pods, tmp_path, talk)


def test_an_end_that_cannot_answer_is_not_judged(pods: Pods, tmp_path: Path, quick: None) -> None:
    """Its answers wait behind data that nobody takes, here or there."""
    pods.put("app-1", "app", {ECHO: pods.listen(echo)})

    async def talk(link: tunnel.Tunnel, proxy: Proxy) -> None:
        keeping = asyncio.ensure_future(link.keep())
        proxy.deaf = True
        await asyncio.sleep(1.0)
        assert not keeping.done()  # nobody reads here
        for _ in range(2):
            await link.send(bytes(64 * 1024))
        reading = asyncio.ensure_future(link.receive())
        await asyncio.sleep(1.0)
        assert not keeping.done()  # much is on its way there
        for task in (keeping, reading):
            task.cancel()

    through(pods, tmp_path, talk)


# -- links ---------------------------------------------------------------------------------------------

WANTED = {"app/http": free_port(), "app/grpc": free_port()}
ONE = {"app/http": WANTED["app/http"]}


@pytest.fixture
def machine(
    tmp_path: Path, user_folders: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A user with a kubeconfig and, behind it, an echo server as service `app`."""
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(user_folders / "cache"))
    monkeypatch.setenv("KUBECONFIG", str(pods.kubeconfig(tmp_path / "kubeconfig", {"token": "first"})))
    backend = pods.listen(echo)
    pods.put("app-1", "app", defaultdict(lambda: backend))
    yield user_folders
    links().remove()
    assert links().leftovers() == []
    assert not (user_folders / "data" / "matcha").exists()
    assert not list((user_folders / "cache").iterdir())


def links(**ports: int) -> Links:
    options = KubernetesOptions(ports={k.replace("_", "/"): v for k, v in ports.items()})
    return Links("stack-1", options)


def works(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as link:
        return said(link, b"hello") == b"hello"


def pid_of(found: Links) -> int:
    return found._supervisor().programs()["forward"].pid


def test_links_are_made_once_and_taken_away(machine: Path) -> None:
    found = links()
    assert found.ports() == {}
    ports = found.ensure(WANTED)
    assert set(ports) == {"app/http", "app/grpc"} and all(map(works, ports.values()))
    pid = pid_of(found)
    assert links().ensure(WANTED) == ports == links().ports()
    assert pid_of(found) == pid
    assert found.home.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in found.home.glob("*.json"))
    found.stop()
    assert found.ports() == ports and not psutil.pid_exists(pid)
    assert links().ensure(WANTED) == ports
    fewer = links().ensure({"app/grpc": WANTED["app/grpc"]})
    assert fewer == {"app/grpc": ports["app/grpc"]} and works(fewer["app/grpc"])
    found.remove()
    assert found.leftovers() == [] and found.ports() == {}


def test_ports_come_and_go_and_the_others_notice_nothing(machine: Path, pods: Pods) -> None:
    """As those of a dedicated model, which one user deploys and another does not know of yet."""
    found = links()
    port = found.ensure(ONE)["app/http"]
    pid = pid_of(found)
    backend = pods.listen(echo)
    pods.put("more-1", "more", defaultdict(lambda: backend))
    more = ONE | {"more/http": free_port(), "app/grpc": WANTED["app/grpc"]}
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as held:
        assert said(held, b"before") == b"before"
        for _ in range(3):
            ports = links().ensure(more)
            assert ports["app/http"] == port and all(map(works, ports.values()))
            with socket.create_connection(("127.0.0.1", ports["more/http"]), timeout=PATIENCE) as leaving:
                assert said(leaving, b"hello") == b"hello"
                assert links().ensure(ONE) == {"app/http": port}
                assert said(leaving, b"again") == b"again"  # it is left to end
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", ports["more/http"]), timeout=PATIENCE)
        assert said(held, b"after") == b"after"
    assert pid_of(found) == pid
    os.kill(pid, signal.SIGKILL)
    links().ensure(more)  # what comes anew has them as well
    assert all(map(works, links().ports().values()))


def test_the_doctor_tries_every_forward(machine: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "PROBE_SECONDS", 1.0)

    def found(phase: str = "ready", *, fix: bool = False) -> doctor.Finding:
        state = State(stack_id="stack-1", stack="s", target="kubernetes", phase=phase)  # type: ignore[arg-type]
        options = KubernetesOptions()
        made = Cluster(options)
        patient = doctor.Patient(cluster=made, store=ClusterStore(made), options=options, state=state)
        [said] = [doctor._mended(f) if fix and not f.ok else f for f in doctor.CHECKS["forwards"](patient)]
        return said

    ports = links().ensure(WANTED)
    log = str(links().log)
    assert found().ok and f"app/http on {ports['app/http']}" in found().message and log in found().message
    assert Path(log).exists()
    pods.drop("app-1")
    wait(lambda: not found().ok)
    assert "app/grpc on" in found().message and "no answer in 1 s" in found().message
    assert log in found().message and found().fix == "matcha status"
    links().stop()
    assert not found().ok and "do not work: nothing listens" in found().message
    assert found("stopped").ok
    assert found(fix=True).fixed and found().fix == "matcha status"


def test_forwards_to_a_stack_that_is_gone_are_found(machine: Path) -> None:
    found = links()
    port = found.ensure(ONE)["app/http"]
    here = KubernetesOptions()
    assert strays(here, keep="stack-1") == []
    assert strays(KubernetesOptions(namespace="another"), keep="") == []
    [stray] = strays(here, keep="stack-2")
    assert stray.home == found.home and works(port)
    stray.remove()
    assert found.leftovers() == [] and strays(here, keep="") == []


def test_another_data_folder_has_forwards_of_its_own(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of another account with the same cluster and, as in containers, the same user number."""
    ours = links().ensure(ONE)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_DATA_HOME", str(machine / "else/data"))
        elsewhere.setenv("MATCHA_CACHE_DIR", str(machine / "else/cache"))
        theirs = links()
        assert works(theirs.ensure(ONE)["app/http"])
        assert theirs.ports() != ours
        theirs.remove()
        assert theirs.leftovers() == []
    assert works(ours["app/http"])


def test_a_port_is_the_preferred_one_or_the_one_that_was_asked_for(machine: Path) -> None:
    preferred, chosen, other = free_port(), free_port(), free_port()
    wanted = {"app/http": preferred, "app/grpc": other}
    assert links().ensure(wanted) == wanted
    assert links(app=chosen).ensure(wanted) == {"app/http": chosen, "app/grpc": other}
    assert links(app=chosen, app_grpc=preferred).ensure(wanted) == {
        "app/http": chosen,
        "app/grpc": preferred,
    }
    assert links().ensure(wanted) == wanted


def test_a_port_that_is_taken_meanwhile_is_given_up(machine: Path) -> None:
    wanted = {"app/http": free_port()}
    assert links().ensure(wanted) == wanted
    links().stop()
    with socket.create_server(("127.0.0.1", wanted["app/http"])):
        ports = links().ensure(wanted)
        assert ports != wanted and works(ports["app/http"])
    assert links().ensure(wanted) == ports, "it stays where it is"


@pytest.mark.parametrize("what", ["forwarder", "supervisor", "hang", "files", "all"])
def test_whatever_was_killed_is_mended(what: str, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = links()
    ports = found.ensure(ONE)
    pid = pid_of(found)
    daemon = int((found.home / "supervisor" / "supervisord.pid").read_text())
    if what in ("forwarder", "all"):
        os.kill(pid, signal.SIGKILL)
    if what in ("supervisor", "all"):
        os.kill(daemon, signal.SIGKILL)
    if what == "hang":
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr("matcha.targets.kubernetes.links.HANG_SECONDS", 1.0)
        wait(lambda: found._supervisor().programs()["forward"].uptime > 1)
    if what in ("files", "all"):
        (found.home / "note.json").unlink()
        (found.home / "forward.json").write_text("{")
    again = links().ensure(ONE)
    assert works(again["app/http"])
    assert what in ("files", "all") or again == ports
    assert len(found._supervisor().survivors()) == 3, "supervisor, its listener, the forwarder"


def test_commands_at_once_make_one_forwarder(machine: Path) -> None:
    code = (
        "from matcha.targets.kubernetes.links import Links\n"
        "from matcha.targets.kubernetes.options import KubernetesOptions\n"
        f"print(Links('stack-1', KubernetesOptions()).ensure({ONE}))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = {process.communicate(timeout=PATIENCE)[0] for process in running}
    assert len(said) == 1 and "app/http" in said.pop()
    assert len(links()._supervisor().survivors()) == 3


def test_a_run_that_is_killed_leaves_nothing_that_the_next_cannot_mend(machine: Path) -> None:
    code = (
        "from matcha.targets.kubernetes.links import Links\n"
        "from matcha.targets.kubernetes.options import KubernetesOptions\n"
        f"Links('stack-1', KubernetesOptions()).ensure({ONE})"
    )
    for delay in (0.3, 0.6, 1.0, 1.5):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        process.kill()
        process.wait()
    assert works(links().ensure(ONE)["app/http"])
    assert len(links()._supervisor().survivors()) == 3


def test_the_context_that_was_meant_stays(machine: Path, tmp_path: Path) -> None:
    """Another current context must not move the forwards of a stack to another cluster unasked."""
    found = links()
    found.ensure(ONE)
    path = tmp_path / "kubeconfig"
    known = json.loads(path.read_text())
    known["contexts"].append({"name": "there", "context": {"cluster": "c", "user": "u"}})
    path.write_text(json.dumps(known | {"current-context": "there"}))
    config = msgspec.json.decode((found.home / "forward.json").read_bytes(), type=Config)
    assert (config.context, config.kubeconfig) == ("here", str(path))
    links().ensure(ONE)
    config = msgspec.json.decode((found.home / "forward.json").read_bytes(), type=Config)
    assert config.context == "there", "a command that means another context says so to the forwarder"


def test_credential_plugins_get_their_part_of_the_environment() -> None:
    user = {"AWS_PROFILE": "me", "KUBECONFIG": "k", "SECRET": "s", "AZURE_CONFIG_DIR": "a"}
    mine = {k: v for k, v in user.items() if k != "SECRET"}
    assert plugin_environment(user, {}) == mine
    store = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_ACCESS_KEY_ID": "of the store"}
    assert plugin_environment({**user, **store}, {}) == mine


def test_a_shell_without_a_provider_s_variables_leaves_those_of_the_last_that_had_some() -> None:
    kept = {"AWS_ACCESS_KEY_ID": "old", "AWS_SESSION_TOKEN": "old", "AZURE_CONFIG_DIR": "a"}
    plain = {"XDG_RUNTIME_DIR": "/run/user/0", "KUBECONFIG": "k"}  # as in almost every shell
    assert plugin_environment(plain, kept) == {**kept, **plain}
    signed_in = {**plain, "AWS_PROFILE": "me"}
    assert plugin_environment(signed_in, kept) == {**signed_in, "AZURE_CONFIG_DIR": "a"}


@pytest.mark.parametrize("name", ["../x", "", "a/b", "."])
def test_a_stack_s_id_that_would_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        Links(name, KubernetesOptions())
