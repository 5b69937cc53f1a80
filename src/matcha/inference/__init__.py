"""The Open Inference Protocol (V2) in JSON: rows -> request, response -> predictions, and example calls.

A signature is MLflow's own JSON (`signature` reads it). Source of the protocol:
https://github.com/open-inference/open-inference-protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matcha.errors import BadInput, suggest
from matcha.inference import examples, tensors, values
from matcha.inference.calls import curl_call, python_call
from matcha.inference.samples import made_up, sample_row
from matcha.inference.signature import columns, is_positional, shapes

__all__ = ["curl_call", "predictions", "python_call", "request", "sample_request"]

Row = Mapping[str, Any]
SHOWN = 2000  # characters of a request that is printed


def request(signature: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """A V2 request body of `rows`. Raises BadInput naming the row and column that do not fit.

    A row is a mapping by column or tensor. Where those have no names, its keys are "0", "1", ..., which is
    also what a list of values is read as; for a single tensor any keys will do.
    """
    if not rows:
        example = json.dumps([sample_row(signature)])
        raise BadInput("There are no rows to predict.", resolution=f"Give at least one, such as {example}")
    if specs := shapes(signature):
        return {"inputs": _named_tensors(specs, rows) if len(specs) > 1 else [tensors.single(specs[0], rows)]}
    named = columns(signature)
    if not named and is_positional(rows[0]) and (guessed := tensors.guessed(rows)):
        return {"inputs": [guessed]}
    if is_positional(rows[0]):
        rows = _named_by_position(named, rows)
    known = {c["name"]: c for c in named} or {name: {"name": name} for name in rows[0]}
    _check_names(rows, known)
    inputs = [values.column(c, [row.get(n) for row in rows]) for n, c in known.items() if _given(c, rows)]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def _named_tensors(specs: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[dict[str, Any]]:
    _check_names(rows, {spec["name"]: spec for spec in specs})
    return [tensors.stacked(spec, [row[spec["name"]] for row in rows]) for spec in specs]


def _named_by_position(named: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[Row]:
    """Rows of a model whose columns have no names, by the names that the server gives them."""
    names = {str(number): column["name"] for number, column in enumerate(named) if "position" in column}
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def _given(column: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    return values.required(column) or any(column["name"] in row for row in rows)


def _check_names(rows: Sequence[Row], known: Mapping[str, Any]) -> None:
    for number, row in enumerate(rows, 1):
        wanted = [n for n, c in known.items() if values.required(c)]
        missing = [n for n in wanted if n not in row]
        strange = [n for n in row if n not in known]
        if missing or strange:
            raise _misnamed(number, wanted, missing, strange, [n for n in known if n not in row], known)


def _misnamed(
    number: int,
    wanted: Sequence[str],
    missing: Sequence[str],
    strange: Sequence[str],
    absent: Sequence[str],
    known: Mapping[str, Any],
) -> BadInput:
    problem = f'"{strange[0]}" is not an input of the model.' if strange else f"{', '.join(missing)} missing."
    left_out = strange[0] if strange and strange[0] else "the column without a name"
    advice = f"Give every row {', '.join(wanted)}." if missing else f"Leave {left_out} out of the rows."
    hint = suggest(strange[0], list(absent)) if strange else ""
    return BadInput(
        f"Row {number}: {problem}",
        details=f"Its inputs: {', '.join(known)}.",
        resolution=hint if hint.startswith("Did you mean") else advice,
    )


def sample_request(signature: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    """A request of one row, for the example calls: of `example`, which MLflow keeps with the model, where it
    fits and is not too long to be printed; else made up.
    """
    row = examples.row(signature, example)
    try:
        found = request(signature, [row]) if row else None
    except BadInput:
        found = None
    return found if found and len(json.dumps(found)) <= SHOWN else made_up(signature)


def predictions(response: Mapping[str, Any]) -> list[Any]:
    """One value a row; a dictionary a row where the model has several outputs; nested lists for tensors."""
    outputs = response.get("outputs") or []
    rows = [_rows(output) for output in outputs]
    if len(rows) == 1:
        return rows[0]
    names = [output["name"] for output in outputs]
    return [dict(zip(names, found, strict=False)) for found in zip(*rows, strict=False)]


def _rows(output: Mapping[str, Any]) -> list[Any]:
    shape, data = list(output["shape"]), list(output["data"])
    width = 1
    for size in shape[1:]:
        width *= size
    if width == 1:
        return data
    return [data[i : i + width] for i in range(0, len(data), width)]
