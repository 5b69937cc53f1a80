"""Forwards to each pod of one service, in this process and for a moment: for who has something to say to all
of them. A pod that goes meanwhile ends its connections, and no other takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import httpx2

from matcha.host.ports import HOST
from matcha.targets.kubernetes.forward import local
from matcha.targets.kubernetes.forward.api import Api, Unanswered
from matcha.targets.kubernetes.forward.config import Config, Forward
from matcha.targets.kubernetes.forward.connection import PIECE, Connection
from matcha.targets.kubernetes.forward.log import Log, told
from matcha.targets.kubernetes.forward.pods import Pod, listed
from matcha.targets.kubernetes.kubeconfig import load_config
from matcha.targets.kubernetes.names import selector
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.refusals import BUSY, ClusterError

LOOK = 3.0  # seconds in which the cluster answers, and says which pods there are
SIGN_IN = 10.0  # seconds more where a program has to say who the user is
AGAIN = 0.5  # seconds before the second try
GOODBYE = 2.0
T = TypeVar("T")


@contextlib.contextmanager
def each(options: KubernetesOptions, service: str, port: int) -> Iterator[dict[str, str]]:
    """host:port on loopback of `port` of every pod of the service that runs, ready or not, by the pod's name.
    Raises ClusterError where the cluster does not say in time which.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=f"forwards to {service}", daemon=True)
    thread.start()
    forwards = _Each(options, service, port)

    def done(what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, loop).result()

    try:
        yield done(forwards.open())
    finally:
        done(forwards.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Each:
    def __init__(self, options: KubernetesOptions, service: str, port: int) -> None:
        self._options = options
        self._api = Api(Config.of(options))
        self._namespace = options.namespace
        self._service = service
        self._port = port
        self._log = Log(lambda _: None)  # whoever is connected sees that it ended
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> dict[str, str]:
        return {pod.name: await self._bind(pod) for pod in await self._pods()}

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=GOODBYE)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._api.close(), GOODBYE)

    async def _pods(self) -> list[Pod]:
        user = load_config(self._options).user
        signing = SIGN_IN if user is not None and user.exec else 0.0
        try:
            found = await asyncio.wait_for(self._listed(), 2 * LOOK + signing)
        except (asyncio.TimeoutError, httpx2.TimeoutException):
            raise self._unknown("It did not answer in time.") from None
        except Exception as error:
            raise self._unknown(told(error)) from error
        return sorted((pod for pod in found if pod.is_running), key=lambda pod: pod.name)

    async def _listed(self) -> list[Pod]:
        """Asked once more where the cluster is busy, or not there at the moment: a deploy stands on it."""
        try:
            return await self._asked()
        except Unanswered as error:
            if error.status not in BUSY:
                raise
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(AGAIN)
        return await self._asked()

    async def _asked(self) -> list[Pod]:
        labels = ",".join(f"{key}={value}" for key, value in selector(self._service).items())
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        return listed(await self._api.get(path, {"labelSelector": labels}, httpx2.Timeout(LOOK)))

    def _unknown(self, why: str) -> ClusterError:
        return ClusterError(f"The cluster does not say which pods of {self._service} run.", details=why)

    async def _bind(self, pod: Pod) -> str:
        forward = Forward(key=pod.name, service=self._service, port=self._port, preferred=self._port)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            local.prepare(writer.get_extra_info("socket"))
            connection = Connection(forward, reader, writer, self._log)
            with contextlib.suppress(asyncio.CancelledError):  # whoever asked for it is done
                await connection.run_to(self._api, self._namespace, pod.name)

        server = await asyncio.start_server(accept, HOST, 0, limit=PIECE)
        self._servers.append(server)
        return f"{HOST}:{server.sockets[0].getsockname()[1]}"
