"""What MLflow's JSON of a signature says of a model's inputs.

`inputs` is a list of {"type": "double", "name": ..., "required": ...} columns, whose type may also be `array`
(with "items"), `object` ("properties"), `map` ("values"), `sparkml_vector` or `any`; or of tensors:
{"type": "tensor", "name": ..., "tensor-spec": {"dtype", "shape"}}. Names may be left out of all or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TENSOR = "input"  # the server takes any name where the signature has none


def columns(signature: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Empty for tensor signatures and for models without one. Those without a name get the one that the
    server gives them, and their `position`.
    """
    found = [c for c in signature.get("inputs") or [] if c.get("type") != "tensor"]
    return [
        c if c.get("name") else {**c, "name": f"input-{number}", "position": number}
        for number, c in enumerate(found)
    ]


def shapes(signature: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"name", "dtype", "shape"} of each tensor; empty for column signatures and for models without one."""
    return [
        {"name": c.get("name") or TENSOR, **c["tensor-spec"]}
        for c in signature.get("inputs") or []
        if c.get("type") == "tensor"
    ]


def is_positional(row: Mapping[str, Any]) -> bool:
    """Whether `row` was a list of values."""
    return bool(row) and list(row) == [str(number) for number in range(len(row))]
