"""What the supervisor is asked to run, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec


class HealthCheck(msgspec.Struct, frozen=True):
    """An HTTP GET that must answer below 500. Times in seconds.

    A program that has run for `grace` and then fails `failures` checks in a row (one every five seconds) is
    restarted.
    """

    url: str
    timeout: float = 3.0
    failures: int = 4
    grace: float = 30.0


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process.

    `name` is letters, digits, `-`, `_` and `.`. `secrets` maps an environment variable to the name of a value
    in `secrets_file` (a JSON object), read when the process starts. `env` is added to a small part of the
    caller's own environment. `folder` is the working directory (made if absent), `log` takes stdout and stderr
    and is rotated beside itself. `digest` is the caller's mark, handed back in `ProgramStatus`.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    secrets: dict[str, str]
    secrets_file: Path
    folder: Path
    log: Path
    stop_seconds: int
    health: HealthCheck | None
    digest: str


class ProgramStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`starting` covers the first seconds and the pauses between restarts; `failed` is a crash loop, given up
    for now (it is tried again, less and less often), with the reason in `detail`. `uptime` in seconds;
    `restarts` counts those nobody asked for."""

    name: str
    condition: Literal["stopped", "starting", "running", "failed", "absent"]
    pid: int = 0
    uptime: float = 0.0
    restarts: int = 0
    digest: str = ""
    detail: str = ""
