"""Rows -> V2 inputs of models with a tensor signature. A tensor's first size counts the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matcha.errors import BadInput
from matcha.inference import values
from matcha.inference.signature import TENSOR

Spec = Mapping[str, Any]  # "name", "dtype", "shape"

# numpy's names; the server refuses to load models with others (complex128, datetime64), which V2 has not
DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{kind}int{bits}": f"{kind}int{bits}".upper() for kind in ("", "u") for bits in (8, 16, 32, 64)},
}


def datatype_of(spec: Spec) -> str:
    """BYTES for text, bytes and objects."""
    return DATATYPES.get(spec["dtype"], "BYTES")


def single(spec: Spec, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a model that takes one tensor: a row's values in the order they stand in, or nested in one."""
    return stacked(spec, [_values(spec, row) for row in rows])


def _values(spec: Spec, row: Mapping[str, Any]) -> Any:
    found = [v if datatype_of(spec) == "BYTES" else _parsed(v) for v in row.values()]
    if len(found) == 1 and _is_list(found[0]) and len(_nesting(found)) != len(spec["shape"]) - 1:
        return found[0]
    return found


def stacked(spec: Spec, rows: Sequence[Any]) -> dict[str, Any]:
    """One input of the rows' values: scalars, flat lists or nested ones. Raises BadInput naming the row."""
    datatype, inner = datatype_of(spec), list(spec["shape"][1:])
    bytes_too = datatype == "BYTES" and any(isinstance(v, bytes) for row in rows for v in _flat(row))
    read = (
        values.READERS["base64" if bytes_too else "str"] if datatype == "BYTES" else values.reader(datatype)
    )
    data: list[Any] = []
    first: list[int] | None = None
    for number, row in enumerate(rows, 1):
        value = row if datatype == "BYTES" else _parsed(row)
        shape = _inner(inner, value, number, spec["name"])
        if first is not None and shape != first:
            raise _other_size(number, shape, first)
        first = shape
        data += _read(spec["name"], read, datatype, value, number)
    found = {"name": spec["name"], "shape": [len(rows), *(first or [])], "datatype": datatype, "data": data}
    return {**found, "parameters": {"content_type": "base64"}} if bytes_too else found


def _read(name: str, read: Callable[[Any], Any], datatype: str, value: Any, number: int) -> list[Any]:
    return [values.one(name, read, datatype, "str", v, number) for v in _flat(value)]


def _parsed(value: Any) -> Any:
    """A cell of CSV may hold a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _flat(value: Any) -> list[Any]:
    return [v for part in value for v in _flat(part)] if _is_list(value) else [value]


def _nesting(value: Any) -> list[int]:
    """The sizes of nested lists, by the first of each; ragged ones show in the number of values."""
    return [len(value), *(_nesting(value[0]) if value else [])] if _is_list(value) else []


def _inner(wanted: Sequence[int], value: Any, number: int, name: str) -> list[int]:
    """The sizes of one row's values: as they are nested, else as the signature has them."""
    count, nesting = len(_flat(value)), _nesting(value)
    if math.prod(nesting) == count and _fits(wanted, nesting):
        return nesting
    known = math.prod(size for size in wanted if size != -1)
    if -1 not in wanted and known == count:
        return list(wanted)
    if list(wanted).count(-1) == 1 and known and count and count % known == 0:
        return [count // known if size == -1 else size for size in wanted]
    ragged = math.prod(nesting) != count
    held = (
        "lists of unequal length"
        if ragged
        else f"{count} values"
        if len(nesting) < 2
        else f"the shape {nesting}"
    )
    raise BadInput(
        f"Row {number} has {held}, {name} takes {list(wanted)} a row.",
        details="-1 is any size." if -1 in wanted else "",
        resolution=f"Give every row {math.prod(wanted)} values."
        if -1 not in wanted
        else "Write each row as nested lists of these sizes.",
    )


def _fits(wanted: Sequence[int], sizes: Sequence[int]) -> bool:
    return len(wanted) == len(sizes) and all(w in (-1, s) for w, s in zip(wanted, sizes, strict=True))


def _other_size(number: int, shape: Sequence[int], first: Sequence[int]) -> BadInput:
    count, width = math.prod(shape), math.prod(first)
    return BadInput(
        f"Row {number} has {count} values, the first has {width}."
        if count != width
        else f"Row {number} has the shape {list(shape)}, the first has {list(first)}.",
        resolution=f"Give every row {width} values." if len(first) == 1 else f"Give every row {list(first)}.",
    )


def guessed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One tensor of rows that no signature describes; None where their values are not of one kind."""
    flat = [v for row in rows for v in _flat(list(row.values()))]
    shape = [-1] * (1 + len(_nesting(list(rows[0].values()))))
    present = [v for v in flat if v is not None]
    if not present or not all(isinstance(v, (bool, int, float)) for v in present):
        return None
    whole = len(present) == len(flat)
    if all(isinstance(v, bool) for v in flat):
        dtype = "bool"
    elif any(isinstance(v, bool) for v in flat):
        return None
    else:
        dtype = "int64" if whole and all(isinstance(v, int) for v in flat) else "float64"
    return stacked({"name": TENSOR, "dtype": dtype, "shape": shape}, [list(row.values()) for row in rows])
