"""From nothing to a stack, through everything that can happen to it, to nothing again.

The tests of `own` stand in the order of a stack's life; each leaves it whole, also where it fails.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.matcha import COMMAND, Matcha, until

BACK = 180.0  # seconds; a server is back long before, also on a busy machine
SEEN_WELL = 12.0  # seconds after which the health check has met a new server, where the machine is not busy
GRACE = 120.0  # seconds in which a server that was never seen well may be silent
NO_PIPELINE = "components:\n  pipeline: null\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def _own(stack: Matcha, taken: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matcha]:
    """A second stack beside the first, without ZenML, and asked to use a port that is taken."""
    folder = tmp_path_factory.mktemp("another stack 50%")
    matcha = Matcha(folder / "a project", stack.home)
    configure(matcha, taken)
    try:
        matcha("provision", "--yes")
        yield matcha
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
        for process in matcha.processes():
            process.kill()


@pytest.fixture
def own(_own: Matcha) -> Iterator[Matcha]:
    yield _own
    if (_own.project / ".matcha" / "state.json").exists() and _own("status", code=None).returncode:
        _own("provision", "--yes")


def configure(matcha: Matcha, port: int, components: str = NO_PIPELINE) -> None:
    """mlflow is asked to listen on `port`."""
    wish = f"targets:\n  local:\n    ports: {{mlflow: {port}}}\n"
    (matcha.project / "matcha.yaml").write_text(components + wish)


def tracker(matcha: Matcha, call: str, **body: Any) -> dict[str, Any]:
    """MLflow's answer to a REST call."""
    base = f"{matcha.url('experiment-tracker', 'tracking-url')}/api/2.0/mlflow"
    answer = (
        httpx.post(f"{base}/{call}", json=body, timeout=30)
        if body
        else httpx.get(f"{base}/{call}", timeout=30)
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def healthy(matcha: Matcha) -> bool:
    return matcha("status", code=None).returncode == 0


def component(matcha: Matcha, flavor: str) -> dict[str, Any]:
    found = matcha.json("status", code=None)["components"]
    return next(c for c in found if c["flavor"] == flavor)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# A stack that is left alone


def test_every_component_is_healthy_and_answers(stack: Matcha) -> None:
    found = stack.json("status")
    assert found["healthy"] is True
    assert {c["role"] for c in found["components"]} == {
        "experiment-tracker",
        "pipeline",
        "model-deployer",
        "monitoring",
        "data-version-control",
    }
    for each in found["components"]:
        if each["address"]:
            assert httpx.get(each["address"], timeout=30, follow_redirects=True).status_code < 500
            assert each["memory"] > 10_000_000


def test_a_second_provision_changes_nothing(stack: Matcha) -> None:
    before = stack.services()
    record = (stack.project / ".matcha" / "state.json").read_bytes()
    assert "Nothing to do" in stack("provision").stdout  # no question either, so no --yes
    assert stack.services() == before
    assert (stack.project / ".matcha" / "state.json").read_bytes() == record
    assert stack.json("plan")["steps"] == []


def test_get_prints_the_bare_value(stack: Matcha) -> None:
    whole = stack.json("get")
    assert (
        stack("get", "experiment-tracker", "tracking-url").stdout
        == f"{whole['experiment-tracker']['tracking-url']}\n"
    )
    assert stack.json("get", "pipeline")["pipeline"]["server-username"] == "admin"


def test_logs_and_pages_are_found(stack: Matcha) -> None:
    assert "Uvicorn running on" in stack("logs", "mlserver").stdout
    assert stack("open", "--print").stdout.strip() == stack.url("monitoring", "dashboard-url")
    assert stack("open", "zenml", "--print").stdout.strip() == stack.url("pipeline", "server-url")


def test_the_password_is_shown_when_asked_for_and_opens_zenml(stack: Matcha) -> None:
    assert stack("get", "pipeline", "server-password").stdout.strip() == "********"
    password = stack("get", "pipeline", "server-password", "--show-sensitive").stdout.strip()
    login = f"{stack.url('pipeline', 'server-url')}/api/v1/login"
    answer = httpx.post(login, data={"username": "admin", "password": password}, timeout=30)
    assert answer.status_code == 200
    assert httpx.post(login, data={"username": "admin", "password": "x"}, timeout=30).status_code == 401


def test_no_secret_stands_where_somebody_may_read_it(stack: Matcha) -> None:
    secrets = [value for name, value in stack.secrets().items() if not name.endswith("-id")]
    assert secrets
    said = "".join(_output(stack, command) for command in COMMANDS)
    # what holds them by its nature: the tools' own databases, volumes and client configuration
    holders = {stack.stack / name for name in ("databases", "volumes", "folders")}
    files = [p for p in (stack.project / ".matcha").rglob("*") if p.is_file() and not holders & {*p.parents}]
    assert any(p.suffix == ".log" for p in files)
    for value in secrets:
        assert value not in said
        assert [str(p) for p in files if value.encode() in p.read_bytes()] == []
        assert [
            p for p in psutil.process_iter(["cmdline"]) if value in " ".join(p.info["cmdline"] or ())
        ] == []


COMMANDS = (
    ("plan",),
    ("plan", "--output", "json"),
    ("status",),
    ("status", "--output", "json"),
    ("get",),
    ("get", "--output", "json"),
    ("get", "pipeline", "server-passwort"),
    ("env",),
    ("env", "--output", "json"),
    ("logs",),
    ("destroy",),  # nobody to ask
    ("deploy", "models:/unknown/1", "--debug"),
    ("doctor", "--output", "json"),
)


def _output(matcha: Matcha, command: tuple[str, ...]) -> str:
    done = matcha(*command, code=None)
    return done.stdout + done.stderr


def test_files_are_the_users_alone(stack: Matcha) -> None:
    roots = (stack.project / ".matcha", stack.home / "matcha")
    paths = [p for root in roots for p in (root, *root.rglob("*")) if not p.is_symlink()]
    loose = [str(p) for p in paths if stat.S_IMODE(p.stat().st_mode) & 0o077]
    # What clients (ZenML, DVC, uv) wrote in here goes by the user's own umask; nobody else gets this far.
    clients = tuple(str(stack.stack / name) for name in ("store", "folders"))
    assert [p for p in loose if not p.startswith(clients)] == []


def test_servers_listen_on_this_machine_alone(stack: Matcha) -> None:
    processes = [p for root in stack.services().values() for p in _family(root)]
    addresses = [c.laddr for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(addresses) >= 6
    assert {address.ip.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


# Changes


def test_a_port_that_is_taken_is_left_to_its_owner(own: Matcha, taken: int) -> None:
    url = own.url("experiment-tracker", "tracking-url")
    assert url != f"http://127.0.0.1:{taken}"
    assert tracker(own, "experiments/get?experiment_id=0")["experiment"]["name"] == "Default"


def test_two_stacks_live_side_by_side(stack: Matcha, own: Matcha) -> None:
    name = "only in the second"
    tracker(own, "experiments/create", name=name)
    with pytest.raises(AssertionError, match="RESOURCE_DOES_NOT_EXIST"):
        tracker(stack, f"experiments/get-by-name?experiment_name={name}")
    mine, other = json.dumps(own.json("get")), json.dumps(stack.json("get"))
    assert not {*_ports(mine)} & {*_ports(other)}
    assert healthy(stack)


def _ports(text: str) -> list[str]:
    return [part.split('"')[0].split("/")[0] for part in text.split("127.0.0.1:")[1:]]


def test_only_the_stack_file_and_its_folder_appear_in_the_project(own: Matcha) -> None:
    assert sorted(p.name for p in own.project.iterdir()) == [".matcha", "matcha.yaml"]
    assert (own.project / ".matcha" / ".gitignore").read_text().strip() == "*"


def test_an_edited_option_restarts_that_component_alone(own: Matcha, taken: int) -> None:
    before = own.services()
    configure(own, taken, NO_PIPELINE + "  model-deployer: {flavor: mlserver, max-body-mb: 1}\n")
    assert [(s["action"], s["key"]) for s in own.json("plan")["steps"]] == [("update", "service/mlserver")]
    assert own.services() == before  # a plan only reads
    own("provision", "--yes")
    after = own.services()
    assert after.pop("mlserver") != before.pop("mlserver")
    assert after == before
    infer = own.predict_url("nobody")
    assert httpx.post(infer, content=b"x" * 2_000_000, timeout=30).status_code == 413


def test_a_component_is_put_in_and_taken_out_without_touching_others(own: Matcha, taken: int) -> None:
    before = own.services()
    configure(own, taken, "")
    own("provision", "--yes")
    added = own.services()
    assert {name: pid for name, pid in added.items() if name not in ("zenml", "mlserver")} == {
        name: pid for name, pid in before.items() if name != "mlserver"
    }  # mlserver goes back to its defaults
    configure(own, taken)
    own("provision", "--yes")
    assert own.services() == {name: pid for name, pid in added.items() if name != "zenml"}
    assert is_gone(added["zenml"])
    assert "pipeline" not in own.json("get")
    assert healthy(own)


# Pauses and mishaps


def test_stop_and_start_keep_data_and_addresses(own: Matcha) -> None:
    kept = tracker(own, "experiments/create", name="kept over a stop")["experiment_id"]
    addresses = own.json("get")
    own("stop")
    assert own.processes() == []
    assert own.json("status", code=1)["phase"] == "stopped"
    assert "matcha start" in own("run", "--", "true", code=1).stderr
    own("start")
    assert own.json("get") == addresses
    assert tracker(own, f"experiments/get?experiment_id={kept}")["experiment"]["name"] == "kept over a stop"
    assert own.json("status")["healthy"] is True


def test_a_killed_server_comes_back(own: Matcha) -> None:
    before = own.services()
    os.kill(before["monitoring"], signal.SIGKILL)
    until(lambda: own.services().get("monitoring", before["monitoring"]) != before["monitoring"], BACK)
    until(lambda: healthy(own), BACK)
    assert component(own, "evidently")["restarts"] >= 1
    after = own.services()
    assert {**after, "monitoring": 0} == {**before, "monitoring": 0}


def test_a_hung_server_is_restarted(own: Matcha) -> None:
    until(lambda: component(own, "mlflow")["uptime"] > SEEN_WELL, BACK)  # it is quicker then
    before = own.services()
    for process in _family(before["mlflow"]):
        process.suspend()
    assert component(own, "mlflow")["condition"] == "unhealthy"
    until(lambda: own.services().get("mlflow", before["mlflow"]) != before["mlflow"], GRACE + BACK)
    assert is_gone(before["mlflow"])
    until(lambda: healthy(own), BACK)
    assert component(own, "mlflow")["restarts"] >= 1
    assert {**own.services(), "mlflow": 0} == {**before, "mlflow": 0}


@LINUX
def test_logs_are_rotated(own: Matcha) -> None:
    """What a server says goes through a pipe to the supervisor; here we speak for it."""
    log = own.stack / "logs" / "monitoring.log"
    with Path(f"/proc/{own.services()['monitoring']}/fd/2").open("w") as pipe:
        for _ in range(60):
            pipe.write("x" * 99_999 + "\n")
    until(lambda: log.with_name("monitoring.log.1").exists(), BACK)
    kept = sorted(log.parent.glob("monitoring.log*"))
    assert max(p.stat().st_size for p in kept) < 6_000_000
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o600}
    until(lambda: healthy(own), BACK)


def test_a_killed_supervisor_leaves_no_orphan_and_comes_back(own: Matcha) -> None:
    own.supervisor().kill()
    until(lambda: own.processes() == [], BACK)
    found = own.json("status", code=1)
    assert found["healthy"] is False
    assert {c["condition"] for c in found["components"] if c["address"]} == {"stopped"}
    checks = {f["check"]: f for f in own.json("doctor", code=1)}
    assert checks["supervisor"]["ok"] is False
    assert "matcha doctor --fix" in checks["supervisor"]["fix"]
    own("provision", "--yes")
    assert healthy(own)
    assert {f["check"]: f for f in own.json("doctor", code=None)}["supervisor"]["ok"] is True


def test_after_a_reboot_start_brings_all_back(own: Matcha) -> None:
    """Everything ends at once and without a word, as when the power goes."""
    kept = tracker(own, "experiments/create", name="kept over a reboot")["experiment_id"]
    addresses = own.json("get")
    everything = [own.supervisor(), *own.supervisor().children(recursive=True)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()
    psutil.wait_procs(everything, timeout=10)
    own("start")
    assert own.json("get") == addresses
    assert tracker(own, f"experiments/get?experiment_id={kept}")["experiment"]["name"] == "kept over a reboot"


ON_A_TERMINAL = "import os, sys, pty; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def test_processes_survive_their_terminal(own: Matcha) -> None:
    """The session that provisioned ends, with SIGHUP to all in it."""
    own("stop")
    shell = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *COMMAND, "start"],
        cwd=own.project,
        env=own.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert shell.wait(240) == 0
    time.sleep(1)
    assert healthy(own)


# The end


def test_destroy_keeps_the_only_copy_unless_told(own: Matcha) -> None:
    tracker(own, "runs/create", experiment_id="0", start_time=1)
    refused = own("destroy", "--yes", code=1)
    assert "run" in refused.stderr
    assert "--delete-data" in refused.stderr
    assert healthy(own)
    assert own("destroy", code=2, stdin="").returncode == 2  # nobody to ask


def test_destroy_removes_all_and_says_so(own: Matcha, stack: Matcha) -> None:
    """And nothing that is the user's: what DVC keeps in the project stays as it is."""
    kept = {f"{name}: DVC's": own.project / name for name in (".dvc/config", ".dvc/cache/ab", "data.csv.dvc")}
    for text, file in kept.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    ports = {int(port) for port in _ports(json.dumps(own.json("get")))}
    began = time.monotonic()
    done = own("destroy", "--yes", "--delete-data")
    assert time.monotonic() - began < 60
    assert "gone" in done.stdout or "removed" in done.stdout.lower(), done.stdout
    assert own.processes() == []
    assert sorted(p.name for p in own.project.iterdir()) == [".dvc", "data.csv.dvc", "matcha.yaml"]
    assert [file.read_text() for file in kept.values()] == [*kept]
    for port in ports:
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port
    assert len([*stack.home.glob("matcha/stacks/*")]) == 1, "only the other stack is left"
    assert healthy(stack)


def test_destroy_of_nothing_is_done(own: Matcha) -> None:
    for _ in range(2):
        assert "othing" in own("destroy", "--yes").stdout
    assert own("status", code=1).returncode == 1
