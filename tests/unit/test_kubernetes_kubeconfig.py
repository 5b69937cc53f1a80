"""One kubeconfig of several files, read as kubectl reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from matcha.errors import BadInput
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
    assert (found.context_name, found.cluster.server, found.user) == ("play", "https://second", None)
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
