"""Having a window made by the service that may use the memory for it: `matcha_monitoring.working`.

What it reads and what it makes pass through the object store; the order and the answer alone are sent. An
order that was cut short is given again, and makes the same window.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import layout
from .deployments import Deployed
from .kept import Away, Kept

WINDOWS = "/v1/windows"
ANSWER_SECONDS = 880.0  # less than the process that asks has itself
COMES_SECONDS = 60.0  # until it listens, as after it was ended
HEALTH_SECONDS = 5.0
TRIES = 2
# A machine that is gone closes no connection.
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Failed(Exception):
    """No window came of it; the same would fail again for now. The text says why."""


class Cut(Exception):
    """It was ended in the middle."""


def make(data: Path, order: Mapping[str, Any], kept: Kept) -> dict[str, Any] | None:
    """As `window.make`, of what the store has already. Raises Away where nobody can be asked, and Failed."""
    deployed = Deployed.of(order["deployed"])
    after = layout.cursor(data, deployed.name, deployed.version)
    parts = [p for p in layout.parts(data, deployed.name, deployed.version) if p.seq > after]
    if not parts:
        return None
    read = [part.path for part in parts] + layout.last_windows(data, deployed.name, deployed.version)
    wanted = {key: order[key] for key in ("deployed", "rules", "dropped", "patient")}
    wanted["files"] = [path.relative_to(data).as_posix() for path in read]
    window: dict[str, Any] | None = _answer(order, json.dumps(wanted).encode())["window"]
    kept.bring()
    return window


def _answer(order: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """Asked for twice: its node may have been taken away. What this window itself has ended so often that it
    is not started again soon is no reason for the others to wait, so that is Failed, and not Away.
    """
    for ended in range(TRIES):
        try:
            _await(order["apart"])
        except Away:
            if ended:
                raise _cut("in the middle of this one, and is not back", order) from None
            raise
        with contextlib.suppress(Cut):
            return _ask(order["apart"], order["token"], body)
    raise _cut(f"{TRIES} times in the middle of this one", order)


def _cut(when: str, order: Mapping[str, Any]) -> Failed:
    most = order["rules"]["work_memory_mb"]
    return Failed(
        f"What makes windows was ended {when}, most likely for its memory. "
        f"It may use {most} MiB: work-memory-mb of monitoring in matcha.yaml."
    )


def _await(url: str) -> None:
    """Until it listens. Raises Away."""
    end = time.monotonic() + COMES_SECONDS
    while why := _silence(url):
        if time.monotonic() > end:
            raise Away(f"What makes windows does not answer at {url}: {why}.")
        time.sleep(1)


def _silence(url: str) -> str:
    """Why it does not answer; empty where it does."""
    connection = _connection(url, HEALTH_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return "" if status == 200 else f"status {status}"


def _ask(url: str, token: str, body: bytes) -> dict[str, Any]:
    """Raises Away, Failed, and Cut."""
    connection = _connection(url, ANSWER_SECONDS)
    try:
        connection.connect()
        _keep_alive(connection.sock)
        connection.request("POST", WINDOWS, body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return _found(answer.status, answer.read())
    except TimeoutError:
        raise Failed(f"No window was made within {ANSWER_SECONDS / 60:.0f} minutes.") from None
    except (OSError, http.client.HTTPException) as error:
        raise Cut from error
    finally:
        connection.close()


def _found(status: int, content: bytes) -> dict[str, Any]:
    said = layout.json_object(content) or {}
    if status == 200 and "window" in said:
        return said
    why = str(said.get("error") or f"What makes windows answered {status}.")
    if said.get("killed"):
        raise Cut
    raise Away(why) if status == 503 else Failed(why)


def _connection(url: str, seconds: float) -> http.client.HTTPConnection:
    where = urlsplit(url)
    return http.client.HTTPConnection(where.hostname or "", where.port, timeout=seconds)


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if option := getattr(socket, name, None):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
