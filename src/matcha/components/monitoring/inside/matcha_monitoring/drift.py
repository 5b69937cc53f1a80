"""Evidently's comparison of a window with the reference: the only module that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from .columns import Pair

_LONGEST = 120
NUMBERS, CATEGORIES = "wasserstein", "jensenshannon"


def method_of(pair: Pair) -> str:
    return CATEGORIES if pair.kind == "category" else NUMBERS


def scores(pairs: Sequence[Pair], thresholds: Mapping[str, float], report: Path) -> dict[str, float]:
    """Drift score by column name; the full HTML report is written to `report`."""
    shown = _shown_names(pairs)
    known = {text: name for name, text in shown.items()}
    limits = {shown[name]: limit for name, limit in thresholds.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # correlations of constant columns
        snapshot = _run(pairs, shown, limits)
        snapshot.save_html(str(report))
    return {
        known[m["config"]["column"]]: float(m["value"])
        for m in snapshot.dict()["metrics"]
        if m["config"].get("column") in known
    }


def _run(pairs: Sequence[Pair], shown: Mapping[str, str], limits: Mapping[str, float]) -> Any:
    categories = [shown[p.name] for p in pairs if p.kind == "category"]
    numbers = [shown[p.name] for p in pairs if p.kind != "category"]
    about = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    current, reference = (
        Dataset.from_pandas(_frame(pairs, shown, side), data_definition=about)
        for side in ("current", "reference")
    )
    preset = DataDriftPreset(
        columns=numbers + categories,
        num_method=NUMBERS,
        cat_method=CATEGORIES,
        per_column_threshold=dict(limits),
        drift_share=1 / len(pairs),  # any column that drifts counts: thresholds hold for the family
    )
    return Report([preset], include_tests=False).run(current, reference)


def _frame(pairs: Sequence[Pair], shown: Mapping[str, str], side: str) -> pd.DataFrame:
    """Evidently drops missing values column by column, so shorter columns may end in missing ones."""
    columns = {shown[p.name]: _plain(getattr(p, side), p).reset_index(drop=True) for p in pairs}
    return pd.DataFrame(columns)


def _plain(values: pd.Series, pair: Pair) -> pd.Series:
    return values.map(_unmarked) if pair.kind == "category" else values


def _unmarked(text: str) -> str:
    """Evidently writes names and values into a script of its page as they are."""
    return "".join(_HARMLESS.get(c, c) if c.isprintable() else " " for c in text[:_LONGEST])


_HARMLESS = {
    "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
    ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
}


def _shown_names(pairs: Sequence[Pair]) -> dict[str, str]:
    """Column name -> what the report calls it: harmless, short, and of one column only."""
    shown: dict[str, str] = {}
    for pair in pairs:
        text = base = _unmarked(pair.name).replace(",", " ").strip() or "(no name)"
        number = 2
        while text in shown.values():
            text, number = f"{base} ({number})", number + 1
        shown[pair.name] = text
    return shown
