"""Credentials of a kubeconfig: whatever goes wrong with a program that gives them is one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Generator

import httpx2
from lightkube.config.models import User, UserExec
from lightkube.core.exceptions import ConfigError


class SignIn(httpx2.Auth):
    """`inner`, that of `user`; requests raise ConfigError where no credentials are to be had."""

    def __init__(self, inner: httpx2.Auth, user: User | None) -> None:
        self._inner = inner
        self._plugin = user.exec if user else None

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
        except FileNotFoundError as error:
            raise ConfigError(_absent(error, self._plugin)) from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            name = self._plugin.command if self._plugin else "the kubeconfig"
            raise ConfigError(f"{name} gave no token: {type(error).__name__}: {error}") from error


def signed(http: httpx2.Client, user: User | None) -> None:
    """Have the client's credentials go through SignIn."""
    if http.auth is not None:
        http.auth = SignIn(http.auth, user)


def _absent(error: FileNotFoundError, plugin: UserExec | None) -> str:
    if plugin is None:
        return str(error)
    hint = f" {plugin.installHint.strip()}" if plugin.installHint else ""
    return f"{plugin.command}, which the kubeconfig signs in with, is not installed.{hint}"
