"""Tests of which a sample runs by default, and all by `-m sweep`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.turns import VARIABLE

ROOT = Path(__file__).parents[2]


def collected(*arguments: str, turn: str = "") -> list[str]:
    """Tests that a run with these arguments selects, without running one: in this turn, or in all."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments],
        cwd=ROOT,
        env={**os.environ, VARIABLE: turn},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def is_whole(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "sweep")


def not_sampled(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those whose parameters, as a test's name has them, are not in the sample of `sweep(sample=[...])`; with
    an empty one, any.
    """
    return [item for item in items if isinstance(item, pytest.Function) and _is_left_out(item)]


def _is_left_out(item: pytest.Function) -> bool:
    marker = item.get_closest_marker("sweep")
    sample = marker.kwargs.get("sample") if marker else None
    name = item.callspec.id if hasattr(item, "callspec") else ""
    return sample is not None and name not in sample
