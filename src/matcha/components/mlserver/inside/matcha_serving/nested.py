"""Values of arrays, objects and maps: JSON -> what MLflow's own check of them takes.

JSON has one kind of number, and neither times nor bytes. MLflow (`_enforce_type`) refuses a 3 where a double
is meant, takes `float`, `integer` and `datetime` only in numpy's types, and checks again before the model
sees them: so numbers are brought into the type that the signature names where that loses nothing, and lists
of these three become arrays, which keep it. What does not fit stays as it is, for MLflow to refuse.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from mlflow.types.schema import Array, DataType, Map, Object

from . import inputs

EXACT = (DataType.integer, DataType.float, DataType.datetime)


def typed(value: Any, kind: Any) -> Any:
    """`kind`: MLflow's type. Raises ValueError for text that is no time, or no base64 of bytes."""
    if isinstance(kind, Array) and isinstance(value, list):
        return _array([typed(inner, kind.dtype) for inner in value], kind.dtype)
    if isinstance(kind, Map) and isinstance(value, dict):
        return {key: typed(inner, kind.value_type) for key, inner in value.items()}
    if isinstance(kind, Object) and isinstance(value, dict):
        known = {part.name: part.dtype for part in kind.properties}
        return {key: typed(inner, known.get(key)) for key, inner in value.items()}
    return _scalar(value, kind)


def _array(values: list[Any], kind: Any) -> Any:
    if kind in (DataType.float, DataType.double):
        values = [math.nan if v is None else v for v in values]
    if not values or kind not in EXACT:
        return values
    exact = kind.to_numpy()
    whole = all(isinstance(v, np.generic) or v != v for v in values)  # noqa: PLR0124 - NaN
    return np.array(values, dtype=exact) if whole else values


def _scalar(value: Any, kind: Any) -> Any:
    if isinstance(value, str):
        return _read(value, kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if kind is DataType.double:
        return float(value)
    if kind is DataType.float and abs(value) <= np.finfo(np.float32).max:
        return np.float32(value)
    if kind is DataType.integer and isinstance(value, int) and -(2**31) <= value < 2**31:
        return np.int32(value)
    return value


def _read(value: str, kind: Any) -> Any:
    if kind is DataType.datetime:
        time = pd.Timestamp(value)
        return (time.tz_convert(None) if time.tzinfo is not None else time).to_datetime64()
    return inputs.unpacked(value) if kind is DataType.binary else value
