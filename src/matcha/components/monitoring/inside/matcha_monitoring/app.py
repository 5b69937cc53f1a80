"""The service over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from . import layout, memory, metrics, page, spool
from .processes import StoreAway, WorkFailed
from .service import Service, Unknown
from .settings import Settings

BIGGEST_BODY = 16 * 2**20
BODIES_AT_ONCE = 4
_SMALL_BODY = 64 * 2**10
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HERE = Path(__file__).parent

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PAGE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}
# Evidently's report is one file with its scripts inside. Sandboxed, it has an origin of its own and can
# neither reach this service nor any other, whatever the names of columns make of it.
_REPORT = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' "
    "'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}


class Refused(Exception):
    """An answer other than the one asked for."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}


def create(settings: Settings) -> FastAPI:
    service = Service(settings)
    app = FastAPI(
        title="Matcha monitoring",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service),
    )
    app.state.service = service
    app.state.bodies = asyncio.Semaphore(BODIES_AT_ONCE)
    app.add_exception_handler(Refused, _refused)
    _captures(app, service)
    _windows(app, service)
    _pages(app, service)
    return app


def _lifespan(service: Service) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watch())
        memory.release()
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    return lifespan


async def _refused(_: Request, refused: Any) -> Response:
    return _json(refused.body, refused.status)


def _json(body: Any, status: int = 200) -> Response:
    return JSONResponse(body, status)


# captures


def _captures(app: FastAPI, service: Service) -> None:
    @app.post("/v1/captures", status_code=202, summary="NDJSON lines of served requests")
    async def captures(request: Request) -> Response:
        _authorize(request, service.settings.token)
        async with app.state.bodies:
            body = await _body(request, BIGGEST_BODY)
            return _keep(service, request, body)


def _authorize(request: Request, token: str) -> None:
    given = request.headers.get("authorization", "").encode("utf-8", "replace")
    if not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise Refused(401, "A capture token is needed.")


async def _body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Refused(413, f"The body is larger than {limit} bytes.")
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > limit:
            raise Refused(413, f"The body is larger than {limit} bytes.")
    return bytes(held)


def _keep(service: Service, request: Request, body: bytes) -> Response:
    """202 once it is on disk, 507 where there is no room: the sender then keeps or drops what it holds."""
    sent = request.headers.get("x-matcha-batch", "")[:64]
    sender = request.headers.get("x-matcha-sender", "")[:200]
    if service.has(sent, sender):
        return _json({"accepted": 0, "refused": 0, "why": "this batch was taken before"}, 202)
    batch = spool.read(body)
    if batch.refused and not batch.accepted:
        service.ledger.lost(batch.refused)
        raise Refused(400, batch.why, accepted=0, refused=batch.refused)
    try:
        service.capture(batch, sent, sender, _dropped(request))
    except spool.Full as error:
        raise Refused(507, str(error)) from None
    except OSError as error:
        status = 507 if error.errno in _NO_ROOM else 500
        raise Refused(status, f"Captures cannot be written: {error.strerror}") from None
    return _json({"accepted": batch.accepted, "refused": batch.refused, "why": batch.why}, 202)


def _dropped(request: Request) -> int | None:
    text = request.headers.get("x-matcha-dropped", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


# windows


def _windows(app: FastAPI, service: Service) -> None:
    @app.get("/v1/deployments", summary="Every deployment with its newest window")
    async def deployments() -> Response:
        return _json([_about(service, name) for name in sorted(service.deployments.all())])

    @app.get("/v1/deployments/{name:path}/windows", summary="The newest windows, newest first")
    async def history(name: str, last: int = 10) -> Response:
        _known(service, name)
        return _json(layout.windows(service.data, name, min(max(last, 1), 1000)))

    @app.post("/v1/deployments/{name:path}/windows", summary="A window of what came since the last")
    async def make(name: str, request: Request) -> Response:
        deployed = _known(service, name)
        if not await _wants_taking_in(request):
            return _json(service.report(deployed))
        try:
            return _json(await service.window(name))
        except StoreAway as away:
            raise Refused(503, str(away)) from None
        except WorkFailed as failure:
            raise Refused(500, str(failure), details=failure.details) from None


def _about(service: Service, name: str) -> dict[str, Any]:
    deployed = service.known(name)
    return {
        "name": name,
        "version": deployed.version,
        "uri": deployed.uri,
        "run_id": deployed.run_id,
        "rows": service.stored(deployed),
        "waiting": service.waiting(deployed),
        "window": service.newest(deployed),
        "failure": service.ledger.failures.get(name),
    }


def _known(service: Service, name: str) -> Any:
    try:
        return service.known(name)
    except Unknown:
        known = sorted(service.deployments.all())
        raise Refused(404, f"Nothing is deployed as {name[:200]!r}.", known=known) from None


async def _wants_taking_in(request: Request) -> bool:
    body = await _body(request, _SMALL_BODY)
    if not body.strip():
        return True
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.") from None
    wanted = asked.get("take_in", True) if isinstance(asked, dict) else None
    if not isinstance(wanted, bool):
        raise Refused(400, 'The body is an object like {"take_in": true}.')
    return wanted


# for people and machines that watch


def _pages(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def health() -> Response:
        """Also without the object store: captures are kept all the same, and a restart would mend nothing."""
        return PlainTextResponse("\n".join(["ok", *service.notice(), ""]))

    @app.get("/metrics", summary="Prometheus metrics")
    async def numbers() -> Response:
        return Response(metrics.render(service), media_type=metrics.TYPE)

    @app.put("/v1/links", status_code=204, include_in_schema=False)
    async def links(request: Request) -> Response:
        _authorize(request, service.settings.token)
        _keep_links(service, await _body(request, _SMALL_BODY))
        return Response(status_code=204)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page.render(service), media_type="text/html", headers=_PAGE)

    @app.get("/static/style.css", include_in_schema=False)
    async def style() -> Response:
        return Response((_HERE / "static" / "style.css").read_bytes(), media_type="text/css")

    @app.get("/reports/{deployment}/{window}", include_in_schema=False)
    async def report(deployment: str, window: str) -> Response:
        path = _report(service.data / "reports", deployment, window)
        return FileResponse(path, media_type="text/html", headers=_REPORT)


def _report(folder: Path, deployment: str, window: str) -> Path:
    """Only what a listing of the folder shows: a path from outside is never joined to one of ours."""
    found = {(p.parent.name, p.name): p for p in folder.glob("*/*.html")}
    path = found.get((deployment, window))
    if not path:
        raise Refused(404, "There is no such report; the newest ones are kept.")
    return path


def _keep_links(service: Service, body: bytes) -> None:
    try:
        links = json.loads(body)
        good = {
            str(k)[:40]: str(v)[:500] for k, v in links.items() if str(v).startswith(("http://", "https://"))
        }
    except (ValueError, AttributeError, RecursionError):
        raise Refused(400, "The body is an object of names and URLs.") from None
    layout.write_atomic(service.data / "links.json", json.dumps(good).encode())
