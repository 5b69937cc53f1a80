"""One kubeconfig of several files, read as kubectl reads them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lightkube.config.models import User
from ruamel.yaml import YAML

from matcha.errors import BadInput
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.kubeconfig import load_config
from matcha.targets.kubernetes.kubefiles import DEFAULT, kubefiles, stamp
from matcha.targets.kubernetes.options import KubernetesOptions


def write(path: Path, **about: Any) -> Path:
    """`about`: clusters, contexts and users by name, and the current context."""
    current = about.pop("current", "")
    lists = {
        f"{kind}s": [{"name": name, kind: entry} for name, entry in about.get(kind, {}).items()]
        for kind in ("cluster", "context", "user")
        if kind in about
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    YAML().dump({"apiVersion": "v1", "kind": "Config", "current-context": current, **lists}, path)
    return path


def several(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, paths)))


def test_the_parts_of_a_context_may_stand_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = write(tmp_path / "a/config", context={"work": {"cluster": "east", "user": "ada"}})
    cluster = {"server": "https://east", "certificate-authority": "ca.pem"}
    clusters = write(tmp_path / "b/config", current="work", cluster={"east": cluster})
    user = {"client-certificate": "keys/ada.pem", "client-key": "/keys/ada.key", "tokenFile": "token"}
    users = write(tmp_path / "c/config", user={"ada": user})
    several(monkeypatch, contexts, tmp_path / "not-there", clusters, users)
    found = load_config(KubernetesOptions())
    assert found.user
    assert (found.context_name, found.cluster.server) == ("work", "https://east")
    assert found.cluster.certificate_auth == str(tmp_path / "b/ca.pem")
    assert found.user.client_cert == str(tmp_path / "c/keys/ada.pem")
    assert (found.user.client_key, found.user.token_file) == ("/keys/ada.key", str(tmp_path / "c/token"))


def test_the_first_file_that_names_a_thing_has_its_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"cluster": {"east": {"server": "https://first"}}, "user": {"ada": {"token": "one"}}}
    theirs = {
        "cluster": {"east": {"server": "https://second", "certificate-authority": "x"}},
        "user": {"ada": {"token": "two"}},
    }
    context = {"work": {"cluster": "east", "user": "ada"}, "play": {"cluster": "east"}}
    first = write(tmp_path / "first", **ours)
    second = write(tmp_path / "second", **theirs, context=context, current="work")
    third = write(tmp_path / "third", current="play")
    several(monkeypatch, first, second, third)
    found = load_config(KubernetesOptions())
    assert found.user
    assert (found.context_name, found.cluster.server, found.user.token) == ("work", "https://first", "one")
    assert found.cluster.certificate_auth is None
    several(monkeypatch, third, second, first)
    found = load_config(KubernetesOptions())
    assert (found.context_name, found.cluster.server, found.user) == ("play", "https://second", User())
    assert load_config(KubernetesOptions(context="work")).context_name == "work"


def test_a_plugin_beside_the_file_is_found(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/login"}
    file = write(
        tmp_path / "config",
        current="work",
        cluster={"east": {"server": "https://east"}},
        user={"ada": {"exec": plugin}},
        context={"work": {"cluster": "east", "user": "ada"}},
    )
    found = load_config(KubernetesOptions(kubeconfig=str(file)))
    assert found.user
    assert found.user.exec
    assert found.user.exec.command == str(tmp_path / "bin/login")


class Answering(ThreadingHTTPServer):
    """Takes every request, as an API server or a proxy would; `asked` and `signed` are what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str] = []
        self.signed: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.signed.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"major": "1"}')

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[Answering]:
    server = Answering()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def only(path: Path, cluster: dict[str, str], **context: str) -> Cluster:
    """The cluster of a kubeconfig that has no other."""
    file = write(path, current="c", cluster={"c": cluster}, context={"c": {"cluster": "c", **context}})
    return Cluster(KubernetesOptions(kubeconfig=str(file)))


def test_a_cluster_is_reached_through_its_proxy(tmp_path: Path, answering: Answering) -> None:
    cluster = {"server": "http://cluster.invalid:6443", "proxy-url": answering.url}
    assert only(tmp_path / "config", cluster).ask("/version") == {"major": "1"}
    assert answering.asked == ["http://cluster.invalid:6443/version"]


def test_a_proxy_that_is_of_no_use_is_named(tmp_path: Path) -> None:
    cluster = {"server": "https://cluster", "proxy-url": "socks5://127.0.0.1:1080"}
    with pytest.raises(BadInput, match=r"socks5://127\.0\.0\.1") as refused:
        only(tmp_path / "config", cluster).ask("/version")
    assert "proxy-url" in refused.value.resolution


def test_a_context_without_a_user_signs_nothing(tmp_path: Path, answering: Answering) -> None:
    assert only(tmp_path / "config", {"server": answering.url}).ask("/version") == {"major": "1"}
    assert answering.signed == [None]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "expected"),
        ("[1]", "list"),
        ("clusters: [{}]", "name"),
        ("contexts: [{name: a, context: {cluster: gone}}]\ncurrent-context: a", "gone"),
        ("users: [{name: a, user: {token: 1}}]", "token"),
        ("current-context: a", "None exist yet"),
    ],
)
def test_a_file_that_is_of_no_use_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, why: str
) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    several(monkeypatch, file)
    with pytest.raises(BadInput) as refused:
        load_config(KubernetesOptions())
    assert why in refused.value.details
    assert str(file) in str(refused.value) + refused.value.details


def test_what_is_no_yaml_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials stand there."""
    file = tmp_path / "config"
    file.write_text("users:\n- {name: a, user: {token: @supersecret}}\n")
    several(monkeypatch, file)
    with pytest.raises(BadInput) as refused:
        load_config(KubernetesOptions())
    assert "line 2, column" in refused.value.details
    assert "supersecret" not in f"{refused.value} {refused.value.details}"


def test_without_any_file_it_says_which_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(monkeypatch, tmp_path / "a", tmp_path / "b")
    with pytest.raises(BadInput, match=f"{tmp_path}/a, {tmp_path}/b"):
        load_config(KubernetesOptions())


def test_which_files_are_meant(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.write_text("")
    default = (Path(DEFAULT).expanduser(),)
    assert kubefiles("", {}) == kubefiles("", {"KUBECONFIG": ""}) == default
    assert kubefiles("", {"KUBECONFIG": ":/x::/y"}) == (Path("/x"), Path("/y"))
    assert kubefiles("/z", {"KUBECONFIG": "/x"}) == (Path("/z"),)
    assert kubefiles(str(odd), {}) == (odd,)
    before = stamp((odd, tmp_path / "gone"))
    odd.write_text("more")
    assert stamp((odd, tmp_path / "gone")) != before
