"""A deployment as the list names it: which model answers under which name, and how."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Malformed(Exception):
    """An entry of the list that cannot be served, and why."""


@dataclass(frozen=True)
class Deployment:
    """`process` empty: the main server serves it. `forward`: base URL of the process of that name, which
    serves it otherwise. `settings`: `sample` (0..1 of requests are captured), `max_batch_size`,
    `max_batch_time` in seconds.
    """

    name: str
    uri: str
    version: str = ""
    process: str = ""
    forward: str = ""
    signature: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sample(self) -> float:
        return float(self.settings.get("sample", 1.0))

    @property
    def max_batch_size(self) -> int:
        return int(self.settings.get("max_batch_size", 0))

    @property
    def max_batch_time(self) -> float:
        return float(self.settings.get("max_batch_time", 0.001))


def parse(entry: Any) -> Deployment:
    """Raises Malformed. Keys that serving does not need are left out."""
    if not isinstance(entry, dict):
        raise Malformed("not an object")
    texts: dict[str, Any] = {k: _text(entry, k) for k in ("name", "uri", "version", "process", "forward")}
    if not NAME.fullmatch(texts["name"]):
        raise Malformed("a name is letters, digits, dots, dashes and underscores, at most 100")
    if not texts["uri"]:
        raise Malformed("no uri")
    return _checked(Deployment(**texts, **{k: _table(entry, k) for k in ("signature", "settings")}))


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is not text")
    return value or ""


def _table(entry: dict[str, Any], key: str) -> Any:
    value = entry.get(key) or {}
    if not isinstance(value, dict):
        raise Malformed(f"{key} is not an object")
    return value


def _checked(found: Deployment) -> Deployment:
    try:
        sane = 0 <= found.sample <= 1 and found.max_batch_size >= 0 and found.max_batch_time >= 0
    except (TypeError, ValueError) as error:
        raise Malformed("settings: sample, max_batch_size and max_batch_time are numbers") from error
    if not sane:
        raise Malformed("settings: sample is between 0 and 1, batch settings are not negative")
    return found


def local_path(uri: str) -> Path | None:
    """The folder of a path or file: URI; None for what MLflow has to resolve."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme else None


def key(deployment: Deployment) -> str:
    """Names the local copy of the model's files. A folder's content may change under its path, so that of its
    MLmodel file, which carries an id of its own, goes in too.
    """
    found = hashlib.sha256(json.dumps([deployment.uri, deployment.version]).encode())
    if (path := local_path(deployment.uri)) is not None:
        model = path / "MLmodel"
        found.update(model.read_bytes() if model.is_file() else b"")
    return found.hexdigest()[:16]
