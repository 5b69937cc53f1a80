"""MLServer put together from its own parts: registry, data plane, HTTP application, gRPC and metrics.

It is live (`/v2/health/live`) as soon as it listens, and loads the models of its list then; ready
(`/v2/health/ready`) once all of them are. So a supervisor watches `live`: a server that loads is not ill.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from mlserver.errors import MLServerError
from mlserver.handlers import DataPlane
from mlserver.logging import configure_logger
from mlserver.metrics.prometheus import PrometheusEndpoint
from mlserver.rest.app import create_app
from mlserver.rest.logging import disable_health_access_logs
from mlserver.settings import Settings
from mlserver.types import InferenceRequest, InferenceResponse
from prometheus_client import Gauge

from . import answers, applications
from .admin import Admin, Repository
from .capture import Capture
from .config import Config, Door
from .copies import Copies
from .deployments import Deployments, Registry
from .following import Following
from .forward import Peers
from .gate import Gate
from .leaving import Leaving
from .rpc import GRACE_SECONDS, Rpc
from .runtime import Shared
from .tokens import Tokens

LAST_RESORT = 23.0  # seconds after SIGTERM; below the 25 that the component asks for
FLUSH_SECONDS = 2.0
_ID = re.compile(r"[ -~]{1,200}")  # it comes back in a header, which holds no more
logger = logging.getLogger("mlserver.matcha")


class Plane:
    """MLServer's data plane, asked only for models that exist: it makes a metric of every name it hears."""

    def __init__(self, inner: DataPlane, registry: Registry) -> None:
        self._inner = inner
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def infer(
        self, payload: InferenceRequest, name: str, version: str | None = None
    ) -> InferenceResponse:
        if payload.id is not None and not _ID.fullmatch(payload.id):
            raise MLServerError("The id has to be 1 to 200 printable ASCII characters.", 400)
        model = await self._registry.get_model(name, version)
        if not model.ready:
            raise MLServerError(f"Model {name} is still loading.", 503)
        return await self._inner.infer(payload, name, version)


class Quiet(uvicorn.Server):
    """Leaves signals to `Serving`, which has several servers to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def install_signal_handlers(self) -> None:
        pass


class Serving:
    """All servers of the process. Make it inside the running event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        settings = _settings(config)
        configure_logger(settings)
        disable_health_access_logs()
        self._capture = _capture(config)
        self._peers = Peers()
        self._deployments = Deployments(
            Copies(config.models),
            Shared(self._capture, config.load_seconds),
            self._peers,
            config.process,
        )
        self._following = Following(config.deployments, self._deployments)
        self._leaving = Leaving()
        registry = self._deployments.registry
        plane = Plane(DataPlane(settings, registry), registry)
        repository = Repository(self._deployments)
        admin = self._admin()
        app = _application(settings, plane, repository, admin)
        self._web = [_web(app, config.http_port, config, self._leaving)]
        self._door: tuple[Path, Tokens] | None = None
        if config.door is not None:
            outside = applications.Applications(app, config.door, config.max_body, leaving=self._leaving)
            admin.install_tokens(app, outside.tokens)
            self._web.append(_outside(outside, config.door, config))
            self._door = config.door.file, outside.tokens
        self._kept = tuple(self._web)  # whose clients keep connections
        if config.metrics_port:
            self._web.append(_web(_metrics(settings), config.metrics_port, config))
        self._rpc = Rpc(settings, plane, repository) if config.grpc_port else None

    def _admin(self) -> Admin:
        known = self._deployments, self._config.token, self._capture
        return Admin(*known, self._following, self._leaving)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; requests under way are answered first."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        servers = [server.serve() for server in self._web]
        if self._rpc is not None:
            servers.append(self._rpc.start())
        beside = [asyncio.create_task(self._following.run())]
        if self._door is not None:
            beside.append(asyncio.create_task(applications.follow(*self._door)))
        await asyncio.gather(*servers)
        for task in beside:
            task.cancel()
        await self._peers.close()
        if self._capture is not None:
            await asyncio.to_thread(self._capture.close, FLUSH_SECONDS)

    def _leave(self) -> None:
        logger.info("Stopping")
        watchdog = threading.Timer(LAST_RESORT, os._exit, (0,))
        watchdog.daemon = True  # a prediction that hangs must not keep the process
        watchdog.start()
        self._stopping = [asyncio.ensure_future(self._stop())]
        if self._rpc is not None:
            self._stopping.append(asyncio.ensure_future(self._rpc.stop()))

    async def _stop(self) -> None:
        await self._leaving.linger(lambda: sum(len(web.server_state.connections) for web in self._kept))
        for server in self._web:
            server.should_exit = True


def _settings(config: Config) -> Settings:
    """`_env_file`: MLServer would read `.env` of the working folder otherwise."""
    return Settings(
        _env_file=None,
        debug=False,
        host=config.bind,
        http_port=config.http_port,
        grpc_port=config.grpc_port,
        metrics_port=config.metrics_port,
        metrics_endpoint="/metrics" if config.metrics_port else None,
        grpc_max_message_length=config.max_body,
        parallel_workers=0,
        load_models_at_startup=False,
    )


def _capture(config: Config) -> Capture | None:
    """Only the main server captures: requests to the others pass through it."""
    if not config.capture_url or config.process:
        return None
    capture = Capture(config.capture_url, config.capture_token)
    gauge = Gauge("matcha_capture_dropped", "Served requests that could not be captured since the start")
    gauge.set_function(lambda: capture.dropped)
    return capture


def _application(settings: Settings, plane: Plane, repository: Repository, admin: Admin) -> FastAPI:
    app = create_app(settings, plane, repository)
    # MLflow models do not stream, and an error in a stream that has begun cannot be told.
    app.router.routes[:] = [r for r in app.router.routes if not r.path.endswith("_stream")]
    answers.install(app)
    admin.install(app)
    return app


def _metrics(settings: Settings) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_route(settings.metrics_endpoint, PrometheusEndpoint(settings).handle_metrics)
    return app


def _web(app: FastAPI, port: int, config: Config, leaving: Leaving | None = None) -> Quiet:
    return _quiet(Gate(app, config.hosts, config.max_body, leaving), port, config)


def _outside(app: applications.Applications, door: Door, config: Config) -> Quiet:
    return _quiet(
        app,
        door.port,
        config,
        http="h11",  # whose requests have a largest size
        ws="none",
        h11_max_incomplete_event_size=applications.HEADERS,
        limit_concurrency=applications.MOST_CONNECTIONS,
        timeout_keep_alive=applications.KEEP_SECONDS,
    )


def _quiet(app: Any, port: int, config: Config, **more: Any) -> Quiet:
    return Quiet(
        uvicorn.Config(
            app,
            host=config.bind,
            port=port,
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody stands in front, so nobody may say who asks
            timeout_graceful_shutdown=GRACE_SECONDS,
            **more,
        )
    )
