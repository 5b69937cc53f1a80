"""One served model: guard -> (batcher) -> model -> capture.

The guard and the capture wrap `predict` outside MLServer's batcher, so that they see single requests: a bad
one is refused before it can spoil a batch, and a failed batch is tried again one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import orjson
from mlserver.batching import load_batching
from mlserver.errors import InferenceError, MLServerError
from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from mlserver_mlflow import MLflowRuntime, TensorDictCodec
from mlserver_mlflow.metadata import (
    DefaultInputPrefix,
    DefaultOutputPrefix,
    to_metadata_tensors,
    to_model_content_type,
)

from . import code, inputs, outputs, plain
from .capture import MAX_LINE, Capture
from .deployment import Deployment
from .guard import Guard, Unsigned, guard
from .inputs import BadRequest, Reading

QUICK = 0.02  # seconds of the event loop that one prediction may take
FEW_ROWS = 1000
DRAIN_SECONDS = 10.0
KINDS_LOGGED = 20
logger = logging.getLogger("mlserver.matcha")
# Parameters of the protocol, not of the model.
PROTOCOL = ("binary_data_output", "binary_data", "binary_data_size", "sequence_id", "priority", "timeout")


def _loader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "load")


@dataclass
class Shared:
    """What all models of a process share. Models are loaded one at a time: two imports of one package in
    different threads may see it half made.
    """

    capture: Capture | None = None
    load_seconds: float = 600.0
    predicting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, "predict"))
    loading: ThreadPoolExecutor = field(default_factory=_loader)


class Served(MLModel):
    """What models served here and models forwarded to another process have in common."""

    predict: Any

    def __init__(self, settings: ModelSettings, deployment: Deployment, shared: Shared) -> None:
        super().__init__(settings)
        self.deployment = deployment
        self._shared = shared
        self._guard: Guard = Unsigned()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def wrap(self) -> None:
        """Put guard and capture around the `predict` of this instance, the batcher's included."""
        self._inner = self.predict
        self.predict = self._serve

    def _describe(self, schemas: Any) -> None:
        """Inputs and outputs of an MLflow ModelSignature, or None, as `GET /v2/models/<name>` shows them; a
        signature may lack either.
        """
        if schemas is not None and schemas.inputs is not None:
            self.inputs = to_metadata_tensors(schemas.inputs, prefix=DefaultInputPrefix)
            self._settings.parameters.content_type = to_model_content_type(schemas.inputs)
        if schemas is not None and schemas.outputs is not None:
            self.outputs = to_metadata_tensors(schemas.outputs, prefix=DefaultOutputPrefix)
            if len(self.outputs) == 1 and not schemas.outputs.has_input_names():
                self.outputs[0].name = f"{DefaultOutputPrefix}1"  # as MLServer calls it in its answers

    async def unload(self) -> bool:
        """After the requests under way, whose model may still read its files."""
        try:
            await asyncio.wait_for(self._idle.wait(), DRAIN_SECONDS)
        except asyncio.TimeoutError:
            return True
        self.__dict__.pop("predict", None)  # ends the cycle that would keep the model until a collection
        self.__dict__.pop("_inner", None)
        return True

    async def _serve(self, payload: InferenceRequest) -> InferenceResponse:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._guarded(payload)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _guarded(self, payload: InferenceRequest) -> InferenceResponse:
        began = time.time()
        if payload.parameters is not None:
            payload.parameters.headers = None  # nothing behind this line may repeat them
        try:
            reading = self._guard.read(payload)
        except BadRequest as error:
            raise InferenceError(str(error)) from None
        response = await self.answer(payload, reading)
        response.model_name = self.deployment.name
        self._stamp(response)
        asked = _asked(payload, response)
        if self._shared.capture is not None and random.random() < self.deployment.sample:  # noqa: S311
            capture(self._shared.capture, self.deployment.name, began, payload, response, reading.rows)
        response.outputs = asked
        return response

    def _stamp(self, response: InferenceResponse) -> None:
        response.parameters = response.parameters or Parameters()
        version = getattr(response.parameters, "model_version", None) or self.deployment.version
        if version:
            response.parameters.model_version = response.model_version = version

    async def answer(self, payload: InferenceRequest, reading: Reading) -> InferenceResponse:
        """Raises MLServerError."""
        raise NotImplementedError


def _asked(request: InferenceRequest, response: InferenceResponse) -> list[ResponseOutput]:
    """The outputs that the request names, in its order; all where it names none. Raises InferenceError."""
    found = {output.name: output for output in response.outputs}
    names = list(dict.fromkeys(output.name for output in request.outputs or ()))
    for name in names:
        if name not in found:
            near = inputs.near(name, found, "gives")
            raise InferenceError(f"output '{inputs.shown_name(name)}': the model has no such output; {near}")
    return [found[name] for name in names] if names else response.outputs


