"""One kubeconfig of several files, read as kubectl reads them."""

from __future__ import annotations

import itertools
import os
import re
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


@pytest.mark.parametrize(
    ("start", "password"),
    [
        *itertools.product(["socks5://", "//", ""], ["hunter2", "hun/ter2", "hun@ter2", "hun://ter2"]),
        *itertools.product(["http://", "https://"], ["hun/ter2", "hun#ter2"]),
    ],
)
def test_a_password_of_a_proxy_is_not_told(tmp_path: Path, start: str, password: str) -> None:
    cluster = {"server": "https://cluster", "proxy-url": f"{start}alice:{password}@proxy.example.org:1080"}
    with pytest.raises(BadInput, match=r"proxy\.example\.org:1080$") as refused:
        only(tmp_path / "config", cluster).ask("/version")
    assert not {"hun", "ter2", "hunter2", "alice"} & {*re.findall(r"\w+", str(refused.value))}


def test_a_context_without_a_user_signs_nothing(tmp_path: Path, answering: Answering) -> None:
    assert only(tmp_path / "config", {"server": answering.url}).ask("/version") == {"major": "1"}
    assert answering.signed == [None]


SECRET = "supersecret"
ENTRIES = (
    "current-context: c\n"
    "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
    "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', %s}}]\n"
    "users: [{name: u, user: {%s}}]\n"
)
USELESS = [
    ("{", "It is no YAML: expected"),
    ("", "No context stands there: it is empty."),
    ("# nothing yet\n", "No context stands there."),
    ("current-context: a", "No context stands there."),
    (SECRET, "Expected `mapping`, got `str`, at the top"),
    (f"[{SECRET}]", "Expected `mapping`, got `list`, at the top"),
    ("3", "Expected `mapping`, got `int`, at the top"),
    (b"\x30\x82\x00supersecret", "It is no text."),
    (b"\xff\xfesupersecret", "It is no text."),
    (f"clusters: {SECRET}", "Expected `list | null`, got `str`, at clusters"),
    (f"users: [{SECRET}]", "Expected `mapping`, got `str`, at users[0]"),
    ("clusters: [{}]", "Object missing required field `name`, at clusters[0]"),
    (f"users: [{{name: u, user: {SECRET}}}]", "got `str`, at users[0].user"),
    (f"users: [{{name: u, user: {{exec: {SECRET}}}}}]", "got `str`, at users[0].user.exec"),
    ("users: [{name: u, user: {token: 4711}}]", "Expected `str | null`, got `int`, at users[0].user.token"),
    (f"current-context: [{SECRET}]", "Expected `str | null`, got `list`, at current-context"),
    (f"users:\n- {{name: a, user: {{token: @{SECRET}}}}}\n", "line 2, column"),
    (f"users: *{SECRET}", "found undefined alias, line 1, column 8"),
    (f"a: {{token: {SECRET}, token: x}}", "found duplicate key, line 1, column"),
    (f"a: !{SECRET} b", "could not determine a constructor for the tag, line 1"),
    ("contexts: [{name: a, context: {cluster: gone}}]\ncurrent-context: a", "'gone', which stands nowhere"),
    (ENTRIES.replace("https://127", "127") % ("", ""), "is no URL of https or http"),
    (ENTRIES % (f"certificate-authority-data: {SECRET}x", ""), "certificate-authority-data cannot be used"),
    (ENTRIES % ("certificate-authority-data: bm9uZQ==", ""), "cannot be used: that is no PEM in base64"),
    (ENTRIES % ("certificate-authority: config", ""), "certificate-authority cannot be used: NO_CERT"),
    (ENTRIES % ("certificate-authority: gone.pem", ""), "gone.pem. There is no such file."),
    (ENTRIES % ("certificate-authority: .", ""), "It is a folder"),
    (ENTRIES % ("certificate-authority: /dev/zero", ""), "is /dev/zero. It is a pipe or a device, not a"),
    (ENTRIES % ("", "tokenFile: /dev/zero"), "tokenFile of the context c is /dev/zero. It is a pipe or a"),
    (ENTRIES % ("", "client-certificate: a, client-key: b"), "/a. There is no such file."),
    (ENTRIES % ("", f"client-key-data: {SECRET}x"), "client-key-data cannot be used"),
]


def refusal(file: Path) -> BadInput:
    cluster = Cluster(KubernetesOptions(kubeconfig=str(file)), sleep=lambda _: None)
    with pytest.raises(BadInput) as refused:
        cluster.ask("/version")
    error = refused.value
    assert str(file) in error.message
    assert "matcha doctor" in error.resolution or "targets.kubernetes.context" in error.resolution
    assert SECRET not in f"{error} {error.details} {error.resolution}"
    return error


@pytest.mark.parametrize(("content", "why"), USELESS, ids=[f"{n}-{u[1]}" for n, u in enumerate(USELESS)])
def test_a_file_that_is_of_no_use_is_named_and_not_quoted(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    """Credentials stand there."""
    file = tmp_path / "config"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert why in refusal(file).details


def test_what_is_no_file_that_can_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 32)
    for path, why in (
        (tmp_path, "It is a folder: name a file in it."),
        (tmp_path / "gone", "There is no such file."),
        (tmp_path / "pipe", "It is a pipe or a device, not a file."),
        (tmp_path / "loop", "It cannot be read: Too many levels of symbolic links."),
        (tmp_path / "huge", "It is larger than 4 MiB."),
        (Path("/dev/null"), "It is a pipe or a device, not a file."),
    ):
        assert refusal(path).details == why


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that gives an error is Linux's")
def test_a_file_whose_reading_fails_is_named() -> None:
    assert refusal(Path("/proc/self/mem")).details == "It cannot be read: Input/output error."


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
