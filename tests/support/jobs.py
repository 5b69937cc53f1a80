"""The training scripts of the end-to-end tests, and what one of them made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JOBS = Path(__file__).resolve().parents[1] / "e2e" / "jobs"


def last_json(output: str) -> dict[str, Any]:
    """The last line that a script printed."""
    return dict(json.loads(output.strip().rpartition("\n")[2]))


class Trained:
    """What `credit.py` made on the stack: models `credit` (2 versions) and `watched`."""

    def __init__(self, output: str) -> None:
        self.told = last_json(output)
        self.runs: list[str] = self.told["runs"]
