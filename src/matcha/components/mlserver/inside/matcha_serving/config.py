"""What the process is told at start: ports by arguments, the rest by environment variables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECRETS = ("MATCHA_SERVING_TOKEN", "MATCHA_CAPTURE_TOKEN")


@dataclass(frozen=True)
class Config:
    """Port 0: that server is left out. `process`: its name in the list; empty for the main server.

    `token` guards the list of deployments; without one nobody may change it. No `capture_url`: no capture.
    `door`: the server for applications outside, where there is one.
    """

    bind: str
    http_port: int
    grpc_port: int
    metrics_port: int
    hosts: tuple[str, ...]
    models: Path
    deployments: Path | None
    process: str = ""
    token: str = ""
    capture_url: str = ""
    capture_token: str = ""
    max_body: int = 32 * 2**20
    load_seconds: float = 600.0
    door: Door | None = None


@dataclass(frozen=True)
class Door:
    """`hosts` it is addressed by, `file` of the tokens, `rate` of requests a second for each of them."""

    port: int
    hosts: tuple[str, ...]
    file: Path
    rate: float


def read(arguments: Sequence[str], env: Mapping[str, str], secrets: Mapping[str, str]) -> Config:
    found = _parser().parse_args(arguments)
    token, capture_token = (secrets.get(name, "") for name in SECRETS)
    listed = env.get("MATCHA_DEPLOYMENTS", "")
    return Config(
        bind=found.bind,
        http_port=found.http_port,
        grpc_port=found.grpc_port,
        metrics_port=found.metrics_port,
        hosts=_split(env.get("MATCHA_HOSTS", "127.0.0.1,localhost")),
        models=Path(env["MATCHA_MODELS_DIR"]),
        deployments=Path(listed) if listed else None,
        process=env.get("MATCHA_PROCESS", ""),
        token=token,
        capture_url=env.get("MATCHA_CAPTURE_URL", "").rstrip("/"),
        capture_token=capture_token,
        max_body=int(env.get("MATCHA_MAX_BODY_MB", "32")) * 2**20,
        load_seconds=float(env.get("MATCHA_LOAD_SECONDS", "600")),
        door=_door(found.applications_port, env),
    )


def _door(port: int, env: Mapping[str, str]) -> Door | None:
    if not port:
        return None
    return Door(
        port=port,
        hosts=_split(env["MATCHA_APPLICATIONS_HOSTS"]),
        file=Path(env["MATCHA_APPLICATIONS_FILE"]),
        rate=float(env["MATCHA_APPLICATIONS_RATE"]),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="matcha_serving", allow_abbrev=False)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--http-port", required=True, type=int)
    parser.add_argument("--grpc-port", default=0, type=int)
    parser.add_argument("--metrics-port", default=0, type=int)
    parser.add_argument("--applications-port", default=0, type=int)
    return parser


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in (p.strip().lower() for p in text.split(",")) if part)


def quiet(env: MutableMapping[str, str]) -> None:
    """Nothing but the arguments configures MLServer, no telemetry leaves, and loopback needs no proxy."""
    for name in [n for n in env if n.startswith("MLSERVER_")]:
        del env[name]
    env["MLFLOW_DISABLE_TELEMETRY"] = env["DO_NOT_TRACK"] = "true"
    # MLflow's own seven tries take minutes, during which `deploy` would seem to hang.
    env.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    known = {part.strip() for name in ("no_proxy", "NO_PROXY") for part in env.get(name, "").split(",")}
    env["no_proxy"] = env["NO_PROXY"] = ",".join(sorted({*known, "127.0.0.1", "localhost"} - {""}))


def workdir(folder: Path) -> None:
    """MLServer and MLflow read `.env` and write strays where they stand: an empty folder of their own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(folder)
