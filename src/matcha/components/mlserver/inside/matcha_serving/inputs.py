"""What guards of every signature share: names, shapes, content types, and the error that names an input."""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

RANGES = {
    f"{sign}INT{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}


class BadRequest(Exception):
    """A request that the model cannot take, and the input at fault (empty: the request as a whole)."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"input '{name}': {why}" if name else why)
        self.name = name


@dataclass(frozen=True)
class Reading:
    """A request as the model takes it. `doubtful` names inputs that hold null, NaN or infinity, or were left
    out though optional: the first suspects when the model fails.
    """

    value: Any
    rows: int
    doubtful: Callable[[], list[str]]


def datatype_of(tensor: Any) -> str:
    """gRPC requests carry text, HTTP ones an enum."""
    return str(getattr(tensor.datatype, "value", tensor.datatype))


def data_of(tensor: Any) -> Any:
    return getattr(tensor.data, "root", tensor.data)


def content_type_of(parametrised: Any) -> str:
    parameters = parametrised.parameters
    return (parameters.content_type or "") if parameters is not None else ""


def check_request(request: Any, content_types: Sequence[str]) -> None:
    """Raises BadRequest for a request without inputs, or one that says it is something else."""
    if not request.inputs:
        raise BadRequest("", "the request has no inputs")
    said = content_type_of(request)
    if said and said not in content_types:
        raise BadRequest(
            "", f"content_type '{shown_name(said)}': leave it out, or send {listed(content_types)}"
        )


def check_content_type(tensor: Any, allowed: Sequence[str]) -> None:
    said = content_type_of(tensor)
    if said and said not in allowed:
        raise BadRequest(
            tensor.name, f"content_type '{shown_name(said)}': leave it out, or send {listed(allowed)}"
        )


def by_name(request: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tensor in request.inputs:
        if tensor.name in found:
            raise BadRequest(tensor.name, "stands in the request twice")
        found[tensor.name] = tensor
    return found


def row_count(tensor: Any) -> int:
    shape = shape_of(tensor)
    if not shape[0]:
        raise BadRequest(tensor.name, f"shape {shape} holds no rows")
    return shape[0]


def shape_of(tensor: Any) -> list[int]:
    shape = list(tensor.shape)
    if not shape or any(size < 0 for size in shape):
        raise BadRequest(tensor.name, f"shape {shape}: one size a dimension, none below zero")
    return shape


def values_of(tensor: Any) -> list[Any]:
    data = data_of(tensor)
    if isinstance(data, (str, bytes)):
        return [data]
    if not isinstance(data, list):
        raise BadRequest(tensor.name, "data must be a list")
    return data


def flat(tensor: Any, rows: int, *, nested: bool) -> list[Any]:
    """`rows` values of a tensor of shape [rows] or [rows, 1]; `nested`: the values may be lists."""
    shape = shape_of(tensor)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise BadRequest(tensor.name, f"shape {shape}, the model expects [{rows}] or [{rows}, 1]")
    if shape[0] != rows:
        raise BadRequest(tensor.name, f"{shape[0]} rows, and other inputs have {rows}")
    values = values_of(tensor)
    if not nested and any(isinstance(v, list) for v in values):
        values = _unnested(tensor.name, values, shape)
    if len(values) != rows:
        raise BadRequest(tensor.name, f"shape {shape} but {len(values)} values")
    return values


def _unnested(name: str, values: list[Any], shape: list[int]) -> list[Any]:
    if len(shape) != 2 or not all(isinstance(v, list) and len(v) == 1 for v in values):
        raise BadRequest(name, f"shape {shape}, but its data is nested otherwise")
    return [v[0] for v in values]


def check_range(name: str, values: Sequence[int], datatype: str) -> None:
    low, high = RANGES[datatype]
    if min(values) < low or max(values) > high:
        raise BadRequest(name, f"a value does not fit {datatype}")


def check_size(name: str, shape: Sequence[int], count: int) -> None:
    if prod(shape) != count:
        raise BadRequest(name, f"shape {list(shape)} but {count} values")


def unpacked(value: Any) -> bytes:
    """The bytes that base64 stands for. Raises ValueError, TypeError."""
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise TypeError("not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def holds_bytes(data: Any) -> bool:
    """Whether values came over gRPC, which brings all of a tensor's as bytes or none."""
    return isinstance(data, bytes) or (isinstance(data, list) and bool(data) and isinstance(data[0], bytes))


def packed(data: Any) -> list[str]:
    """Base64 of each."""
    return [base64.b64encode(v).decode() for v in ([data] if isinstance(data, bytes) else data)]


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def shown_name(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}..."


def listed(names: Iterable[str], most: int = 12) -> str:
    known = [shown_name(n) for n in names]
    rest = len(known) - most
    return ", ".join(known[:most]) + (f" and {rest} more" if rest > 0 else "")


def near(name: str, known: Iterable[str], verb: str = "takes") -> str:
    names = list(known)
    close = difflib.get_close_matches(name[:100], names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"it {verb} {listed(names)}"
