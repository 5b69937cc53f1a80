"""Guard of models with a column signature: V2 inputs, one a column -> DataFrame.

What a column takes follows MLflow's own rules (https://mlflow.org/docs/latest/model/signatures.html): a
narrower number is widened, a wider one is refused. Missing values: null is refused in integer and boolean
columns, which have none, and in text and time columns that the signature requires. In float columns null
reaches the model as NaN, since the signature cannot tell whether the model takes it; where the model then
fails, the answer is a 400 that names those inputs (see `Reading.doubtful`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from . import inputs
from .inputs import BadRequest, Reading

_INTEGERS = ("INT8", "INT16", "INT32", "UINT8", "UINT16")
ACCEPTS: dict[str, tuple[str, ...]] = {
    "boolean": ("BOOL",),
    "integer": _INTEGERS,
    "long": ("INT64", *_INTEGERS, "UINT32"),
    "float": ("FP32", "FP16", "INT8", "INT16", "UINT8", "UINT16"),
    "double": ("FP64", "FP32", "FP16", *_INTEGERS, "UINT32"),
    "string": ("BYTES",),
    "binary": ("BYTES",),
    "datetime": ("BYTES",),
    "json": ("BYTES",),
}
CONTENT_TYPES: dict[str, tuple[str, ...]] = {
    "string": ("str", "pd"),
    "binary": ("base64", "str", "pd"),
    "datetime": ("datetime", "str", "pd"),
    "json": ("pd_json", "str", "pd"),
}
NUMPY = {
    "boolean": np.bool_,
    "integer": np.int32,
    "long": np.int64,
    "float": np.float32,
    "double": np.float64,
}
FLOATS = ("float", "double")
# older pandas reads each value by what it looks like; newer ones expect all of them to look like the first
ISO = {"format": "ISO8601"} if int(pd.__version__.partition(".")[0]) >= 2 else {}
WHOLE = ("integer", "long")
NO_TIME = "not a time in ISO 8601 between 1678 and 2261, such as 2024-02-01T10:00:00Z"


@dataclass(frozen=True)
class Column:
    """`kind` is MLflow's type name, or `json` for arrays, objects, maps and any, which `enforce` checks."""

    name: str
    kind: str
    required: bool = True
    enforce: Callable[[Any], Any] = field(default=lambda value: value)

    def read(self, tensor: Any, rows: int) -> Any:
        """The values as MLflow wants them. Raises BadRequest naming the input."""
        datatype = inputs.datatype_of(tensor)
        if datatype not in ACCEPTS[self.kind]:
            raise BadRequest(self.name, f"datatype {datatype}, the model expects {self.expects}")
        inputs.check_content_type(tensor, CONTENT_TYPES.get(self.kind, ("np", "pd")))
        values = inputs.flat(tensor, rows, nested=self.kind == "json")
        if self.kind in NUMPY:
            return self._numbers(values, datatype)
        read = _binary(inputs.content_type_of(tensor)) if self.kind == "binary" else _READERS[self.kind]
        return self._objects(values, read)

    @property
    def expects(self) -> str:
        name = ACCEPTS[self.kind][0]
        return f"{name} ({self.kind})" if self.kind in NUMPY else f"{name} (text)"

    def _numbers(self, values: list[Any], datatype: str) -> Any:
        allowed = _python_types(self.kind, datatype)
        if not set(map(type, values)) <= allowed:
            raise self._wrong(values, allowed, datatype)
        try:
            if datatype.startswith(("INT", "UINT")):
                inputs.check_range(self.name, values, datatype)
            return np.array(values, dtype=NUMPY[self.kind])
        except OverflowError as error:
            raise BadRequest(self.name, f"a value does not fit {datatype}") from error

    def _wrong(self, values: list[Any], allowed: set[type], datatype: str) -> BadRequest:
        row, value = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
        if value is None:
            return BadRequest(self.name, f"row {row} is null, and {self.kind} columns have no missing values")
        return BadRequest(self.name, f"row {row} holds {inputs.shown(value)}, which is not {datatype}")

    def has_holes(self, values: Any) -> bool:
        """Whether null, NaN or infinity is among values that were read."""
        if self.kind in FLOATS:
            return not np.isfinite(values).all()
        return self.kind not in NUMPY and any(v is None or v is pd.NaT for v in values)

    def _objects(self, values: list[Any], read: Callable[[Any], Any]) -> Any:
        if self.required and None in values:
            row = values.index(None)
            raise BadRequest(self.name, f"row {row} is null, and the model requires this input")
        found = [None if v is None else self._one(read, v, row) for row, v in enumerate(values)]
        return _times(self.name, found) if self.kind == "datetime" else _series(found)

    def _one(self, read: Callable[[Any], Any], value: Any, row: int) -> Any:
        try:
            return self.enforce(read(value))
        except Exception as error:
            said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise BadRequest(self.name, f"row {row} holds {inputs.shown(value)}: {said}") from error


