"""Training jobs as processes of this machine, in the foreground."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from matcha.errors import BadInput, MatchaError, NotFound
from matcha.host import sweep
from matcha.job import Demand, Job, JobStatus, memory_bytes

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
MARK = sweep.JOB  # the variable of a job's processes that names its stack
PLACE = "MATCHA_STACK_JOB_IN"  # and its project, for a stack whose record was lost meanwhile
PREFIX = "process-"  # of the names of jobs, which end with a number of their process
LONGEST = 60  # characters of a job's command that are shown
GRACE = 10.0  # seconds between passing a signal on and killing the job's process group


class NoCommand(NotFound):
    """There is no such command; the exit code is a shell's."""

    exit_code = 127


class CannotRun(MatchaError):
    """The system refuses to run the command; the exit code is a shell's."""

    exit_code = 126


def check(demand: Demand) -> None:
    """Raises BadInput, saying what was found, for more GPUs, cores or memory than this machine has."""
    _check_gpus(demand.gpu)
    cores = os.cpu_count() or 1
    if demand.cpu is not None and demand.cpu > cores:
        raise BadInput(
            f"{demand.cpu:g} cores were asked for, this machine has {cores}.",
            resolution=f"Ask for {cores} at most.",
        )
    if demand.memory is not None:
        _check_memory(demand.memory)


def _check_gpus(wanted: int) -> None:
    if not wanted:
        return
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible(gpus(), chosen)
    if wanted > len(found):
        what = f"found {len(found)}: {', '.join(found)}" if found else "found none (nvidia-smi lists no GPU)"
        what = what if chosen is None else f"{what}; CUDA_VISIBLE_DEVICES is {chosen!r}"
        raise BadInput(
            f"{wanted} GPU{'s' if wanted > 1 else ''} asked for, {what}.",
            resolution="Run without --gpu, or on a target that has GPUs.",
        )


def _check_memory(text: str) -> None:
    wanted, total = memory_bytes(text), psutil.virtual_memory().total
    if wanted > total:
        most = f"{total / 2**30:.1f}Gi"
        raise BadInput(
            f"{text} of memory was asked for, this machine has {most}.", resolution=f"Ask for {most} at most."
        )


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs the driver lists, in order; empty where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def visible(found: Sequence[str], chosen: str | None) -> list[str]:
    """Those of `found` that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it: up to a word that names none."""
    if chosen is None:
        return list(found)
    kept: list[str] = []
    for word in map(str.strip, chosen.split(",")):
        if word.startswith(("GPU-", "MIG-")):
            kept.append(word)
        elif word.isdigit() and int(word) < len(found):
            kept.append(found[int(word)])
        else:
            break
    return kept


