"""The Open Inference Protocol (V2) in JSON: rows -> request, response -> predictions, and example calls.

A signature is MLflow's: `inputs` is a list of {"type": "double", "name": ..., "required": ...} columns, or of
{"type": "tensor", "tensor-spec": {"dtype", "shape"}}. Source of the protocol:
https://github.com/open-inference/open-inference-protocol.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from matcha.errors import BadInput, suggest

Row = Mapping[str, Any]

DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
EXAMPLES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 1.0,
    "double": 1.0,
    "string": "text",
}
MEANINGS = {"FP": "a number", "INT": "a whole number", "BOOL": "true or false"}
TENSOR = "input"  # the server takes any name where the signature has none
UNNAMED = "input-0"  # as the server calls a single column without a name
NUMPY = {
    "float64": "FP64",
    "float32": "FP32",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
    "uint8": "UINT8",
}


def columns(signature: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The named input columns; empty for tensor signatures and for models without one."""
    inputs = [c for c in signature.get("inputs") or [] if c.get("type") != "tensor"]
    if len(inputs) == 1 and "name" not in inputs[0]:
        return [{**inputs[0], "name": UNNAMED}]
    return [c for c in inputs if "name" in c]


def tensor(signature: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"dtype", "shape"} of a single-tensor signature."""
    inputs = signature.get("inputs") or []
    return inputs[0]["tensor-spec"] if len(inputs) == 1 and inputs[0].get("type") == "tensor" else None


def request(signature: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """A V2 request body of `rows`. Raises BadInput naming the row and column that do not fit."""
    if not rows:
        raise BadInput(
            "There are no rows to predict.", resolution=f"Give at least one, such as {_example(signature)}"
        )
    if spec := tensor(signature):
        return _tensor_request(spec, rows)
    named = columns(signature)
    known = {c["name"]: c for c in named} or {name: {"name": name} for name in rows[0]}
    for number, row in enumerate(rows, 1):
        _check_names(row, known, number)
    inputs = [_column(c, [row.get(c["name"]) for row in rows]) for c in known.values() if _given(c, rows)]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def _tensor_request(spec: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """One input of all rows; a row's values in the order they stand in."""
    values = [[_number(v, number) for v in row.values()] for number, row in enumerate(rows, 1)]
    width = len(values[0])
    if odd := next((n for n, row in enumerate(values, 1) if len(row) != width), 0):
        raise BadInput(
            f"Row {odd} has {len(values[odd - 1])} values, the first has {width}.",
            resolution=f"Give every row {width} values.",
        )
    inner = list(spec["shape"][1:])
    shape = [len(rows), *(inner if -1 not in inner else [width])]
    data = [v for row in values for v in row]
    return {"inputs": [{"name": TENSOR, "shape": shape, "datatype": _datatype(spec), "data": data}]}


def _number(value: Any, row: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"Row {row}: {value!r} is not a number.", resolution="Give numbers alone.") from error


def _datatype(spec: Mapping[str, Any]) -> str:
    return NUMPY.get(spec["dtype"], "FP64")


