"""What the doctor finds on this machine and in a real stack, and what it mends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from local_stack import Bench, web

from matcha.errors import MatchaError
from matcha.host.findings import Finding
from matcha.service import Environment
from matcha.state import State
from matcha.targets.local import checkup, doctor
from matcha.targets.local.doctor import Check, Patient, fine, ill
from matcha.targets.local.home import find_stack, user_layout
from matcha.targets.local.layout import Layout

Make = Callable[..., Bench]


def _patient(one: Bench, environ: Mapping[str, str] | None = None) -> Patient:
    layout = Layout(one.project)
    return Patient(
        layout=layout,
        user=user_layout(),
        store=one.store,
        installer=one.installer,
        environments=[one.environment],
        state=one.store.read(),
        stack=find_stack(layout, user_layout(), one.store),
        environ=environ or {},
    )


def _ready(one: Bench, state: State) -> None:
    token = one.store.acquire("test", wait=5, emit=one.events.append).token
    one.store.write(state.next(phase="ready"), token)
    one.store.release(token)


def _ill(one: Bench, check: str, *, fix: bool = False) -> list[Finding]:
    one.reopen()
    found = one.target.examine(one.store.read(), [one.environment], fix=fix)
    assert found
    return [f for f in found if f.check == check and not f.ok]


def test_a_healthy_stack_has_no_finding_of_its_own(bench: Make) -> None:
    one = bench()
    _ready(one, one.provision(web(secrets={"TOKEN": "t"})))
    one.reopen()
    found = one.target.examine(one.store.read(), [one.environment], fix=False)
    machine = {"other users", "disk space", "proxy", "certificates", "project folder"}
    assert [f for f in found if not f.ok and f.check not in machine] == []
    assert {"lock", "environments", "supervisor", "services", "ports", "permissions", "secrets"} <= {
        f.check for f in found
    }


def test_examining_a_project_without_a_stack_makes_nothing(bench: Make, user_folders: Path) -> None:
    one = bench()
    assert one.target.examine(None, [], fix=True)
    assert list(one.project.iterdir()) == []
    assert [p for p in user_folders.rglob("*") if p.name != "data"] == []


def test_findings_are_plain_values_for_the_api(bench: Make) -> None:
    class Shown(msgspec.Struct, kw_only=True):
        check: str
        ok: bool
        message: str
        fix: str
        fixable: bool
        fixed: bool

    finding = ill("a", "b", "c", lambda: None)
    shown = msgspec.convert(finding, Shown, from_attributes=True)
    assert shown == Shown(check="a", ok=False, message="b", fix="c", fixable=True, fixed=False)


def test_a_corrupt_record_is_set_aside_and_provision_takes_the_stack_over(bench: Make) -> None:
    one = bench()
    service = web(volumes=("v",))
    one.provision(service)
    record = one.project / ".matcha/state.json"
    record.write_text("{half")
    [broken] = _records(one)
    assert (broken.fix, broken.fixable) == ("matcha doctor --fix", True)
    assert "state.json.corrupt-" in broken.message
    [mended] = _records(one, fix=True)
    assert not record.exists()
    assert not mended.fixable
    assert mended.fix.startswith("matcha provision")
    one.reopen()
    again = one.provision(service)
    assert one.target.status(again)[0].condition == "running"
    assert _records(one) == []
    assert one.destroy() == []
    assert list(one.project.iterdir()) == []


def test_a_record_of_a_newer_matcha_is_left_alone(bench: Make) -> None:
    one = bench()
    one.provision(web())
    record = one.project / ".matcha/state.json"
    good = record.read_text()
    record.write_text('{"schema_version": 99}')
    [newer] = _records(one, fix=True)
    assert (newer.fix, newer.fixable) == ("pip install --upgrade matcha-ml", False)
    assert record.read_text() == '{"schema_version": 99}'
    record.write_text(good)


def _records(one: Bench, *, fix: bool = False) -> list[Finding]:
    """What is wrong with the record, which cannot be read here."""
    one.reopen()
    return [
        f for f in one.target.examine(None, [one.environment], fix=fix) if f.check == "record" and not f.ok
    ]


def test_a_dead_supervisor_is_started_again(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    _ready(one, state)
    for pid in _supervisors(state.stack_id):
        os.kill(pid, signal.SIGKILL)
    _until(lambda: not _supervisors(state.stack_id))
    assert _ill(one, "supervisor")[0].fixable
    assert _ill(one, "supervisor", fix=True) == []
    _until(lambda: one.target.status(state)[0].condition == "running")


def test_processes_without_a_supervisor_are_ended(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    one.target.stop(one.events.append)
    orphan = subprocess.Popen(["sleep", "60"], env={**os.environ, "MATCHA_STACK_TAG": state.stack_id})
    try:
        _until(lambda: bool(_ill(one, "supervisor")))
        assert "1 processes of the stack run without it" in _ill(one, "supervisor")[0].message
        assert _ill(one, "supervisor", fix=True) == []
        assert not _tagged(state.stack_id)
    finally:
        orphan.kill()
        orphan.wait()


def test_a_sick_service_is_named_with_the_next_command(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    _ready(one, state)
    pid = one.ask(f"http://127.0.0.1:{state.ports['web/http']}/")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = _ill(one, "services")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "web is unhealthy. no answer in 1.5 s" in found[0].message
    assert found[0].fix == "matcha provision"


def test_a_taken_port_names_who_has_it(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    one.target.stop(one.events.append)
    port = state.ports["web/http"]
    with socket.create_server(("127.0.0.1", port)):
        found = _ill(one, "ports")
    assert f"Port {port} of web is taken by" in found[0].message
    assert f"pid {os.getpid()}" in found[0].message
    assert _ill(one, "ports") == []


def test_a_stale_lock_is_removed(bench: Make) -> None:
    one = bench()
    one.provision(web())
    code = (
        "import sys; from pathlib import Path; from matcha.events import silent\n"
        "from matcha.targets.local.filestore import FileStore\n"
        "FileStore(Path(sys.argv[1])).acquire('provision', wait=5, emit=silent)"
    )
    subprocess.run([sys.executable, "-c", code, one.project / ".matcha"], check=True)
    assert "left the lock of its provision behind" in _ill(one, "lock")[0].message
    assert _ill(one, "lock", fix=True) == []
    assert not (one.project / ".matcha/lock").exists()


def test_open_permissions_are_closed(bench: Make) -> None:
    one = bench()
    state = one.provision(web(secrets={"TOKEN": "t"}))
    secrets = user_layout().secrets(state.stack_id)
    (one.project / ".matcha/state.json").chmod(0o644)
    secrets.chmod(0o644)
    assert len(_ill(one, "permissions")) == 2
    one.reopen()
    fixed = [f for f in one.target.examine(state, [], fix=True) if f.check == "permissions"]
    assert [(f.ok, f.fixed) for f in fixed] == [(True, True)]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600


def test_a_broken_environment_is_made_anew(bench: Make) -> None:
    one = bench()
    one.provision(web())
    python = one.envs / "plain/bin/python"
    python.unlink()
    python.write_text("#!/bin/sh\necho no such library >&2; exit 3\n")
    python.chmod(0o700)
    assert "does not start (no such library)" in _ill(one, "environments")[0].message
    python.unlink()
    assert "is not complete" in _ill(one, "environments")[0].message
    assert _ill(one, "environments", fix=True) == []
    assert python.is_symlink()


def test_damaged_secrets_are_said_and_left_alone(bench: Make) -> None:
    one = bench()
    state = one.provision(web(secrets={"TOKEN": "t"}))
    path = user_layout().secrets(state.stack_id)
    path.write_text("{")
    found = _ill(one, "secrets", fix=True)
    assert not found[0].fixable
    assert path.read_text() == "{"


def test_a_stack_whose_project_was_deleted_is_ended_and_removed(bench: Make) -> None:
    lost, other = bench("lost"), bench("other")
    state = lost.provision(web())
    shutil.rmtree(lost.project)
    assert "processes run for" in _ill(other, "lost stacks")[0].message
    assert _ill(other, "lost stacks", fix=True) == []
    assert not user_layout().stack(state.stack_id).exists()
    assert not _tagged(state.stack_id)


def test_a_stack_whose_project_moved_is_left_alone(bench: Make, tmp_path: Path) -> None:
    moved, other = bench("moved"), bench("other")
    state = moved.provision(web(secrets={"TOKEN": "t"}))
    moved.project.rename(tmp_path / "new place")
    found = _ill(other, "lost stacks", fix=True)
    assert f"moved to {tmp_path / 'new place'}" in found[0].message
    assert user_layout().secrets(state.stack_id).exists()
    assert moved.ask(f"http://127.0.0.1:{state.ports['web/http']}/")["pid"]
    moved.reopen(project=tmp_path / "new place")
    assert moved.destroy() == []


def test_a_stack_on_a_disk_that_is_away_keeps_its_passwords(bench: Make, tmp_path: Path) -> None:
    away, other = bench("away"), bench("other")
    state = away.provision(web(secrets={"TOKEN": "t"}))
    away.target.stop(away.events.append)
    away.project.rename(tmp_path / "unplugged")
    assert _ill(other, "lost stacks", fix=True) == []
    assert user_layout().secrets(state.stack_id).exists()
    (tmp_path / "unplugged").rename(away.project)
    assert away.provision(web(secrets={"TOKEN": "t"})).ports == state.ports


def test_a_copy_is_only_told_that_it_is_one(bench: Make, tmp_path: Path) -> None:
    one = bench()
    one.provision(web())
    shutil.copytree(one.project, tmp_path / "copy")
    copy = Bench(tmp_path / "copy", one.envs)
    found = copy.target.examine(copy.store.read(), [], fix=True)
    assert [f.check for f in found] == ["project"]
    assert "copy of a project" in found[0].message


# -- the machine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "ok"),
    [
        ({}, True),
        ({"https_proxy": "http://proxy:3128"}, True),
        ({"http_proxy": "http://proxy:3128"}, False),
        ({"ALL_PROXY": "http://proxy:3128", "NO_PROXY": "example.org"}, False),
        ({"HTTP_PROXY": "http://user:pass@proxy:3128", "no_proxy": "localhost, 127.0.0.1"}, True),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, True),
    ],
)
def test_a_proxy_that_catches_loopback(bench: Make, environ: dict[str, str], ok: bool) -> None:
    found = list(doctor.proxy(_patient(bench(), environ)))
    assert [f.ok for f in found] == [ok]
    assert "pass" not in found[0].message.replace("bypass", "")


def test_certificate_variables_that_point_nowhere(bench: Make, tmp_path: Path) -> None:
    (tmp_path / "there.pem").touch()
    environ = {"SSL_CERT_FILE": str(tmp_path / "there.pem"), "REQUESTS_CA_BUNDLE": str(tmp_path / "gone.pem")}
    found = list(doctor.certificates(_patient(bench(), environ)))
    assert [(f.ok, f.fix) for f in found] == [(False, "unset REQUESTS_CA_BUNDLE")]


def test_an_index_that_does_not_answer_matters_only_when_needed(bench: Make) -> None:
    one = bench()
    one.installer.unreachable = "The package index cannot be reached."
    assert [f.ok for f in doctor.index(_patient(one))] == [False]
    one.provision(web())
    assert [f.ok for f in doctor.index(_patient(one))] == [True]


def test_a_full_disk(bench: Make) -> None:
    one = bench()
    patient = msgspec.structs.replace(_patient(one), least_free=shutil.disk_usage(one.project).free * 2)
    found = list(doctor.disk(patient))
    assert not found[0].ok
    assert str(one.project) in found[0].message


def test_a_python_that_fits_no_environment(bench: Make) -> None:
    one = bench()
    bad = Environment(name="old", lock=one.environment.lock, python="<3")
    patient = msgspec.structs.replace(_patient(one), environments=[one.environment, bad])
    found = list(doctor.python(patient))
    assert [f.ok for f in found] == [True, False]
    assert found[1].message == "old: No Python fits."


def test_a_disk_of_this_machine_is_fine(bench: Make) -> None:
    assert [f.ok for f in doctor.file_system(_patient(bench()))] == [True]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's process")
def test_other_people_are_counted(bench: Make) -> None:
    theirs = subprocess.Popen(["sleep", "60"], user=23456)
    try:
        found = list(doctor.other_users(_patient(bench())))
        assert not found[0].ok
        assert "23456" in found[0].message
    finally:
        theirs.kill()
        theirs.wait()


def test_a_mend_that_fails_is_told(bench: Make) -> None:
    def mend() -> None:
        raise MatchaError("no way")

    def check(_: Patient) -> list[Finding]:
        return [ill("x", "broken", "fix", mend), fine("x", "other")]

    checks: list[Check] = [check]
    found = doctor.examine(_patient(bench()), checks, fix=True)
    assert [(f.ok, f.message) for f in found] == [
        (False, "broken"),
        (True, "other"),
        (False, "It could not be mended: no way"),
    ]


def test_every_check_has_one_name() -> None:
    assert len({c.__name__ for c in checkup.CHECKS}) == len(checkup.CHECKS)


def _tagged(stack_id: str) -> list[psutil.Process]:
    def has_tag(process: Any) -> bool:
        try:
            return bool(process.environ().get("MATCHA_STACK_TAG") == stack_id)
        except psutil.Error:
            return False

    return [p for p in psutil.process_iter() if has_tag(p)]


def _supervisors(stack_id: str) -> list[int]:
    return [p.pid for p in _tagged(stack_id) if _is_supervisor(p)]


def _until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisord" in " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return False
