"""The local target with real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from local_stack import SERVER, Bench, traces, web

import matcha
from matcha import inside
from matcha.errors import BadInput, ComponentFailed, MatchaError, NotProvisioned
from matcha.events import silent
from matcha.host.ports import is_free
from matcha.service import Database, Port, Probe, Service, service_digest
from matcha.state import State
from matcha.targets.local.home import find_stack, inherit, user_layout
from matcha.targets.local.layout import Layout

Make = Callable[..., Bench]


def test_a_service_runs_as_it_was_described(bench: Make, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    service = web(
        command=(
            "{files}/server.py",
            "{bind}",
            "{port:http}",
            "{volume:data}",
            "{store:artifacts}",
            "{live}",
        ),
        env={"ADDRESS": "{url:role-of-web}", "HOSTS": "{hosts}", "DB": "{database:main}"},
        secrets={"TOKEN": "web-token"},
        volumes=("data",),
        stores=("artifacts",),
        databases=(Database("main"),),
        code=(code,),
        live={"models.json": '{"a": "{port:http}"}'},
    )
    one = bench("ünï % {x} project")
    state = one.provision(service)
    port = state.ports["web/http"]
    told = one.ask(f"http://127.0.0.1:{port}/anything")
    stack = one.project / ".matcha" / "stack"
    assert told["args"][:2] == ["127.0.0.1", str(port)]
    assert told["args"][2:] == [str(stack / p) for p in ("volumes/web/data", "store/artifacts", "live/web")]
    assert all(Path(p).is_dir() for p in told["args"][2:])
    assert told["env"]["ADDRESS"] == f"http://127.0.0.1:{port}"
    assert told["env"]["HOSTS"] == f"127.0.0.1,localhost,127.0.0.1:{port},localhost:{port}"
    assert told["env"]["DB"] == f"sqlite:///{stack / 'databases/web/main.db'}"
    assert told["env"]["TOKEN"] == one.target.access(state).secret("web-token")
    assert str(code) in told["path"]
    assert told["flags"] is False
    assert (stack / "live/web/models.json").read_text() == f'{{"a": "{port}"}}'


def test_nothing_is_readable_by_other_users(bench: Make, user_folders: Path) -> None:
    one = bench()
    one.provision(web(secrets={"TOKEN": "t"}, databases=(Database("d"),), volumes=("v",)))
    for root in (one.project / ".matcha", user_folders / "data" / "matcha" / "stacks"):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_secrets_stand_in_no_file_of_the_project_and_no_argv(bench: Make) -> None:
    one = bench()
    state = one.provision(web(secrets={"TOKEN": "t"}))
    value = one.target.access(state).secret("t").encode()
    log = one.project / ".matcha/stack/logs/web.log"
    files = [p for p in one.project.rglob("*") if p.is_file() and p != log]
    assert not [p for p in files if value in p.read_bytes()]
    assert value not in b"\0".join(p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
    shown = "\n".join(one.target.logs("web", lines=50, follow=False))
    assert "the secret is ********" in shown


TAKING = """
import json, sys
from matcha_secrets import take
sys.argv.append(json.dumps(take(("TOKEN",))))
"""


@pytest.mark.parametrize("conceal", [True, False], ids=["in a pipe", "as variables"])
def test_secrets_that_a_service_takes_stand_in_its_environment_nowhere(bench: Make, conceal: bool) -> None:
    """Also where the target only sets variables: the process starts again."""
    one = bench()
    taking = web(
        secrets={"TOKEN": "t"},
        conceal=conceal,
        code=(inside.FOLDER,),
        files={"server.py": f"{TAKING}\n{SERVER}"},
    )
    state = one.provision(taking)
    told = one.ask(f"http://127.0.0.1:{state.ports['web/http']}/")
    value = one.target.access(state).secret("t")
    assert told["args"][-1] == f'{{"TOKEN": "{value}"}}'
    assert value not in str(told["env"])
    assert not [name for name in told["env"] if name.startswith("MATCHA_SECRETS")]
    if Path("/proc/self/environ").exists():
        assert value.encode() not in Path(f"/proc/{told['pid']}/environ").read_bytes()
        assert b"MATCHA_STACK_TAG" in Path(f"/proc/{told['pid']}/environ").read_bytes()
    assert one.target.status(state)[0].restarts == 0


def test_status_tells_what_runs(bench: Make) -> None:
    one = bench()
    state = one.provision(web("one"), web("two"))
    one.reopen()
    facts = {s.name: s for s in one.target.status(state)}
    assert {n: f.condition for n, f in facts.items()} == {"one": "running", "two": "running"}
    assert facts["one"].address == f"http://127.0.0.1:{state.ports['one/http']}"
    assert facts["one"].memory > 1_000_000
    assert facts["one"].restarts == 0


def test_a_service_that_hangs_is_unhealthy_and_a_stopped_process_too(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    pid = one.ask(f"http://127.0.0.1:{state.ports['web/http']}/")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        fact = one.target.status(state)[0]
        assert (fact.condition, fact.detail) == ("unhealthy", "no answer in 1.5 s")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_observe_shows_what_was_made(bench: Make) -> None:
    one = bench()
    service = web(secrets={"TOKEN": "t"}, stores=("area",))
    state = one.provision(service)
    one.reopen()
    seen = one.target.observe(state, [service]).resources
    assert seen["service/web"].condition == "running"
    assert seen["service/web"].digest == service_digest(service, one.environment)
    assert seen["environment/plain"].digest == one.environment.digest
    assert {"secret/t", "store/area"} <= set(seen)


def test_observe_of_nothing_makes_nothing(bench: Make, user_folders: Path) -> None:
    one = bench()
    assert one.target.observe(None, [web()]).resources == {}
    assert one.target.belongings() == []
    one.target.destroy(silent)
    assert one.target.leftovers() == []
    assert list(one.project.iterdir()) == []
    assert traces(user_folders) == []


def test_starting_again_leaves_a_healthy_service_alone(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    url = f"http://127.0.0.1:{state.ports['web/http']}/"
    first = one.ask(url)["pid"]
    one.reopen()
    one.provision(web())
    assert one.ask(url)["pid"] == first


def test_a_changed_description_replaces_only_that_service(bench: Make) -> None:
    one = bench()
    state = one.provision(web("one"), web("two"))
    urls = {n: f"http://127.0.0.1:{state.ports[n + '/http']}/" for n in ("one", "two")}
    before = {n: one.ask(u)["pid"] for n, u in urls.items()}
    one.reopen()
    assert one.provision(web("one", env={"NEW": "1"}), web("two")).ports == state.ports
    after = {n: one.ask(u) for n, u in urls.items()}
    assert after["two"]["pid"] == before["two"]
    assert after["one"]["pid"] != before["one"]
    assert after["one"]["env"]["NEW"] == "1"


def test_a_description_that_changes_nothing_of_the_program_restarts_nothing(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    url = f"http://127.0.0.1:{state.ports['web/http']}/"
    pid = one.ask(url)["pid"]
    one.reopen()
    same = web(talks_to=("nobody",))
    assert one.target.observe(state, [same]).resources["service/web"].digest == service_digest(
        web(), one.environment
    )
    again = one.provision(same)
    assert one.ask(url)["pid"] == pid
    assert one.target.observe(again, [same]).resources["service/web"].digest == service_digest(
        same, one.environment
    )


def test_a_port_that_is_taken_while_the_service_dies_is_told_by_its_taker(
    bench: Make, tmp_path: Path
) -> None:
    one = bench()
    late = "import os, time\nwhile not os.path.exists(os.environ['GO']):\n    time.sleep(0.05)\n" + SERVER
    go = tmp_path / "go"
    service = web(files={"server.py": late}, env={"GO": str(go)}, health=Probe(path="/"))
    state = one.provision(web("other"))
    claimed = one.target.begin(state, [web("other"), service])
    port = claimed.ports["web/http"]
    failed: list[BaseException] = []

    def start() -> None:
        try:
            one.target.start(service, one.environment, silent)
        except ComponentFailed as error:
            failed.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    _until(lambda: "web" in str(one.target.belongings()))
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        go.touch()
        starting.join(120)
    assert f"web cannot listen on port {port}" in str(failed[0])
    assert f"pid {os.getpid()}" in str(failed[0])


def test_refresh_changes_live_files_under_the_running_process(bench: Make) -> None:
    one = bench()
    state = one.provision(web(live={"a/x.json": "1", "old": "2"}))
    url = f"http://127.0.0.1:{state.ports['web/http']}/"
    pid = one.ask(url)["pid"]
    one.reopen()
    one.target.refresh(web(live={"a/x.json": "3", "b/new": "{port:http}"}))
    live = one.project / ".matcha/stack/live/web"
    found = {str(p.relative_to(live)): p.read_text() for p in live.rglob("*") if p.is_file()}
    assert found == {"a/x.json": "3", "b/new": str(state.ports["web/http"])}
    assert one.ask(url)["pid"] == pid


def test_a_service_that_cannot_start_shows_the_end_of_its_log(bench: Make) -> None:
    one = bench()
    with pytest.raises(ComponentFailed) as failed:
        one.provision(web(env={"FAIL": "no money"}, secrets={"TOKEN": "t"}))
    assert "cannot go on: no money" in failed.value.details
    assert "the secret is ********" in failed.value.details
    assert failed.value.resolution == "matcha logs web"


def test_a_service_that_never_answers_well_fails_after_its_time(bench: Make) -> None:
    one = bench()
    with pytest.raises(ComponentFailed, match=r"did not become healthy in 5 s \(answers 503\)"):
        one.provision(web(health=Probe(path="/503", start_timeout=5)))
    waits = [e.message for e in one.events if e.phase == "progress" and "waiting" in e.message]
    assert re.fullmatch(r"waiting for /503 \([1-9]\d* s\)", waits[0])


def test_another_program_that_answers_on_the_port_is_not_taken_for_the_service(bench: Make) -> None:
    one = bench()
    service = web()
    state = one.provision(service)
    port = state.ports["web/http"]
    one.target.stop(silent)
    folder = one.project / "thief"
    folder.mkdir()
    (folder / "server.py").write_text(SERVER)
    thief = subprocess.Popen(
        [one.envs / "plain/bin/python", folder / "server.py", "127.0.0.1", str(port)],
        stdout=subprocess.DEVNULL,
    )
    try:
        _until(lambda: not is_free(port))
        with pytest.raises(ComponentFailed, match=rf"port {port}.*pid {thief.pid}"):
            one.target.start(service, one.environment, silent)
        one.reopen()
        seen = one.target.observe(one.store.read(), [service]).resources["service/web"]
        assert (seen.digest, seen.detail) == ("", "its code or an address it uses has changed")
        moved = one.provision(service)
        assert moved.ports["web/http"] != port
        assert one.ask(f"http://127.0.0.1:{moved.ports['web/http']}/")["pid"] != thief.pid
    finally:
        thief.kill()
        thief.wait()


def test_who_refers_to_a_port_that_moves_is_made_anew(bench: Make) -> None:
    one = bench()
    services = web("one"), web("two", env={"PEER": "{address:role-of-one.http}"})
    state = one.provision(*services)
    one.target.stop(silent)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", state.ports["one/http"]))
        thief.listen()
        one.reopen()
        seen = one.target.observe(state, services).resources
        assert seen["service/two"].digest == ""
        moved = one.provision(*services)
    told = one.ask(f"http://127.0.0.1:{moved.ports['two/http']}/")
    assert told["env"]["PEER"] == f"127.0.0.1:{moved.ports['one/http']}"
    assert moved.ports["two/http"] == state.ports["two/http"]


def test_it_is_known_beforehand_who_is_made_anew_for_a_service_that_comes_or_goes(bench: Make) -> None:
    """The plan names the restart, not only the run that does it."""
    one = bench()
    caller = web("caller", env={"PEER": "{url:role-of-extra}"}, talks_to=("role-of-extra",))
    extra = web("extra")
    alone = one.provision(caller)

    def outdated(state: State, *services: Service) -> bool:
        return one.target.observe(state, services).resources["service/caller"].digest == ""

    one.reopen()
    assert not outdated(alone, caller)
    assert outdated(alone, caller, extra)
    both = one.provision(caller, extra)
    one.reopen()
    assert not outdated(both, caller, extra)
    assert outdated(both, caller)
    told = one.ask(f"http://127.0.0.1:{both.ports['caller/http']}/")
    assert told["env"]["PEER"] == f"http://127.0.0.1:{both.ports['extra/http']}"


def test_a_preferred_port_of_the_options_is_taken(bench: Make) -> None:
    port = _free_port()
    one = bench()
    first = one.provision(web())
    one.reopen(ports={"web": port})
    assert one.target.observe(first, [web()]).resources["service/web"].digest == ""
    assert one.provision(web()).ports == {"web/http": port}


@pytest.mark.parametrize(("key", "meant"), [("wbe", "web"), ("web/htpp", "web/http")])
def test_an_option_for_a_port_of_no_service_is_refused(bench: Make, key: str, meant: str) -> None:
    one = bench(ports={key: 5000})
    with pytest.raises(BadInput, match=key) as refused:
        one.target.observe(None, [web()])
    assert refused.value.details == f'Did you mean "{meant}"?'


def test_stop_keeps_data_and_ports_and_start_brings_all_back(bench: Make) -> None:
    one = bench()
    service = web(databases=(Database("d"),))
    state = one.provision(service)
    path = one.target.access(state).database("d") or Path(state.stack)
    assert not path.exists()
    with closing(sqlite3.connect(one.project / ".matcha/stack/databases/web/d.db")) as database:
        database.execute("create table kept (x)")
    one.target.stop(silent)
    assert [s.condition for s in one.target.status(state)] == ["stopped"]
    assert one.target.observe(state, [service]).resources["service/web"].condition == "stopped"
    one.reopen()
    again = one.provision(service)
    assert again.ports == state.ports
    assert [s.condition for s in one.target.status(again)] == ["running"]
    assert one.target.access(again).database("d") == one.project / ".matcha/stack/databases/web/d.db"


def test_a_killed_supervisor_and_a_killed_service_come_back(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    for process in psutil.process_iter(["cmdline"]):
        if _is_supervisor_of(process, state.stack_id):
            process.kill()
    _until(lambda: one.target.status(state)[0].condition != "running")
    one.reopen()
    again = one.provision(web())
    assert again.ports == state.ports
    assert one.target.status(again)[0].condition == "running"


def test_seeded_databases_are_made_once(bench: Make, tmp_path: Path) -> None:
    seed = tmp_path / "seed.sql"
    seed.write_text("create table t (a, b);\ninsert into t values ('{fresh-uuid}', '{fresh-uuid}');\n")
    one = bench()
    service = web(databases=(Database("d", seed),))
    one.provision(service)
    path = one.project / ".matcha/stack/databases/web/d.db"
    first = _rows(path)
    assert len(first[0][0]) == 32
    assert first[0][0] != first[0][1]
    one.reopen()
    one.provision(service)
    assert _rows(path) == first
    assert [p.name for p in path.parent.iterdir()] == ["d.db"]


def test_a_removed_service_leaves_its_data_only(bench: Make) -> None:
    one = bench()
    service = web(volumes=("v",), databases=(Database("d"),), live={"x": "y"})
    state = one.provision(service, web("other"))
    one.target.remove_service("web", silent)
    assert is_free(state.ports["web/http"])
    assert {s.name: s.condition for s in one.target.status(state)} == {"web": "absent", "other": "running"}
    assert "service/web" not in one.target.observe(state, []).resources
    stack = one.project / ".matcha/stack"
    assert (stack / "volumes/web/v").is_dir()
    left = {p.relative_to(stack).parts[0] for p in stack.rglob("*") if "web" in p.name}
    assert left - {"supervisor"} == {"volumes", "databases"}


def test_destroy_leaves_nothing(bench: Make, user_folders: Path) -> None:
    one = bench()
    state = one.provision(web(secrets={"TOKEN": "t"}), web("two"))
    assert any("one" in line or "web" in line for line in one.target.belongings())
    pids = [one.ask(f"http://127.0.0.1:{p}/")["pid"] for p in state.ports.values()]
    one.reopen()
    assert one.destroy() == []
    assert list(one.project.iterdir()) == []
    assert traces(user_folders) == []
    assert all(is_free(p) for p in state.ports.values())
    assert not [p for p in pids if psutil.pid_exists(p)]
    assert one.destroy() == []


RUNNER = """
import sys
from pathlib import Path
from matcha.job import Job
from matcha.targets.local import LocalTarget
child = "import os, subprocess, sys, time; "
child += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
child += "open('up', 'w').write(str(os.getpid())); time.sleep(99)"
here = Path(sys.argv[1])
LocalTarget(here).run(Job(command=("python", "-c", child), python=Path(sys.executable), folder=here))
"""


def _abandoned_job(one: Bench) -> list[int]:
    """Its processes, after the `matcha run` that started it was killed."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(one.project)], stdin=subprocess.DEVNULL)
    up = one.project / "up"
    _until(lambda: up.exists() and up.read_text() != "", 30)
    job = psutil.Process(int(up.read_text()))
    pids = [job.pid, *(child.pid for child in job.children())]
    runner.kill()
    runner.wait()
    up.unlink()
    return pids


