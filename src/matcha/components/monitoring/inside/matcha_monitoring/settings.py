"""What the service is told at start: a JSON file of numbers, the rest by environment variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rules:
    """How windows are made and judged, and how long captures are kept."""

    interval_minutes: float = 60
    window_rows: int = 1000
    min_rows: int = 100
    drift_threshold: float = 0.2
    false_alarm_rate: float = 0.03  # of whole windows; aimed low, as the draws are a sample too
    sample_rows: int = 20_000
    retention_days: float = 30
    retention_rows: int = 1_000_000
    keep_windows: int = 1000
    keep_reports: int = 20
    spool_megabytes: float = 512
    work_memory_mb: int = 4096  # what makes windows apart may use
    tick_seconds: float = 15  # how often it is looked whether a window is due
    away_seconds: float = 60  # until an object store that could not be used is tried again

    @staticmethod
    def of(values: Mapping[str, Any]) -> Rules:
        """Unknown keys are left out: the file may be newer than the process."""
        known = {f.name for f in fields(Rules)}
        return Rules(**{k: v for k, v in values.items() if k in known})

    def least(self, settings: Mapping[str, Any]) -> int:
        """Rows that a verdict needs, of a deployment with these settings."""
        return int(settings.get("min_rows") or self.min_rows)


@dataclass(frozen=True)
class Settings:
    """`store`: s3://bucket/prefix; empty where the stack's store is a folder: the volume lasts as long.
    `apart`: URL of what makes windows (`working`); empty where this service does.
    """

    data: Path
    store: str
    deployments: Path
    token: str
    mlflow: str
    rules: Rules
    apart: str = ""

    @staticmethod
    def from_env(env: Mapping[str, str]) -> Settings:
        file = env.get("MATCHA_SETTINGS", "")
        return Settings(
            data=Path(env["MATCHA_DATA"]),
            store=_object_store(env.get("MATCHA_STORE", "")),
            deployments=Path(env["MATCHA_DEPLOYMENTS"]),
            token=env["MATCHA_CAPTURE_TOKEN"],
            mlflow=env.get("MLFLOW_TRACKING_URI", "").rstrip("/"),
            rules=Rules.of(json.loads(Path(file).read_text()) if file else {}),
            apart=env.get("MATCHA_APART", ""),
        )


def _object_store(url: str) -> str:
    if url.startswith("s3://"):
        return url
    if "://" in url:
        raise ValueError(f"MATCHA_STORE has to be a folder or an address like s3://bucket/prefix, not {url}.")
    return ""


def child_env() -> dict[str, str]:
    """The environment of work processes: they use the object store and need no token."""
    return {k: v for k, v in os.environ.items() if k != "MATCHA_CAPTURE_TOKEN"}
