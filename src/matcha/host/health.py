"""supervisord's event listener: restarts what hangs, retries what failed, counts, and ends all when it dies.

Run as `python -I -S health.py SITE PAUSE` in the supervisor's home, for as long as the stack; standard
library alone, because what it imports is memory the user pays for. Every program is looked after in a thread
of its own, so that one slow to stop delays no other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import urlsplit

LONGEST_PAUSE = 300.0
CALM = 60.0  # seconds of life after which an earlier failure is forgotten


class Patient:
    """What is remembered of one program between two looks at it."""

    def __init__(self, pause: float) -> None:
        self.first_pause = pause
        self.failures = 0
        self.was_well = False
        self.pid = 0
        self.pause = pause
        self.retry_at = 0.0
        self.busy = False

    def due(self, info: dict[str, Any], now: float) -> bool:
        """Whether a program that is down gets another try: after a pause that doubles, up to five minutes."""
        if info["pid"]:
            self.retry_at = 0.0
            if _uptime(info) > CALM:
                self.pause = self.first_pause
            return False
        if info["statename"] not in ("FATAL", "STOPPED", "EXITED"):
            return False
        if not self.retry_at:
            self.retry_at = now + self.pause
        if now < self.retry_at:
            return False
        self.pause, self.retry_at = min(2 * self.pause, LONGEST_PAUSE), 0.0
        return True

    def hangs(self, info: dict[str, Any], answered: bool, check: dict[str, Any]) -> bool:
        """Count a check; True when the process of `info` has failed enough of them in a row."""
        if info["pid"] != self.pid:
            self.pid, self.failures, self.was_well = info["pid"], 0, False
        if answered:
            self.failures, self.was_well = 0, True
        elif self.was_well or _uptime(info) > check["grace"]:
            self.failures += 1
        return self.failures >= int(check["failures"])


class Ward:
    """All programs of one supervisord. `call` is its RPC; the working folder holds the program files."""

    def __init__(self, call: Any, pause: float) -> None:
        self.call, self.pause = call, pause
        self.patients: dict[str, Patient] = {}  # by serial: a replaced program starts anew
        self.lock = threading.Lock()

    def look(self) -> None:
        """One look at every program, each in its own thread unless the last look still goes on."""
        known, self.patients = self.patients, {}
        for info in self.call("getAllProcessInfo"):
            if entry := load(Path("programs", f"{info['name']}.json")):
                patient = known.get(entry["serial"]) or Patient(self.pause)
                self.patients[entry["serial"]] = patient
                if not patient.busy:
                    patient.busy = True
                    threading.Thread(target=self._attend, args=(entry, patient, info), daemon=True).start()

    def count(self, name: str, why: str) -> None:
        """Add one restart to the program's record."""
        entry = load(Path("programs", f"{name}.json"))
        if entry:
            with self.lock:
                path = Path("restarts", f"{name}.json")
                kept = load(path) or {}
                known = kept.get("count", 0) if kept.get("serial") == entry["serial"] else 0
                save(path, {"serial": entry["serial"], "count": known + 1, "why": why})

    def _attend(self, entry: dict[str, Any], patient: Patient, info: dict[str, Any]) -> None:
        try:
            if patient.due(info, time.monotonic()):
                self._start(info["name"], "tried again after a pause")
            elif entry["program"]["health"]:
                self._examine(entry["program"]["health"], patient, info)
        except Exception as problem:  # noqa: BLE001 - whatever it was, the next look comes in five seconds
            say(f"{info['name']}: {problem!r}")
        finally:
            patient.busy = False

    def _examine(self, check: dict[str, Any], patient: Patient, info: dict[str, Any]) -> None:
        if not info["pid"] or info["statename"] not in ("STARTING", "RUNNING"):
            return
        if patient.hangs(info, answers(check["url"], check["timeout"]), check):
            self._restart(info, f"gave no answer to {patient.failures} health checks in a row")

    def _restart(self, seen: dict[str, Any], why: str) -> None:
        """Unless it is no longer the process that was seen. Waits as long as its stop takes."""
        if self.call("getProcessInfo", seen["name"])["pid"] != seen["pid"]:
            return
        self.call("stopProcess", seen["name"], False)
        deadline = time.monotonic() + LONGEST_PAUSE  # supervisord kills after the program's stop seconds
        while self.call("getProcessInfo", seen["name"])["pid"] and time.monotonic() < deadline:
            time.sleep(0.1)
        self._start(seen["name"], why)

    def _start(self, name: str, why: str) -> None:
        say(f"{name}: starting it: {why}")
        self.call("startProcess", name, False)
        self.count(name, why)


