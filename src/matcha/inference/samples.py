"""A made-up row that a signature takes, for the example calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matcha.inference import tensors, values
from matcha.inference.signature import TENSOR, columns, shapes

EXAMPLES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 1.0,
    "double": 1.0,
    "string": "text",
    "datetime": "2024-01-31T12:00:00",
    "binary": "dGV4dA==",
    "sparkml_vector": [1.0],
    "any": "text",
}
UNKNOWN = {"name": TENSOR, "dtype": "float64", "shape": [-1, 1]}


def made_up(signature: Mapping[str, Any]) -> dict[str, Any]:
    """A request of one made-up row."""
    if named := columns(signature):
        inputs = [values.column(c, [_example(c)]) for c in named]
        return {"parameters": {"content_type": "pd"}, "inputs": inputs}
    return {"inputs": [_tensor(spec) for spec in shapes(signature) or [UNKNOWN]]}


def sample_row(signature: Mapping[str, Any]) -> Any:
    """As `matcha predict --json` takes it."""
    if named := columns(signature):
        row = {c["name"]: _example(c) for c in named}
        return list(row.values()) if "position" in named[0] else row
    found = shapes(signature)
    if not found:
        return [1.0]
    nested = {spec["name"]: _nested(_tensor(spec)["data"], _sizes(spec)[1:]) for spec in found}
    value = next(iter(nested.values()))
    return nested if len(nested) > 1 else value if isinstance(value, list) else [value]


def _nested(data: list[Any], sizes: list[int]) -> Any:
    if not sizes:
        return data[0]
    part = len(data) // sizes[0]
    return [_nested(data[i * part : (i + 1) * part], sizes[1:]) for i in range(sizes[0])]


def _example(column: Mapping[str, Any]) -> Any:
    kind = column.get("type", "")
    if kind == "array":
        return [_example(column["items"])]
    if kind == "object":
        return {name: _example(inner) for name, inner in column["properties"].items()}
    if kind == "map":
        return {"key": _example(column["values"])}
    return EXAMPLES.get(kind, "text")


def _sizes(spec: tensors.Spec) -> list[int]:
    return [1 if size == -1 else size for size in spec["shape"]]


def _tensor(spec: tensors.Spec) -> dict[str, Any]:
    datatype, shape = tensors.datatype_of(spec), _sizes(spec)
    one: Any = {"BYTES": "text", "BOOL": True}.get(datatype, 1.0 if datatype.startswith("FP") else 1)
    return {"name": spec["name"], "shape": shape, "datatype": datatype, "data": [one] * math.prod(shape)}
