"""Jobs as real processes: exit codes, signals, resources and environment."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from matcha.errors import BadInput, NotFound
from matcha.host import foreground, sweep
from matcha.job import Demand, Job, memory_bytes
from matcha.targets.local import jobs
from support.matcha import until

PYTHON = Path(sys.executable)


def job(*command: str, folder: Path, **changes: object) -> Job:
    needs = {name: changes.pop(name) for name in ("gpu", "cpu", "memory") if name in changes}
    demand = Demand(**needs)  # type: ignore[arg-type]
    return Job(command=command, python=PYTHON, folder=folder, demand=demand, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_jobs(tmp_path: Path, code: int) -> None:
    assert jobs.run(job("python", "-c", f"raise SystemExit({code})", folder=tmp_path)) == code


def test_a_job_that_a_signal_ended(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert jobs.run(job("python", "-c", kill, folder=tmp_path)) == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no-such-command") as refused:
        jobs.run(job("no-such-command", folder=tmp_path))
    assert refused.value.exit_code == 127


@pytest.mark.parametrize(
    ("text", "mode", "why", "advice"),
    [
        ("#!/bin/sh\nexit 0\n", 0o644, "Permission denied", "chmod +x ./fail"),
        ("exit 0\n", 0o755, "Exec format error", "first line"),
        ("#!/no/such/interpreter\n", 0o755, "No such file or directory", "first line"),
    ],
)
def test_a_command_that_is_no_program(tmp_path: Path, text: str, mode: int, why: str, advice: str) -> None:
    (tmp_path / "fail").write_text(text)
    (tmp_path / "fail").chmod(mode)
    with pytest.raises(foreground.CannotRun) as refused:
        jobs.run(job("./fail", folder=tmp_path))
    assert refused.value.message == f"./fail cannot be run: {why}."
    assert advice in refused.value.resolution
    assert refused.value.exit_code == 126


def test_the_job_runs_in_its_folder_with_its_python_first(tmp_path: Path) -> None:
    code = "import os, sys; open('seen', 'w').write(sys.executable + os.environ['STACK'])"
    assert jobs.run(job("python", "-c", code, folder=tmp_path, env={"STACK": "yes"})) == 0
    seen = (tmp_path / "seen").read_text()
    assert seen.endswith("yes")
    assert Path(seen.removesuffix("yes")).parent == PYTHON.parent


def test_cores_bound_the_threads_of_numeric_libraries(tmp_path: Path) -> None:
    found = foreground.environment(job("x", folder=tmp_path, cpu=1.0), {"PATH": "/bin"})
    assert {found[name] for name in foreground.THREADS} == {"1"}
    assert found["PATH"].split(os.pathsep)[0] == str(PYTHON.parent)


def test_what_the_user_set_stays_behind_what_the_stack_sets(tmp_path: Path) -> None:
    user = {"PATH": "/bin", "PYTHONPATH": "/mine:/yours", "CUDA_VISIBLE_DEVICES": "3", "STACK": "another"}
    stack = {"PYTHONPATH": "/project", "STACK": "this"}
    found = foreground.environment(job("x", folder=tmp_path, env=stack, gpu=1), user)
    assert found["PYTHONPATH"] == "/project:/mine:/yours"
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert found["STACK"] == "this"
    without = foreground.environment(job("x", folder=tmp_path, env=stack, gpu=1), {"PATH": "/bin"})
    assert without["PYTHONPATH"] == "/project"
    assert "CUDA_VISIBLE_DEVICES" not in without


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (None, ["A", "B"]),
        ("", []),
        ("-1", []),
        ("1", ["B"]),
        ("1, 0", ["B", "A"]),
        ("0,7,1", ["A"]),
        ("MIG-1a,MIG-2b,MIG-3c", ["MIG-1a", "MIG-2b", "MIG-3c"]),
    ],
)
def test_gpus_that_the_user_left_visible(chosen: str | None, left: list[str]) -> None:
    assert jobs.visible(["A", "B"], chosen) == left


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("2K", 2000), ("1.5Gi", 3 * 2**29), ("8Gi", 2**33), ("1T", 10**12)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8GB", "-1Gi", "lots", "1e3"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(BadInput):
        memory_bytes(text)


def test_resources_this_machine_does_not_have_are_refused_with_what_it_has(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    with pytest.raises(BadInput, match=f"this machine has {cores}") as refused:
        jobs.check(Demand(cpu=cores + 1.0))
    assert refused.value.resolution == f"Ask for {cores} at most."
    with pytest.raises(BadInput, match="this machine has") as refused:
        jobs.check(Demand(memory="1000Ti"))
    assert refused.value.resolution.startswith("Ask for ")
    with pytest.raises(BadInput, match="positive numbers") as refused:
        jobs.check(Demand(gpu=-1))
    assert refused.value.resolution
    for cpu in (float("nan"), 0.0):
        with pytest.raises(BadInput, match="--gpu and --cpu take positive numbers"):
            jobs.check(Demand(cpu=cpu))
    for nothing in ("0", "0Gi", "0.4", "1", "8"):
        with pytest.raises(BadInput, match="a number alone is bytes"):
            jobs.check(Demand(memory=nothing))
    with pytest.raises(BadInput, match="found"):
        jobs.check(Demand(gpu=len(jobs.gpus()) + 1))
    jobs.check(Demand(cpu=1.0, memory="1Mi"))


def test_gpus_are_those_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi, which a machine without a GPU does not have."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A'\necho 'NVIDIA B'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert jobs.gpus() == ["NVIDIA A", "NVIDIA B"]
    jobs.check(Demand(gpu=2))
    with pytest.raises(BadInput, match=r"3 GPUs asked for, found 2: NVIDIA A, NVIDIA B\."):
        jobs.check(Demand(gpu=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(BadInput, match="2 GPUs asked for, found 1: NVIDIA B; CUDA_VISIBLE_DEVICES is '1'"):
        jobs.check(Demand(gpu=2))


RUNNER = """
    import sys
    from pathlib import Path
    from matcha.job import Demand, Job
    from matcha.targets.local import jobs
    folder, child, jobs.GRACE = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    job = Job(command=("python", "-c", child), python=Path(sys.executable), folder=folder)
    sys.exit(jobs.run(job))