class ModelRuntime(Served, MLflowRuntime):
    """A model loaded into this process."""

    # MLflow's own endpoints have no model in their path, so the model loaded last would answer them.
    ping = health = mlflow_version = invocations = None

    def __init__(self, settings: ModelSettings, deployment: Deployment, shared: Shared) -> None:
        super().__init__(settings, deployment, shared)
        self._alone = asyncio.Lock()
        self._seconds: float | None = None
        self._logged: set[str] = set()

    async def load(self) -> bool:
        self._model = await self._load_model()
        self._signature = self._model.metadata.signature
        self._input_schema = self._model.metadata.get_input_schema()
        self._takes_params = self._model.metadata.get_params_schema() is not None
        self._guard = guard(self._signature)
        self._describe(self._signature)
        await load_batching(self)  # here and not as MLServer's hook, which a reload leaves out
        self.wrap()
        return True

    async def _load_model(self) -> Any:
        """Raises TimeoutError; the thread is left behind then, and another one loads what comes next."""
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(self._shared.loading, self._read_model)
        try:
            return await asyncio.wait_for(loading, self._shared.load_seconds)
        except asyncio.TimeoutError as error:
            self._shared.loading = _loader()
            raise TimeoutError(f"it did not load within {self._shared.load_seconds:.0f} seconds") from error

    def _read_model(self) -> Any:
        folder = Path(self._settings.parameters.uri)
        code.forget(folder, folder.parents[1])
        return mlflow.pyfunc.load_model(str(folder))

    @property
    def _batched(self) -> bool:
        return hasattr(self, "__adaptive_batching__")

    async def answer(self, payload: InferenceRequest, reading: Reading) -> InferenceResponse:
        params = self._params(payload)
        # The batcher would mix up parameters, and bytes with base64, and what makes a model fail would spoil
        # the batch.
        if self._batched and not params and not self._guard.binary and not reading.doubtful():
            with contextlib.suppress(Exception):  # another request of the batch may be at fault
                return await self._inner(payload)
        try:
            return await self._run(reading, params)
        except Exception as error:
            self._log(error)
            unchecked = [str(x.name) for x in payload.inputs] if isinstance(self._guard, Unsigned) else []
            raise _explained(error, reading, unchecked) from error

    def _log(self, error: Exception) -> None:
        """The traceback of each kind of failure once: a model that always fails would fill the log."""
        kind = plain.error(error)
        if kind not in self._logged and len(self._logged) < KINDS_LOGGED:
            self._logged.add(kind)
            logger.error("%s failed:\n%s", self.deployment.name, plain.trace(error))

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch put together by MLServer; single requests do not come here."""
        return await self._run(self._guard.read(payload), {})

    def _params(self, payload: InferenceRequest) -> dict[str, Any]:
        given = payload.parameters.model_extra if payload.parameters is not None else None
        if not given or not self._takes_params:
            return {}
        return {k: v for k, v in given.items() if k not in PROTOCOL}

    async def _run(self, reading: Reading, params: dict[str, Any]) -> InferenceResponse:
        """Quick predictions run in the event loop, where they cost least; slow ones in a thread, so that
        other models and the health check go on. One at a time: few models are made for threads.
        """
        quick = self._seconds is not None and self._seconds < QUICK and reading.rows <= FEW_ROWS
        if quick and not self._alone.locked():
            return self._timed(reading, params)
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        async with self._alone:
            return await loop.run_in_executor(
                self._shared.predicting, context.run, self._timed, reading, params
            )

    def _timed(self, reading: Reading, params: dict[str, Any]) -> InferenceResponse:
        began = time.perf_counter()
        found = self._model.predict(reading.value, params=params or None)
        response = self.encode_response(outputs.normal(found), default_codec=TensorDictCodec)
        took = time.perf_counter() - began
        if reading.rows <= FEW_ROWS:
            self._seconds = took if self._seconds is None else 0.7 * self._seconds + 0.3 * took
        return response


def _explained(error: Exception, reading: Reading, unchecked: list[str]) -> MLServerError:
    """400 for what MLflow itself refuses, for inputs that hold missing values, and for a ValueError where no
    signature let the guard check the inputs: it is how libraries refuse a shape. Else the model failed.
    """
    if isinstance(error, MLServerError):
        return error
    said = plain.error(error)
    if doubtful := reading.doubtful():
        verb = "are" if len(doubtful) > 1 else "is"
        names = inputs.listed(f"'{name}'" for name in doubtful)
        return InferenceError(
            f"input {names} {verb} null, NaN, infinite or left out, and the model failed: {said}"
        )
    if code.raised_by_mlflow(error):
        return InferenceError(f"the model cannot take this request: {said}")
    if unchecked and isinstance(error, ValueError):
        names = inputs.listed(f"'{name}'" for name in unchecked)
        return InferenceError(f"input {names}: the model, which has no signature, refused: {said}")
    return MLServerError(f"model failed: {said}", 500)


Encoded = list[tuple[str, Any, list[int], Any]]


def capture(
    to: Capture, name: str, at: float, request: InferenceRequest, response: InferenceResponse, rows: int
) -> None:
    """One line for the monitoring service; a request too large for a line is counted instead."""
    given, returned = _tensors(request.inputs), _tensors(response.outputs)
    values = sum(len(data) for *_, data in (*given, *returned) if isinstance(data, list))
    if values > MAX_LINE // 4:
        to.drop()
        return
    parameters = response.parameters
    line = {
        "d": name,
        "v": str(getattr(parameters, "model_version", "") or ""),
        "t": at,
        "id": (request.id or "")[:200],
        "by": to.sender,
        "n": rows,
        "in": given,
        "out": returned,
    }
    to.put(orjson.dumps(line, default=_as_text))


def _tensors(tensors: list[Any]) -> Encoded:
    return [(x.name, x.datatype, x.shape, _flat(inputs.data_of(x))) for x in tensors]


def _flat(data: Any) -> Any:
    """Nested data has the same values in the same order; the shape says the rest."""
    while isinstance(data, list) and data and isinstance(data[0], list):
        data = [value for part in data for value in (part if isinstance(part, list) else [part])]
    return data


def _as_text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
