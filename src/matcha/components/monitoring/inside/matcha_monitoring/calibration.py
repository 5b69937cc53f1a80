"""Thresholds that a window of this size passes by chance in a stated share of windows only.

Both distances rise as windows shrink: 0.2 never rang on 1,000 rows of 20 columns, on 100 rows it rings
in most windows. So windows of the same size are drawn from the reference itself, both sides anew, rows
whole (columns that move together are no independent chances), and the columns are judged as a family:
each column's threshold is raised by one common factor until the stated share of drawn windows has any
column beyond its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd

from .columns import Pair

DRAWS = 300
_CATEGORY_THRESHOLD = 0.1
_TYPICAL = 0.95
_WORK = 60_000_000  # rows x columns x draws; wide models get fewer draws


class _Column(Protocol):
    def distance(self, reference: np.ndarray, current: np.ndarray) -> float:
        """Between two samples, given as row numbers of the reference."""


class _Number:
    """Wasserstein distance over the reference's standard deviation, as Evidently computes it."""

    def __init__(self, values: np.ndarray) -> None:
        self._sorted, self._rank = np.unique(values, return_inverse=True)
        self._gaps = np.diff(self._sorted)

    def distance(self, reference: np.ndarray, current: np.ndarray) -> float:
        ref, cur = self._shares(reference), self._shares(current)
        mean = ref @ self._sorted
        spread = max(float(np.sqrt(ref @ (self._sorted - mean) ** 2)), 0.001)
        return float(np.abs(np.cumsum(ref - cur)[:-1]) @ self._gaps) / spread

    def _shares(self, rows: np.ndarray) -> np.ndarray:
        return np.bincount(self._rank[rows], minlength=len(self._sorted)) / len(rows)


class _Category:
    """Jensen-Shannon distance of the categories' shares, natural logarithm, as Evidently computes it."""

    def __init__(self, values: np.ndarray) -> None:
        self._known, self._rank = np.unique(values, return_inverse=True)

    def distance(self, reference: np.ndarray, current: np.ndarray) -> float:
        p, q = self._shares(reference), self._shares(current)
        middle = (p + q) / 2
        divergence = (_entropy(p, middle) + _entropy(q, middle)) / 2
        return float(np.sqrt(max(divergence, 0.0)))

    def _shares(self, rows: np.ndarray) -> np.ndarray:
        return np.bincount(self._rank[rows], minlength=len(self._known)) / len(rows)


def _entropy(p: np.ndarray, q: np.ndarray) -> float:
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))


def base_threshold(column: Pair, numbers: float) -> float:
    """Below this a difference is too small to matter, whatever its certainty."""
    return _CATEGORY_THRESHOLD * numbers / 0.2 if column.kind == "category" else numbers


def thresholds(
    pairs: list[Pair], reference_rows: int, current_rows: int, base: float, rate: float, seed: int = 0
) -> Mapping[str, float]:
    """Threshold by column; `rate` is the share of windows without drift in which any column rings."""
    scores = _drawn_scores(pairs, reference_rows, current_rows, seed)
    typical = np.quantile(scores, _TYPICAL, axis=0)
    relative = scores / np.where(typical > 0, typical, 1)
    factor = float(np.quantile(relative.max(axis=1), 1 - rate)) if len(pairs) else 1.0
    return {
        p.name: max(base_threshold(p, base), factor * float(t)) for p, t in zip(pairs, typical, strict=True)
    }


def _drawn_scores(pairs: list[Pair], reference_rows: int, current_rows: int, seed: int) -> np.ndarray:
    """Distances within random splits of the reference, one row a split, one column a column.

    Drawn without replacement: repeated rows would make rare categories look more alike than they are.
    """
    rng = np.random.default_rng(seed)
    columns = [_column(p) for p in pairs]
    draws = int(np.clip(_WORK // max(1, len(pairs) * reference_rows), 60, DRAWS))
    cut = max(1, min(current_rows, reference_rows // 2))
    scale = _scale(reference_rows, current_rows, cut)
    scores = np.zeros((draws, len(pairs)))
    for draw in range(draws):
        order = rng.permutation(reference_rows)
        for number, (column, p) in enumerate(zip(columns, pairs, strict=True)):
            scores[draw, number] = _split_distance(column, p, order, cut) * scale[p.kind == "category"]
    return scores


def _scale(reference_rows: int, current_rows: int, cut: int) -> tuple[float, float]:
    """A reference too small to give a window beside itself is split in halves: noisier than the real pair.

    Distances of numbers shrink with the root of 1/n + 1/m; those of rare categories need not, and stay.
    """
    wanted = 1 / reference_rows + 1 / current_rows
    had = 1 / max(1, reference_rows - cut) + 1 / cut
    return min(1.0, (wanted / had) ** 0.5), 1.0


def _split_distance(column: _Column, pair: Pair, order: np.ndarray, cut: int) -> float:
    held = len(pair.reference)
    current, reference = order[:cut], order[cut:]
    current = current[: max(1, round(cut * (1 - pair.current_missing)))]
    current, reference = current[current < held], reference[reference < held]
    return column.distance(reference, current) if len(current) and len(reference) else 0.0


def _column(pair: Pair) -> _Column:
    values: pd.Series = pair.reference
    return (
        _Category(values.to_numpy(dtype=str)) if pair.kind == "category" else _Number(values.to_numpy(float))
    )
