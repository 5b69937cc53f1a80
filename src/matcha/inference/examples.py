"""A row of the example that was logged with a model: what MLflow's own scoring server would take.

MLflow (https://mlflow.org/docs/latest/ml/model/signatures/) writes {"dataframe_split": {"columns", "data"}},
or {"inputs": ...} with an array as nested lists, tensors or columns by name, a row, or a list of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matcha.inference.signature import columns, shapes

Row = dict[str, Any]


def row(signature: Mapping[str, Any], example: Any) -> Row | None:
    """The first one; None where there is none."""
    try:
        return _row(signature, example)
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def _row(signature: Mapping[str, Any], example: Mapping[str, Any]) -> Row | None:
    if split := example.get("dataframe_split"):
        values = split["data"][0]
        names = split.get("columns") or range(len(values))
        return {str(name): value for name, value in zip(names, values, strict=True)}
    found = example["inputs"]
    if isinstance(found, Mapping):
        by_row = any(c.get("type") != "tensor" for c in signature.get("inputs") or [])
        return {str(name): value if by_row else value[0] for name, value in found.items()}
    first = found[0] if isinstance(found, list) else found
    if isinstance(first, Mapping):
        return {str(name): value for name, value in first.items()}
    named = [*columns(signature), *shapes(signature)]
    if len(named) == 1:
        return {named[0]["name"]: first}
    return {str(number): value for number, value in enumerate(first if isinstance(first, list) else [first])}
