"""The kubeconfig's credential plugin: a program that prints a token, run without anybody to answer it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any

import httpx2
import msgspec
from lightkube.config.models import UserExec
from lightkube.core.exceptions import ConfigError

from matcha import tether
from matcha.host.ports import HOST

SECONDS = 120.0  # a plugin may take, a person's part in it included
_SAID = 500  # characters of what it said that an error shows
# What `matcha env` sets for a stack's object store; a program that signs in at AWS would take it for its own.
_OF_A_STORE = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def without_stack(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` less what is there for a stack's object store.

    Keys beside a loopback endpoint are those of such a store. An endpoint elsewhere stays unless the
    variables of a stack are loaded; the keys beside it are the user's.
    """
    endpoint = environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith(f"http://{HOST}:"):
        return {key: value for key, value in environ.items() if key not in _OF_A_STORE}
    loaded = "MATCHA_PROJECT" in environ
    return {key: value for key, value in environ.items() if not (loaded and key == "AWS_ENDPOINT_URL")}


def of_this_process() -> Mapping[str, str]:
    return os.environ


class Plugin(httpx2.Auth):
    """Signs requests with the plugin's token, and asks for another one when that is refused.

    `environ` gives the variables to run with, each time it runs. Threads that need a token at the same time
    have it run once. Requests raise ConfigError where there is no token to be had.
    """

    def __init__(
        self,
        plugin: UserExec,
        environ: Callable[[], Mapping[str, str]] = of_this_process,
        seconds: float = SECONDS,
    ) -> None:
        self._plugin = plugin
        self._environ = environ
        self._seconds = seconds
        self._bearer = ""
        self._running = threading.Lock()

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        used = self._bearer
        if used:
            request.headers["Authorization"] = used
            response = yield request
            if response.status_code != 401:
                return
        with self._running:
            if self._bearer == used:
                self._bearer = self._bearer_of(self._run())
        request.headers["Authorization"] = self._bearer
        yield request

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self._bearer:
            request.headers["Authorization"] = self._bearer
            response = yield request
            if response.status_code != 401:
                return
        self._bearer = self._bearer_of(await self._run_async())
        request.headers["Authorization"] = self._bearer
        yield request

    def _run(self) -> str:
        """What it printed. Who sits at a terminal sees what else it says: a code to type, a page to open."""
        command, environ = self._prepared()
        watched = sys.stderr.isatty()
        stderr = sys.stderr.fileno() if watched else subprocess.PIPE
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": stderr}
        with tether.started(command, env=environ, **quiet) as process:
            try:
                said, complaint = process.communicate(timeout=self._seconds)
            except subprocess.TimeoutExpired as error:
                raise self._late() from error
        return self._checked(process.returncode, said, complaint or "")

    async def _run_async(self) -> str:
        command, environ = self._prepared()
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said, complaint = await asyncio.wait_for(process.communicate(), self._seconds)
        except asyncio.TimeoutError as error:
            raise self._late() from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        decoded = (stream.decode(errors="replace") for stream in (said, complaint))
        return self._checked(process.returncode or 0, *decoded)

    def _prepared(self) -> tuple[list[str], dict[str, str]]:
        plugin = self._plugin
        environ = {**without_stack(self._environ()), **{each.name: each.value for each in plugin.env or ()}}
        found = shutil.which(plugin.command, path=environ.get("PATH"))
        if found is None:
            hint = f" {plugin.installHint.strip()}" if plugin.installHint else ""
            what = f"{plugin.command}, which the kubeconfig signs in with,"
            raise ConfigError(f"{what} is not installed.{hint}")
        return [found, *(plugin.args or ())], environ

    def _checked(self, code: int, said: str, complaint: str) -> str:
        if code:
            why = complaint.strip()[-_SAID:] or "it said why above, or not at all"
            raise ConfigError(f"{self._plugin.command} ended with status {code}: {why}")
        return said

    def _late(self) -> ConfigError:
        return ConfigError(
            f"{self._plugin.command}, which the kubeconfig signs in with, gave no token within "
            f"{self._seconds:.0f} seconds. It has nobody to ask here: sign in with its own program first."
        )

    def _bearer_of(self, said: str) -> str:
        try:
            status = msgspec.json.decode(said, type=_Credential).status
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._plugin.command} gave no token: {error}") from error
        if status.token:
            return f"Bearer {status.token.strip()}"
        lack = "gave no token" + (", but a client certificate" if status.certificate else "")
        raise ConfigError(
            f"{self._plugin.command} {lack}. Matcha signs in with the tokens of such programs: have it give "
            "one, or choose a context whose certificate stands in the kubeconfig."
        )


class _Status(msgspec.Struct):
    token: str | None = None
    certificate: str | None = msgspec.field(name="clientCertificateData", default=None)


class _Credential(msgspec.Struct):
    status: _Status
