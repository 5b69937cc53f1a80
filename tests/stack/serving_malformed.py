"""Requests that the served models cannot take: what is sent, and what the refusal must name.

`CASES`: (what is wrong, model, content, status, words that the error holds).
"""

from __future__ import annotations

import json
from typing import Any

from serving_bench import body, tensor

NAMES = ("age", "income", "debt", "years")


def good(rows: int = 1) -> list[dict[str, Any]]:
    return [tensor(n, [1.0] * rows) for n in NAMES]


def changed(name: str, **fields: Any) -> dict[str, Any]:
    """The good request with one input changed."""
    return body(*({**t, **fields} if t["name"] == name else t for t in good(2)))


def typed(**of: Any) -> dict[str, Any]:
    """The good request for `mixed` with some inputs replaced by (data, datatype)."""
    columns: dict[str, tuple[list[Any], str]] = {
        "count": ([1], "INT64"),
        "score": ([1.5], "FP64"),
        "city": (["Oslo"], "BYTES"),
        "active": ([True], "BOOL"),
        "small": ([1], "INT32"),
        "ratio": ([0.5], "FP32"),
        **of,
    }
    return body(*(tensor(n, *pair) for n, pair in columns.items()))


def seen(time: str) -> dict[str, Any]:
    return typed(seen=([time], "BYTES"))


def times(*given: str | None) -> dict[str, Any]:
    return body(tensor("at", list(given), "BYTES"))


def array(data: Any, shape: list[int], datatype: str = "FP64", **more: Any) -> dict[str, Any]:
    return body({"name": "x", "shape": shape, "datatype": datatype, "data": data, **more})


def two(left: Any = None, right: Any = None) -> dict[str, Any]:
    return body(
        left or tensor("left", [1.0, 2.0], "FP32", [1, 2]), right or tensor("right", [3], "INT64", [1])
    )


DEEP = "[" * 2000 + "]" * 2000

