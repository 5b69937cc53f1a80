"""MLServer over gRPC, with the same refusals as over HTTP and without its tracebacks in the log for them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc import aio
from mlserver.errors import MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.interceptors import PromServerInterceptor
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.model_repository_pb2_grpc import add_ModelRepositoryServiceServicer_to_server
from mlserver.grpc.servicers import InferenceServicer
from mlserver.grpc.utils import STATUS_CODE_MAPPING
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.settings import Settings
from mlserver.types import InferenceRequest

from . import outputs, plain
from .leaving import KEPT

GRACE_SECONDS = 12  # for requests under way at the end
STATUS_CODE_MAPPING.update(  # of MLServer's own, which know four
    {
        403: grpc.StatusCode.PERMISSION_DENIED,
        413: grpc.StatusCode.RESOURCE_EXHAUSTED,
        502: grpc.StatusCode.UNAVAILABLE,
        503: grpc.StatusCode.UNAVAILABLE,
        504: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
logger = logging.getLogger("mlserver.grpc")

Method = Callable[[Any, Any, Any], Awaitable[Any]]


def answered(method: Method) -> Method:
    """An MLServerError becomes its status and text; anything else INTERNAL without the exception's text."""

    async def inner(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except MLServerError as error:
            await context.abort(
                STATUS_CODE_MAPPING.get(error.status_code, grpc.StatusCode.UNKNOWN), str(error)
            )
        except aio.AbortError:
            raise
        except Exception as error:
            logger.exception("A gRPC request failed")
            await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}")

    return inner


class Inference(InferenceServicer):
    @answered
    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await super().ModelReady(request, context)

    @answered
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        payload = readable(request)
        result = await self._data_plane.infer(
            payload=payload, name=request.model_name, version=request.model_version
        )
        self._SetTrailingMetadata(result, context)
        outputs.without_nulls(result)
        return ModelInferResponseConverter.from_types(result, use_raw=bool(request.raw_input_contents))

    def _InsertHeaders(self, request: Any, context: Any) -> InferenceRequest:  # noqa: N802
        """Streams read their messages here. Metadata stays out of requests: models have no use for it."""
        return readable(request)


def readable(request: Any) -> InferenceRequest:
    """Raises MLServerError naming the input whose bytes cannot be read."""
    try:
        payload = ModelInferRequestConverter.to_types(request)
    except Exception as error:
        raise MLServerError(_unreadable(request, error)) from error
    payload.id = payload.id or None  # gRPC has no "not given": MLServer would leave it empty
    return payload


def _unreadable(request: Any, error: Exception) -> str:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        return f"the request has {len(request.inputs)} inputs and {len(raw)} raw contents"
    for number, tensor in enumerate(request.inputs):
        alone = pb.ModelInferRequest(inputs=[tensor], raw_input_contents=raw[number : number + 1])
        try:
            ModelInferRequestConverter.to_types(alone)
        except Exception as found:  # noqa: BLE001 - struct, unicode, key and value errors
            why = plain.text_of(str(found))
            what = f"{tensor.datatype} of shape {list(tensor.shape)}"
            return f"input '{tensor.name}': {what} cannot be read: {why}"
    return f"the request cannot be read: {plain.error(error)}"


class Rpc:
    """The gRPC server; `start` returns when it has stopped."""

    def __init__(self, settings: Settings, plane: DataPlane, repository: ModelRepositoryHandlers) -> None:
        self._address = f"{settings.host}:{settings.grpc_port}"
        self._limit = settings.grpc_max_message_length
        self._metrics = bool(settings.metrics_endpoint)
        self._plane = plane
        self._repository = repository
        self._server: Any = None

    async def start(self) -> None:
        self._server = aio.server(
            ThreadPoolExecutor(max_workers=2),
            interceptors=[PromServerInterceptor(enable_handling_time_histogram=True)]
            if self._metrics
            else [],
            options=[
                ("grpc.max_receive_message_length", self._limit),
                ("grpc.max_send_message_length", self._limit),
                ("grpc.max_connection_age_ms", int(KEPT * 1000)),  # what is under way on it goes on
                ("grpc.so_reuseport", 0),  # otherwise two servers would share a port without a word
            ],
        )
        add_GRPCInferenceServiceServicer_to_server(Inference(self._plane, self._repository), self._server)
        add_ModelRepositoryServiceServicer_to_server(ModelRepositoryServicer(self._repository), self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)