def _python_types(kind: str, datatype: str) -> set[type]:
    if kind == "boolean":
        return {bool}
    if datatype.startswith("FP"):
        return {float, int, type(None)}
    return {int}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _binary(content_type: str) -> Callable[[Any], Any]:
    """Bytes, which gRPC has, are what they are; text, all that JSON has, is base64 of them. Where the request
    says which (base64, or str for UTF-8), it is that.
    """
    if content_type == "base64":
        return inputs.unpacked
    if content_type == "str":
        return lambda value: value if isinstance(value, bytes) else _text(value).encode()
    return lambda value: value if isinstance(value, bytes) else inputs.unpacked(value)


def _time(value: Any) -> str:
    """Refuses `now`, `NaT` and no text at all, for which pandas has a meaning of its own."""
    text = _text(value).strip()
    if not text[:4].isdecimal():
        raise ValueError(NO_TIME)
    return text


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, (str, bytes)) else value


_READERS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "datetime": _time,
    "json": _json,
}


def _series(values: list[Any]) -> Any:
    """Objects stay what they are, lists too; numpy would make a matrix of equal lists."""
    series = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        series[row] = value
    return series


def _times(name: str, values: list[Any]) -> Any:
    """Each value by itself, as it is written. One with an offset is turned into UTC, since MLflow takes times
    without one only; one without an offset stays as it is.
    """
    read = pd.to_datetime(pd.Series(values, dtype=object), utc=True, errors="coerce", **ISO)
    found = read.dt.tz_localize(None)
    odd = found.isna() | (found < pd.Timestamp.min) | (found > pd.Timestamp.max)
    row = next((int(n) for n in np.flatnonzero(odd) if values[n] is not None), None)
    if row is not None:
        raise BadRequest(name, f"row {row} holds {inputs.shown(values[row])}: {NO_TIME}")
    return found.astype("datetime64[ns]")


class Columns:
    """Reads requests for a model with these columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._names = {c.name: c for c in columns}
        self.binary = frozenset(c.name for c in columns if c.kind == "binary")

    def read(self, request: Any) -> Reading:
        """Raises BadRequest."""
        inputs.check_request(request, ("pd",))
        given = inputs.by_name(request)
        self._check_single(given)
        self._check_names(given)
        rows = inputs.row_count(next(iter(given.values())))
        values = {c.name: c.read(given[c.name], rows) for c in self._columns if c.name in given}
        return Reading(pd.DataFrame(values), rows, lambda: self._doubtful(values))

    def _check_single(self, given: dict[str, Any]) -> None:
        """One matrix is what most people try first."""
        name, tensor = next(iter(given.items()))
        shape = list(tensor.shape)
        matrix = len(shape) == 2 and shape[1] == len(self._columns) > 1
        if len(given) == 1 and matrix:
            raise BadRequest(
                name,
                f"one tensor of shape {shape}, but the model takes {len(self._columns)} columns: "
                f"send one input for each, with shape [{shape[0]}], named {inputs.listed(self._names)}",
            )

    def _check_names(self, given: dict[str, Any]) -> None:
        for name in given:
            if name not in self._names:
                raise BadRequest(name, f"the model has no such input; {inputs.near(name, self._names)}")
        missing = [c.name for c in self._columns if c.required and c.name not in given]
        if missing:
            raise BadRequest(missing[0], f"missing; the request lacks {inputs.listed(missing)}")

    def _doubtful(self, values: dict[str, Any]) -> list[str]:
        found = [c.name for c in self._columns if c.name not in values]
        return found + [c.name for c in self._columns if c.name in values and c.has_holes(values[c.name])]
