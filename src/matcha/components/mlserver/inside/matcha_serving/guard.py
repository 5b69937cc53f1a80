"""MLflow signature -> the guard that reads requests for it.

Models without a signature take any request that MLServer can read; one that the model cannot take shows
itself only when it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from mlflow.models import ModelSignature
from mlflow.models.utils import _enforce_type
from mlflow.types.schema import DataType, Schema
from mlserver.codecs import NumpyRequestCodec, PandasCodec
from mlserver.codecs.base import find_input_codec, find_request_codec
from mlserver.codecs.utils import decode_inference_request, decode_request_input, get_decoded, has_decoded
from mlserver.types import InferenceRequest, Parameters

from . import inputs
from .columns import Column, Columns
from .inputs import BadRequest, Reading
from .nested import typed
from .tensors import Tensor, Tensors, can_carry


class Guard(Protocol):
    binary: frozenset[str]  # inputs whose gRPC bytes are bytes, and no text

    def read(self, request: Any) -> Reading:
        """Raises BadRequest, naming the input, for what the model cannot take."""


def guard(signature: Any) -> Guard:
    """Of an MLflow ModelSignature, or None."""
    schema = signature.inputs if signature is not None else None
    if schema is None or not schema.inputs:
        return Unsigned()
    return Tensors(_tensors(schema)) if schema.is_tensor_spec() else Columns(_columns(schema))


def signature_of(record: Mapping[str, Any]) -> Any:
    """MLflow's JSON (its fields as text or as values) -> ModelSignature; None for an empty one.

    Raises ValueError for what MLflow cannot read.
    """
    import json

    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items() if v is not None}
    if not texts.get("inputs"):
        return None
    try:
        return ModelSignature.from_dict(texts)
    except Exception as error:
        raise ValueError(f"the signature cannot be read: {error}") from error


def _columns(schema: Schema) -> list[Column]:
    return [_column(spec, number) for number, spec in enumerate(schema.inputs)]


def _column(spec: Any, number: int) -> Column:
    name = spec.name or f"input-{number}"  # as MLServer calls them in the model's metadata
    required = spec.required is not False
    if isinstance(spec.type, DataType):
        return Column(name, spec.type.name, required)
    return Column(name, "json", required, partial(_checked, kind=spec.type, required=required))


def _checked(value: Any, kind: Any, required: bool) -> Any:
    """The value as MLflow takes it, and not as it then hands it on: some of that it would not take again."""
    _enforce_type(typed(value, kind), kind, required=required)
    return typed(value, kind)


def _tensors(schema: Schema) -> list[Tensor]:
    alone = len(schema.inputs) == 1
    if strange := next((spec.type for spec in schema.inputs if not can_carry(spec.type)), None):
        raise ValueError(f"it takes a tensor of {strange}, for which the V2 protocol has no datatype")
    return [
        Tensor(spec.name or ("" if alone else f"input-{number}"), spec.type, tuple(spec.shape))
        for number, spec in enumerate(schema.inputs)
    ]


class Unsigned:
    """Reads by the content types of the request; without any, one input is an array (or a list of texts)
    and several are a DataFrame.
    """

    binary: frozenset[str] = frozenset()

    def read(self, request: InferenceRequest) -> Reading:
        """Raises BadRequest."""
        inputs.check_request(request, _known(request, find_request_codec))
        rows = [self._check(tensor) for tensor in inputs.by_name(request).values()]
        try:
            value = _decoded(request)
        except Exception as error:
            raise BadRequest("", f"the inputs do not go together: {str(error)[:200]}") from error
        return Reading(value, rows[0], list)

    def _check(self, tensor: Any) -> int:
        inputs.check_content_type(tensor, (*_known(tensor, find_input_codec), PandasCodec.JsonContentType))
        if not inputs.content_type_of(tensor):
            tensor.parameters = tensor.parameters or Parameters()
            tensor.parameters.content_type = "str" if inputs.datatype_of(tensor) == "BYTES" else "np"
        rows = inputs.row_count(tensor)
        try:
            decode_request_input(tensor, {})
        except Exception as error:
            raise BadRequest(tensor.name, f"cannot be read: {str(error)[:200]}") from error
        return rows


def _known(parametrised: Any, find: Any) -> tuple[str, ...]:
    said = inputs.content_type_of(parametrised)
    return (said,) if said and find(said) is not None else ("pd", "np", "str")


def _decoded(request: InferenceRequest) -> Any:
    decode_inference_request(request)
    if has_decoded(request):
        return get_decoded(request)
    first, *more = request.inputs
    frame = bool(more) or inputs.content_type_of(first) == PandasCodec.JsonContentType
    codec = PandasCodec if frame else NumpyRequestCodec
    return codec.decode_request(request)
