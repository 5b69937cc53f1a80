"""`matcha run` with what users already have: MLflow scripts, ZenML pipelines, any command."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.jobs import Trained, last_json
from support.matcha import COMMAND, Matcha, until

STREAMING = """
import pathlib, sys, time
print("first", flush=True)
print("to stderr", file=sys.stderr, flush=True)
while not pathlib.Path("go-on").exists():
    time.sleep(0.05)
print("second")
sys.exit(7)
"""
WAITING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    print("pids", __import__("os").getpid(), child.pid, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("stopped in order", flush=True)
    raise
"""


def run_of(stack: Matcha, run_id: str) -> dict[str, Any]:
    base = stack.url("experiment-tracker", "tracking-url")
    answer = httpx.get(f"{base}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=30)
    return dict(answer.json()["run"])


def artifacts(stack: Matcha, run_id: str, folder: str) -> list[str]:
    base = stack.url("experiment-tracker", "tracking-url")
    asked = {"run_id": run_id, "path": folder}
    answer = httpx.get(f"{base}/api/2.0/mlflow/artifacts/list", params=asked, timeout=30)
    return [file["path"] for file in answer.json().get("files", [])]


def test_an_unmodified_mlflow_script_logs_to_the_stack(stack: Matcha, trained: Trained) -> None:
    assert trained.told["argv"] == ["--epochs", "3"]
    for run_id in trained.runs:
        run = run_of(stack, run_id)
        assert run["info"]["status"] == "FINISHED"
        assert {m["key"] for m in run["data"]["metrics"]} == {"rmse"}
    registered = {m["name"]: m for m in stack.json("models")}
    assert sorted(registered["credit"]["versions"]) == ["1", "2"]
    assert registered["credit"]["aliases"] == {"champion": "1"}
    assert not (stack.project / "mlruns").exists()
    assert not (stack.project / "mlflow.db").exists()


def test_a_job_has_what_the_project_requires(stack: Matcha) -> None:
    """Beside the stack's own versions of what both want."""
    assert "humanize" in (stack.project / "requirements.txt").read_text()
    script = "import humanize, mlflow, zenml; print(humanize.intcomma(4000), mlflow.__version__)"
    version = next(c["version"] for c in stack.json("status")["components"] if c["flavor"] == "mlflow")
    assert stack("run", "--", "python", "-c", script).stdout.splitlines()[-1] == f"4,000 {version}"


def test_a_job_has_the_projects_own_packages_as_they_are_now(stack: Matcha) -> None:
    assert "./own" in (stack.project / "requirements.txt").read_text()
    script = "import own, humanize; print(own.answer)"
    code = stack.project / "own" / "own.py"
    before = code.read_text()
    try:
        for answer in ("as it is", "as it was changed"):
            code.write_text(f"answer = {answer!r}\n")
            done = stack("run", "--", "python", "-c", script)
            assert done.stdout.splitlines()[-1] == answer
    finally:
        code.write_text(before)


def test_a_job_runs_where_the_user_is(stack: Matcha, tmp_path: Path) -> None:
    below = stack.project / "a folder" / "below"
    below.mkdir(parents=True)
    (below / "where.py").write_text("import os, sys; print(os.getcwd(), os.environ['PYTHONPATH'], sep='\\n')")
    mine = str(tmp_path / "mine")
    done = stack("run", "--", "python", "where.py", where=below, env={"PYTHONPATH": mine})
    assert done.stdout.splitlines()[0] == str(below)
    assert done.stdout.splitlines()[1].split(os.pathsep)[0] == str(stack.project)
    assert done.stdout.splitlines()[1].split(os.pathsep)[-1] == mine
    elsewhere = stack("--project", str(stack.project), "run", "--", "pwd", where=tmp_path)
    assert elsewhere.stdout.splitlines() == [str(stack.project)]


def test_the_training_data_is_kept_as_the_reference(stack: Matcha, trained: Trained) -> None:
    for run_id in trained.runs:
        assert artifacts(stack, run_id, "matcha") == ["matcha/reference.parquet"]


def test_training_data_that_cannot_be_had_is_told(stack: Matcha) -> None:
    done = stack("run", "--", "python", "datasets.py")
    runs = last_json(done.stdout)
    for name, words in (
        ("changed", 'Dataset "changed" is no longer what the run trained on'),
        ("gone", 'Dataset "gone" lies at'),
        ("memory", 'Dataset "memory" was logged from memory'),
    ):
        assert words in done.stderr
        assert artifacts(stack, runs[name], "matcha") == []
    told = stack("deploy", f"runs:/{runs['changed']}/model", "--name", "changed")
    assert "no longer what the run trained on" in " ".join(told.stdout.split())
    stack("undeploy", "changed")


def test_steps_of_a_pipeline_are_processes_here_whichever_way_it_is_run(stack: Matcha) -> None:
    """`--pipeline` is for clusters; a project that moves there runs by the same command here."""
    script = "import os; print(os.environ['MLFLOW_TRACKING_URI'])"
    said = stack("run", "--pipeline", "--", "python", "-c", script).stdout
    assert said.strip() == stack.url("experiment-tracker", "tracking-url")


def test_an_unmodified_zenml_pipeline_runs_on_the_stack(stack: Matcha) -> None:
    told = last_json(stack("run", "--", "python", "zenml_pipeline.py").stdout)
    assert told["status"] == "completed"
    assert told["result"] == 6.0
    wanted = {"orchestrator": "local", "artifact_store": "local", "experiment_tracker": "mlflow"}
    assert told["components"].items() >= {**wanted, "model_registry": "mlflow"}.items()
    base = stack.url("experiment-tracker", "tracking-url")
    found = httpx.post(f"{base}/api/2.0/mlflow/runs/search", json={"experiment_ids": _experiments(base)})
    metrics = [m["key"] for run in found.json()["runs"] for m in run["data"].get("metrics", [])]
    assert "from_zenml" in metrics


def _experiments(base: str) -> list[str]:
    found = httpx.post(f"{base}/api/2.0/mlflow/experiments/search", json={"max_results": 100})
    return [e["experiment_id"] for e in found.json()["experiments"]]


def test_output_streams_and_the_exit_code_is_the_jobs(stack: Matcha) -> None:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = stack.popen("run", "--", "python", "-c", STREAMING, **pipes)
    assert run.stdout is not None
    assert run.stdout.readline() == "first\n", "before the job ends"
    (stack.project / "go-on").touch()
    out, err = run.communicate(timeout=60)
    (stack.project / "go-on").unlink()
    assert out == "second\n"
    assert "to stderr" in err
    assert run.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_job_without_a_terminal(stack: Matcha, number: signal.Signals) -> None:
    run = stack.popen(
        "run", "--", "python", "-c", WAITING, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=-3
    )
    assert run.stdout is not None
    pids = [int(word) for word in run.stdout.readline().split()[1:]]
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert ("stopped in order" in out) == (number == signal.SIGINT)
    until(lambda: not any(map(psutil.pid_exists, pids)), 60)


def test_ctrl_c_on_a_terminal_stops_the_job(stack: Matcha) -> None:
    screen, terminal = pty.openpty()
    command = [*COMMAND, "run", "--", "python", "-c", WAITING]
    run = subprocess.Popen(
        [sys.executable, "-c", IN_FRONT, *command],
        cwd=stack.project,
        env=stack.env,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        shown = _read_until(screen, b"pids ")
        pids = [int(word) for word in shown.rpartition(b"pids ")[2].split()[:2]]
        os.write(screen, b"\x03")
        assert b"stopped in order" in _read_until(screen, b"stopped in order")
        assert run.wait(60) == 130
        until(lambda: not any(map(psutil.pid_exists, pids)), 60)
    finally:
        run.kill()
        run.wait(10)
        os.close(screen)


# Makes the terminal its own, as a shell's foreground job has it.
IN_FRONT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _read_until(screen: int, what: bytes) -> bytes:
    """What is shown up to a line with `what`, or to the end."""
    shown = b""
    with contextlib.suppress(OSError):  # the last program on the terminal has ended
        while what not in shown or not shown.endswith(b"\n"):
            shown += os.read(screen, 4096)
    return shown


def test_gpus_that_are_not_there_are_refused(stack: Matcha) -> None:
    done = stack("run", "--gpu", "1000", "--", "python", "-c", "print('ran')", code=2)
    assert "1000 GPUs asked for, found" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("run", "--", "no-such-program"), 127, 'no command "no-such-program"'),
        (("run", "--"), 2, "CMD"),
        (("run", "--memory", "lots", "--", "true"), 2, '"lots" is not an amount of memory'),
        (("run", "--memory", "999Ti", "--", "true"), 2, "this machine has"),
        (("run", "--cpu", "4096", "--", "true"), 2, "this machine has"),
    ],
)
def test_what_cannot_be_run_is_told(stack: Matcha, command: tuple[str, ...], code: int, words: str) -> None:
    done = stack(*command, code=code)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


