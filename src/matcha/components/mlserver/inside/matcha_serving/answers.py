"""Every refusal and failure over HTTP is JSON with an `error` that a person can act on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from mlserver.rest.requests import Request
from starlette.exceptions import HTTPException

from . import inputs, plain


def install(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)


async def _http(_: Request, found: HTTPException) -> JSONResponse:
    return error(found.status_code, str(found.detail))


async def _unexpected(_: Request, found: Exception) -> JSONResponse:
    """Starlette logs the traceback after this."""
    return error(500, f"internal error: {type(found).__name__}")


async def _invalid(request: Request, found: RequestValidationError) -> JSONResponse:
    first = found.errors()[0]
    if first["type"] == "json_invalid":
        return error(400, _not_json(str(found.body or ""), str(first.get("ctx", {}).get("error", ""))))
    said = request.headers.get("content-type") or "none"
    if not _is_json(said):
        return error(
            400, f"the request must be a JSON object, sent as Content-Type: application/json (it is {said})"
        )
    if found.body is None:
        return error(400, "the request is empty or null: it must be a JSON object with inputs")
    return error(400, _located(first["loc"][1:], str(first["msg"]), found.body))


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _not_json(text: str, why: str) -> str:
    """Python's own json writes NaN, which JSON does not have: name where it stands."""
    try:
        body = json.loads(text)
        names = [x.get("name", "") for x in body["inputs"] if _has_nan(x.get("data"))]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        names = []
    if names:
        return f"input '{inputs.shown_name(str(names[0]))}': NaN and Infinity are not JSON: send null"
    return f"the request is not JSON: {plain.text_of(why)}"


def _has_nan(data: Any) -> bool:
    if isinstance(data, list):
        return any(_has_nan(value) for value in data)
    return isinstance(data, float) and not math.isfinite(data)


def _located(where: Sequence[Any], why: str, body: Any) -> str:
    """`input 'age': shape: Input should be a valid list`."""
    if len(where) >= 2 and where[0] in ("inputs", "outputs") and isinstance(where[1], int):
        kind = str(where[0])[:-1]
        name = _name(body, where[0], where[1])
        rest = ".".join(str(part) for part in where[2:])
        return f"{kind} {name}: {rest + ': ' if rest else ''}{plain.text_of(why)}"
    path = ".".join(str(part) for part in where)
    return f"{path + ': ' if path else ''}{plain.text_of(why)}"


def _name(body: Any, key: str, number: int) -> str:
    try:
        return f"'{inputs.shown_name(str(body[key][number]['name']))}'"
    except (KeyError, IndexError, TypeError):
        return f"number {number + 1}"
