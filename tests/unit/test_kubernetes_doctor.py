"""`matcha doctor` where there is no way to a cluster: that is when it is asked."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from matcha import api
from matcha.api.types import Finding
from matcha.errors import MatchaError
from matcha.targets.kubernetes import cluster as cluster_module
from matcha.targets.kubernetes import doctor
from support.pages import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster_module, "TRIES", 2)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "matcha.yaml").write_text("target: kubernetes\n")
    return folder


def ill(findings: Sequence[Finding]) -> dict[str, Finding]:
    found = {f.check: f for f in findings if not f.ok}
    assert not [f for f in found.values() if not f.fix or f.fix.startswith("matcha doctor")]
    return found


def test_a_kubeconfig_that_is_not_there_is_a_finding(project: Path) -> None:
    found = api.doctor(project)
    assert {"cluster", "client libraries"} <= {f.check for f in found}
    assert "There is no usable kubeconfig" in ill(found)["cluster"].message
    assert ill(found)["cluster"].fix.startswith("Mend it, or name another by KUBECONFIG")


def test_a_server_that_does_not_answer_is_a_finding(project: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{closed.getsockname()[1]}"
        kubeconfig = {
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        }
        (project.parent / "kubeconfig").write_text(json.dumps(kubeconfig))
        found = ill(api.doctor(project))
    assert f"The cluster does not answer ({server})" in found["cluster"].message
    assert f"{server} can be reached from here" in found["cluster"].fix


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, list[object]]]:
    """The address of a server whose certificate nobody knows, and who came."""
    made = tmp_path / "tls"
    made.mkdir()
    key, own = str(made / "key.pem"), str(made / "cert.pem")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key)
    subject = ("-out", own, "-subj", "/CN=other", "-addext", "subjectAltName=DNS:other")
    subprocess.run((*command, *subject), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    came: list[object] = []

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                connection, who = listening.accept()
                came.append(who)
                with connection, contextlib.suppress(OSError):
                    context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}", came
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize(
    ("known", "reason", "remedy"),
    [
        (False, "self-signed certificate", "as certificate-authority-data"),
        (True, "IP address", "tls-server-name"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_told_at_once(
    project: Path, stranger: tuple[str, list[object]], known: bool, reason: str, remedy: str
) -> None:
    server, came = stranger
    own = project.parent / "tls" / "cert.pem"
    cluster = {"server": server, **({"certificate-authority": str(own)} if known else {})}
    kubeconfig = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    (project.parent / "kubeconfig").write_text(json.dumps(kubeconfig))
    with pytest.raises(MatchaError) as told:
        api.plan(project)
    assert len(came) == 1
    assert told.value.message.startswith(f"The certificate of {server} is not trusted: ")
    assert reason in told.value.message
    assert "certificate-authority" in told.value.details and remedy in told.value.resolution
    found = ill(api.doctor(project))["cluster"]
    assert found.message.startswith(told.value.message) and found.fix == told.value.resolution


def test_what_versions_are_said_to_be_tested_are_those() -> None:
    """By the schemas of the manifests' tests, and by the programs of the cluster that tests run on."""
    schemas = (ROOT / "tests" / "unit" / "test_kubernetes_render.py").read_text()
    assert f"VERSIONS = {doctor.CHECKED!r}".replace("'", '"') in schemas
    built = (ROOT / "tests" / "e2e" / "cluster" / "go" / "go.mod").read_text()
    assert re.findall(r"k8s\.io/kubernetes v(\d+\.\d+)", built) == [doctor.RUN_ON]
    page = " ".join((ROOT / "docs" / "kubernetes.md").read_text().split())
    *first, last = doctor.CHECKED
    assert f"tested on Kubernetes {doctor.RUN_ON}" in page
    assert f"checked against {', '.join(first)} and {last}" in page
