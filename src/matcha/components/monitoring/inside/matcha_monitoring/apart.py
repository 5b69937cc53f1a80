"""One window, of files that are fetched from the object store; what comes of it goes there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import reference, window
from .deployments import Deployed
from .kept import FOLDERS, InStore
from .settings import Rules


def make(scratch: Path, order: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Any:
    """As `window.make`, in a folder that goes with it. Raises Away."""
    data = scratch / "window"
    shutil.rmtree(data, ignore_errors=True)  # of one that was cut short
    kept = InStore(data, order["store"], environ, FOLDERS)
    try:
        deployed = Deployed.of(order["deployed"])
        kept.fetch(order["files"])
        kept.fetch_known([reference.kept_at(deployed)])
        found = window.make(data, Rules.of(order["rules"]), dict(order))
        kept.put_changed()
        return found
    finally:
        shutil.rmtree(data, ignore_errors=True)