CASES: list[tuple[str, str, Any, int, tuple[str, ...]]] = [
    ("no inputs", "credit", body(), 400, ("no inputs",)),
    ("inputs missing", "credit", {}, 400, ("inputs",)),
    ("not JSON", "credit", "{", 400, ("JSON",)),
    ("not UTF-8", "credit", b"\xff\xfe{}", 400, ("JSON",)),
    ("empty", "credit", "", 400, ("empty", "JSON object")),
    ("null", "credit", "null", 400, ("null", "JSON object")),
    ("a text", "credit", '"x"', 400, ("object",)),
    ("a list", "credit", "[]", 400, ("object",)),
    ("a number", "credit", "3", 400, ("object",)),
    ("deep", "credit", DEEP, 400, ("JSON",)),
    (
        "deep data",
        "credit",
        '{"inputs":[{"name":"age","shape":[1],"datatype":"FP64","data":' + DEEP + "}]}",
        400,
        ("JSON",),
    ),
    ("NaN in JSON", "credit", json.dumps(changed("debt", data=[1.0, float("nan")])), 400, ("'debt'", "null")),
    ("missing", "credit", body(*good()[:3]), 400, ("'years'", "missing")),
    ("unknown", "credit", body(*good(), tensor("height", [1.0])), 400, ("'height'", "no such input")),
    ("misnamed", "credit", body(*good()[:3], tensor("year", [1.0])), 400, ("'year'", "did you mean 'years'")),
    ("twice", "credit", body(*good(), tensor("age", [1.0])), 400, ("'age'", "twice")),
    (
        "no name",
        "credit",
        body({"shape": [1], "datatype": "FP64", "data": [1.0]}),
        400,
        ("input number 1", "name"),
    ),
    ("no shape", "credit", body({"name": "age", "datatype": "FP64", "data": [1.0]}), 400, ("'age'", "shape")),
    ("shape is text", "credit", changed("age", shape="two"), 400, ("'age'", "shape")),
    ("no data", "credit", body({"name": "age", "shape": [1], "datatype": "FP64"}), 400, ("'age'", "data")),
    ("unknown datatype", "credit", changed("age", datatype="FLOAT"), 400, ("'age'", "datatype")),
    ("one matrix", "credit", array([1.0] * 4, [1, 4]), 400, ("'x'", "age, income, debt, years")),
    ("text for a number", "credit", changed("income", data=["12", "a"]), 400, ("'income'", "'12'", "FP64")),
    ("truth for a number", "credit", changed("income", data=[True, 1]), 400, ("'income'", "True")),
    (
        "INT64 for a double",
        "credit",
        changed("income", datatype="INT64", data=[1, 2]),
        400,
        ("'income'", "INT64", "FP64"),
    ),
    (
        "BYTES for a double",
        "credit",
        changed("income", datatype="BYTES", data=["1", "2"]),
        400,
        ("'income'", "BYTES"),
    ),
    ("empty shape", "credit", changed("age", shape=[]), 400, ("'age'", "shape []")),
    ("no rows", "credit", body(*(tensor(n, [], shape=[0]) for n in NAMES)), 400, ("'age'", "no rows")),
    ("negative shape", "credit", changed("age", shape=[-1]), 400, ("'age'", "shape [-1]")),
    ("huge shape", "credit", changed("debt", shape=[10**18]), 400, ("'debt'", "rows")),
    ("three dimensions", "credit", changed("debt", shape=[2, 1, 1]), 400, ("'debt'", "shape [2, 1, 1]")),
    ("other length", "credit", changed("debt", shape=[3], data=[1.0] * 3), 400, ("'debt'", "3 rows", "2")),
    ("fewer values", "credit", changed("debt", data=[1.0]), 400, ("'debt'", "1 values")),
    ("ragged", "credit", changed("debt", shape=[2, 1], data=[[1.0], [1.0, 2.0]]), 400, ("'debt'", "nested")),
    ("data is a number", "credit", changed("debt", data=5), 400, ("'debt'", "list")),
    ("data is an object", "credit", changed("debt", data={"a": 1}), 400, ("'debt'", "list")),
    ("null where the model takes none", "tensor", array([1.0, None, 1.0, 1.0], [1, 4]), 400, ("'x'", "NaN")),
    ("null in a column", "credit", changed("debt", data=[1.0, None]), 400, ("'debt'", "null")),
    (
        "unknown content type",
        "credit",
        {**changed("age"), "parameters": {"content_type": "xml"}},
        400,
        ("xml", "pd"),
    ),
    (
        "array content type",
        "credit",
        {**changed("age"), "parameters": {"content_type": "np"}},
        400,
        ("np", "pd"),
    ),
    (
        "content type of an input",
        "credit",
        changed("age", parameters={"content_type": "base64"}),
        400,
        ("'age'", "base64"),
    ),
    ("null for long", "mixed", typed(count=([None], "INT64")), 400, ("'count'", "null")),
    ("fraction for long", "mixed", typed(count=([1.5], "INT64")), 400, ("'count'", "1.5")),
    ("FP64 for long", "mixed", typed(count=([1.0], "FP64")), 400, ("'count'", "FP64")),
    ("too long for long", "mixed", typed(count=([2**63], "INT64")), 400, ("'count'", "INT64")),
    ("too long for INT8", "mixed", typed(count=([300], "INT8")), 400, ("'count'", "INT8")),
    ("INT64 for integer", "mixed", typed(small=([1], "INT64")), 400, ("'small'", "INT64")),
    ("FP64 for float", "mixed", typed(ratio=([1.0], "FP64")), 400, ("'ratio'", "FP64")),
    ("null for boolean", "mixed", typed(active=([None], "BOOL")), 400, ("'active'", "null")),
    ("number for boolean", "mixed", typed(active=([1], "BOOL")), 400, ("'active'", "BOOL")),
    ("null for required text", "mixed", typed(city=([None], "BYTES")), 400, ("'city'", "null")),
    ("number for text", "mixed", typed(city=([7], "BYTES")), 400, ("'city'", "7")),
    ("not a time", "mixed", typed(seen=(["yesterday"], "BYTES")), 400, ("'seen'", "ISO 8601")),
    ("date as in a letter", "mixed", seen("01/02/2024"), 400, ("'seen'", "row 0", "01/02/2024", "ISO 8601")),
    ("no such day", "mixed", seen("2024-02-30"), 400, ("'seen'", "row 0", "ISO 8601")),
    ("month and day changed", "mixed", seen("2024-13-01"), 400, ("'seen'", "row 0", "ISO 8601")),
    ("a word for a time", "mixed", seen("now"), 400, ("'seen'", "row 0", "ISO 8601")),
    ("empty text for a time", "mixed", seen(""), 400, ("'seen'", "row 0", "ISO 8601")),
    ("too early a time", "mixed", seen("0001-01-01"), 400, ("'seen'", "row 0", "1678")),
    ("the second time", "times", times("2024-02-01", None, "5 May"), 400, ("'at'", "row 2", "'5 May'")),
    ("tensor shape", "tensor", array([1.0] * 3, [1, 3]), 400, ("'x'", "[1, 3]", "[-1, 4]")),
    ("tensor dimensions", "tensor", array([1.0] * 4, [4]), 400, ("'x'", "[-1, 4]")),
    ("tensor type", "tensor", array([1] * 4, [1, 4], "INT64"), 400, ("'x'", "INT64", "float64")),
    ("tensor values", "tensor", array([1.0] * 7, [2, 4]), 400, ("'x'", "7 values")),
    ("ragged tensor", "tensor", array([[1.0], [1.0, 2.0]], [1, 4]), 400, ("'x'", "ragged")),
    ("tensor of text", "tensor", array(["a"] * 4, [1, 4]), 400, ("'x'", "FP64")),
    ("empty tensor", "tensor", array([], [0, 4]), 400, ("'x'", "no values")),
    ("nested otherwise", "tensor", array([[1.0, 2.0], [3.0, 4.0]], [1, 4]), 400, ("'x'", "nested")),
    ("two tensors for one", "tensor", body(tensor("a", [1.0]), tensor("b", [1.0])), 400, ("a, b",)),
    ("tensor missing", "two", body(tensor("left", [1.0, 2.0], "FP32", [1, 2])), 400, ("'right'", "missing")),
    ("tensor misnamed", "two", two(tensor("lft", [1.0, 2.0], "FP32", [1, 2])), 400, ("'lft'", "left")),
    ("wide tensor", "two", two(tensor("left", [1.0, 2.0], "FP64", [1, 2])), 400, ("'left'", "float32")),
    (
        "null in a whole tensor",
        "two",
        two(right=tensor("right", [None], "INT64", [1])),
        400,
        ("'right'", "INT64"),
    ),
    ("unsigned, no inputs", "unsigned", body(), 400, ("no inputs",)),
    ("unsigned, ragged", "unsigned", array([[1.0], [1.0, 2.0]], [1, 4]), 400, ("'x'",)),
    (
        "unsigned, unknown type",
        "unsigned",
        array([1.0] * 4, [1, 4], parameters={"content_type": "xml"}),
        400,
        ("'x'", "xml"),
    ),
    (
        "unsigned, wrong width",
        "unsigned",
        array([1.0] * 3, [1, 3]),
        400,
        ("'x'", "refused: ValueError", "3 features"),
    ),
    (
        "the model's own failure",
        "fail",
        body(tensor("x", [1.0])),
        500,
        ("model failed: KeyError", "no such thing"),
    ),
    ("parameter", "params", {**body(tensor("x", [1.0])), "parameters": {"factor": "much"}}, 400, ("factor",)),
    (
        "an output that is none",
        "frame",
        {**body(tensor("x", [1.0])), "outputs": [{"name": "x"}, {"name": "labl"}]},
        400,
        ("output 'labl'", "did you mean 'label'"),
    ),
    ("unknown model", "nothing", body(*good()), 404, ("nothing",)),
]
