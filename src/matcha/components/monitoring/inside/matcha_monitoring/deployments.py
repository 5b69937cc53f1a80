"""Which models are deployed, as the live file says now."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT = "matcha/reference.parquet"


@dataclass(frozen=True)
class Deployed:
    """What monitoring needs of a deployment.

    `reference` is an artifact path under the run; `given` says what it was made of, where not of the
    training data.
    """

    name: str
    uri: str = ""
    version: str = ""
    run_id: str = ""
    reference: str = ""
    signature: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def artifact(self) -> str:
        return self.reference or DEFAULT

    @property
    def compared(self) -> dict[str, str]:
        """What it is compared with: an artifact of its run, and the `source` that the user gave for it."""
        return {"source": str(self.given.get("source") or ""), "artifact": self.artifact}

    @staticmethod
    def of(entry: dict[str, Any]) -> Deployed:
        texts: dict[str, Any] = {
            k: str(entry.get(k) or "") for k in ("name", "uri", "version", "run_id", "reference")
        }
        tables = {k: entry[k] for k in ("signature", "settings", "given") if isinstance(entry.get(k), dict)}
        return Deployed(**texts, **tables)


class Deployments:
    """The live file, read again when it changes. A half-written or missing file keeps what was known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._known: dict[str, Deployed] = {}

    def all(self) -> dict[str, Deployed]:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._known = _read(self._path)
                self._stamp = stamp
        except (OSError, ValueError):
            pass
        return self._known


def _read(path: Path) -> dict[str, Deployed]:
    entries = json.loads(path.read_bytes())
    if not isinstance(entries, list):
        raise ValueError("not a list of deployments")
    found = [Deployed.of(e) for e in entries if isinstance(e, dict) and e.get("name")]
    return {d.name: d for d in found}
