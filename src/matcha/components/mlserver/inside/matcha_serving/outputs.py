"""What a model returned -> V2 outputs. MLServer's own encoding knows arrays, DataFrames and lists of text;
everything else that pyfunc models return is brought into one of these first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, time
from typing import Any

import numpy as np
import pandas as pd
from mlserver.types import InferenceResponse, ResponseOutput


def normal(value: Any) -> Any:
    """An array of numbers or booleans, a list of text, a DataFrame, or a dictionary of arrays."""
    if isinstance(value, pd.DataFrame):
        return value.rename(columns=str).apply(_column) if len(value.columns) else value
    if isinstance(value, pd.Series):
        return normal(value.to_numpy())
    if isinstance(value, Mapping):
        return {str(k): _array(v) for k, v in value.items()} if _is_tensors(value) else _texts([value])
    if isinstance(value, (str, bytes)) or np.isscalar(value) or value is None:
        return normal([value])
    if hasattr(value, "toarray"):  # sparse
        return normal(value.toarray())
    return _array(value)


def _is_tensors(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(v, np.ndarray) and v.dtype.kind in "biuf" for v in value.values())


def _array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return _texts(value)
    if array.dtype.kind == "O" and array.ndim == 1:  # perhaps plain numbers in an object array
        array = np.asarray(array.tolist())
    if array.dtype.kind in "biuf":
        return array if array.ndim else array.reshape(1)
    if array.dtype.kind == "M":
        return _texts(np.datetime_as_string(array.ravel()))
    if not array.ndim:
        raise TypeError(f"it returned {type(value).__name__}, which V2 cannot carry")
    return _texts(array if array.ndim == 1 else value)


def _texts(values: Any) -> list[str]:
    return [_text(v) for v in values]


def _text(value: Any) -> str:
    """Text as it is, times in ISO 8601, everything else as JSON."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _column(series: Any) -> Any:
    """Numbers and booleans stay; times and objects become text (null stays null)."""
    if series.dtype.kind in "biuf" and isinstance(series.dtype, np.dtype):
        return series
    return series.map(lambda v: None if v is None or v is pd.NaT or v is pd.NA else _text(v)).astype(object)


def without_nulls(response: InferenceResponse) -> None:
    """JSON shows NaN as null; gRPC has NaN but no null."""
    for output in response.outputs:
        values = _values(output)
        if isinstance(values, list) and None in values:
            filler: Any = float("nan") if _is_float(output) else b""
            output.data.root = [filler if v is None else v for v in values]


def _values(output: ResponseOutput) -> Any:
    return getattr(output.data, "root", output.data)


def _is_float(output: ResponseOutput) -> bool:
    return str(getattr(output.datatype, "value", output.datatype)).startswith("FP")