def test_destroy_ends_jobs_whose_run_was_killed_and_stop_does_not(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    pids = _abandoned_job(one)
    try:
        assert len(pids) == 2
        one.target.stop(silent)
        one.reopen()
        one.provision(web())
        assert all(map(psutil.pid_exists, pids))
        listed = [line for line in one.target.belongings() if line.startswith("a running job: ")]
        assert len(listed) == 1
        assert listed[0].startswith(f"a running job: process {pids[0]}, python")
        assert listed[0] in one.target.leftovers()
        assert one.destroy() == []
        _until(lambda: not any(map(_is_alive, pids)))
    finally:
        for pid in pids:
            if _is_alive(pid) and psutil.Process(pid).environ().get("MATCHA_STACK_JOB") == state.stack_id:
                os.kill(pid, signal.SIGKILL)


def test_destroy_ends_a_job_of_a_stack_whose_record_was_lost(bench: Make) -> None:
    """`provision` takes over what is left of it, under another id; the job goes on meanwhile."""
    one = bench()
    lost = one.provision(web())
    pids = _abandoned_job(one)
    try:
        shutil.rmtree(one.project / ".matcha")
        one.reopen()
        assert one.provision(web()).stack_id != lost.stack_id
        assert all(map(_is_alive, pids))
        assert any(f"a running job: process {pids[0]}, " in line for line in one.target.belongings())
        assert one.destroy() == []
        _until(lambda: not any(map(_is_alive, pids)))
    finally:
        for pid in pids:
            if _is_alive(pid) and psutil.Process(pid).environ().get("MATCHA_STACK_JOB") == lost.stack_id:
                os.kill(pid, signal.SIGKILL)


def test_a_stack_whose_record_is_lost_is_not_called_absent(bench: Make) -> None:
    one = bench()
    with pytest.raises(NotProvisioned, match="There is no running stack here"):
        matcha.status(one.project)
    one.provision(web())
    shutil.rmtree(one.project / ".matcha")
    for ask in (matcha.status, matcha.stop, matcha.models):
        with pytest.raises(NotProvisioned, match="record of this project's stack is gone") as refused:
            ask(one.project)
        assert "running processes: " in refused.value.details
        assert "matcha destroy" in refused.value.details


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_leftovers_names_what_is_still_there(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    left = one.target.leftovers()
    assert any(line.startswith("process ") for line in left)
    assert any(f"port {state.ports['web/http']}" in line for line in left)
    assert str(one.project / ".matcha/stack") in left


def test_with_another_data_folder_nothing_is_done_by_halves(
    bench: Make, user_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its passwords and claims would stay behind, or new passwords be made for old databases."""
    one = bench()
    service = web(secrets={"TOKEN": "t"})
    state = one.provision(service)
    value = one.target.access(state).secret("t")
    with monkeypatch.context() as moved:
        moved.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
        for ask in (
            lambda target: target.destroy(silent),
            lambda target: target.belongings(),
            lambda target: target.observe(state, [service]),
            lambda target: target.status(state),
        ):
            one.reopen()
            with pytest.raises(MatchaError, match="another data folder") as refused:
                ask(one.target)
        assert str(user_folders / "data" / "matcha") in refused.value.details
        assert refused.value.resolution == f"export XDG_DATA_HOME={user_folders / 'data'}"
        assert not (tmp_path / "elsewhere").exists()
    one.reopen()
    assert one.target.access(state).secret("t") == value
    assert one.destroy() == []
    assert traces(user_folders) == []


def test_a_data_folder_that_the_user_moved_is_the_stacks_own(
    bench: Make, user_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = bench()
    state = one.provision(web(secrets={"TOKEN": "t"}))
    value = one.target.access(state).secret("t")
    one.target.stop(silent)
    (user_folders / "data").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    one.reopen()
    again = one.provision(web(secrets={"TOKEN": "t"}))
    assert one.target.access(again).secret("t") == value


def test_destroy_works_when_the_record_and_the_folder_are_gone(bench: Make, user_folders: Path) -> None:
    one = bench()
    state = one.provision(web())
    shutil.rmtree(one.project / ".matcha")
    one.reopen()
    assert one.target.belongings() != []
    assert one.destroy() == []
    assert is_free(state.ports["web/http"])
    assert traces(user_folders) == []


def test_a_lost_record_keeps_the_data_and_its_secrets(bench: Make) -> None:
    one = bench()
    service = web(secrets={"TOKEN": "t"}, volumes=("v",))
    state = one.provision(service)
    value = one.target.access(state).secret("t")
    (one.project / ".matcha/state.json").unlink()
    one.reopen()
    again = one.provision(service)
    assert again.stack_id != state.stack_id
    assert one.target.access(again).secret("t") == value
    assert one.ask(f"http://127.0.0.1:{again.ports['web/http']}/")["env"]["TOKEN"] == value
    one.destroy()
    assert not [p for p in psutil.process_iter() if _is_supervisor_of(p, state.stack_id)]


def test_what_a_lost_record_had_claimed_is_given_up(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    lost = find_stack(Layout(one.project), user_layout(), one.store)
    assert lost is not None
    assert lost.ports.held(lost.claimant) == (state.ports["web/http"],)
    inherit(Layout(one.project), user_layout(), "another")
    assert lost.ports.held(lost.claimant) == ()


def test_a_copy_of_a_project_is_refused(bench: Make, tmp_path: Path) -> None:
    one = bench()
    state = one.provision(web())
    shutil.copytree(one.project, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    copy = Bench(tmp_path / "copy", one.envs)
    with pytest.raises(MatchaError, match="copy of a project") as refused:
        copy.target.destroy(silent)
    assert str(one.project) in refused.value.details
    with pytest.raises(MatchaError, match="copy of a project"):
        copy.target.begin(state, [web()])
    assert one.target.status(state)[0].condition == "running"


def test_a_moved_project_is_said_and_provisioned_anew(bench: Make, tmp_path: Path) -> None:
    one = bench()
    state = one.provision(web(volumes=("v",)))
    one.project.rename(tmp_path / "elsewhere")
    one.reopen(project=tmp_path / "elsewhere")
    [said] = one.target.status(state)
    assert (said.condition, f"moved from {tmp_path / 'a project'}" in said.detail) == ("unhealthy", True)
    found = one.target.examine(state, [one.environment], fix=False)
    assert [(f.ok, f.fix) for f in found if f.check == "services"] == [(False, "matcha provision")]
    assert [f.ok for f in found if f.check == "ports"] == [True]
    with pytest.raises(MatchaError, match="folder was moved") as refused:
        one.target.access(state).url("role-of-web")
    assert refused.value.resolution == "matcha provision"
    seen = one.target.observe(state, [web(volumes=("v",))]).resources["service/web"]
    assert (seen.digest, seen.detail) == ("", "the project's folder moved")
    again = one.provision(web(volumes=("v",)))
    assert again.ports == state.ports
    assert one.target.access(again).url("role-of-web") == f"http://127.0.0.1:{again.ports['web/http']}"
    assert one.target.status(again)[0].condition == "running"
    assert one.ask(f"http://127.0.0.1:{again.ports['web/http']}/")["folder"].startswith(
        str(tmp_path / "elsewhere")
    )
    assert one.destroy() == []


def test_programs_that_came_with_a_repository_are_never_run(bench: Make, user_folders: Path) -> None:
    one = bench()
    state = one.provision(web(volumes=("v",)))
    one.target.stop(silent)
    marks = one.project / ".matcha/stack/volumes/web/v"
    evil = one.project / "evil"
    evil.write_text(f"#!/bin/sh\ntouch '{marks}/evil'\n")
    evil.chmod(0o700)
    for path in (one.project / ".matcha/stack").rglob("*.json"):
        path.write_text(path.read_text().replace(str(one.envs / "plain/bin/python"), str(evil)))
    shutil.rmtree(user_folders / "data/matcha")
    one.reopen()
    one.target.examine(state, [one.environment], fix=True)
    again = one.provision(web(volumes=("v",)))
    assert one.target.status(again)[0].condition == "running"
    assert list(marks.iterdir()) == []


def test_a_service_that_has_just_been_started_is_waited_for_and_not_started_twice(bench: Make) -> None:
    one = bench()
    slow = web(files={"server.py": "import time\ntime.sleep(2)\n" + SERVER})
    one.provision(slow)
    one.target.stop(silent)
    one.reopen()
    state = one.provision(slow)
    log = (one.project / ".matcha/stack/logs/web.log").read_text()
    assert log.count("starting") == 2
    assert one.target.status(state)[0].restarts == 0


def test_a_note_of_what_was_never_run_does_not_count(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    changed = web(env={"NEW": "1"})
    note = one.project / ".matcha/stack/notes/services/web.json"
    killed_before_put = note.read_text().replace(
        service_digest(web(), one.environment), service_digest(changed, one.environment)
    )
    note.write_text(killed_before_put.replace('"made":"', '"made":"other'))
    one.reopen()
    assert one.target.observe(state, [changed]).resources["service/web"].digest == ""


def test_two_stacks_live_side_by_side(bench: Make) -> None:
    port = _free_port()
    one, two = bench("one"), bench("two")
    first = one.provision(web(preferred=port))
    second = two.provision(web(preferred=port))
    assert first.ports == {"web/http": port}
    assert second.ports["web/http"] not in (0, port)
    one.target.stop(silent)
    two.reopen()
    assert two.provision(web(preferred=port)).ports == second.ports
    assert two.destroy() == []
    assert one.provision(web(preferred=port)).ports == first.ports


def test_odd_folders_are_refused_before_anything_is_made(bench: Make) -> None:
    one = bench("what?")
    with pytest.raises(BadInput, match="has '\\?' in its path"):
        one.target.preflight([], one.target.observe(None, []))
    assert list(one.project.iterdir()) == []


def test_an_unknown_placeholder_names_the_service_and_the_text(bench: Make) -> None:
    one = bench()
    with pytest.raises(MatchaError, match=r'Service "web": \{port:grcp\} cannot be resolved') as failed:
        one.provision(web(env={"X": "to {port:grcp}"}, ports=(Port("http", 0), Port("grpc", 0))))
    assert 'Did you mean "grpc"?' in failed.value.details


def test_a_service_whose_start_was_not_recorded_has_an_address(bench: Make) -> None:
    one = bench()
    state = one.provision(web())
    killed_before_recording = state.without_resource("service/web")
    url = f"http://127.0.0.1:{state.ports['web/http']}"
    assert one.target.access(killed_before_recording).url("role-of-web") == url
    begun = one.target.begin(state, [web(), web("new")])
    with pytest.raises(NotProvisioned):
        one.target.access(begun).url("role-of-new")


def test_access_before_the_service_runs(bench: Make) -> None:
    one = bench()
    with pytest.raises(NotProvisioned):
        one.target.access(one.store.read() or _no_state())
    state = one.provision(web())
    access = one.target.access(state)
    with pytest.raises(NotProvisioned):
        access.url("model-deployer")
    with pytest.raises(NotProvisioned):
        access.secret("unknown")
    assert access.inside("at {url:role-of-web}") == f"at {access.url('role-of-web')}"
    assert httpx.get(access.url("role-of-web"), trust_env=False).status_code == 200
    folder = access.folder("locks")
    assert folder.is_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    access.keep_secret("mine", "value")
    assert access.secret("mine") == "value"


def _no_state() -> State:
    return State(stack_id="none", stack="default", target="local")


def _rows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.execute("select * from t"))


def _until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_supervisor_of(process: psutil.Process, stack_id: str) -> bool:
    try:
        return (
            "supervisord" in " ".join(process.cmdline())
            and process.environ().get("MATCHA_STACK_TAG") == stack_id
        )
    except psutil.Error:
        return False
