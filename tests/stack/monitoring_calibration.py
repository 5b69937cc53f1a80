"""Measures the thresholds of the monitoring environment's `calibration`; runs in it.

Arguments: a folder, kinds of data. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from matcha_monitoring import calibration, drift
from matcha_monitoring.columns import Pair, pair

COLUMNS, WINDOWS, ROUNDS = 20, 20, 8
MAKERS = {
    "normal": lambda rng, n: rng.normal(size=(n, COLUMNS)),
    "lognormal": lambda rng, n: rng.lognormal(size=(n, COLUMNS)),
    "together": lambda rng, n: 0.9 * rng.normal(size=(n, 1)) + 0.4 * rng.normal(size=(n, COLUMNS)),
    "categories": lambda rng, n: rng.integers(0, 20, size=(n, COLUMNS)).astype(str),
    "identifiers": lambda rng, n: rng.integers(0, 900, size=(n, 2)).astype(str),
}


def score(column: Pair) -> float:
    """By the calibration's own arithmetic: both sides as rows of one table."""
    both = pd.concat([column.reference, column.current], ignore_index=True)
    table = calibration._column(Pair(column.name, column.kind, both, both, 0, 0, False))
    rows = np.arange(len(both))
    held = len(column.reference)
    return table.distance(rows[:held], rows[held:])


def pairs(reference: np.ndarray, current: np.ndarray) -> list[Pair]:
    columns = range(reference.shape[1])
    return [pair(f"c{j}", pd.Series(reference[:, j]), pd.Series(current[:, j])) for j in columns]


def alarms(kind: str, reference_rows: int, rows: int) -> dict[str, float]:
    """Share of windows without drift in which any column rings: by fixed and by calibrated thresholds."""
    rng = np.random.default_rng(7)
    fixed = calibrated = 0
    for _ in range(ROUNDS):
        reference = MAKERS[kind](rng, reference_rows)
        first = pairs(reference, reference[:rows])
        limits = calibration.thresholds(first, reference_rows, rows, 0.2, 0.03)
        for _ in range(WINDOWS):
            found = {
                p.name: (score(p), calibration.base_threshold(p, 0.2))
                for p in pairs(reference, MAKERS[kind](rng, rows))
            }
            fixed += any(s > base for s, base in found.values())
            calibrated += any(s > limits[name] for name, (s, _) in found.items())
    return {"fixed": fixed / (ROUNDS * WINDOWS), "calibrated": calibrated / (ROUNDS * WINDOWS)}


def agreement(folder: Path) -> dict[str, list[float]]:
    """[Evidently's score, the calibration's] by column."""
    rng = np.random.default_rng(3)
    made = {name: pairs(MAKERS[name](rng, 2000), MAKERS[name](rng, 300))[0] for name in MAKERS}
    named = [pair(name, p.reference, p.current) for name, p in made.items()]
    scores = drift.scores(named, {p.name: 0.2 for p in named}, folder / "report.html")
    return {p.name: [scores[p.name], score(p)] for p in named}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found: dict[str, object] = {"agreement": agreement(Path(sys.argv[1]))}
    for kind in sys.argv[2:]:
        found[kind] = alarms(kind, 3000, 100)
    print(json.dumps(found))
