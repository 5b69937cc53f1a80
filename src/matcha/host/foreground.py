"""A user's command in the foreground, as a process of this machine."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from matcha.errors import MatchaError, NotFound
from matcha.job import Job

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


class NoCommand(NotFound):
    """There is no such command; the exit code is a shell's."""

    exit_code = 127


class CannotRun(MatchaError):
    """The system refuses to run the command; the exit code is a shell's."""

    exit_code = 126


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


def run(job: Job, grace: float) -> int:
    """Run the job to its end in its own process group; 128 + N where signal N ended it.

    Ctrl-C, SIGTERM and SIGHUP are passed on to the whole group, which is killed if it outlives `grace`
    seconds after one of the first two.
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
    with _Forwarding(child, grace, own_group=not sys.stdin.isatty()):
        code = child.wait()
    return code if code >= 0 else 128 - code


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

    def __init__(self, child: subprocess.Popen[bytes], grace: float, *, own_group: bool) -> None:
        self._child = child
        self._grace = grace
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
            signal.setitimer(signal.ITIMER_REAL, self._grace)

    def _send(self, number: int) -> None:
        try:
            if self._own_group:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)
        except ProcessLookupError:
            return
