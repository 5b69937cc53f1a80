"""Training jobs. Pure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from matcha.api.types import JobCondition, JobStatus
from matcha.views.format import duration
from matcha.views.text import Column, Line, Paper, Span, Style, line, table

STYLES: dict[JobCondition, Style] = {
    "queued": "yellow",
    "starting": "yellow",
    "running": "green",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
}


def jobs_lines(jobs: Sequence[JobStatus], paper: Paper, now: float | None = None) -> list[Line]:
    if not jobs:
        return [line("No jobs."), line(Span("Next: ", "bold"), "matcha run -- python train.py")]
    now = time.time() if now is None else now
    columns = (
        Column("job"),
        Column("state"),
        Column("for", drop=1),
        Column("needs", drop=2),
        Column("command", shrink=True, drop=3),
        Column("detail", shrink=True),
    )
    return table(columns, [_row(job, now) for job in jobs], paper)


def _row(job: JobStatus, now: float) -> tuple[Span, ...]:
    return (
        Span(job.name),
        Span(job.condition, STYLES[job.condition]),
        Span(duration(_seconds(job, now))),
        Span(_needs(job)),
        Span(_runs(job), "dim"),
        Span(job.detail),
    )


def _runs(job: JobStatus) -> str:
    return f"step {job.step} of {job.pipeline}" if job.step else shlex.join(job.command)


def _seconds(job: JobStatus, now: float) -> float:
    """How long it ran, or waits to."""
    return (job.ended or now) - (job.started or job.created)


def _needs(job: JobStatus) -> str:
    gpus = [f"{job.gpu} GPU{'s' if job.gpu > 1 else ''}"] if job.gpu else []
    cpus = [f"{job.cpu:g} CPU"] if job.cpu else []
    return ", ".join([*gpus, *cpus, *filter(None, [job.memory])])
