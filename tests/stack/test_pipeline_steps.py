"""ZenML pipelines led through Matcha's orchestrator, with the real server and client. What queues jobs on a
cluster runs them as processes of this machine here: killed, made anew and ended as pods are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from matcha.api import _steps
from matcha.components.zenml import ZenML
from matcha.components.zenml.rest import Server
from matcha.errors import BadInput
from support.access import FolderAccess
from support.clients import workspace
from support.matcha import until
from support.serving import Running, running

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

ZENML = ZenML(ZenML.Options())
GIVEN_UP = 143  # what a pod ends with that its node gives up; another is made then
COMES_UP = 120.0  # seconds
SCRIPT = """
import os, sys, time
from pathlib import Path
from zenml import pipeline, step
from zenml.config import DockerSettings, ResourceSettings, Schedule
from zenml.config.retry_config import StepRetryConfig
from zenml.enums import ExecutionMode

HERE = Path(__file__).resolve().parent
WAY = sys.argv[1] if len(sys.argv) > 1 else ""
if WAY == "gpu":
    SIZE = ResourceSettings(gpu_count=4)
else:
    SIZE = ResourceSettings(cpu_count=0.25, memory="300MiB")

@step
def load() -> int:
    print("loads in", Path.cwd().name, flush=True)
    return 3

@step(settings={"resources": SIZE})
def left(x: int) -> int:
    (HERE / "left").touch()
    waits = time.monotonic() + 60
    while not (HERE / "right").exists() and time.monotonic() < waits:
        time.sleep(0.1)
    return x * 2

@step(settings={"docker": DockerSettings(parent_image="nobody/nothing")})
def right(x: int) -> int:
    (HERE / "right").touch()
    waits = time.monotonic() + 60
    while not (HERE / "left").exists() and time.monotonic() < waits:
        time.sleep(0.1)
    return x * 5

@step
def add(x: int, y: int) -> int:
    print("the sum is", x + y, flush=True)
    return x + y

@pipeline(enable_cache=False)
def diamond():
    x = load()
    add(left(x), right(x))

@step
def fails(x: int) -> int:
    raise ValueError("of all things")

@pipeline(enable_cache=False)
def failing():
    x = load()
    y = fails(x)
    add(x, y)

@step(retry=StepRetryConfig(max_retries=1))
def dies_once(x: int) -> int:
    mark = HERE / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return x

@step
def dies(x: int) -> int:
    os.kill(os.getpid(), 9)

@pipeline(enable_cache=False)
def retried():
    dies_once(load())

@pipeline(enable_cache=False)
def dying():
    dies(load())

@step
def waits(x: int) -> int:
    began = HERE / "began"
    again = began.exists()
    began.touch()
    if not again or WAY == "forever":
        time.sleep(120)
    return x

@pipeline(enable_cache=False)
def waiting():
    waits(load())

@pipeline(enable_cache=False, execution_mode=ExecutionMode.FAIL_FAST)
def fast():
    x = load()
    waits(x)
    fails(x)

@pipeline(enable_cache=True)
def cached():
    add(int(WAY) if WAY.isdigit() else 0, 4)

@pipeline(dynamic=True)
def dynamic():
    load()
"""
LEAD = (
    SCRIPT
    + """
if __name__ == "__main__":
    chosen = globals()[sys.argv[2]]
    if WAY == "schedule":
        chosen = chosen.with_options(schedule=Schedule(cron_expression="* * * * *"))
    run = chosen()
    print("STATUS", run.status.value, flush=True)
