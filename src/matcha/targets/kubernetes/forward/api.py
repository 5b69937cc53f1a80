"""The cluster's API, as the kubeconfig describes it at this moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from matcha.targets.kubernetes.forward.config import Config
from matcha.targets.kubernetes.forward.log import told
from matcha.targets.kubernetes.kubeconfig import load_config
from matcha.targets.kubernetes.kubefiles import kubefiles, stamp
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.signing import addressed, auth_of, params

TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
# An upgraded connection never goes back to the pool: without a limit, or the hundredth would wait.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=2, keepalive_expiry=5.0)
_SIGN_IN = 60.0  # seconds a credential plugin may take
_AGAIN = 5.0  # seconds before a failed sign-in, or a kubeconfig that was refused, is tried anew


class Refused(Exception):
    """What will be no different in a moment: no permission, no valid credentials."""


class Unanswered(Exception):
    """The API could not do it now. `status` is the HTTP status, 0 for none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """Reads the kubeconfig anew when a file of it has changed and when its credentials are refused.

    Calls raise Refused, Unanswered, httpx2.HTTPError, and what a broken kubeconfig or a credential plugin
    makes of itself.
    """

    def __init__(self, config: Config) -> None:
        self._options = KubernetesOptions(
            kubeconfig=config.kubeconfig, context=config.context, namespace=config.namespace
        )
        self._environment = Path(config.environment)
        self._client: httpx2.AsyncClient | None = None
        self._seen: tuple[int, int] = (0, 0)
        self._built = 0.0

    def client(self) -> httpx2.AsyncClient:
        """To be asked for anew for every call."""
        seen = self._look()
        if self._client is None or seen != self._seen:
            self._client, self._seen, self._built = self._connect(), seen, time.monotonic()
        return self._client

    async def get(self, path: str, params: dict[str, str], timeout: httpx2.Timeout = TIMEOUT) -> bytes:
        response = await self.client().get(path, params=params, timeout=timeout)
        if response.status_code == 401 and self.forget():
            response = await self.client().get(path, params=params, timeout=timeout)
        if response.status_code >= 400:
            raise refusal(response.status_code, response.content)
        return response.content

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def forget(self) -> bool:
        """After a 401: whether a client made anew may do better, which is so once in a few seconds."""
        if time.monotonic() - self._built < _AGAIN:
            return False
        self._client = None
        return True

    def _look(self) -> tuple[int, int]:
        return stamp(kubefiles(self._options.kubeconfig))

    def _connect(self) -> httpx2.AsyncClient:
        config = load_config(self._options)
        given: dict[str, Any] = params(config, TIMEOUT).httpx_params(config)
        auth = auth_of(config.user, self._environ, context=config.context_name)
        address = addressed(config)

        async def addressing(request: httpx2.Request) -> None:
            address(request)

        more = {"limits": _LIMITS, "event_hooks": {"request": [addressing]}}
        return httpx2.AsyncClient(**{**given, "auth": auth and InTurn(auth), **more})

    def _environ(self) -> dict[str, str]:
        """What the credential plugin runs with: this process's, and that of the user's last commands."""
        kept: dict[str, str] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            kept = msgspec.json.decode(self._environment.read_bytes(), type=dict[str, str])
        return {**os.environ, **kept}


class InTurn(httpx2.Auth):
    """`inner`, asked by one request at a time: however many wait for a new token, the credential plugin runs
    once.
    """

    def __init__(self, inner: httpx2.Auth) -> None:
        self._inner = inner
        self._lock = asyncio.Lock()
        self._failure = ""
        self._failed = 0.0

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        await self._sign(request, None)
        used = request.headers.get("Authorization")
        response = yield request
        if response.status_code == 401 and used is not None:
            await self._sign(request, response)
            if request.headers.get("Authorization") != used:
                yield request

    async def _sign(self, request: httpx2.Request, refused: httpx2.Response | None) -> None:
        async with self._lock:
            if self._failure and time.monotonic() - self._failed < _AGAIN:
                raise Unanswered(self._failure)
            try:
                await asyncio.wait_for(self._ask(request, refused), _SIGN_IN)
                self._failure = ""
            except Exception as error:
                self._failure, self._failed = f"cannot sign in: {told(error)}", time.monotonic()
                raise Unanswered(self._failure) from error

    async def _ask(self, request: httpx2.Request, refused: httpx2.Response | None) -> None:
        """Signs `request`; where the same credential was just refused, has `inner` get another one."""
        used = request.headers.get("Authorization")
        flow = self._inner.async_auth_flow(request)
        await anext(flow)
        if refused is not None and request.headers.get("Authorization") == used:
            with contextlib.suppress(StopAsyncIteration):
                await flow.asend(refused)
        await flow.aclose()


class _Status(msgspec.Struct):
    message: str = ""


def refusal(status: int, body: bytes) -> Exception:
    """Refused or Unanswered, with what the API server said."""
    try:
        said = msgspec.json.decode(body, type=_Status).message
    except msgspec.MsgspecError:
        said = body[:200].decode(errors="replace")
    text = f"{said.strip() or 'no reason given'} ({status})"
    if status == 401:
        return Refused(f"your credentials for the cluster are not accepted; sign in again: {text}")
    return Refused(text) if status == 403 else Unanswered(text, status)
