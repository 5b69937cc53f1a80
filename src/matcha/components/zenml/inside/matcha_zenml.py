"""Starts the ZenML server. Runs in ZenML's own environment, with nothing of Matcha installed.

ZenML itself answers to any Host header and lets every web page call it; the guard ends both. Its dashboard
may load nothing from other sites, and nobody is asked where an address lies.

Reads what ZenML reads (ZENML_STORE_URL, ZENML_CONFIG_PATH, ZENML_DEFAULT_USER_NAME and _PASSWORD ...).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import matcha_database  # type: ignore[import-not-found]
from matcha_web import (  # type: ignore[import-not-found]
    App,
    Guard,
    Message,
    Receive,
    Scope,
    Send,
    serve,
    where,
)

# ZenML's own policy without the other sites that it names.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; "
    "font-src 'self'; frame-src 'self'"
)
# Where Matcha registers the stack. FastAPI prepares a router at the first request that passes by it.
FIRST = tuple(f"/api/v1{path}" for path in ("", "/service_accounts", "/components", "/stacks", "/projects"))
MARK = Path(os.environ.get("ZENML_CONFIG_PATH", ".")) / "administrator"


def store_url(url: str) -> str:
    """ZenML picks the driver itself and refuses a URL that names one (`mysql+pymysql://`); it has a name of
    its own for whether the server's certificate has to be of its host.
    """
    scheme, separator, rest = url.partition("://")
    address, mark, query = rest.partition("?")
    query = query.replace("ssl_check_hostname=", "ssl_verify_server_cert=")
    return scheme.partition("+")[0] + separator + address + mark + query


class Ready:
    """Says that ZenML has started only when the administrator can log in."""

    def __init__(self, app: App, database: str) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def announce(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                message = await asyncio.to_thread(started, self.database)
            await send(message)

        await self.app(scope, receive, announce)


def started(database: str) -> Message:
    """The message for uvicorn: complete, or failed with the reason. `database`: its URL for SQLAlchemy."""
    try:
        ensure_admin(os.environ["ZENML_DEFAULT_USER_NAME"], os.environ["ZENML_DEFAULT_USER_PASSWORD"])
        matcha_database.ready(database)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server cannot be used
        return {"type": "lifespan.startup.failed", "message": f"no administrator: {error}"}
    return {"type": "lifespan.startup.complete"}


def ensure_admin(name: str, password: str) -> None:
    """Activate a new database, and make the administrator exist with this password.

    ZenML can do so itself, but only once: killed between the two, it never would again. And a stack whose
    secrets were made anew has another password.
    """
    store: Any = import_module("zenml.zen_server.utils").zen_store()
    models: Any = import_module("zenml.models")
    if not store.get_server_settings().active:
        quiet = {"enable_analytics": False, "display_announcements": False, "display_updates": False}
        store.activate_server(models.ServerActivationRequest(**quiet))
    try:
        user = store.get_auth_user(name)
    except KeyError:
        store.create_user(models.UserRequest(name=name, active=True, password=password, is_admin=True))
        _mark(store.get_auth_user(name), password)
        return
    if _marked(user, password):
        return
    if not models.UserAuthModel.verify_password(password, user):
        store.update_user(user.id, models.UserUpdate(password=password, active=True, is_admin=True))
    _mark(store.get_auth_user(name), password)


def _marked(user: Any, password: str) -> bool:
    """Whether an earlier start left this password so: to compare it costs a quarter of a second."""
    return MARK.is_file() and MARK.read_text() == _digest(user, password)


def _mark(user: Any, password: str) -> None:
    MARK.write_text(_digest(user, password))


def _digest(user: Any, password: str) -> str:
    """Of the password (long and random, so its digest tells nothing) and what ZenML stores of it."""
    return hashlib.sha256(f"{user.id} {user.get_password()} {password}".encode()).hexdigest()


def nowhere(_: str) -> tuple[str, str, str]:
    """City, region and country of an address, which ZenML would ask a public service for."""
    return "", "", ""


def bring_forward(routes: list[Any]) -> None:
    """The routers with a prefix of FIRST before all others, whose prefixes are different ones."""
    routes.sort(
        key=lambda route: getattr(getattr(route, "original_router", None), "prefix", "-") not in FIRST
    )


def load(hosts: tuple[str, ...], database: str) -> App:
    app: App = import_module("zenml.zen_server.zen_server_api").app
    import_module("zenml.zen_server.routers.auth_endpoints").get_ip_location = nowhere  # type: ignore[attr-defined]
    bring_forward(import_module("zenml.zen_server.zen_server_api").app.router.routes)
    return Guard(Ready(app, database), hosts, headers={"content-security-policy": POLICY})


def main() -> None:
    at = where(sys.argv[1:])
    database = os.environ["ZENML_STORE_URL"]
    os.environ["ZENML_STORE_URL"] = store_url(database)
    matcha_database.begin(database)
    # A page of the dashboard itself is the only one that may call.
    os.environ["ZENML_SERVER_CORS_ALLOW_ORIGINS"] = f"http://127.0.0.1:{at.port}"
    serve(lambda: load(at.hosts, database), at, own_logging=True)


if __name__ == "__main__":
    main()
