"""Rows of Parquet files, read by an interpreter that has pyarrow: every value as it is in the file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from matcha.api.rows import from_file
from matcha.errors import BadInput

pytestmark = pytest.mark.stack

WRITE = """
import datetime, sys
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as parquet
frame = pd.DataFrame({
    "exact": [1e-12, 0.1234567890123456, 1e15 + 0.3],
    "array": [[0.1234567890123456, 2.0], [], [1e-12]],
    "raw": [b"text", b"\\xff", None],
    "text": ["caf\\u00e9", None, ""],
    "at": pd.to_datetime(["2024-01-31T12:00:00.000000001", None, "2024-01-31"], format="ISO8601"),
    "whole": pd.array([2**53 + 1, None, 2], dtype="Int64"),
    "object": [{"a": 1, "b": [True]}, {"a": 2, "b": []}, {"a": 3, "b": None}],
}, index=[7, 8, 9])
frame.to_parquet(f"{sys.argv[1]}/rows.parquet")
parquet.write_table(pa.table({"x": [float("inf"), float("nan")]}), f"{sys.argv[1]}/odd.parquet")
maps = pa.array([[("k", 1.5)]], type=pa.map_(pa.string(), pa.float64()))
parquet.write_table(pa.table({"map": maps}), f"{sys.argv[1]}/maps.parquet")
"""


@pytest.fixture(scope="module")
def written(serving_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet") / "year=2024"  # no column of the rows
    folder.mkdir()
    subprocess.run([str(serving_python), "-c", WRITE, str(folder)], check=True, timeout=120)
    return folder


def test_values_of_parquet_are_exact(serving_python: Path, written: Path) -> None:
    rows = from_file(written / "rows.parquet", lambda: serving_python)
    assert rows == [
        {
            "exact": 1e-12,
            "array": [0.1234567890123456, 2.0],
            "raw": "dGV4dA==",
            "text": "café",
            "at": "2024-01-31T12:00:00.000000001",
            "whole": 2**53 + 1,
            "object": {"a": 1, "b": [True]},
        },
        {
            "exact": 0.1234567890123456,
            "array": [],
            "raw": "/w==",
            "text": None,
            "at": None,
            "whole": None,
            "object": {"a": 2, "b": []},
        },
        {
            "exact": 1e15 + 0.3,
            "array": [1e-12],
            "raw": None,
            "text": "",
            "at": "2024-01-31T00:00:00",
            "whole": 2,
            "object": {"a": 3, "b": None},
        },
    ]
    assert type(rows[2]["whole"]) is int


def test_infinity_and_maps_of_parquet(serving_python: Path, written: Path) -> None:
    first, second = from_file(written / "odd.parquet", lambda: serving_python)
    assert first == {"x": float("inf")}
    assert second["x"] != second["x"]
    assert from_file(written / "maps.parquet", lambda: serving_python) == [{"map": {"k": 1.5}}]


def test_what_is_no_parquet(serving_python: Path, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("x\n1\n")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        from_file(tmp_path / "a.parquet", lambda: serving_python)
