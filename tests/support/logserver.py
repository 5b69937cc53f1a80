"""The part of an API server that `matcha logs` asks, with logs as kubelets have them: pods of a namespace,
and of each container the log of the one that runs and of the one before.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SECOND = "2026-01-01T00:00:{:02d}.{:09d}+02:00"


@dataclass
class Log:
    """Of one container: lines with their times, oldest first. `over`: it ended."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    over: bool = False

    def say(self, second: int, *texts: str, billionth: int = 0) -> None:
        self.lines += [(SECOND.format(second, billionth), text) for text in texts]


class Logs:
    """`logs` by pod, container and whether it is the one before. `cut` is how many lines of the next logs
    that are followed come before their connection breaks, each number for one.
    """

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[tuple[str, str, bool], Log] = {}
        self.cut: list[int] = []
        self.refuse = 0
        self.asked: list[dict[str, str]] = []
        logs = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                logs._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.over = threading.Event()

    def kubeconfig(self, path: Path) -> Path:
        server = f"http://127.0.0.1:{self.server.server_address[1]}"
        known = {
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(json.dumps(known))
        return path

    def pod(self, name: str, service: str, *, init: Any = (), main: Any = (), made: int = 0) -> None:
        """`init` and `main`: statuses of containers. One of this name takes the place of an earlier one."""
        self.pods = [p for p in self.pods if p["metadata"]["name"] != name]
        status = {"initContainerStatuses": list(init), "containerStatuses": list(main)}
        metadata = {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {"app.kubernetes.io/name": service},
            "creationTimestamp": f"2026-01-01T00:00:{made:02d}Z",
        }
        self.pods.append({"metadata": metadata, "spec": {"containers": []}, "status": status})

    def of(self, pod: str, container: str, *, previous: bool = False) -> Log:
        return self.logs.setdefault((pod, container, previous), Log())

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        if self.over.is_set():
            handler.close_connection = True
            return
        url = urlsplit(handler.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        if not url.path.endswith("/log"):
            wanted = dict(
                part.split("=", 1) for part in query.get("labelSelector", "").split(",") if "=" in part
            )
            name = wanted.get("app.kubernetes.io/name", "")
            pods = [p for p in self.pods if p["metadata"]["labels"]["app.kubernetes.io/name"] == name]
            _say(handler, 200, {"kind": "PodList", "metadata": {}, "items": pods})
            return
        self.asked.append(query)
        found = self.logs.get((url.path.split("/")[-2], query["container"], query.get("previous") == "true"))
        if self.refuse or found is None:
            status = self.refuse or 400
            said = 'pods is forbidden: User "ada" cannot get resource "pods/log"' if status == 403 else "no"
            _say(handler, status, {"kind": "Status", "status": "Failure", "message": said, "code": status})
            return
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            self._write(handler, found, query)

    def _write(self, handler: http.server.BaseHTTPRequestHandler, log: Log, query: dict[str, str]) -> None:
        """From the whole second that `sinceTime` names, which is all that comes through to a kubelet."""
        follow = query.get("follow") == "true"
        cut = self.cut.pop(0) if follow and self.cut else None
        since = query.get("sinceTime", "")[:19]
        at = next((n for n, (stamp, _) in enumerate(log.lines) if stamp[:19] >= since), len(log.lines))
        at = max(at, len(log.lines) - int(query["tailLines"])) if "tailLines" in query else at
        sent = 0
        while not self.over.is_set():
            for stamp, said in log.lines[at:]:
                if sent == cut:
                    handler.wfile.write(b"64\r\n" + stamp.encode())  # in the middle of a line
                    handler.close_connection = True
                    return
                text = (
                    f"{stamp} {said}\n".encode()
                    if query.get("timestamps") == "true"
                    else f"{said}\n".encode()
                )
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                at, sent = at + 1, sent + 1
            if log.over or not follow:
                break
            time.sleep(0.01)
        handler.wfile.write(b"0\r\n\r\n")


def _say(handler: http.server.BaseHTTPRequestHandler, status: int, body: Any) -> None:
    raw = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


@contextlib.contextmanager
def serving() -> Iterator[Logs]:
    logs = Logs()
    threading.Thread(target=logs.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield logs
    finally:
        logs.over.set()
        logs.server.shutdown()
        logs.server.server_close()