"""
SLEEPER = "import time; open('up', 'w').close(); time.sleep(60)"
# Makes a file of the signal's name when one comes, and ends well once it may.
SAVER = """
    import pathlib, signal, time
    for name in ("SIGHUP", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda *_, name=name: pathlib.Path(name).touch())
    pathlib.Path("up").touch()
    while not pathlib.Path("may-end").exists():
        time.sleep(0.05)
    time.sleep(1)
"""


def running(folder: Path, child: str, *, grace: float = jobs.GRACE) -> subprocess.Popen[bytes]:
    """`matcha run` of this Python code, which has made the file `up`."""
    code = [textwrap.dedent(RUNNER), str(folder), textwrap.dedent(child), str(grace)]
    runner = subprocess.Popen(
        [sys.executable, "-c", *code], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    appears(folder / "up")
    return runner


def appears(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_closed_terminal_leaves_the_job_its_time(tmp_path: Path) -> None:
    """It says so more than once, and not every job ends by it."""
    runner = running(tmp_path, SAVER, grace=0.2)
    runner.send_signal(signal.SIGHUP)
    appears(tmp_path / "SIGHUP")
    runner.send_signal(signal.SIGHUP)
    (tmp_path / "may-end").touch()
    assert runner.wait(60) == 0


def test_a_job_that_outlived_its_terminal_is_still_ended_when_asked(tmp_path: Path) -> None:
    runner = running(tmp_path, SAVER, grace=60)
    runner.send_signal(signal.SIGHUP)
    appears(tmp_path / "SIGHUP")
    runner.send_signal(signal.SIGTERM)
    appears(tmp_path / "SIGTERM")
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_job_and_end_it(tmp_path: Path, number: signal.Signals) -> None:
    runner = running(tmp_path, SLEEPER)
    [child] = psutil.Process(runner.pid).children()
    runner.send_signal(number)
    assert runner.wait(60) in (1, 128 + number)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_running_jobs_are_listed_and_one_is_ended(tmp_path: Path) -> None:
    """Each with what it started; the others stay."""
    both = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    variables = {**os.environ, **jobs.marks("listed", tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", both], env=variables) for _ in range(2)]
    try:
        until(lambda: len(sweep.tagged("listed", mark=sweep.JOB)) == 4, 20)
        found = {each.name: each for each in jobs.listed("listed", tmp_path)}
        assert set(found) == {f"process-{each.pid}" for each in running}
        assert {each.condition for each in found.values()} == {"running"}
        jobs.cancel(f"process-{running[0].pid}", "listed", tmp_path)
        running[0].wait(20)
        assert [each.name for each in jobs.listed("listed", tmp_path)] == [f"process-{running[1].pid}"]
        with pytest.raises(NotFound, match="no running job"):
            jobs.cancel(f"process-{running[0].pid}", "listed", tmp_path)
    finally:
        sweep.sweep("listed", 1.0, mark=sweep.JOB)
        for each in running:
            each.wait(20)
