"""Rows from files: what is read, and what is refused with the place named."""

from pathlib import Path

import pytest

from matcha.api.rows import from_file, from_json
from matcha.errors import BadInput


def no_python() -> Path:
    raise AssertionError("only Parquet needs an environment")


GOOD = [
    ("a.json", '[{"x": 1}, {"x": 2}]', [{"x": 1}, {"x": 2}]),
    ("a.json", '{"x": 1}', [{"x": 1}]),
    ("a.jsonl", '{"x": 1}\n\n{"x": 2}\n', [{"x": 1}, {"x": 2}]),
    ("a.csv", "x,y\n1,a\n2,\n", [{"x": "1", "y": "a"}, {"x": "2", "y": ""}]),
    ("a.csv", "\ufeffx\n1\n", [{"x": "1"}]),
    ("a.csv", 'x,y\n"line one\nline two",1\n', [{"x": "line one\nline two", "y": "1"}]),
    ("a.csv", 'x\r\n"one\r\ntwo"\r\n', [{"x": "one\r\ntwo"}]),
    (
        "a.csv",
        "x,y\nc\u2028d,1\na\x0cb\x85c,2\n",
        [{"x": "c\u2028d", "y": "1"}, {"x": "a\x0cb\x85c", "y": "2"}],
    ),
    ("a.csv", f"x\n{'a' * 200_000}\n", [{"x": "a" * 200_000}]),
    ("a.jsonl", '{"x": "c\u2028d\x85"}\r\n{"x": 2}\r\n', [{"x": "c\u2028d\x85"}, {"x": 2}]),
]
BAD = [
    ("a.json", "[1, 2]", "expected a list of objects"),
    ("a.json", "{", "not JSON"),
    ("a.json", '"text"', "expected a list of objects"),
    ("a.csv", "x,y\n1\n", "row 1 has another number of values"),
    ("a.csv", "x\n1,2\n", "row 1 has another number of values"),
    ("a.csv", "x,y,x\n1,2,3\n", 'The column "x" is given twice'),
    ("a.json", '[{"x": 1, "y": 2, "x": 3}]', 'The column "x" is given twice'),
    ("a.jsonl", '{"x": 1}\n{"x": 1, "x": 3}\n', 'The column "x" is given twice'),
    ("a.csv", 'x\n"1', "line 1: unexpected end"),
    ("a.txt", "x", "not a .json, .jsonl, .csv or .parquet file"),
]


@pytest.mark.parametrize(("name", "text", "rows"), GOOD)
def test_rows_are_read(tmp_path: Path, name: str, text: str, rows: list[dict[str, object]]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert from_file(tmp_path / name, no_python) == rows


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_what_is_not_rows_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message) as refused:
        from_file(tmp_path / name, no_python)
    assert refused.value.resolution


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no file"):
        from_file(tmp_path / "missing.csv", no_python)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInput, match="cannot be read"):
        from_file(tmp_path / "a.csv", no_python)


def test_text_from_the_command_line() -> None:
    assert from_json('[{"x": null}]') == [{"x": None}]
