# mypy: disable-error-code="import-not-found"
"""A model that another process serves, behind this server's address: one of another environment, or one that
has a process for itself.

Guard and capture happen here; the other process guards again, for those who ask it directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from mlserver.errors import MLServerError
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse

from . import inputs, plain
from .deployment import Deployment
from .guard import guard, signature_of
from .inputs import Reading
from .runtime import Served, Shared

ANSWER = aiohttp.ClientTimeout(total=300, sock_connect=5)
ASK = aiohttp.ClientTimeout(total=5)
LOOK = aiohttp.ClientTimeout(total=1)  # somebody waits for `matcha status`
AGREE_SECONDS = 15.0  # for one of its replicas to answer with the version that was told
AGAIN_SECONDS = 0.5
UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)


class Peers:
    """One client for all other processes; its connections are kept alive."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=ANSWER, trust_env=False, auto_decompress=True)
        return self._session

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Once more where the connection broke: a kept one may have ended just then."""
        try:
            return await self._post(url, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await self._post(url, body)

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self.session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def get(self, url: str) -> tuple[int, bytes]:
        """By a connection of its own, which a Service takes to any replica."""
        async with self.session.get(url, timeout=ASK, headers={"Connection": "close"}) as answer:
            return answer.status, await answer.read()

    async def index(self, url: str) -> list[dict[str, Any]]:
        """What the process at `url` has loaded, and what it could not. Raises UNREACHABLE."""
        async with self.session.post(
            f"{url.rstrip('/')}/v2/repository/index", json={}, timeout=LOOK
        ) as answer:
            return list(orjson.loads(await answer.read())) if answer.status == 200 else []

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class ForwardRuntime(Served):
    def __init__(self, settings: ModelSettings, deployment: Deployment, shared: Shared, peers: Peers) -> None:
        super().__init__(settings, deployment, shared)
        self._peers = peers
        self._url = f"{deployment.forward.rstrip('/')}/v2/models/{quote(deployment.name, safe='')}"

    async def load(self) -> bool:
        """The other process is told first, so one that answers with another version could not load this one.

        One that does not answer or has not loaded it yet is fine: after a restart both come up in any order.
        What it could not load when it was told, `Deployments.apply` is told in turn.
        """
        signature = signature_of(self.deployment.signature)
        self._guard = guard(signature)
        self._describe(signature)
        if other := await self._other_version():
            raise RuntimeError(f"its own process still serves version {other}")
        self.wrap()
        return True

    async def _other_version(self) -> str:
        """That the other process serves, and goes on to serve, in place of this one. Where it has replicas,
        one that was added since they were told may still read what was told before.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + AGREE_SECONDS
        while True:
            serving = await self._version()
            if not serving or self.deployment.version in ("", serving):
                return ""
            if loop.time() > end:
                return serving
            await asyncio.sleep(AGAIN_SECONDS)

    async def _version(self) -> str:
        try:
            status, body = await self._peers.get(self._url)
            versions = orjson.loads(body).get("versions") if status == 200 else None
        except UNREACHABLE:
            return ""
        return str(versions[0]) if versions else ""

    async def trouble(self) -> str:
        """Why the other process does not serve this version now; empty where it does."""
        try:
            shown = await self._peers.index(self.deployment.forward)
        except UNREACHABLE:
            return "its own process does not answer"
        found = next((entry for entry in shown if entry["name"] == self.deployment.name), None)
        if found is None:
            return "its own process has not loaded it yet"
        if found["state"] != "READY" or (found.get("version") or "") != self.deployment.version:
            return found.get("reason") or f"its own process serves version {found.get('version')}"
        return ""

    async def answer(self, payload: InferenceRequest, reading: Reading) -> InferenceResponse:
        try:
            status, body = await self._peers.post(f"{self._url}/infer", encoded(payload, self._guard.binary))
        except asyncio.TimeoutError as error:  # first: the built-in one, which it may be, is an OSError
            raise MLServerError("This model's own process took too long.", 504) from error
        except (aiohttp.ClientError, OSError) as error:
            raise MLServerError(
                "This model's own process does not answer; it is being restarted.", 503
            ) from error
        if status != 200:
            raise MLServerError(_reason(body), status if 400 <= status < 600 else 502)
        return InferenceResponse.model_validate(orjson.loads(body))


def _reason(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"its own process answered: {plain.text_of(body[:200].decode(errors='replace'))}"


def encoded(request: InferenceRequest, binary: Set[str]) -> bytes:
    """`binary` names the inputs whose bytes are bytes (empty: the only one, whatever it is called)."""
    sent = [_tensor(x, x.name in binary or "" in binary) for x in request.inputs]
    body: dict[str, Any] = {"id": request.id, "inputs": sent}
    if parameters := _parameters(request):
        body["parameters"] = parameters
    return bytes(orjson.dumps(body, default=_as_text))


def _tensor(tensor: Any, binary: bool) -> dict[str, Any]:
    data, parameters = inputs.data_of(tensor), _parameters(tensor)
    if binary and parameters.get("content_type") != "base64" and inputs.holds_bytes(data):
        data, parameters = inputs.packed(data), {**parameters, "content_type": "base64"}
    found = {
        "name": tensor.name,
        "shape": tensor.shape,
        "datatype": inputs.datatype_of(tensor),
        "data": data,
    }
    return {**found, "parameters": parameters} if parameters else found


def _parameters(parametrised: Any) -> dict[str, Any]:
    parameters = parametrised.parameters
    if parameters is None:
        return {}
    given = dict(parameters.model_extra or {})
    return {**given, "content_type": parameters.content_type} if parameters.content_type else given


def _as_text(value: Any) -> str:
    """gRPC brings text as bytes, which the guard has read."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