"""
)


class Processes(_steps.Doing):
    """Jobs that are processes."""

    def __init__(self, project: Path, env: dict[str, str], python: Path) -> None:
        self.project = project
        self.env = env
        self.python = python
        self.steps: list[_steps.Step] = []
        self.log: list[str] = []
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.codes: list[int] = []
        self.checked: list[_steps.Sized] = []

    def check(self, steps: tuple[_steps.Sized, ...]) -> None:
        self.checked += steps
        for step in steps:
            if step.demand.gpu:
                raise BadInput(f"Step {step.step}: none has any GPU.", resolution="less")

    def run(self, step: _steps.Step, queued: Callable[[str], None], ended: _steps.Ended) -> _steps.Over:
        self.steps.append(step)
        queued(f"{step.step}-1")
        is_ended = threading.Event()

        def end() -> None:
            is_ended.set()
            if found := self.running.get(step.step):
                found.terminate()

        ended.calls(end)
        code = GIVEN_UP
        while code == GIVEN_UP and not is_ended.is_set():
            code = self._process(step)
            self.codes.append(code)
        over = "cancelled" if is_ended.is_set() else "failed" if code else "succeeded"
        return _steps.Over(job=f"{step.step}-1", over=over, detail=f"it ended with {code}" if code else "")

    def _process(self, step: _steps.Step) -> int:
        with subprocess.Popen(
            [self.python, *step.command[1:]],
            cwd=self.project,
            env={**self.env, **step.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            self.running[step.step] = process
            assert process.stdout
            self.log += [f"[{step.step}] {line.rstrip()}" for line in process.stdout]
            return process.wait()


class Bed:
    """A project, and whoever leads its pipelines."""

    def __init__(self, access: FolderAccess, folder: Path) -> None:
        self.access = access
        self.project = folder / "a project"
        code = self.project / "sub"
        code.mkdir(parents=True)
        (code / "lead.py").write_text(LEAD)
        (folder / "home").mkdir()
        stack = {**ZENML.client_env(access), **ZENML.steps_env(access)}
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "ZENML_ENABLE_RICH_TRACEBACK": "false",
            "ZENML_LOGGING_COLORS_DISABLED": "true",
            "MATCHA_PROJECT": str(self.project),
            "PYTHONPATH": str(ZENML.steps_code()),
            **{name: output.value for name, output in stack.items()},
        }
        self.python = workspace()
        self.jobs = Processes(self.project, self.env, self.python)

    def lead(self, way: str, pipeline: str, address: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "sub/lead.py", way, pipeline],
            cwd=self.project,
            env={**self.env, "MATCHA_STEPS": str(address)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, pipeline: str, way: str = "-", code: int = 0) -> str:
        with _steps.answering(self.jobs) as address, self.lead(way, pipeline, address) as leader:
            said, _ = leader.communicate(timeout=300)
        assert leader.returncode == code, said + "\n".join(self.jobs.log)
        return said

    def newest(self) -> tuple[str, dict[str, str]]:
        """Status of the newest run, and of its steps that were not replaced by another try."""
        with Server(self.access.url("pipeline")) as server:
            server.login(password=self.access.secret("zenml-api-key"))
            run = server.get("/runs", size=1, sort_by="desc:created")["items"][0]
            steps = server.get("/steps", pipeline_run_id=run["id"], size=50, exclude_retried="true")["items"]
        return run["body"]["status"], {each["name"]: each["body"]["status"] for each in steps}


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderAccess]:
    made = FolderAccess(tmp_path_factory.mktemp("a stack") / "with space")
    with running(ZENML, made) as service:
        assert isinstance(service, Running)
        made.urls["experiment-tracker"] = "http://127.0.0.1:9"  # which no step here asks
        ZENML.setup(made)
        yield made


@pytest.fixture
def bed(access: FolderAccess, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(access, tmp_path)
    yield made
    for process in made.jobs.running.values():
        process.kill()


def test_steps_run_where_they_can_and_side_by_side(bed: Bed) -> None:
    said = bed.run("diamond")
    assert "STATUS completed" in said
    assert "DockerSettings are not heeded" in said
    assert bed.newest() == ("completed", dict.fromkeys(("load", "left", "right", "add"), "completed"))
    names = [step.step for step in bed.jobs.steps]
    assert (names[0], set(names[1:3]), names[3]) == ("load", {"left", "right"}, "add")
    sizes = {step.step: step.demand for step in bed.jobs.steps}
    assert sizes["left"] == _steps.Sizes(cpu=0.25, memory="300Mi")
    assert sizes["add"] == _steps.Sizes()
    assert {step.pipeline for step in bed.jobs.steps} == {"diamond"}
    assert "[load] loads in a project" in bed.jobs.log
    assert "[add] the sum is 21" in bed.jobs.log


def test_a_failing_step_ends_what_needs_it_and_is_named(bed: Bed) -> None:
    said = bed.run("failing", code=1)
    assert "Step `fails` failed: it ended with 1. Its log: matcha jobs logs fails-1" in said
    assert "Step `add` is left out" in said
    status, steps = bed.newest()
    assert (status, steps) == ("failed", {"load": "completed", "fails": "failed"})
    assert any("of all things" in line for line in bed.jobs.log)


@pytest.mark.sweep(sample=())
def test_a_job_that_dies_without_a_word_fails_its_step_or_has_it_tried_again(bed: Bed) -> None:
    said = bed.run("dying", code=1)
    assert "Step `dies` failed: it ended with -9" in said
    assert bed.newest() == ("failed", {"load": "completed", "dies": "failed"})
    bed.run("retried")
    assert bed.newest() == ("completed", {"load": "completed", "dies_once": "completed"})
    assert [step.step for step in bed.jobs.steps][-2:] == ["dies_once", "dies_once"]


@pytest.mark.sweep(sample=["given up"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["given up", "gone without a word"])
def test_a_pod_that_its_node_loses_is_made_anew_and_the_step_goes_on(
    bed: Bed, how: signal.Signals, monkeypatch: Any
) -> None:
    if how == signal.SIGKILL:
        monkeypatch.setattr("test_pipeline_steps.GIVEN_UP", -how)
    with _steps.answering(bed.jobs) as address, bed.lead("-", "waiting", address) as leader:
        until((bed.project / "sub" / "began").exists, COMES_UP)
        bed.jobs.running["waits"].send_signal(how)
        said, _ = leader.communicate(timeout=200)
    assert leader.returncode == 0, said
    assert bed.jobs.codes == [0, GIVEN_UP, 0]
    assert bed.newest() == ("completed", {"load": "completed", "waits": "completed"})


@pytest.mark.sweep(sample=["Ctrl-C"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "its terminal is closed"])
def test_the_run_is_stopped_and_its_jobs_ended(bed: Bed, how: signal.Signals) -> None:
    with _steps.answering(bed.jobs) as address, bed.lead("forever", "waiting", address) as leader:
        until((bed.project / "sub" / "began").exists, COMES_UP)
        leader.send_signal(how)
        said, _ = leader.communicate(timeout=100)
    assert leader.returncode == -signal.SIGINT, said
    assert "The steps that ran were ended, and the run is stopped." in said
    assert "still executing" not in said
    assert bed.newest() == ("stopped", {"load": "completed", "waits": "stopped"})
    assert bed.jobs.running["waits"].returncode not in (None, 0)


def test_jobs_end_with_a_leader_that_was_killed(bed: Bed) -> None:
    with _steps.answering(bed.jobs) as address, bed.lead("forever", "waiting", address) as leader:
        until((bed.project / "sub" / "began").exists, COMES_UP)
        leader.kill()
        leader.communicate(timeout=60)
        until(lambda: bed.jobs.running["waits"].poll() is not None, 30)


@pytest.mark.sweep(sample=())
def test_one_failure_ends_all_where_the_pipeline_says_so(bed: Bed) -> None:
    said = bed.run("fast", "forever", code=1)
    assert "Step `fails` failed" in said
    status, steps = bed.newest()
    assert status == "failed"
    assert (steps["load"], steps["fails"]) == ("completed", "failed")
    assert steps.get("waits", "stopped") == "stopped"


def test_what_is_cached_needs_no_job(bed: Bed) -> None:
    bed.run("cached", "71")
    assert [step.step for step in bed.jobs.steps] == ["add"]
    assert "STATUS completed" in bed.run("cached", "71")
    assert len(bed.jobs.steps) == 1


def test_what_cannot_be_is_refused_in_words(bed: Bed) -> None:
    assert "Step left: none has any GPU." in bed.run("diamond", "gpu", code=1)
    assert bed.newest()[0] == "failed"
    assert "Have cron, or your CI, run that." in bed.run("cached", "schedule", code=1)
    assert "Without it the whole pipeline is one job" in bed.run("dynamic", code=1)
    assert bed.jobs.steps == []
    alone = subprocess.run(
        [bed.python, "sub/lead.py", "-", "diamond"],
        cwd=bed.project,
        env=bed.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "matcha run --pipeline -- ..." in alone.stderr + alone.stdout
