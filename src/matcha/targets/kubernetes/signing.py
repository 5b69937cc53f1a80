"""Credentials of a kubeconfig: whatever goes wrong with getting them is one kind of error."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping

import httpx2
import msgspec
from lightkube.config.client_adapter import ConnectionParams, user_auth
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from matcha.targets.kubernetes.kubeconfig import way
from matcha.targets.kubernetes.plugin import Plugin, of_this_process

_HEADER = re.compile(rb"[!-~]+( [!-~]+)*")  # of which HTTP quotes what is illegal in its errors


class Malformed(ConfigError):
    """A token that no request can bear. Says nothing of it."""


def auth_of(
    user: User | None, environ: Callable[[], Mapping[str, str]] = of_this_process, *, context: str = ""
) -> httpx2.Auth | None:
    """How requests of this user are signed; `environ` is what a credential plugin runs with."""
    if user is not None and user.exec and user.token_file is None and user.token is None:
        return Legal(Plugin(user.exec, environ), context)
    if user is not None and user.token is not None:
        user = msgspec.structs.replace(user, token=user.token.strip())
    auth = user_auth(user)
    return auth and Legal(auth, context)


class Legal(httpx2.Auth):
    """`inner`, whose requests raise Malformed before they are sent with a header that would be quoted."""

    def __init__(self, inner: httpx2.Auth, context: str) -> None:
        self._inner = inner
        self._context = context

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        flow = self._inner.sync_auth_flow(request)
        signed = next(flow)
        while True:
            response = yield self._checked(signed)
            try:
                signed = flow.send(response)
            except StopIteration:
                return

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        flow = self._inner.async_auth_flow(request)
        try:
            signed = await anext(flow)
            while True:
                response = yield self._checked(signed)
                try:
                    signed = await flow.asend(response)
                except StopAsyncIteration:
                    return
        finally:
            await flow.aclose()

    def _checked(self, request: httpx2.Request) -> httpx2.Request:
        for name, value in request.headers.raw:
            if name.lower() == b"authorization" and not _HEADER.fullmatch(value):
                raise Malformed(f"The token of the kubeconfig (context {self._context}) is malformed.")
        return request


class SignIn(httpx2.Auth):
    """`inner`, whose requests raise ConfigError where no credentials are to be had."""

    def __init__(self, inner: httpx2.Auth) -> None:
        self._inner = inner

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        flow = self._inner.sync_auth_flow(request)
        signed = self._step(lambda: next(flow))
        while signed is not None:
            response = yield signed
            signed = self._step(lambda response=response: flow.send(response))  # type: ignore[misc]

    def _step(self, ask: Callable[[], httpx2.Request]) -> httpx2.Request | None:
        try:
            return ask()
        except StopIteration:
            return None
        except ConfigError:
            raise
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"The kubeconfig gave no token: {type(error).__name__}: {error}") from error


def params(config: SingleConfig, timeout: httpx2.Timeout) -> ConnectionParams:
    return ConnectionParams(timeout=timeout, proxy=way(config).proxy or None)


def signed(http: httpx2.Client, config: SingleConfig) -> None:
    """Have the client's requests go through SignIn, to the name that the kubeconfig says."""
    if (auth := auth_of(config.user, context=config.context_name)) is not None:
        http.auth = SignIn(auth)
    http.event_hooks = {"request": [addressed(config)]}


def addressed(config: SingleConfig) -> Callable[[httpx2.Request], None]:
    """A hook by which the server's certificate is held against the kubeconfig's `tls-server-name`."""
    name = way(config).tls_name

    def address(request: httpx2.Request) -> None:
        if name:
            request.extensions = {**request.extensions, "sni_hostname": name}

    return address