def answers(url: str, timeout: float) -> bool:
    """Whether an HTTP status below 500 comes within `timeout` seconds in all."""
    deadline = time.monotonic() + timeout
    try:
        return 100 <= _status(url, deadline) < 500
    except (OSError, ValueError):
        return False


def _status(url: str, deadline: float) -> int:
    parts = urlsplit(url)
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    with socket.create_connection(address, timeout=_left(deadline)) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        line = b""
        while b"\n" not in line:
            link.settimeout(_left(deadline))
            chunk = link.recv(256)
            if not chunk:
                raise ConnectionError("closed before it answered")
            line += chunk
    protocol, _, rest = line.partition(b" ")
    return int(rest[:3]) if protocol.startswith(b"HTTP/1") else 0


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _uptime(info: dict[str, Any]) -> float:
    return float(info["now"] - info["start"])


def load(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def save(path: Path, value: dict[str, Any]) -> None:
    """Atomically, 0600 by the daemon's umask. A full disk loses the count and nothing else."""
    try:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(path)
    except OSError as problem:
        say(f"cannot write {path}: {problem}")


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


def events(source: BinaryIO, sink: BinaryIO) -> Iterator[tuple[str, dict[str, str]]]:
    """supervisord's events as (name, payload), each acknowledged when the next is asked for; ends with it."""
    while True:
        sink.write(b"READY\n")
        sink.flush()
        head = _words(source.readline())
        if "len" not in head:
            return
        yield head["eventname"], _words(source.read(int(head["len"])))
        sink.write(b"RESULT 2\nOK")
        sink.flush()


def _words(line: bytes) -> dict[str, str]:
    pairs = (word.partition(":") for word in line.decode().split())
    return {key: value for key, _, value in pairs}


def _sibling(name: str) -> ModuleType:
    """A module of this folder, without importing Matcha."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_everything(site: str, parent: int) -> None:
    """supervisord was killed: no process of the stack may outlive it, this one last."""
    deadline = time.monotonic() + 2
    while os.getppid() == parent:
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    entries = filter(None, (load(path) for path in Path("programs").glob("*.json")))
    grace = max((entry["program"]["stop_seconds"] for entry in entries), default=5)
    sys.path.extend(site.split(os.pathsep))
    swept = _sibling("sweep").sweep(os.environ["MATCHA_STACK_TAG"], grace)
    say(f"the supervisor is gone; ended {swept}")


def main(site: str, pause: float) -> None:
    parent = os.getppid()
    ward = Ward(_sibling("rpc").Rpc(os.environ["MATCHA_SOCKET"]), pause)
    try:
        for name, payload in events(sys.stdin.buffer, sys.stdout.buffer):
            _handle(ward, name, payload)
    except BrokenPipeError:
        pass  # the same end as reading nothing
    _end_everything(site, parent)


def _handle(ward: Ward, name: str, payload: dict[str, str]) -> None:
    try:
        if name == "TICK_5":
            os.utime(os.environ["MATCHA_SOCKET"])  # or a cleaner of temporary folders takes it
            ward.look()
        elif payload.get("from_state") in ("BACKOFF", "EXITED"):
            ward.count(payload["processname"], "it ended by itself")
    except Exception as problem:  # noqa: BLE001 - a listener that dies helps nobody
        say(repr(problem))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