def environment(job: Job, inherited: Mapping[str, str]) -> dict[str, str]:
    """The job's variables: the user's own, the stack's on top; in paths the stack's come first."""
    own = {k: v for k, v in inherited.items() if k not in ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE")}
    path = [str(job.python.parent), own.get("PATH", ""), str(Path(sys.executable).parent)]
    modules = [job.env.get("PYTHONPATH", ""), own.get("PYTHONPATH", "")]
    variables = {
        **own,
        **job.env,
        "VIRTUAL_ENV": str(job.python.parent.parent),
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join(filter(None, modules)),
        "PYTHONUNBUFFERED": own.get("PYTHONUNBUFFERED", "1"),
    }
    if job.demand.cpu is not None:
        variables |= dict.fromkeys(THREADS, str(max(1, int(job.demand.cpu))))
    return variables


def run(job: Job) -> int:
    """Run the job to its end in its own process group; 128 + N where signal N ended it.

    Ctrl-C, SIGTERM and SIGHUP are passed on to the whole group, which is killed if it outlives the grace
    period after one of the first two.
    Raises NoCommand for a command that does not exist, CannotRun for one that is no program.
    """
    variables = environment(job, os.environ)
    program = shutil.which(job.command[0], path=variables["PATH"]) or _in_folder(job)
    if program is None:
        raise NoCommand(
            f'There is no command "{job.command[0]}" in the job\'s environment.',
            resolution="Require the package that has it, in requirements.txt or pyproject.toml.",
        )
    child = _start(program, job, variables)
    with _Forwarding(child, own_group=not sys.stdin.isatty()):
        code = child.wait()
    return code if code >= 0 else 128 - code


def marks(stack_id: str, project: Path) -> dict[str, str]:
    """The variables that show whose a job is."""
    return {MARK: stack_id, PLACE: str(project)}


def titles(stack_id: str, project: Path) -> list[str]:
    """The jobs of the project's stacks that run, one line each; also those whose `matcha run` was killed."""
    return [_title(process) for process in _firsts(stack_id, project)]


def listed(stack_id: str, project: Path) -> list[JobStatus]:
    """Those that run: of what has ended, nothing is kept."""
    found = [_status(process) for process in _firsts(stack_id, project)]
    return sorted(filter(None, found), key=lambda each: each.created, reverse=True)


def cancel(name: str, stack_id: str, project: Path) -> None:
    """End its processes. Raises NotFound."""
    for process in _firsts(stack_id, project):
        if f"{PREFIX}{process.pid}" == name:
            owners = marks(stack_id, project)
            belonging = sweep.tagged(owners[MARK], mark=MARK)
            _end([p for p in belonging if p == process or _is_below(p, process)])
            return
    raise NotFound(f'There is no running job "{name}".', resolution="matcha jobs list")


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _is_below(process: psutil.Process, above: psutil.Process) -> bool:
    try:
        return above in process.parents()
    except psutil.Error:
        return False


def _status(process: psutil.Process) -> JobStatus | None:
    """None for one that has just ended."""
    try:
        name, *arguments = process.cmdline()
        began = process.create_time()
    except (psutil.Error, ValueError):
        return None
    command = (Path(name).name, *arguments)
    return JobStatus(
        name=f"{PREFIX}{process.pid}", condition="running", command=command, created=began, started=began
    )


def _firsts(stack_id: str, project: Path) -> list[psutil.Process]:
    """The first process of each."""
    owners = marks(stack_id, project).items()
    found = {process.pid: process for mark, value in owners for process in sweep.tagged(value, mark=mark)}
    return [process for process in found.values() if _parent(process) not in found]


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _title(process: psutil.Process) -> str:
    try:
        name, *arguments = process.cmdline()
    except (psutil.Error, ValueError):
        return f"process {process.pid}"
    return f"process {process.pid}, {' '.join([Path(name).name, *arguments])[:LONGEST]}"


def end(stack_id: str, project: Path) -> None:
    """End every job of the project's stacks."""
    for mark, value in marks(stack_id, project).items():
        sweep.sweep(value, GRACE, mark=mark)


def _start(program: str, job: Job, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [program, *job.command[1:]],
            cwd=job.folder,
            env=variables,
            start_new_session=not sys.stdin.isatty(),
        )
    except OSError as error:
        raise CannotRun(
            f"{job.command[0]} cannot be run: {error.strerror}.", resolution=_advice(error, job.command[0])
        ) from error


def _advice(error: OSError, name: str) -> str:
    if error.errno == errno.EACCES:
        return f"chmod +x {shlex.quote(name)}"
    if error.errno in (errno.ENOEXEC, errno.ENOENT):
        return f"Name its interpreter in its first line, or run it with one: matcha run -- python {name}"
    return ""


def _in_folder(job: Job) -> str | None:
    path = Path(job.folder, job.command[0])
    return str(path) if "/" in job.command[0] and path.is_file() else None


class _Forwarding:
    """Passes SIGINT, SIGTERM and SIGHUP on to a job while it runs; what is ignored (nohup) stays so.

    On a terminal the job shares our process group, so that it can read from it, and Ctrl-C reaches it from
    the terminal itself; the second one kills. SIGHUP never does: a closed terminal says it more than once,
    and a job may go on without one (nohup).
    """

    def __init__(self, child: subprocess.Popen[bytes], *, own_group: bool) -> None:
        self._child = child
        self._own_group = own_group
        self._asked = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._pass_on)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _pass_on(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
            self._send(number)
            return
        self._asked += 1
        if self._own_group or number != signal.SIGINT:
            self._send(number)
        if self._asked > 1:
            self._send(signal.SIGKILL)
        else:
            signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _send(self, number: int) -> None:
        try:
            if self._own_group:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)
        except ProcessLookupError:
            return
