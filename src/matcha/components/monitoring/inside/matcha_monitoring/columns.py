"""Making two columns comparable: what kind they are, and both sides as values of that kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["number", "category", "text", "other"]

FEW = 10  # whole numbers with at most as many different values in the reference are categories
LONG = 60  # mean length of strings that are compared as text, by their length
_SHOWN = 10
_FARTHEST = 1e100  # squares and differences of such values are still numbers
_MISSING_SIGMAS = 4.0
_MISSING_SHARE = 0.1


@dataclass(frozen=True)
class Pair:
    """One column on both sides, without missing values: floats, or strings for categories."""

    name: str
    kind: Kind
    reference: pd.Series
    current: pd.Series
    reference_missing: float
    current_missing: float
    gone: bool  # far more is missing than in the reference

    @property
    def comparable(self) -> bool:
        return self.kind != "other" and len(self.reference) > 0 and len(self.current) > 0


def pair(name: str, reference: pd.Series, current: pd.Series) -> Pair:
    kind = kind_of(reference)
    ref, cur = _as(kind, reference), _as(kind, current)
    shares = float(ref.isna().mean()), float(cur.isna().mean())
    gone = _more_missing(*shares, len(ref), len(cur))
    return Pair(name, kind, ref.dropna(), cur.dropna(), *shares, gone)


def kind_of(reference: pd.Series) -> Kind:
    """By the reference alone, so that it cannot change from window to window."""
    kinds = pd.api.types
    if kinds.is_bool_dtype(reference):
        return "category"
    if kinds.is_datetime64_any_dtype(reference):
        return "number"
    if kinds.is_numeric_dtype(reference):
        few = kinds.is_integer_dtype(reference) and reference.nunique() <= FEW
        return "category" if few else "number"
    return _kind_of_objects(reference.dropna())


def _kind_of_objects(values: pd.Series) -> Kind:
    if not values.map(lambda v: isinstance(v, (str, bool, int, float))).all():
        return "other"
    texts = values.astype(str)
    long = len(texts) > 0 and texts.str.len().mean() > LONG
    return "text" if long else "category"


def _as(kind: Kind, values: pd.Series) -> pd.Series:
    if kind == "number":
        return _numbers(values)
    if kind == "text":
        return values.dropna().astype(str).str.len().reindex(values.index).astype(float)
    return values.map(_category, na_action="ignore").astype(object)


def _numbers(values: pd.Series) -> pd.Series:
    """Infinities count as missing, what is far beyond all sense as the farthest; times become seconds."""
    if values.dtype == object:
        numbers = pd.to_numeric(values, errors="coerce")
        values = numbers if numbers.notna().any() else pd.to_datetime(values, errors="coerce", utc=True)
    if pd.api.types.is_datetime64_any_dtype(values):
        seconds = values.astype("int64") / 1e9
        values = seconds.where(values.notna())
    floats = values.astype(float)
    return floats.where(np.isfinite(floats)).clip(-_FARTHEST, _FARTHEST)


def _category(value: Any) -> str:
    """1, 1.0 and True are one category: JSON and Parquet do not agree on types."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return {"True": "1", "False": "0", "true": "1", "false": "0"}.get(text, text)


def _more_missing(before: float, now: float, rows_before: int, rows_now: int) -> bool:
    if now - before < _MISSING_SHARE:
        return False
    both = (before * rows_before + now * rows_now) / (rows_before + rows_now)
    spread = (both * (1 - both) * (1 / rows_before + 1 / rows_now)) ** 0.5
    return bool(spread == 0 or (now - before) / spread > _MISSING_SIGMAS)


def new_categories(column: Pair) -> list[str]:
    """Values the reference has not, most frequent first, a few of them."""
    if column.kind != "category":
        return []
    fresh = column.current[~column.current.isin(set(column.reference))]
    return [str(v)[:80] for v in fresh.value_counts().index[:_SHOWN]]


def out_of_range(column: Pair) -> float:
    """Share of current values outside the reference's range (for categories: unknown to it)."""
    if not column.comparable:
        return 0.0
    if column.kind == "category":
        return float((~column.current.isin(set(column.reference))).mean())
    low, high = column.reference.min(), column.reference.max()
    return float(((column.current < low) | (column.current > high)).mean())
