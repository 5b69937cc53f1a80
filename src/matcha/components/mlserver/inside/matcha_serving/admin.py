"""The list of deployments over HTTP, for the holder of the token only.

    PUT /matcha/deployments   {"deployments": [...], "unload": true, "failed": {name: why},
                              "back": {name: why}} -> [{"name": ..., "error": "", "changed": true}, ...]
    GET /matcha/deployments   what is served now -> [{"name", "uri", "version", "error", "refused"}, ...];
                              the header `x-matcha-ready` says what /matcha/ready does
    PUT /matcha/tokens        those of applications outside, where there is a server for them (`applications`)
    POST /matcha/flush        hand on what was captured -> {"flushed": true}, false where that takes too long

And for everybody who may ask at all:

    GET /matcha/ready         200 while it takes requests; 503 before its list was loaded and once it leaves

MLServer's own load and unload are refused: what they change would be gone after a restart.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from mlserver.errors import MLServerError
from mlserver.handlers import ModelRepositoryHandlers
from mlserver.types import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    State,
)
from starlette.requests import Request

from .answers import error
from .capture import Capture
from .deployment import Malformed
from .deployments import Deployments, entries_of, reasons_of
from .following import Following
from .leaving import Leaving
from .tokens import Tokens, Unreadable, listed

PATH = "/matcha/deployments"
READY_PATH = "/matcha/ready"
READY = "x-matcha-ready"
FLUSH_PATH = "/matcha/flush"
FLUSH_SECONDS = 5.0
TOKENS_PATH = "/matcha/tokens"


class Admin:
    def __init__(
        self,
        deployments: Deployments,
        token: str,
        capture: Capture | None,
        following: Following,
        leaving: Leaving,
    ) -> None:
        self._deployments = deployments
        self._token = token
        self._capture = capture
        self._following = following
        self._leaving = leaving

    def install(self, app: FastAPI) -> None:
        app.add_api_route(PATH, self.put, methods=["PUT"], response_model=None)
        app.add_api_route(PATH, self.get, methods=["GET"], response_model=None)
        app.add_api_route(FLUSH_PATH, self.flush, methods=["POST"], response_model=None)
        app.add_api_route(READY_PATH, self.ready, methods=["GET"], response_model=None)

    def install_tokens(self, app: FastAPI, tokens: Tokens) -> None:
        async def put(request: Request) -> JSONResponse:
            if not self._may(request):
                return _refused()
            try:
                tokens.take(listed(await request.body()))
            except Unreadable as found:
                return error(400, str(found))
            return JSONResponse({"serial": tokens.serial})

        app.add_api_route(TOKENS_PATH, put, methods=["PUT"], response_model=None)

    async def put(self, request: Request) -> JSONResponse:
        if not self._may(request):
            return _refused()
        try:
            body = json.loads(await request.body())
            entries = entries_of(body)
            failed, back = (reasons_of(body, key) for key in ("failed", "back"))
        except (ValueError, RecursionError, Malformed) as found:
            return error(400, str(found))
        unload = body.get("unload") is not False
        self._following.told(entries)
        results = await self._deployments.apply(entries, unload=unload, failed=failed, back=back)
        self._following.ready = True
        return JSONResponse([{"name": r.name, "error": r.error, "changed": r.changed} for r in results])

    async def get(self, request: Request) -> JSONResponse:
        if not self._may(request):
            return _refused()
        ready = "yes" if self._is_ready else "no"
        return JSONResponse(await self._deployments.show(), headers={READY: ready})

    async def ready(self) -> JSONResponse:
        return JSONResponse({"ready": self._is_ready}, 200 if self._is_ready else 503)

    @property
    def _is_ready(self) -> bool:
        return self._following.ready and not self._leaving.begun

    async def flush(self, request: Request) -> JSONResponse:
        if not self._may(request):
            return _refused()
        flushed = self._capture is None or await asyncio.to_thread(self._capture.flush, FLUSH_SECONDS)
        return JSONResponse({"flushed": flushed})

    def _may(self, request: Request) -> bool:
        """Nobody may where there is no token."""
        sent = request.headers.get("authorization", "").encode()
        return bool(self._token) and hmac.compare_digest(sent, f"Bearer {self._token}".encode())


def _refused() -> JSONResponse:
    answer = error(401, "Only Matcha changes what is served: use `matcha deploy` and `matcha undeploy`.")
    answer.headers["www-authenticate"] = "Bearer"
    return answer


class Repository(ModelRepositoryHandlers):
    """MLServer's repository, over HTTP and gRPC: it may be read, and not changed."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    async def index(self, payload: RepositoryIndexRequest) -> RepositoryIndexResponse:
        items = [_item(entry) for entry in await self._deployments.show()]
        shown = [i for i in items if i.state == State.READY] if payload.ready else items
        return RepositoryIndexResponse(root=shown)

    async def load(self, name: str) -> Any:
        raise _not_here()

    async def unload(self, name: str) -> Any:
        raise _not_here()


def _item(entry: dict[str, str]) -> RepositoryIndexResponseItem:
    state = State.READY if entry["uri"] else State.UNAVAILABLE
    return RepositoryIndexResponseItem(
        name=entry["name"],
        version=entry["version"] or None,
        state=state,
        reason=entry["refused"] or entry["error"],
    )


def _not_here() -> MLServerError:
    return MLServerError("Models are loaded and unloaded with `matcha deploy` and `matcha undeploy`.", 403)
