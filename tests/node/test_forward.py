"""Port-forwards to a real pod, through a real API server, kubelet and container runtime."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from matcha.targets.kubernetes import names
from matcha.targets.kubernetes.links import Links
from matcha.targets.kubernetes.options import KubernetesOptions
from support.cluster import ClusterMatcha

pytestmark = pytest.mark.turn(1)

PATIENCE = 120.0
HTTP, ECHO = 8000, 7000

# Serves its name at /name and zeros at /SIZE, counts what is posted, and echoes on another port.
SERVER = """
import asyncio, http.server, os, signal, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name = self.path[1:]
        left = 0 if name == "name" else int(name)
        body = os.environ["HOSTNAME"].encode() if name == "name" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(left or len(body)))
        self.end_headers()
        self.wfile.write(body)
        while left > 0:
            left -= self.wfile.write(bytes(min(left, 1 << 20)))
    def do_POST(self):
        left = size = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        body = str(size).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
async def main():
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.start_server(echo, "0.0.0.0", 7000)
    await stop.wait()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def web(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """kubectl in a `restricted` namespace with a Deployment `web`."""
    namespace = f"matcha-forward-{secrets.token_hex(3)}"
    folder = tmp_path_factory.mktemp("forward")
    (folder / "project").mkdir()
    user = ClusterMatcha(folder / "project", folder / "home", kubeconfig, namespace)
    user.kubectl("create", "namespace", namespace)
    try:
        label = "pod-security.kubernetes.io/enforce=restricted"
        user.kubectl("label", "namespace", namespace, label)
        user.kubectl("apply", "--filename=-", stdin=json.dumps(_deployment()))
        user.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
        yield user.kubectl
    finally:
        user.kubectl("delete", "namespace", namespace, "--wait=false", code=None)


def _deployment() -> dict[str, Any]:
    labels = names.selector("web")
    container = {
        "name": "web",
        "image": KubernetesOptions().image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-u", "-c", SERVER],
        "readinessProbe": {"httpGet": {"port": HTTP, "path": "/name"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": security,
        "containers": [container],
    }
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


@pytest.fixture
def links(
    web: Callable[..., str], kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Links]:
    for name, folder in {"HOME": "h", "XDG_DATA_HOME": "h/data", "MATCHA_CACHE_DIR": "h/cache"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    namespace = web("get", "deployments", "--output=jsonpath={.items[0].metadata.namespace}")
    found = Links("node-test", KubernetesOptions(kubeconfig=str(kubeconfig), namespace=namespace))
    yield found
    found.remove()
    assert found.leftovers() == []


@pytest.fixture
def ports(links: Links) -> dict[str, int]:
    return links.ensure({"web/http": HTTP, "web/echo": ECHO})


def get(port: int, path: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def said(link: socket.socket, data: bytes) -> bytes:
    link.sendall(data)
    return link.recv(len(data), socket.MSG_WAITALL)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def memory(links: Links) -> int:
    pid = links._supervisor().programs()["forward"].pid
    return int(psutil.Process(pid).memory_info().rss)


def test_requests_reach_the_pod_also_many_at_once(ports: dict[str, int]) -> None:
    name = get(ports["web/http"], "/name")
    assert name.startswith(b"web-")
    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(lambda _: get(ports["web/http"], "/name"), range(50))) == {name}


def test_much_data_takes_little_memory(links: Links, ports: dict[str, int]) -> None:
    assert len(get(ports["web/http"], "/1000000")) == 1_000_000
    before = memory(links)
    connection = HTTPConnection("127.0.0.1", ports["web/http"], timeout=PATIENCE)
    connection.request("GET", "/200000000")
    answer, got, found = connection.getresponse(), 0, hashlib.sha256()
    while data := answer.read(1 << 20):
        got += len(data)
        found.update(data)
    assert (got, found.digest()) == (200_000_000, hashlib.sha256(bytes(200_000_000)).digest())
    connection.request("POST", "/", body=bytes(50_000_000))
    assert connection.getresponse().read() == b"50000000"
    connection.close()
    assert memory(links) - before < 15_000_000


def test_a_client_that_has_said_all_still_gets_its_answer(ports: dict[str, int]) -> None:
    with connect(ports["web/http"]) as link:
        link.sendall(b"GET /name HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while data := link.recv(65536):
            answer += data
    assert b"\r\n\r\nweb-" in answer


def test_a_pod_that_is_deleted_gives_way_to_the_next(web: Callable[..., str], ports: dict[str, int]) -> None:
    before = get(ports["web/http"], "/name")
    with connect(ports["web/echo"]) as link:
        assert said(link, b"x") == b"x"
        web("delete", "pod", before.decode(), "--grace-period=0", "--force")
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(1) == b""
    after = get(ports["web/http"], "/name")
    assert after not in (b"", before)


def test_a_container_that_dies_is_waited_for(web: Callable[..., str], ports: dict[str, int]) -> None:
    name = get(ports["web/http"], "/name")
    with connect(ports["web/echo"]) as link:
        assert said(link, b"x") == b"x"
        end = "import os, signal; os.kill(1, signal.SIGTERM)"
        web("exec", name.decode(), "--", "python", "-c", end, code=None)
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(1) == b""
    assert get(ports["web/http"], "/name") == name, "the same pod, with a new container"


def test_the_role_for_users_is_enough(web: Callable[..., str], links: Links, tmp_path: Path) -> None:
    """`get` and `create` of port-forwards, `list` and `watch` of pods: the first is asked for up to
    Kubernetes 1.34, both after.
    """
    web("create", "serviceaccount", "user")
    pods = "--resource=pods/portforward", "--verb=get,create"
    web("create", "role", "forwards", *pods)
    web("create", "role", "pods", "--resource=pods", "--verb=list,watch")
    namespace = links._options.namespace
    for role in ("forwards", "pods"):
        web("create", "rolebinding", role, f"--role={role}", f"--serviceaccount={namespace}:user")
    known = json.loads(web("config", "view", "--raw", "--minify", "--output=json"))
    known["users"][0]["user"] = {"token": web("create", "token", "user").strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(known))
    mine = Links("node-user", KubernetesOptions(kubeconfig=str(tmp_path / "kubeconfig"), namespace=namespace))
    try:
        assert get(mine.ensure({"web/http": HTTP})["web/http"], "/name").startswith(b"web-")
    finally:
        mine.remove()
