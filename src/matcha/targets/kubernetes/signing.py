"""Credentials of a kubeconfig: whatever goes wrong with getting them is one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

import httpx2
from lightkube.config.client_adapter import ConnectionParams, user_auth
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from matcha.targets.kubernetes.kubeconfig import way
from matcha.targets.kubernetes.plugin import Plugin, of_this_process


def auth_of(
    user: User | None, environ: Callable[[], Mapping[str, str]] = of_this_process
) -> httpx2.Auth | None:
    """How requests of this user are signed; `environ` is what a credential plugin runs with."""
    if user is not None and user.exec and user.token_file is None and user.token is None:
        return Plugin(user.exec, environ)
    return user_auth(user)


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
    if (auth := auth_of(config.user)) is not None:
        http.auth = SignIn(auth)
    http.event_hooks = {"request": [addressed(config)]}


def addressed(config: SingleConfig) -> Callable[[httpx2.Request], None]:
    """A hook by which the server's certificate is held against the kubeconfig's `tls-server-name`."""
    name = way(config).tls_name

    def address(request: httpx2.Request) -> None:
        if name:
            request.extensions = {**request.extensions, "sni_hostname": name}

    return address
