"""The values of one column -> a V2 input. Text, as CSV has it, is read as the signature says.

Missing values (None, and an empty cell of CSV where the column is no text) and NaN go as null, which JSON
has; infinity it has not.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from matcha.errors import BadInput

DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
}
CONTENT_TYPES = {"string": "str", "datetime": "datetime", "binary": "base64"}
NESTED = ("array", "object", "map", "sparkml_vector")
JSON = "pd_json"  # as MLServer calls columns whose values are JSON
LARGEST = {"FP16": 65504.0, "FP32": 3.4028234663852886e38}
MEANINGS = {
    "FP": "a number",
    "INT": "a whole number",
    "UINT": "a whole number",
    "BOOL": "true or false",
}
TEXTS = {
    "str": ("text", "text"),
    "datetime": ("a time", "a time in ISO 8601, such as 2024-01-31T12:00:00"),
    "base64": ("base64", "base64, such as dGV4dA== for the bytes of text"),
    JSON: ("JSON", "JSON of finite numbers, text, true, false, null, lists and objects"),
}


def required(column: Mapping[str, Any]) -> bool:
    return column.get("required") is not False


def column(spec: Mapping[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """Raises BadInput naming the row."""
    name, kind = str(spec["name"]), str(spec.get("type", ""))
    datatype, content_type = (
        _guess(values) if not kind else (DATATYPES.get(kind, "BYTES"), _content_type(kind))
    )
    read = _nested if kind in NESTED else READERS[content_type] if datatype == "BYTES" else reader(datatype)
    given = values if kind or datatype != "FP64" else [_unsigned(v) for v in values]
    data = [one(name, read, datatype, content_type, v, row) for row, v in enumerate(given, 1)]
    found: dict[str, Any] = {"name": name, "shape": [len(values), 1], "datatype": datatype, "data": data}
    return {**found, "parameters": {"content_type": content_type}} if datatype == "BYTES" else found


def _content_type(kind: str) -> str:
    return CONTENT_TYPES.get(kind, JSON)


def _guess(values: Sequence[Any]) -> tuple[str, str]:
    """The datatype and content type of values that no signature describes."""
    present = [v for v in values if v is not None]
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), ((int, float), "FP64")):
        if present and all(isinstance(v, kind) for v in present):
            return datatype if len(present) == len(values) else "FP64", ""
    if present and all(isinstance(v, bytes) for v in present):
        return "BYTES", "base64"
    return "BYTES", JSON if any(isinstance(v, (list, dict)) for v in present) else "str"


def _unsigned(value: Any) -> Any:
    """Only numbers can be missing: beside missing values, where no signature says more, true is one."""
    return float(value) if isinstance(value, bool) else value


def one(name: str, read: Callable[[Any], Any], datatype: str, content_type: str, value: Any, row: int) -> Any:
    """Raises BadInput naming the row and the column for what `read` does not take."""
    if value is None:
        return None
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError) as error:
        what = datatype.rstrip("0123456789")
        expected, advice = TEXTS[content_type] if what == "BYTES" else (datatype, MEANINGS[what])
        if what == "FP" and isinstance(error, OverflowError):
            advice = f"a finite number that {datatype} can hold"
        shown = repr(value)
        raise BadInput(
            f"Row {row}: {name} is {shown if len(shown) < 80 else shown[:77] + '...'}, "
            f"the model expects {expected}.",
            resolution=f"Give {name} as {advice}.",
        ) from error


def reader(datatype: str) -> Callable[[Any], Any]:
    """Of numbers and truth values. The function raises TypeError, ValueError or OverflowError."""
    if datatype == "BOOL":
        return _truth
    if datatype.startswith("FP"):
        return lambda value: _real(value, LARGEST.get(datatype, math.inf))
    return _whole


def _real(value: Any, largest: float) -> float | None:
    if value == "":
        return None
    number = _number(value)
    if math.isnan(number):
        return None
    if math.isinf(number) or abs(number) > largest:
        raise OverflowError(value)
    return number


def _number(value: Any) -> float:
    """Without what Python alone takes for a number: `1_000`, and true."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError(value)
    return float(value)


def _whole(value: Any) -> int | None:
    if value == "":
        return None
    number = _number(value)
    if number != int(number):
        raise ValueError(value)
    return int(value) if isinstance(value, (int, str)) and str(value).lstrip("+-").isdigit() else int(number)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError(value)
    return words[text]


def _text(value: Any) -> str:
    if isinstance(value, (bytes, list, dict)):
        raise TypeError(value)
    return value if isinstance(value, str) else str(value)


def _time(value: Any) -> str | None:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if not isinstance(value, str):
        raise TypeError(value)
    return value or None


def _binary(value: Any) -> str:
    """Base64 of bytes; of text, which must be base64 already."""
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if not isinstance(value, str):
        raise TypeError(value)
    packed = "".join(value.split())
    try:
        base64.b64decode(packed, validate=True)
    except binascii.Error as error:
        raise ValueError(value) from error
    return packed


def _nested(value: Any) -> str | None:
    """Text is JSON already, in a cell of CSV: neither arrays nor objects are text."""
    if value == "":
        return None
    return _json(json.loads(value) if isinstance(value, str) else value)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """What JSON can carry. NaN is null, as everywhere; json refuses infinity."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (bytes, bytearray)):
        return _binary(value)
    return value.isoformat() if isinstance(value, (date, datetime)) else value


READERS: dict[str, Callable[[Any], Any]] = {"str": _text, "datetime": _time, "base64": _binary, JSON: _json}
