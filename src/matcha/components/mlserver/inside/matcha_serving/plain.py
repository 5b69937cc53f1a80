"""Exceptions -> one line for a person: no headers, no credentials, no page of text."""

from __future__ import annotations

import re
import traceback

LIMIT = 400
_SPACE = re.compile(r"\s+")
_LOGIN = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;'\"]+")
_NAMED = re.compile(
    r"(?i)\b(\w*(?:token|authorization|password|secret|api[-_]?key))(['\"]?\s*[:=]\s*['\"]?)[^\s,;'\"]+"
)
_HEADERS = re.compile(r"(?i)headers\s*[=:]\s*[({\[].*")


def text_of(text: str) -> str:
    text = _HEADERS.sub("headers left out", _without_secrets(_SPACE.sub(" ", text).strip()))
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}..."


def _without_secrets(text: str) -> str:
    return _NAMED.sub(r"\1\2***", _BEARER.sub(r"\1 ***", _LOGIN.sub("***@", text)))


def error(found: BaseException) -> str:
    """`ValueError: what it said`."""
    if isinstance(found, ModuleNotFoundError) and found.name:
        return f'the model needs the package "{found.name}", which its environment does not have'
    said = text_of(str(found))
    return f"{type(found).__name__}: {said}" if said else type(found).__name__


def trace(found: BaseException) -> str:
    """The traceback for the log, where the author of a model looks for what went wrong."""
    return _without_secrets(
        "".join(traceback.format_exception(type(found), found, found.__traceback__))
    ).rstrip()