CONNECTING = """
import json, os, sys
import matcha
variables = matcha.connect(sys.argv[1])
assert all(os.environ[name] == value for name, value in variables.items())
print(json.dumps(variables))
"""


def test_connect_sets_the_variables_of_a_plain_process(stack: Matcha, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECTING, str(stack.project)],
        cwd=tmp_path,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == stack.json("env", "--show-sensitive")
    assert json.loads(done.stdout)["MLFLOW_TRACKING_URI"] == stack.url("experiment-tracker", "tracking-url")


def test_connect_works_where_the_job_runs(stack: Matcha) -> None:
    """As a notebook of `matcha run -- jupyter lab` would: the job's own Python imports Matcha."""
    told = last_json(stack("run", "--", "python", "-c", CONNECTING, str(stack.project)).stdout)
    assert told == stack.json("env", "--show-sensitive")


def test_a_dvc_client_pushes_to_the_stacks_remote(stack: Matcha, tmp_path: Path) -> None:
    remote = stack.url("data-version-control", "remote-url")
    script = """set -e
cd "$1" && dvc init --no-scm -q && dvc remote add -d stack "$2"
echo "a,b" > data.csv && dvc add -q data.csv && dvc push -q
rm -rf data.csv .dvc/cache && dvc pull -q && cat data.csv"""
    done = stack("run", "--", "bash", "-c", script, "bash", str(tmp_path), remote)
    assert done.stdout.endswith("a,b\n")
    assert any(Path(remote).rglob("files/md5/*/*"))
