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


SAMPLE = ("normal", "identifiers")  # numbers and categories, each a minute of a slow machine


@pytest.fixture(scope="module")
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the kinds that the chosen tests ask for."""
    chosen = [i for i in request.session.items if i.path == request.path and isinstance(i, pytest.Function)]
    kinds = {i.callspec.params["kind"] for i in chosen if "kind" in i.fixturenames}
    component = Monitoring(Options())
    code = component.services(())[0].code[0]
    done = subprocess.run(
        [
            str(interpreter(component.environments()[0])),
            str(HERE / "monitoring_calibration.py"),
            str(tmp_path_factory.mktemp("calibration")),
            *sorted(kinds),
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


@pytest.mark.sweep(sample=SAMPLE)
@pytest.mark.parametrize("kind", ["normal", "lognormal", "together", "categories", "identifiers"])
def test_few_windows_without_drift_ring(measured: dict[str, Any], kind: str) -> None:
    """160 windows of 100 rows each, seeded: 5% and a little for so few."""
    assert measured[kind]["calibrated"] <= 0.075


@pytest.mark.sweep(sample=SAMPLE)
@pytest.mark.parametrize("kind", ["normal", "lognormal", "categories", "identifiers"])
def test_most_small_windows_would_ring_by_fixed_thresholds(measured: dict[str, Any], kind: str) -> None:
    assert measured[kind]["fixed"] > 0.5
