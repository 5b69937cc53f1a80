"""How pods come to a database: a first start that is cut short, and addresses with secrets in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest

from matcha.service import Database, Environment, Probe
from matcha.targets.kubernetes import KubernetesOptions, first_start, foundations, workloads
from matcha.targets.kubernetes.code import POD_CODE
from matcha.targets.kubernetes.setting import setting
from support.plain import web

AWKWARD = "a@b/c#d%e:f?g&h'i\"j$(k)<l> ü"
LAUNCH = POD_CODE / "matcha_pod" / "launch.py"

# What the official image's entry point makes of a data folder (docker-library/mysql, 8.4), with steps at
# which it can be cut short. The last line stands for the server.
OFFICIAL = """#!/bin/bash
set -eo pipefail
step() { [ "$1" != "$CUT" ] || exit 137; }
if [ ! -d "$DATA/mysql" ]; then
  [ -z "$(ls -A "$DATA")" ] || { echo "the data directory has files in it"; exit 1; }
  touch "$DATA/ibdata1"
  step files
  mkdir "$DATA/mysql" "$DATA/#innodb_redo"
  step tables
  touch "$DATA/mysql/root-password"
  for script in "$SCRIPTS"/*.sh; do . "$script"; done
  step set-up
fi
[ -e "$DATA/mysql/root-password" ] || { echo "root has no password"; exit 2; }
echo "running with $*"
"""


class Server:
    """A volume, and the container that is started on it."""

    def __init__(self, folder: Path) -> None:
        self.data, self.marks, scripts, programs = (folder / n for n in ("data", "marks", "scripts", "bin"))
        for path in (self.data, self.marks, scripts, programs):
            path.mkdir()
        self.places = {first_start.DATA: self.data, first_start.MARKS: self.marks}
        (programs / "docker-entrypoint.sh").write_text(OFFICIAL)
        (programs / "docker-entrypoint.sh").chmod(0o755)
        for name, text in (first_start.scripts().data or {}).items():
            (scripts / name).write_text(self._here(text))
        self.env = {"PATH": f"{programs}:{os.defpath}", "DATA": str(self.data), "SCRIPTS": str(scripts)}

    def _here(self, text: str) -> str:
        for path, place in self.places.items():
            text = text.replace(path, str(place))
        return text

    def start(self, cut: str = "") -> str:
        """What it says; it has to run unless it is `cut` short."""
        command = [*map(self._here, first_start.command()), "--option", "a b"]
        done = subprocess.run(
            command, env={**self.env, "CUT": cut}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == (137 if cut else 0), done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_first_start_gives_the_options_on(server: Server) -> None:
    assert server.start() == "running with mysqld --option a b\n"
    assert list(server.marks.iterdir()) == []


@pytest.mark.parametrize("cut", ["files", "tables"])
def test_a_first_start_that_was_cut_short_is_made_anew(server: Server, cut: str) -> None:
    server.start(cut)
    server.start(cut)
    assert "cut short" in server.start()
    assert "cut short" not in server.start()


def test_one_that_was_cut_short_after_its_setup_is_kept(server: Server) -> None:
    server.start("set-up")
    assert "cut short" not in server.start()


def test_data_that_was_there_before_is_never_touched(server: Server) -> None:
    """Of an earlier Matcha, which made no mark; and whatever a mark says, where somebody's database is."""
    server.start()
    (server.data / "mlflow").mkdir()
    (server.data / "mlflow" / "runs.ibd").touch()
    assert list(server.marks.iterdir()) == []
    assert "cut short" not in server.start()
    (server.marks / "begun").touch()
    assert "cut short" not in server.start()
    assert (server.data / "mlflow" / "runs.ibd").exists()
    assert not (server.marks / "begun").exists()


def test_a_server_that_has_no_database_yet_is_not_made_anew(server: Server) -> None:
    (server.data / "mysql").mkdir()
    (server.data / "mysql" / "root-password").touch()
    server.start()
    assert (server.data / "mysql" / "root-password").exists()


def test_the_server_keeps_no_log_of_its_changes() -> None:
    """MySQL's default is a month of them, on the volume of the data."""
    service = msgspec.structs.replace(web(), databases=(Database("app"),))
    found = setting(KubernetesOptions(), [service], ())
    [server] = [o for o in foundations.database(found) if type(o).__name__ == "StatefulSet"]
    assert "--skip-log-bin" in server.spec.template.spec.containers[0].args


# -- addresses ----------------------------------------------------------------------------------------------

SAYS = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


def container(tmp_path: Path, **options: Any) -> dict[str, Any]:
    lock = tmp_path / "lock"
    lock.touch()
    service = msgspec.structs.replace(
        web(preferred=8080),
        databases=(Database("app-1"),),
        command=("-c", SAYS, "{database:app-1}", "$(HOME)"),
        env={"URL": "{database:app-1}", "OTHER": "$(HOME)"},
        files={},
    )
    environment = Environment(name="plain", lock=lock, image="python:3.12")
    found = setting(KubernetesOptions(**options), [service], [environment])
    pods = workloads.workload(found, service).to_dict()["spec"]["template"]["spec"]
    mounted = {m["name"] for m in pods["containers"][0]["volumeMounts"]}
    assert "pod-code" in mounted <= {v["name"] for v in pods["volumes"]}
    made: dict[str, Any] = pods["containers"][0]
    return made


def run(made: dict[str, Any], secrets: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """As the kubelet would: secrets into variables, and `$$(` is how it writes `$(`."""
    env = {
        v["name"]: v["value"].replace("$$(", "$(")
        if "value" in v
        else secrets[v["valueFrom"]["secretKeyRef"]["key"]]
        for v in made["env"]
    }
    args = [a.replace("$$(", "$(").replace("/matcha/pod", str(POD_CODE)) for a in made["args"]]
    return subprocess.run(
        [sys.executable, *args], env={**env, **more}, capture_output=True, text=True, timeout=60, check=False
    )


def test_secrets_are_quoted_in_addresses(tmp_path: Path) -> None:
    outside = {"database": "mysql://db.example.org:3307", "database_secret": "login"}
    done = run(container(tmp_path, **outside), {"username": "me@azure", "password": AWKWARD})
    assert done.returncode == 0, done.stderr
    [first, second], env = json.loads(done.stdout)
    assert (second, env["OTHER"]) == ("$(HOME)", "$(HOME)")
    assert first == env["URL"]
    parts = urlsplit(first)
    assert (parts.scheme, parts.hostname, parts.port) == ("mysql+pymysql", "db.example.org", 3307)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("me@azure", AWKWARD)
    assert (parts.path, parts.query) == ("/app-1", "")
    assert not [name for name in env if name.startswith("MATCHA_DATABASE")]


def test_the_own_server_has_a_user_for_each_database(tmp_path: Path) -> None:
    done = run(container(tmp_path), {"database-app-1": "s3cret"})
    [first, _], _ = json.loads(done.stdout)
    assert first == "mysql+pymysql://app-1:s3cret@mysql:3306/app-1"


def test_a_certificate_is_checked_by_the_authorities_of_the_pod(tmp_path: Path) -> None:
    made = container(tmp_path, database="mysql://db.example.org?tls=true", database_secret="login")
    bundle = tmp_path / "a bundle.pem"
    bundle.touch()
    login = {"username": "u", "password": "p"}
    [first, _], _ = json.loads(run(made, login, SSL_CERT_FILE=str(bundle)).stdout)
    assert parse_qs(urlsplit(first).query) == {"ssl_ca": [str(bundle)], "ssl_check_hostname": ["true"]}


def test_a_variable_that_is_missing_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-I", LAUNCH, "-c", "<MATCHA_DATABASE_X_PASSWORD>"],
        env={"OTHER": "secret"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "There is no MATCHA_DATABASE_X_PASSWORD here" in done.stderr


# -- whether it is alive ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alive", "decides"), [("", "/ready"), ("/alive", "/alive")])
def test_what_decides_on_a_restart_is_what_answers_for_the_process(alive: str, decides: str) -> None:
    service = web(preferred=8080, health=Probe(path="/ready", alive=alive))
    environment = Environment(name="plain", lock=Path(os.devnull), image="python:3.12")
    found = setting(KubernetesOptions(), [service], [environment])
    made = workloads.workload(found, service).to_dict()["spec"]["template"]["spec"]["containers"][0]
    asked = {kind: made[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/ready", "readiness": "/ready", "liveness": decides}