def _given(column: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return column.get("required", True) or any(column["name"] in row for row in rows)


def _check_names(row: Row, known: Mapping[str, Any], number: int) -> None:
    required = [n for n, c in known.items() if c.get("required", True)]
    missing = [n for n in required if n not in row]
    strange = [n for n in row if n not in known]
    if not missing and not strange:
        return
    problem = f'"{strange[0]}" is not an input of the model.' if strange else f"{', '.join(missing)} missing."
    advice = f"Give every row {', '.join(required)}." if missing else f"Leave {strange[0]} out of the rows."
    hint = suggest(strange[0], [n for n in known if n not in row]) if strange else ""
    raise BadInput(
        f"Row {number}: {problem}",
        details=f"Its inputs: {', '.join(known)}.",
        resolution=hint if hint.startswith("Did you mean") else advice,
    )


def _example(signature: Mapping[str, Any]) -> str:
    row = {c["name"]: EXAMPLES.get(c.get("type", ""), "text") for c in columns(signature)}
    return json.dumps([row or [1.5]])


def _column(column: Mapping[str, Any], values: list[Any]) -> dict[str, Any]:
    kind = column.get("type", "")
    datatype = DATATYPES.get(kind) or _guess(values)
    data = [_value(column["name"], datatype, v, number) for number, v in enumerate(values, 1)]
    found: dict[str, Any] = {
        "name": column["name"],
        "shape": [len(values), 1],
        "datatype": datatype,
        "data": data,
    }
    if datatype == "BYTES":
        found["parameters"] = {"content_type": "datetime" if kind == "datetime" else "str"}
    return found


def _guess(values: Sequence[Any]) -> str:
    present = [v for v in values if v is not None]
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), ((int, float), "FP64")):
        if present and all(isinstance(v, kind) for v in present):
            return datatype
    return "BYTES"


def _value(name: str, datatype: str, value: Any, number: int) -> Any:
    """`value` as its datatype wants it; text from CSV is read as numbers and booleans here."""
    if value is None or (value == "" and datatype.startswith(("FP", "INT"))):
        return None
    try:
        if datatype.startswith("FP"):
            return float(value)
        if datatype.startswith("INT"):
            return _whole(value)
        if datatype == "BOOL":
            return _truth(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"Row {number}: {name} is {value!r}, the model expects {datatype}.",
            resolution=f"Give {name} as {MEANINGS[datatype.rstrip('0123456789')]}.",
        ) from error
    return value if isinstance(value, str) else str(value)


def _whole(value: Any) -> int:
    number = float(value)
    if isinstance(value, bool) or number != int(number):
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


def predictions(response: Mapping[str, Any]) -> list[Any]:
    """One value a row; a dictionary a row where the model has several outputs; nested lists for tensors."""
    outputs = response.get("outputs") or []
    rows = [_rows(output) for output in outputs]
    if len(rows) == 1:
        return rows[0]
    names = [output["name"] for output in outputs]
    return [dict(zip(names, values, strict=False)) for values in zip(*rows, strict=False)]


def _rows(output: Mapping[str, Any]) -> list[Any]:
    shape, data = list(output["shape"]), list(output["data"])
    width = 1
    for size in shape[1:]:
        width *= size
    if width == 1:
        return data
    return [data[i : i + width] for i in range(0, len(data), width)]


def sample_request(signature: Mapping[str, Any]) -> dict[str, Any]:
    """A request of one made-up row, for the example calls."""
    if named := columns(signature):
        return request(signature, [{c["name"]: EXAMPLES.get(c.get("type", ""), "text") for c in named}])
    spec = tensor(signature) or {"dtype": "float64", "shape": [-1, 1]}
    shape = [1 if size == -1 else size for size in spec["shape"]]
    count = 1
    for size in shape:
        count *= size
    return {"inputs": [{"name": TENSOR, "shape": shape, "datatype": _datatype(spec), "data": [0] * count}]}


def curl_call(url: str, body: Mapping[str, Any]) -> str:
    return f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def python_call(url: str, body: Mapping[str, Any]) -> str:
    """Standard library only, so that it runs anywhere it is pasted."""
    rest = "".join(f"    {key!r}: {value!r},\n" for key, value in body.items() if key != "inputs")
    inputs = "".join(f"        {column!r},\n" for column in body["inputs"])
    return (
        "import json, urllib.request\n\n"
        f"body = {{\n{rest}    'inputs': [\n{inputs}    ],\n}}\n"
        f'request = urllib.request.Request("{url}", json.dumps(body).encode(),\n'
        '                                 {"Content-Type": "application/json"})\n'
        'print(json.load(urllib.request.urlopen(request))["outputs"][0]["data"])'
    )
