"""Starts the MLflow server. Runs in MLflow's own environment, with nothing of Matcha installed.

MLflow's `server` command imports everything twice, in two processes that stay. So its application is run
here, in one process, with the variables by which that command talks to its worker. They are private:
where the installed MLflow does not have them as known, the official command is run instead.

Reads MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS_DESTINATION.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import matcha_database  # type: ignore[import-not-found]
from matcha_web import (  # type: ignore[import-not-found]
    App,
    Guard,
    Message,
    Receive,
    Scope,
    Send,
    Where,
    serve,
    where,
)

# Names in mlflow/server/constants.py, and what each must hold.
PRIVATE = {
    "BACKEND_STORE_URI_ENV_VAR": "_MLFLOW_SERVER_FILE_STORE",
    "ARTIFACT_ROOT_ENV_VAR": "_MLFLOW_SERVER_ARTIFACT_ROOT",
    "ARTIFACTS_DESTINATION_ENV_VAR": "_MLFLOW_SERVER_ARTIFACT_DESTINATION",
    "SERVE_ARTIFACTS_ENV_VAR": "_MLFLOW_SERVER_SERVE_ARTIFACTS",
}
ARTIFACT_ROOT = "mlflow-artifacts:/"
# Lets whoever reaches the port run commands as the user who started the server.
CLOSED = ("/ajax-api/3.0/mlflow/assistant",)

INFO = "/mlflow/server-info"
# With an S3 store MLflow tells clients to fetch from there themselves, by an address that only pods reach.
DIRECT = ("multipart_uploads_enabled", "multipart_downloads_enabled")


class ThroughTheServer:
    """Has clients send and fetch artifacts through MLflow, wherever it keeps them."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not str(scope["path"]).rstrip("/").endswith(INFO):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def gather(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                content = _without_direct(body)
                length = [(b"content-length", str(len(content)).encode())]
                others = [(n, v) for n, v in start["headers"] if n.lower() != b"content-length"]
                await send({**start, "headers": [*others, *length]})
                await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, gather)


def _without_direct(body: bytes) -> bytes:
    try:
        told = json.loads(body)
    except ValueError:
        return body
    if not isinstance(told, dict):
        return body
    return json.dumps({k: False if k in DIRECT else v for k, v in told.items()}).encode()


def as_known(mlflow: Path) -> bool:
    """Whether the package in this folder can be run directly. Reads source only, imports nothing."""
    try:
        source = (mlflow / "server" / "constants.py").read_text()
        tree = ast.parse(source)
    except (OSError, SyntaxError):
        return False
    found = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    same = all(found.get(name) == value for name, value in PRIVATE.items())
    return same and (mlflow / "server" / "fastapi_app.py").is_file()


def private_env() -> dict[str, str]:
    """What the official command would set for its worker."""
    store = os.environ["MLFLOW_BACKEND_STORE_URI"]
    return {
        PRIVATE["BACKEND_STORE_URI_ENV_VAR"]: store,
        PRIVATE["ARTIFACT_ROOT_ENV_VAR"]: ARTIFACT_ROOT,
        PRIVATE["ARTIFACTS_DESTINATION_ENV_VAR"]: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        PRIVATE["SERVE_ARTIFACTS_ENV_VAR"]: "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }


def allowed_hosts(hosts: tuple[str, ...]) -> str:
    """MLflow compares the whole Host header, and takes `*` only as a pattern."""
    anywhere = [f"{host.replace('[', '[[]')}:*" for host in hosts if not host.rpartition(":")[2].isdigit()]
    return ",".join([*hosts, *anywhere])


def load(hosts: tuple[str, ...]) -> App:
    """The application, with its database open: migrated before the first answer, or failed before it."""
    app: App = import_module("mlflow.server.fastapi_app").app
    handlers = import_module("mlflow.server.handlers")
    store = os.environ["MLFLOW_BACKEND_STORE_URI"]
    matcha_database.begin(store)
    handlers.initialize_backend_stores(store, None, ARTIFACT_ROOT)
    matcha_database.ready(store)
    return Guard(ThroughTheServer(app), hosts, closed=CLOSED)


def run_command(at: Where) -> None:
    """Become the official command. The database's address, which may hold a password, stays in the env."""
    print("matcha: this MLflow is not laid out as known; starting its own command", flush=True)
    os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = ARTIFACT_ROOT
    arguments = ["--host", at.bind, "--port", str(at.port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])  # noqa: S606


def main() -> None:
    at = where(sys.argv[1:])
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = allowed_hosts(at.hosts)
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None or not as_known(Path(spec.origin).parent):
        run_command(at)
        return
    os.environ.update(private_env())
    serve(lambda: load(at.hosts), at)


if __name__ == "__main__":
    main()
