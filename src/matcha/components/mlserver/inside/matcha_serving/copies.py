"""Local copies of models: `<root>/<deployment>/<key>`, complete once they bear that name.

With a copy a restart needs no tracking server. A manifest of sizes tells a copy that a power cut left short.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from .deployment import Deployment, key, local_path

MANIFEST = ".matcha.json"


class Copies:
    """Blocking: call from a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stray in root.glob(".tmp-*"):
            shutil.rmtree(stray, ignore_errors=True)

    def fetch(self, deployment: Deployment) -> Path:
        """The model's folder, fetched if need be. Raises what MLflow and the file system raise."""
        folder = self.root / deployment.name / key(deployment)
        if _complete(folder):
            return folder
        if (known := self._known(deployment)) is not None:
            return known
        made = self.root / f".tmp-{uuid.uuid4().hex}"
        try:
            found = _download(deployment.uri, made)
            _write_manifest(found, deployment)
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            found.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return folder

    def _known(self, deployment: Deployment) -> Path | None:
        """A copy of a folder that is no longer where it was."""
        path = local_path(deployment.uri)
        if path is None or path.exists():
            return None
        kept = (self.root / deployment.name).glob("*")
        return next((k for k in kept if _complete(k) and _manifest(k).get("uri") == deployment.uri), None)

    def others(self, folder: Path) -> list[Path]:
        """The other copies of the same deployment."""
        return [other for other in folder.parent.iterdir() if other != folder]

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def names(self) -> list[str]:
        return [entry.name for entry in self.root.iterdir() if not entry.name.startswith(".")]


def _download(uri: str, to: Path) -> Path:
    path = local_path(uri)
    if path is not None:
        found = Path(shutil.copytree(path, to, symlinks=False))
    else:
        to.mkdir(mode=0o700)
        found = _asked_for(uri, to)
    if not (found / "MLmodel").is_file():
        raise FileNotFoundError(f"there is no MLflow model at {uri}")
    return found


def _asked_for(uri: str, to: Path) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to)))
    except MlflowException as error:
        if "Max retries exceeded" in str(error):
            raise ConnectionError("the experiment tracker does not answer") from error
        raise


def _write_manifest(folder: Path, deployment: Deployment) -> None:
    record = {"uri": deployment.uri, "version": deployment.version, "sizes": _sizes(folder)}
    (folder / MANIFEST).write_text(json.dumps(record))


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): p.stat().st_size for p in files if "__pycache__" not in p.parts}


def _manifest(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _complete(folder: Path) -> bool:
    sizes = _manifest(folder).get("sizes")
    return bool(sizes) and sizes == _sizes(folder)
