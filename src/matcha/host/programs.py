"""What the supervisor is asked to run, what it says of it, and the files both are kept in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from matcha.errors import COMPONENT, BadInput
from matcha.host.files import write_private

LISTENER = "matcha-health"  # the name supervisord knows the health listener by

# What a server may need of the user's own environment; everything else stays out of it.
_INHERITED = frozenset(
    [
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    ]
)
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_LOCAL = ("127.0.0.1", "localhost", "::1")


class HealthCheck(msgspec.Struct, frozen=True):
    """A plain-http GET that must answer below 500. Times in seconds.

    A program that has answered once, or has run for `grace`, and then fails `failures` checks in a row (one
    every five seconds) is restarted.
    """

    url: str
    timeout: float = 3.0
    failures: int = 4
    grace: float = 30.0


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised process.

    `name` is letters, digits, `-`, `_` and `.`. `secrets` maps an environment variable to the name of a
    value in `secrets_file` (a JSON object), read at every start of the process; with `conceal` they come in a
    pipe instead, as `matcha.inside.matcha_secrets` takes them. `env` is added to a small
    part of the caller's own environment. `folder` is the working directory (made if absent); `log` takes
    stdout and stderr, and is rotated beside itself. `digest` is the caller's mark, handed back in
    `ProgramStatus`.
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
    conceal: bool = False


class ProgramStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor knows of a program; whether it is healthy is for its health URL to say.

    `running`: a process exists. `starting`: it died, and is tried again in a moment. `failed`: it died too
    often, and is tried again less and less often. `detail` gives the reason for both, and for the last
    restart. `uptime` in seconds; `restarts` counts, since the last `put`, those nobody asked for.
    """

    name: str
    condition: Literal["stopped", "starting", "running", "failed", "absent"]
    pid: int = 0
    uptime: float = 0.0
    restarts: int = 0
    digest: str = ""
    detail: str = ""


class ProgramFile(msgspec.Struct, frozen=True, kw_only=True):
    """A program as kept on disk and read by the launcher and the health listener.

    `serial` is new for every `put`; the listener's restart counts carry it.
    """

    program: Program
    inherited: dict[str, str]
    tag: str
    serial: str = msgspec.field(default_factory=lambda: os.urandom(8).hex())


class Restarts(msgspec.Struct, frozen=True):
    """The health listener's record of one program."""

    serial: str = ""
    count: int = 0
    why: str = ""


def check(program: Program, home: Path) -> None:
    """Raises BadInput for what supervisord could not run or its configuration could not hold."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", program.name, re.ASCII) or program.name == LISTENER:
        raise BadInput(f'"{program.name}" cannot be the name of a program.', resolution=COMPONENT)
    if not program.argv or any("\0" in word for word in program.argv):
        raise BadInput(
            f"The command of {program.name} is empty or holds a NUL character.", resolution=COMPONENT
        )
    if program.health and not program.health.url.startswith("http://"):
        raise BadInput(
            f"The health address of {program.name} is not plain http: {program.health.url}",
            resolution=COMPONENT,
        )
    log_path(program, home)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the user's environment that programs get. Proxies are told to leave loopback alone."""
    kept = {k: v for k, v in environ.items() if k in _INHERITED or k.startswith("LC_")}
    proxies = {k: v for k, v in environ.items() if k.lower() in _PROXIES}
    if not proxies:
        return kept
    hosts = proxies.get("no_proxy") or proxies.get("NO_PROXY") or ""
    extended = ",".join(dict.fromkeys([*filter(None, hosts.split(",")), *_LOCAL]))
    return kept | proxies | {"no_proxy": extended, "NO_PROXY": extended}


def log_path(program: Program, home: Path) -> str:
    """The log relative to `home`, where supervisord runs.

    Its configuration drops what follows ` ;` and cannot quote it, so no folder of the user may stand in it.
    """
    relative = os.path.relpath(program.log.parent.resolve() / program.log.name, home.resolve())
    if not re.fullmatch(r"[\w./-]+", relative, re.ASCII):
        raise BadInput(
            f"The log of {program.name} cannot be at {program.log}.",
            details=f"Its path from {home} may hold letters, digits, '.', '-' and '_' only.",
            resolution="Rename the folder, then: matcha provision",
        )
    return relative


def configuration(entries: Iterable[ProgramFile], home: Path, *, settle: int, retries: int) -> str:
    """supervisord.conf for these programs: plain words only, paths come as ENV_ expansions."""
    sections = [_daemon(), *(_section(e.program, home, settle, retries) for e in entries)]
    return "\n".join(sections)


def _daemon() -> str:
    return f"""\
; Written by Matcha before every change; edits are lost.
[supervisord]
logfile=supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
nocleanup=true
childlogdir=.
umask=077

[unix_http_server]
file=%(ENV_MATCHA_SOCKET)s
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[eventlistener:{LISTENER}]
command=%(ENV_MATCHA_LISTENER)s
events=TICK_5,PROCESS_STATE_STARTING
buffer_size=100
startretries=1000000
stdout_logfile=NONE
stderr_logfile=health.log
stderr_logfile_maxbytes=1MB
stderr_logfile_backups=1
"""


def _section(program: Program, home: Path, settle: int, retries: int) -> str:
    return f"""\
[program:{program.name}]
command=%(ENV_MATCHA_LAUNCHER)s programs/{program.name}.json
autorestart=true
startsecs={settle}
startretries={retries}
stopwaitsecs={max(1, program.stop_seconds)}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={log_path(program, home)}
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""


def write(entry: ProgramFile, home: Path) -> None:
    write_private(_file(home, entry.program.name), msgspec.json.encode(entry, enc_hook=str))


def remove(name: str, home: Path) -> None:
    for folder in ("programs", "restarts"):
        (home / folder / f"{name}.json").unlink(missing_ok=True)
    (home / "runs" / name).unlink(missing_ok=True)


def read(name: str, home: Path) -> ProgramFile | None:
    return _decode(_file(home, name))


def read_all(home: Path) -> dict[str, ProgramFile]:
    """By name. A file that cannot be read is a program that does not exist: `put` writes it anew."""
    found = (_decode(path) for path in sorted((home / "programs").glob("*.json")))
    return {entry.program.name: entry for entry in found if entry}


def restarts(entry: ProgramFile, home: Path) -> Restarts:
    """What the listener counted since this very `put`."""
    try:
        raw = (home / "restarts" / f"{entry.program.name}.json").read_bytes()
        kept = msgspec.json.decode(raw, type=Restarts)
    except (OSError, msgspec.MsgspecError):
        return Restarts()
    return kept if kept.serial == entry.serial else Restarts()


def launched(name: str, pid: int, home: Path) -> bool:
    """Whether the launcher of this process has begun."""
    try:
        return (home / "runs" / name).read_text() == str(pid)
    except OSError:
        return False


def last_line(log: Path) -> str:
    """The last line of a log that says something, at most 300 characters; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _file(home: Path, name: str) -> Path:
    return home / "programs" / f"{name}.json"


def _decode(path: Path) -> ProgramFile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProgramFile, dec_hook=lambda kind, raw: kind(raw))
    except (OSError, msgspec.MsgspecError):
        return None
