"""Training jobs as processes of this machine, in the foreground."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from matcha.errors import BadInput, NotFound
from matcha.host import foreground, sweep
from matcha.job import Demand, Job, JobStatus, memory_bytes

MARK = sweep.JOB  # the variable of a job's processes that names its stack
PLACE = "MATCHA_STACK_JOB_IN"  # and its project, for a stack whose record was lost meanwhile
PREFIX = "process-"  # of the names of jobs, which end with a number of their process
LONGEST = 60  # characters of a job's command that are shown
GRACE = 10.0  # seconds between passing a signal on and killing the job's process group


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


def run(job: Job) -> int:
    """As `foreground.run`."""
    return foreground.run(job, GRACE)


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
