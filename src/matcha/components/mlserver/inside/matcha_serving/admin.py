"""The list of deployments over HTTP, for the holder of the token only.

    PUT /matcha/deployments   {"deployments": [...], "unload": true, "failed": {name: why}}
                              -> [{"name": ..., "error": ""}, ...]
    GET /matcha/deployments   what is served now -> [{"name", "uri", "version", "error", "refused"}, ...]
    PUT /matcha/tokens        those of applications outside, where there is a server for them (`applications`)
    POST /matcha/flush        hand on what was captured -> {"flushed": true}, false where that takes too long

MLServer's own load and unload are refused: what they change would be gone after a restart.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import asdict
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
from .deployments import Deployments, entries_of, failed_of
from .tokens import Tokens, Unreadable, listed

PATH = "/matcha/deployments"
FLUSH_PATH = "/matcha/flush"
FLUSH_SECONDS = 5.0
TOKENS_PATH = "/matcha/tokens"


class Admin:
    def __init__(self, deployments: Deployments, token: str, capture: Capture | None) -> None:
        self._deployments = deployments
        self._token = token
        self._capture = capture

    def install(self, app: FastAPI) -> None:
        app.add_api_route(PATH, self.put, methods=["PUT"], response_model=None)
        app.add_api_route(PATH, self.get, methods=["GET"], response_model=None)
        app.add_api_route(FLUSH_PATH, self.flush, methods=["POST"], response_model=None)

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
            entries, failed = entries_of(body), failed_of(body)
        except (ValueError, RecursionError, Malformed) as found:
            return error(400, str(found))
        unload = body.get("unload") is not False
        results = await self._deployments.apply(entries, unload=unload, failed=failed)
        return JSONResponse([asdict(result) for result in results])

    async def get(self, request: Request) -> JSONResponse:
        return JSONResponse(await self._deployments.show()) if self._may(request) else _refused()

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
