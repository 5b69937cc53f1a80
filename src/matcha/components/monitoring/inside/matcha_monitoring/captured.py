"""Reading captured rows back for a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .layout import Part
from .taking_in import ID, IN, OUT, ROW, TIME

_KEYS = [ID, TIME, ROW]


@dataclass(frozen=True)
class Captured:
    """`rows` before sampling; times in Unix seconds; columns of `inputs` and `outputs` bear plain names."""

    rows: int
    first: float
    last: float
    inputs: pd.DataFrame
    outputs: pd.DataFrame


def load(parts: Sequence[Part], most: int) -> Captured:
    """All rows of the parts, or `most` of them drawn with a fixed seed. A request sent twice counts once."""
    keys = pd.concat([pq.read_table(p.path, columns=_KEYS).to_pandas() for p in parts], ignore_index=True)
    own = np.flatnonzero(~keys.duplicated().to_numpy())
    times = keys[TIME].to_numpy()[own]
    chosen = own
    if len(own) > most:
        chosen = np.sort(np.random.default_rng(0).choice(own, most, replace=False))
    frame = _rows(parts, chosen)
    return Captured(len(own), float(times.min()), float(times.max()), _inputs(frame), _outputs(frame))


def _rows(parts: Sequence[Part], chosen: np.ndarray) -> pd.DataFrame:
    """Rows by their position over all parts, in order. `chosen` is sorted."""
    tables, start = [], 0
    for part in parts:
        inside = chosen[(chosen >= start) & (chosen < start + part.rows)] - start
        if len(inside):
            tables.append(pq.read_table(part.path).take(pa.array(inside)).to_pandas())
        start += part.rows
    return pd.concat(tables, ignore_index=True)


def _inputs(frame: pd.DataFrame) -> pd.DataFrame:
    wanted = [c for c in frame if c not in _KEYS and not c.startswith(OUT)]
    return frame[wanted].rename(columns=lambda c: c.removeprefix(IN))


def _outputs(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[c for c in frame if c.startswith(OUT)]].rename(columns=lambda c: c.removeprefix(OUT))
