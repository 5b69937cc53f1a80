"""The sample that a model's run carries, of its training data or of what the user gave in its place.

It is fetched from MLflow and kept on disk.
"""

from __future__ import annotations

import datetime
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from . import layout
from .deployments import DEFAULT, Deployed

_SECONDS = 30.0
_BIGGEST = 256 * 2**20


@dataclass(frozen=True)
class Reference:
    """`frame` is None without one; `messages` say why, or what is uncertain about it."""

    frame: pd.DataFrame | None = None
    inputs: tuple[str, ...] = ()
    prediction: str = ""
    messages: tuple[str, ...] = field(default=())


def load(data: Path, deployed: Deployed, mlflow: str) -> Reference:
    if not deployed.run_id:
        return Reference(
            messages=("The model comes from no run, so there is no training data to compare with.",)
        )
    kept = data / kept_at(deployed)
    why = _fetch(mlflow, deployed, kept)
    if not kept.exists():
        return Reference(messages=(why,))
    try:
        return _read(kept, (why,) if why else ())
    except (OSError, ValueError) as error:
        kept.unlink(missing_ok=True)
        return Reference(messages=(f"The reference sample cannot be read: {error}",))


def kept_at(deployed: Deployed) -> str:
    """Below the data folder."""
    own = "" if deployed.artifact == DEFAULT else f"/{deployed.artifact}"
    return f"references/{layout.safe(f'{deployed.run_id}{own}')}.parquet"


def _fetch(mlflow: str, deployed: Deployed, kept: Path) -> str:
    """Brings the copy up to date. What went wrong, in words; empty when nothing did."""
    path = deployed.artifact
    query = urllib.parse.urlencode({"path": path, "run_uuid": deployed.run_id})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{mlflow}/get-artifact?{query}", timeout=_SECONDS) as answer:
            content = answer.read(_BIGGEST + 1)
    except urllib.error.HTTPError as error:
        return _refused(error, path, deployed, kept)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"MLflow could not be asked for the reference ({error}); {_copy(kept)}"
    if len(content) > _BIGGEST:
        return f"The reference is larger than {_BIGGEST >> 20} MB; {_copy(kept)}"
    layout.write_atomic(kept, content)
    return ""


def _refused(error: urllib.error.HTTPError, path: str, deployed: Deployed, kept: Path) -> str:
    """MLflow answers 404 for a missing run and for a missing artifact, older ones 500."""
    text = error.read(2000).decode(errors="replace")
    gone = error.code == 404 or "No such artifact" in text or "does not exist" in text
    if not gone:
        return f"MLflow answered {error.code} for the reference; {_copy(kept)}"
    kept.unlink(missing_ok=True)
    if path != DEFAULT:
        source = deployed.compared["source"]
        return f"Run {deployed.run_id} no longer has {path}, made of {source}: deploy again."
    return (
        f"Run {deployed.run_id} has no {path}: log the training data with mlflow.log_input(), "
        'its file as source, context="training", and deploy again.'
    )


def _copy(kept: Path) -> str:
    if not kept.exists():
        return "there is no copy of it."
    when = datetime.datetime.fromtimestamp(kept.stat().st_mtime, datetime.timezone.utc)
    return f"the copy of {when:%Y-%m-%d %H:%M} UTC was used."


def _read(path: Path, messages: tuple[str, ...]) -> Reference:
    """pyarrow's errors are ValueErrors and OSErrors."""
    table = pq.read_table(path)
    about = _about(table.schema.metadata or {})
    names = tuple(str(c) for c in table.column_names)
    prediction = str(about.get("prediction") or "")
    others = {prediction, str(about.get("target") or "")}
    inputs = about.get("inputs") or [n for n in names if n not in others]
    frame = table.to_pandas()
    frame.columns = pd.Index(names)
    return Reference(frame, tuple(str(n) for n in inputs if n in names), prediction, messages)


def _about(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What `matcha_reference` or `matcha_given` wrote beside the rows."""
    try:
        found = json.loads(metadata.get(b"matcha", b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
