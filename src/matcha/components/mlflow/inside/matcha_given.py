"""Keeps a sample of a file that the user chose for drift, as an artifact of the model's run.

The monitoring service cannot read the user's files, on most targets not even their machine. So the sample
goes where it looks for all references, under a name of its content: `matcha/references/DIGEST.parquet`.
Runs in an environment with mlflow, pandas and pyarrow, and reads the model's input columns, as MLflow's
signature lists them, as JSON from its standard input:

    python -m matcha_given --run RUN --source FILE-OR-URI

Prints JSON: {status, message, ...}. Statuses: kept (with `artifact`, `rows` and the `digest` of what was
read); unreadable; columns (with `missing` and what it `has`). Exit code 1 where MLflow does not answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

import matcha_reference as reference  # type: ignore[import-not-found]

FOLDER = "matcha/references"


class Lacking(Exception):
    """Columns that the model needs are not in the data."""

    def __init__(self, missing: list[str], has: list[str]) -> None:
        super().__init__(", ".join(missing))
        self.missing = missing
        self.has = has


def keep(client: Any, run_id: str, source: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What was kept, or why nothing was. Raises MlflowException where the tracking server fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _fetch(source, Path(folder))
            frame, about = _columns(reference.read(path), inputs)
        except reference.NotUsable as error:
            return {"status": "unreadable", "message": str(error)}
        except Lacking as error:
            return {"status": "columns", "missing": error.missing, "has": error.has}
        file = Path(folder, "out", "sample.parquet")
        sample = reference.sample(frame, reference.MAX_ROWS)
        reference.write(sample, {**about, "of": len(frame)}, file)
        artifact = _log(client, run_id, file)
        return {"status": "kept", "artifact": artifact, "rows": len(sample), "digest": digest(path)}


def digest(path: Path) -> str:
    """As `matcha.api._given` takes it of a file, to see whether it changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _fetch(source: str, folder: Path) -> Path:
    """Raises NotUsable."""
    scheme = urllib.parse.urlsplit(source).scheme if "://" in source or ":/" in source else ""
    path = Path(source).expanduser()
    try:
        if scheme in ("http", "https"):
            path = reference.over_http(source, folder)
        elif scheme:
            path = _artifact(source, folder)
    except Exception as error:  # every kind of source has errors of its own
        told = f"It could not be fetched: {reference.first_line(error)}"
        raise reference.NotUsable("unreachable", told) from error
    if not path.is_file():
        raise reference.NotUsable("unreachable", "There is no such file.")
    return path


def _artifact(uri: str, folder: Path) -> Path:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def _columns(frame: Any, inputs: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """The columns to keep, and facts for the file. Tensors have no columns: everything is kept for them.

    Raises NotUsable without a row, and Lacking.
    """
    frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    if not len(frame):
        raise reference.NotUsable("unsupported", "It has no rows.")
    named = {str(c["name"]): c for c in inputs if "name" in c and c.get("type") != "tensor"}
    held = [name for name in named if name in frame]
    missing = [n for n, c in named.items() if n not in frame and c.get("required", True)]
    if missing or (named and not held):
        raise Lacking(missing or list(named), list(frame.columns))
    if not named:
        return frame, {"inputs": [], "target": "", "prediction": ""}
    prediction = next((c for c in ("prediction", "predictions") if c in frame and c not in named), "")
    kept = [*held, *([prediction] if prediction else [])]
    return frame[kept], {"inputs": held, "target": "", "prediction": prediction}


def _log(client: Any, run_id: str, file: Path) -> str:
    """Where the sample stands under the run, logged once."""
    named = file.with_name(f"{digest(file)}.parquet")
    file.rename(named)
    artifact = f"{FOLDER}/{named.name}"
    if all(entry.path != artifact for entry in client.list_artifacts(run_id, FOLDER)):
        client.log_artifact(run_id, str(named), FOLDER)
    return artifact


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="matcha_given", allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--source", required=True)
    asked = parser.parse_args(arguments)
    return reference.answer(lambda: _work(asked))


def _work(asked: argparse.Namespace) -> dict[str, Any]:
    from mlflow import MlflowClient

    return keep(MlflowClient(), asked.run, asked.source, json.load(sys.stdin))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
