"""The composition root: loads the stack, picks the target, locks, plans, applies, returns values."""

from __future__ import annotations

from matcha.api.inspect import get, logs, status, url
from matcha.api.lifecycle import destroy, force_unlock, init, manifests, plan, provision, start, stop
from matcha.api.outside import create_token, revoke_token, tokens
from matcha.api.queued import cancel, job_logs, jobs
from matcha.api.serving import deploy, models, monitor, predict, undeploy
from matcha.api.training import connect, env, run, runs_jobs
from matcha.api.upkeep import doctor, example, examples

__all__ = [
    "cancel",
    "connect",
    "create_token",
    "deploy",
    "destroy",
    "doctor",
    "env",
    "example",
    "examples",
    "force_unlock",
    "get",
    "init",
    "job_logs",
    "jobs",
    "logs",
    "manifests",
    "models",
    "monitor",
    "plan",
    "predict",
    "provision",
    "revoke_token",
    "run",
    "runs_jobs",
    "start",
    "status",
    "stop",
    "tokens",
    "undeploy",
    "url",
]
