"""The process layer of the local target, with real supervisord, real signals and small real programs."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from matcha.errors import BadInput, MatchaError, NotFound
from matcha.host import health, launcher, programs, rpc, sweep
from matcha.host.daemon import SupervisorFailed
from matcha.host.programs import HealthCheck, Program, ProgramFile
from matcha.host.supervisor import Supervisor

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEP

# Answers until the file `hang` appears beside it, then accepts and says nothing.
SERVER = """
import http.server, pathlib, signal, sys, time
if sys.argv[2:] == ["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while pathlib.Path("hang").exists():
            time.sleep(600)
        self.send_response(200)
        self.end_headers()
        print("answered", self.path, flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Box:
    """A supervisor in a folder with every awkward character, and programs that live in it."""

    def __init__(self, root: Path, runtime: Path, tag: str) -> None:
        self.root, self.runtime, self.tag = root, runtime, tag
        self.supervisor = Supervisor(root / "supervisor", runtime, tag, settle=1, retries=1, pause=1)

    def program(self, name: str, code: str = SLEEP, *args: str, **changes: Any) -> Program:
        program = Program(
            name=name,
            argv=(sys.executable, "-I", "-S", "-c", code, *args),
            env={},
            secrets={},
            secrets_file=self.root / "secrets.json",
            folder=self.root / "work" / name,
            log=self.root / "logs" / f"{name}.log",
            stop_seconds=5,
            health=None,
            digest="d1",
        )
        return msgspec.structs.replace(program, **changes)

    def put(self, name: str, code: str = SLEEP, *args: str, **changes: Any) -> Program:
        program = self.program(name, code, *args, **changes)
        self.supervisor.put(program)
        return program

    def pid(self, name: str) -> int:
        return self.supervisor.programs()[name].pid

    def log(self, name: str) -> str:
        path = self.root / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def daemon(self) -> int:
        return int((self.root / "supervisor" / "supervisord.pid").read_text())

    def listener(self) -> int:
        for process in sweep.tagged(self.tag):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word.endswith("health.py") for word in process.cmdline()):
                    return process.pid
        return 0

    def script(self, code: str) -> list[str]:
        """A command that runs `code` as another `matcha` would, with `box` made anew."""
        head = (
            "import sys; from pathlib import Path; from matcha.host.supervisor import Supervisor\n"
            "home, runtime, tag = sys.argv[1:4]\n"
            "supervisor = Supervisor(Path(home), Path(runtime), tag, settle=1, retries=1, pause=1)\n"
        )
        return [sys.executable, "-c", head + code, str(self.supervisor.home), str(self.runtime), self.tag]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    root = tmp_path / 'a b%c;d "q" #e'
    root.mkdir()
    runtime = Path(tempfile.mkdtemp(prefix="m"))
    made = Box(root, runtime, f"test-{uuid.uuid4().hex[:12]}")
    try:
        yield made
    finally:
        made.supervisor.shutdown()
        shutil.rmtree(runtime)
        assert made.supervisor.survivors() == []


def until(happens: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of `happens`; fails when none comes."""
    deadline = time.monotonic() + seconds
    while not (answer := happens()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return answer


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- one program changes, no other is touched -----------------------------------------------------------


def test_put_replace_restart_and_drop_touch_only_the_program_named(box: Box) -> None:
    for name in ("one", "two"):
        box.put(name)
    one, two = box.pid("one"), box.pid("two")
    assert one and two

    box.put("one", "print('new', flush=True); " + SLEEP, digest="d2")
    status = box.supervisor.programs()["one"]
    assert (status.condition, status.digest) == ("running", "d2")
    assert status.pid not in (0, one) and gone(one)
    until(lambda: "new" in box.log("one"))

    box.supervisor.restart("one")
    assert box.pid("one") not in (0, one, status.pid)
    box.supervisor.start("one")  # it runs already

    box.supervisor.drop("one")
    box.supervisor.drop("one")
    assert list(box.supervisor.programs()) == ["two"]
    assert box.pid("two") == two


def test_programs_put_from_several_threads_at_once_all_run(box: Box) -> None:
    names = [f"p{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(box.put, names))
        first = {name: box.pid(name) for name in names}
        list(pool.map(box.supervisor.drop, names[:3]))
    status = box.supervisor.programs()
    assert {name: status[name].pid for name in names[3:]} == {name: first[name] for name in names[3:]}
    assert sorted(status) == names[3:]


def test_stopped_stack_is_readable_and_comes_back_whole(box: Box) -> None:
    box.put("one")
    before = box.pid("one")
    assert box.supervisor.shutdown() == []
    status = box.supervisor.programs()["one"]
    assert (status.condition, status.pid, status.digest) == ("stopped", 0, "d1")
    assert not box.supervisor.alive() and gone(before)
    assert list(box.runtime.iterdir()) == []

    box.supervisor.ensure()
    assert until(lambda: box.pid("one")) != before


def test_a_put_that_was_killed_half_way_is_finished_by_start(box: Box) -> None:
    box.supervisor.ensure()
    entry = ProgramFile(program=box.program("one"), inherited={"PATH": os.environ["PATH"]}, tag=box.tag)
    programs.write(entry, box.supervisor.home)
    assert box.supervisor.programs()["one"].condition == "stopped"
    box.supervisor.start("one")
    assert box.supervisor.programs()["one"].condition == "running"


def test_a_program_stopped_the_moment_it_started_does_not_cost_its_stop_seconds(box: Box) -> None:
    for _ in range(5):
        box.put("one", stop_seconds=120)
        began = time.monotonic()
        box.supervisor.drop("one")
        assert time.monotonic() - began < 60


def test_unknown_program_is_refused_with_the_known_ones(box: Box) -> None:
    box.put("tracker")
    with pytest.raises(NotFound, match="traker") as refused:
        box.supervisor.restart("traker")
    assert 'Did you mean "tracker"?' in refused.value.details


# --- what dies comes back ---------------------------------------------------------------------------------


def test_a_crash_loop_fails_with_its_reason_and_heals_when_the_cause_is_gone(box: Box) -> None:
    code = "import pathlib\nif not pathlib.Path('ready').exists(): raise OSError('disk is full')\n" + SLEEP
    box.put("one", code)
    failed = until(lambda: (s := box.supervisor.programs()["one"]).condition == "failed" and s)
    assert "OSError: disk is full" in failed.detail
    assert "died" not in failed.detail and failed.pid == 0

    (box.root / "work" / "one" / "ready").touch()
    until(lambda: box.supervisor.programs()["one"].condition == "running")
    # The listener counts what it did after it did it.
    healed = until(lambda: (s := box.supervisor.programs()["one"]).restarts >= 2 and s)
    assert healed.detail == "tried again after a pause"


def test_a_killed_program_is_restarted_and_counted_until_the_next_put(box: Box) -> None:
    box.put("one")
    first = box.pid("one")
    os.kill(first, signal.SIGKILL)
    assert until(lambda: box.pid("one") not in (0, first))
    assert until(lambda: box.supervisor.programs()["one"].restarts) == 1
    box.put("one")
    assert box.supervisor.programs()["one"].restarts == 0


def test_children_of_a_crashed_run_do_not_keep_its_port_from_the_next(box: Box) -> None:
    code = (
        "import os, socket, sys, time\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "print('bound', os.getpid(), flush=True)\n"
        "os.fork() or os.setsid()\n"
        "time.sleep(600)\n"
    )
    box.put("one", code, str(free_port()))
    until(lambda: "bound" in box.log("one"))
    until(lambda: box.supervisor.programs()["one"].uptime > 2)  # beyond `settle`: it is restarted at once
    os.kill(box.pid("one"), signal.SIGKILL)
    until(lambda: box.log("one").count("bound") == 2)
    assert "Address already in use" not in box.log("one")


def test_a_hung_server_is_restarted_however_slow_another_is_to_stop(box: Box) -> None:
    ports = {"quick": free_port(), "slow": free_port()}
    for name, port in ports.items():
        box.put(
            name,
            SERVER,
            str(port),
            *(["deaf"] if name == "slow" else []),
            stop_seconds=60,
            health=HealthCheck(f"http://127.0.0.1:{port}/health", failures=1),
        )
    first = {name: box.pid(name) for name in ports}
    # The listener has seen a program well for certain once it asks a second time: it has then read the first
    # answer. On a busy machine that takes more than one look.
    until(lambda: all(box.log(name).count("answered /health") > 1 for name in ports))
    for name in ports:
        (box.root / "work" / name / "hang").touch()
    restarted = until(lambda: box.pid("quick") not in (0, first["quick"]) and box.supervisor.programs())
    assert not gone(first["slow"])
    until(lambda: box.supervisor.programs()["quick"].restarts)
    assert "no answer to 1 health check" in box.supervisor.programs()["quick"].detail
    assert restarted["quick"].condition == "running"
    os.kill(first["slow"], signal.SIGKILL)  # it would take its minute


def test_a_dead_or_stopped_listener_comes_back(box: Box) -> None:
    box.supervisor.ensure()
    first = until(box.listener)
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (found := box.listener()) != first and found)
    box.supervisor._daemon.call("stopProcess", programs.LISTENER)
    assert gone(second)
    box.supervisor.ensure()
    until(box.listener)


# --- no orphans -------------------------------------------------------------------------------------------


def test_when_supervisord_is_killed_nothing_of_the_stack_outlives_it(box: Box) -> None:
    box.put("plain")
    box.put("deaf", DEAF, stop_seconds=1)
    box.put(
        "escaped", "import os, time\nif os.fork() == 0: os.setsid()\nprint('forked', flush=True)\n" + SLEEP
    )
    until(lambda: "deaf" in box.log("deaf") and box.log("escaped").count("forked") == 2)
    assert len(box.supervisor.survivors()) == 6
    os.kill(box.daemon(), signal.SIGKILL)
    until(lambda: box.supervisor.survivors() == [])


def test_ensure_ends_what_survived_both_daemon_and_listener(box: Box) -> None:
    box.put("deaf", DEAF, stop_seconds=1)
    until(lambda: "deaf" in box.log("deaf"))
    survivor = box.pid("deaf")
    for pid in (box.listener(), box.daemon()):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not box.supervisor.alive())
    assert box.supervisor.programs()["deaf"].condition == "stopped"
    assert survivor in box.supervisor.survivors()
    box.supervisor.ensure()
    assert gone(survivor)
    assert until(lambda: box.pid("deaf")) != survivor


def test_shutdown_reports_the_process_it_had_to_sweep(box: Box) -> None:
    code = (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  print('pid', os.getpid(), flush=True)\n"
        + SLEEP
    )
    box.put("one", code)
    escaped = int(until(lambda: "pid" in box.log("one") and box.log("one").split()[1]))
    assert box.supervisor.shutdown() == [escaped]
    assert gone(escaped)


def test_a_group_that_ignores_sigterm_is_killed_after_its_stop_seconds(box: Box) -> None:
    box.put("one", "import os; os.fork()\n" + DEAF, stop_seconds=2)
    until(lambda: box.log("one").count("deaf") == 2)
    pids = [p.pid for p in sweep.tagged(box.tag, "one")]
    assert len(pids) == 2
    began = time.monotonic()
    box.supervisor.drop("one")
    assert 1.5 < time.monotonic() - began < 30
    assert all(map(gone, pids))


def test_a_sweep_spares_the_process_that_asks_and_the_shells_above_it(tmp_path: Path) -> None:
    tag = f"test-{uuid.uuid4().hex[:12]}"
    code = f"from matcha.host.sweep import sweep; print(sweep({tag!r}, 1))"
    shell = subprocess.run(
        ["sh", "-c", 'sleep 60 & echo $!; "$@"; echo alive', "sh", sys.executable, "-c", code],
        env={**os.environ, sweep.TAG: tag},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    sleeper, swept, end = shell.stdout.split("\n")[:3]
    assert swept == f"[{sleeper}]"
    assert end == "alive"


# --- apart from the caller --------------------------------------------------------------------------------


def test_programs_outlive_the_terminal_they_were_started_in(box: Box) -> None:
    box.put("one")
    box.supervisor.shutdown()
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, box.script("supervisor.ensure()\nprint('up')\ninput()"))
    seen = b""
    while b"up" not in seen:
        seen += os.read(terminal, 1024)
    os.close(terminal)  # SIGHUP to all that belong to the terminal
    os.waitpid(child, 0)
    assert until(lambda: box.pid("one"))
    assert os.getsid(box.daemon()) != os.getsid(0)
    assert not gone(box.pid("one"))


def test_the_daemon_keeps_no_pipe_and_no_lock_of_its_starter(box: Box) -> None:
    lock = box.root / "lock"
    code = (
        "import fcntl, os\n"
        f"handle = os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT); os.set_inheritable(handle, True)\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\n"
        "supervisor.ensure()\n"
    )
    done = subprocess.run(box.script(code), capture_output=True, timeout=30, check=False)  # reads to the end
    assert (done.returncode, done.stderr) == (0, b"")
    assert box.supervisor.alive()
    with lock.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_starts_at_once_make_one_daemon(box: Box) -> None:
    starters = [subprocess.Popen(box.script("supervisor.ensure()")) for _ in range(2)]
    assert [starter.wait(60) for starter in starters] == [0, 0]
    daemons = [p for p in sweep.tagged(box.tag) if any(w.endswith("supervisord.conf") for w in p.cmdline())]
    assert [p.pid for p in daemons] == [box.daemon()]


def test_a_daemon_whose_launcher_is_gone_is_replaced(box: Box) -> None:
    box.put("one")
    before = box.pid("one")
    tools = box.supervisor.home / "tools.json"
    tools.write_text(json.dumps({**json.loads(tools.read_text()), "python": "/gone/bin/python"}))
    box.supervisor.ensure()
    assert gone(before)
    assert until(lambda: box.pid("one"))


# --- environment and secrets ------------------------------------------------------------------------------

SHOW = "import json, os\nprint(json.dumps(dict(os.environ)), flush=True)\n" + SLEEP


def test_a_program_sees_its_own_environment_and_little_of_the_users(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "leaked")
    odd = 'a b%c;d "q" #e\n%(here)s'
    box.put("one", SHOW, env={"ODD": odd})
    seen = json.loads(until(lambda: box.log("one").endswith("}\n") and box.log("one")))
    assert seen["ODD"] == odd
    assert seen["PATH"] == os.environ["PATH"]
    assert (seen[sweep.TAG], seen[sweep.PROGRAM]) == (box.tag, "one")
    assert "leaked" not in seen.values()
    assert not any(name.startswith("SUPERVISOR") for name in seen)


def test_a_secret_reaches_its_program_and_no_other_place(box: Box) -> None:
    value = f"s3cret-{uuid.uuid4().hex}"
    (box.root / "secrets.json").write_text(json.dumps({"password": value}))
    code = "import os; print(len(os.environ['PASSWORD']), flush=True)\n" + SLEEP
    box.put("one", code, secrets={"PASSWORD": "password"})
    until(lambda: box.log("one").strip() == str(len(value)))
    for process in sweep.tagged(box.tag):
        assert value not in " ".join(process.cmdline())
        assert (value in process.environ().values()) == (process.pid == box.pid("one"))
    files = [p for folder in (box.root, box.runtime) for p in folder.rglob("*") if p.is_file()]
    assert [p.name for p in files if value in p.read_text(errors="replace")] == ["secrets.json"]
    assert len(files) > 5


def test_all_files_are_the_users_alone_and_none_lies_elsewhere(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = box.root / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    box.put("one")
    until(box.listener)
    paths = [*box.supervisor.home.rglob("*"), box.supervisor.home, box.root / "logs", *box.runtime.iterdir()]
    assert {p.name for p in paths if p.stat().st_mode & 0o077} == set()
    assert list(temporary.iterdir()) == []


def test_a_missing_secret_is_named_in_the_status(box: Box) -> None:
    (box.root / "secrets.json").write_text("{}")
    box.put("one", secrets={"PASSWORD": "mlflow-password"})
    until(lambda: "no such secret: mlflow-password" in box.supervisor.programs()["one"].detail)


def test_a_command_that_does_not_exist_is_named_in_the_status(box: Box) -> None:
    box.put("one", argv=("/nowhere/python", "-c", "1"))
    until(lambda: "No such file or directory: '/nowhere/python'" in box.supervisor.programs()["one"].detail)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": "../up"},
        {"name": "a:b"},
        {"name": programs.LISTENER},
        {"argv": ()},
        {"argv": ("a\0b",)},
        {"health": HealthCheck("https://127.0.0.1/")},
        {"log": Path("/odd ;folder/x.log")},
    ],
    ids=str,
)
def test_what_cannot_be_supervised_is_refused_before_anything_starts(
    box: Box, changes: dict[str, Any]
) -> None:
    with pytest.raises(BadInput):
        box.supervisor.put(msgspec.structs.replace(box.program("one"), **changes))
    assert not box.supervisor.alive()


def test_a_socket_path_too_long_is_refused_with_its_length(box: Box) -> None:
    long = Supervisor(box.root / "supervisor", box.runtime / ("x" * 100), box.tag)
    with pytest.raises(SupervisorFailed, match="too long") as refused:
        long.ensure()
    assert "at most 95 work" in refused.value.details


def test_a_socket_folder_open_to_others_is_refused(box: Box) -> None:
    box.runtime.chmod(0o755)
    with pytest.raises(SupervisorFailed, match="open to others"):
        box.supervisor.ensure()


def test_a_folder_that_cannot_be_made_is_told_with_its_path(box: Box) -> None:
    (box.root / "work").write_text("in the way")
    with pytest.raises(SupervisorFailed, match="failed to record one") as failed:
        box.put("one")
    assert str(box.root / "work") in failed.value.details
    assert box.supervisor.programs() == {}


def test_a_daemon_that_cannot_start_says_why(box: Box) -> None:
    (box.supervisor.home / "supervisord.log").mkdir(parents=True)
    with pytest.raises(MatchaError, match="does not start") as failed:
        box.supervisor.ensure()
    assert "Is a directory" in failed.value.details


# --- decisions, as plain values ---------------------------------------------------------------------------


def test_configuration_holds_names_and_numbers_only(box: Box) -> None:
    entry = ProgramFile(program=box.program("one", stop_seconds=7), inherited={}, tag="t")
    text = programs.configuration([entry], box.supervisor.home, settle=20, retries=3)
    assert text.partition("[program:one]\n")[2].splitlines() == [
        "command=%(ENV_MATCHA_LAUNCHER)s programs/one.json",
        "autorestart=true",
        "startsecs=20",
        "startretries=3",
        "stopwaitsecs=7",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        "stdout_logfile=../logs/one.log",
        "stdout_logfile_maxbytes=5MB",
        "stdout_logfile_backups=2",
    ]
    assert str(box.root) not in text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PATH": "/bin", "LC_ALL": "C", "EDITOR": "vi"}, {"PATH": "/bin", "LC_ALL": "C"}),
        (
            {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "corp,localhost"},
            {
                "HTTPS_PROXY": "http://p:1",
                "NO_PROXY": "corp,localhost,127.0.0.1,::1",
                "no_proxy": "corp,localhost,127.0.0.1,::1",
            },
        ),
    ],
)
def test_inherited_environment(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert programs.inherited(environ) == expected


def test_launcher_puts_marks_over_all_and_secrets_over_plain_values() -> None:
    program = {"name": "one", "env": {"A": "1", "B": "1", sweep.TAG: "no"}}
    entry = {"inherited": {"A": "0", "PATH": "/bin"}, "program": program, "tag": "t"}
    assert launcher.environment(entry, {"B": "2"}) == {
        "PATH": "/bin",
        "A": "1",
        "B": "2",
        sweep.TAG: "t",
        sweep.PROGRAM: "one",
    }


def info(state: str, pid: int = 0, uptime: int = 0) -> dict[str, Any]:
    return {"statename": state, "pid": pid, "start": 1000, "now": 1000 + uptime}


def test_a_failed_program_is_tried_after_pauses_that_double_up_to_five_minutes() -> None:
    patient = health.Patient(30)
    tries = [now for now in range(0, 2000, 5) if patient.due(info("FATAL"), float(now + 1))]
    pauses = [b - a for a, b in itertools.pairwise(tries)]
    assert tries[0] == 30
    assert pauses[:5] == [65, 125, 245, 305, 305]  # a look of five seconds passes before each pause begins

    assert not patient.due(info("RUNNING", 7, 61), 3000.0)  # calm again: the first pause is short again
    assert not patient.due(info("FATAL"), 4000.0)
    assert patient.due(info("FATAL"), 4030.0)


def test_pauses_between_quick_tries_are_left_to_supervisord() -> None:
    patient = health.Patient(0)
    assert not any(patient.due(info("BACKOFF"), now) for now in (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("looks", "expected"),  # looks: pid, uptime, whether it answered
    [
        ([(1, 99, False), (1, 104, False), (1, 109, False)], [False, False, True]),
        ([(1, 99, False), (1, 104, False), (1, 109, True), (1, 114, False), (1, 119, False)], [False] * 5),
        (
            [(1, 99, False), (1, 104, False), (2, 99, False), (2, 104, False), (2, 109, False)],
            [*[False] * 4, True],
        ),
        ([(1, 5, False), (1, 10, False), (1, 15, False), (1, 20, False)], [False] * 4),
        ([(1, 5, True), (1, 10, False), (1, 15, False), (1, 20, False)], [*[False] * 3, True]),
        ([(1, 5, True), (2, 5, False), (2, 10, False), (2, 15, False)], [False] * 4),
    ],
    ids=[
        "in a row",
        "an answer between",
        "a new process",
        "in its grace",
        "grace ends with an answer",
        "new grace",
    ],
)
def test_what_counts_as_hanging(looks: list[tuple[int, int, bool]], expected: list[bool]) -> None:
    patient = health.Patient(30)
    check = {"grace": 30.0, "failures": 3}
    seen = [patient.hangs(info("RUNNING", pid, up), answered, check) for pid, up, answered in looks]
    assert seen == expected


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH\r\n", False),
        (b"", False),
    ],
)
def test_a_health_answer_is_an_http_status_below_500(answer: bytes, healthy: bool) -> None:
    with answering(lambda link: link.sendall(answer)) as port:
        assert health.answers(f"http://127.0.0.1:{port}/health?x=1", 2) is healthy


def test_a_server_that_drips_is_not_waited_for() -> None:
    def drip(link: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(1200):
                link.sendall(b"H")
                time.sleep(0.05)

    with answering(drip) as port:
        began = time.monotonic()
        assert not health.answers(f"http://127.0.0.1:{port}/", 0.3)
        assert time.monotonic() - began < 10


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection, which it reads before it answers."""

    def serve() -> None:
        link, _ = server.accept()
        with link:
            link.recv(4096)
            answer(link)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_rpc_reads_every_type_that_supervisord_sends() -> None:
    from xmlrpc.client import dumps

    value = {"name": "a<b>&c", "pid": 7, "up": True, "list": [1, "x", {"deep": ""}]}
    body = dumps((value,), methodresponse=True).encode()
    assert rpc.response(b"HTTP/1.0 200 OK\r\n\r\n" + body) == {**value, "up": 1}


def test_rpc_writes_what_the_standard_client_writes() -> None:
    from xmlrpc.client import loads

    body = rpc.request("supervisor.stopProcess", ("a<b>&c", False)).partition(b"\r\n\r\n")[2]
    assert loads(body) == (("a<b>&c", False), "supervisor.stopProcess")


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.0 500 Oops\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n<methodRes"])
def test_rpc_reports_a_broken_answer_as_a_lost_connection(raw: bytes) -> None:
    with pytest.raises(ConnectionError):
        rpc.response(raw)


def test_reading_the_status_imports_nothing_heavy(box: Box) -> None:
    box.put("one")
    heavy = ["psutil", "supervisor", "xmlrpc.client", "http.client", "importlib.metadata"]
    code = f"assert supervisor.programs(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(box.script(code), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
