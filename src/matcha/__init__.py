"""Matcha: a complete open-source MLOps stack in one step.

The functions below are the commands of the same names, with typed results. They are imported when first
used, so that the command line starts light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matcha._version import __version__

if TYPE_CHECKING:
    from matcha.api import (
        cancel,
        connect,
        create_token,
        deploy,
        destroy,
        doctor,
        env,
        example,
        examples,
        force_unlock,
        get,
        init,
        job_logs,
        jobs,
        logs,
        manifests,
        models,
        monitor,
        plan,
        predict,
        provision,
        revoke_token,
        run,
        start,
        status,
        stop,
        tokens,
        undeploy,
        url,
    )
    from matcha.errors import MatchaError

__all__ = [
    "MatchaError",
    "__version__",
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
    "start",
    "status",
    "stop",
    "tokens",
    "undeploy",
    "url",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'matcha' has no attribute {name!r}")
    if name == "MatchaError":
        from matcha.errors import MatchaError  # noqa: PLC0415

        return MatchaError
    from matcha import api  # noqa: PLC0415

    return getattr(api, name)
