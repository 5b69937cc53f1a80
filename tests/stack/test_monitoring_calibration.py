"""Thresholds hold the stated rate of false alarms, and speak of the same distances as Evidently."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from support.serving import interpreter

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    component = Monitoring(Options())
    code = component.services(())[0].code[0]
    done = subprocess.run(
        [
            str(interpreter(component.environments()[0])),
            str(HERE / "monitoring_calibration.py"),
            str(tmp_path_factory.mktemp("calibration")),
        ],
        env={"PYTHONPATH": str(code), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_distances_are_evidentlys(measured: dict[str, Any]) -> None:
    for name, (evidently, ours) in measured["agreement"].items():
        assert ours == pytest.approx(evidently, rel=1e-6), name


@pytest.mark.parametrize("kind", ["normal", "lognormal", "together", "categories", "identifiers"])
def test_few_windows_without_drift_ring(measured: dict[str, Any], kind: str) -> None:
    """160 windows of 100 rows each, seeded: 5% and a little for so few."""
    assert measured[kind]["calibrated"] <= 0.075


@pytest.mark.parametrize("kind", ["normal", "lognormal", "categories", "identifiers"])
def test_most_small_windows_would_ring_by_fixed_thresholds(measured: dict[str, Any], kind: str) -> None:
    assert measured[kind]["fixed"] > 0.5
