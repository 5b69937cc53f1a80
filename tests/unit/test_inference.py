"""Rows to V2 requests and responses to predictions."""

import ast
import json
import math
import shlex
from datetime import datetime
from typing import Any

import pytest

from matcha import inference
from matcha.api.rows import from_json
from matcha.errors import BadInput
from support.signatures import KINDS, Kind, column, tensor

TYPES = {"BOOL": [bool], "INT": [int], "UINT": [int], "FP": [float], "BYTES": [str]}

SIGNATURE = {
    "inputs": [
        {"type": "long", "name": "user_id", "required": True},
        {"type": "double", "name": "score", "required": True},
        {"type": "string", "name": "genre", "required": False},
        {"type": "boolean", "name": "fresh", "required": False},
    ]
}


def test_rows_become_one_input_per_column() -> None:
    body = inference.request(SIGNATURE, [{"user_id": 1, "score": 2}, {"user_id": 3, "score": 0.5}])
    assert body == {
        "parameters": {"content_type": "pd"},
        "inputs": [
            {"name": "user_id", "shape": [2, 1], "datatype": "INT64", "data": [1, 3]},
            {"name": "score", "shape": [2, 1], "datatype": "FP64", "data": [2.0, 0.5]},
        ],
    }


def test_text_from_csv_is_read_as_the_signature_says() -> None:
    body = inference.request(SIGNATURE, [{"user_id": "7", "score": "1e3", "genre": "5", "fresh": "True"}])
    assert [i["data"] for i in body["inputs"]] == [[7], [1000.0], ["5"], [True]]


def test_whole_numbers_beyond_float_precision_stay_exact() -> None:
    body = inference.request({"inputs": [{"type": "long", "name": "n"}]}, [{"n": str(2**53 + 1)}])
    assert body["inputs"][0]["data"] == [2**53 + 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"user_id": 1}, "Row 1: score missing."),
        ({"user_id": 1, "scoer": 2}, 'Row 1: "scoer" is not an input of the model.'),
        ({"user_id": 1.5, "score": 2}, "Row 1: user_id is 1.5, the model expects INT64."),
        ({"user_id": True, "score": 2}, "Row 1: user_id is True, the model expects INT64."),
        ({"user_id": "x", "score": 2}, "Row 1: user_id is 'x', the model expects INT64."),
        ({"user_id": "2_0", "score": 2}, "Row 1: user_id is '2_0', the model expects INT64."),
        ({"user_id": 1, "score": "1,5"}, "Row 1: score is '1,5', the model expects FP64."),
        ({"user_id": 1, "score": "1_000"}, "Row 1: score is '1_000', the model expects FP64."),
        ({"user_id": 1, "score": True}, "Row 1: score is True, the model expects FP64."),
        ({"user_id": 1, "score": [1]}, "Row 1: score is [1], the model expects FP64."),
        ({"user_id": 1, "score": 1, "fresh": "maybe"}, "Row 1: fresh is 'maybe', the model expects BOOL."),
        ({"user_id": 1e400, "score": 1}, "Row 1: user_id is inf, the model expects INT64."),
        ({"user_id": 1, "score": 1e400}, "Row 1: score is inf, the model expects FP64."),
        ({"user_id": 1, "score": "-inf"}, "Row 1: score is '-inf', the model expects FP64."),
        ({"user_id": 1, "score": "1e400"}, "Row 1: score is '1e400', the model expects FP64."),
        ({"user_id": 1, "score": 1, "genre": ["a"]}, "Row 1: genre is ['a'], the model expects text."),
    ],
)
def test_rows_that_do_not_fit_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        inference.request(SIGNATURE, [row])
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"user_id": 1, "scoer": 2}, 'Did you mean "score"?'),
        ({"user_id": 1, "score": 2, "scores": 3}, "Leave scores out of the rows."),
        ({"user_id": 1, "score": 2, "target": 3}, "Leave target out of the rows."),
        ({"user_id": 1, "score": 2, "": 3}, "Leave the column without a name out of the rows."),
        ({"user_id": 1, "film": 2}, "Give every row user_id, score."),
        ({"user_id": 1}, "Give every row user_id, score."),
        ({"user_id": "x", "score": 1}, "Give user_id as a whole number."),
        ({"user_id": 1, "score": "x"}, "Give score as a number."),
        ({"user_id": 1, "score": float("inf")}, "Give score as a finite number that FP64 can hold."),
        ({"user_id": 1, "score": 1, "fresh": "maybe"}, "Give fresh as true or false."),
    ],
)
def test_rows_that_do_not_fit_come_with_advice(row: dict[str, Any], advice: str) -> None:
    with pytest.raises(BadInput) as caught:
        inference.request(SIGNATURE, [row])
    assert caught.value.resolution == advice


def test_a_column_that_is_no_input_is_told_the_inputs() -> None:
    """An input that the row has already is not what was meant, however near its name."""
    with pytest.raises(BadInput) as caught:
        inference.request({"inputs": [{"type": "double", "name": "age"}]}, [{"age": 1, "target": 2}])
    assert (caught.value.message, caught.value.details, caught.value.resolution) == (
        'Row 1: "target" is not an input of the model.',
        "Its inputs: age.",
        "Leave target out of the rows.",
    )


@pytest.mark.parametrize(("cell", "shown"), [("[1, true]", "True"), ('[1, "2_0"]', "'2_0'")])
def test_a_tensor_of_numbers_takes_what_a_column_of_numbers_does(cell: str, shown: str) -> None:
    signature = {"inputs": [tensor("float64", -1, 2)]}
    with pytest.raises(BadInput, match=f"Row 1: .* is {shown}, the model expects FP64"):
        inference.request(signature, [{"0": cell}])


def test_truth_values_beside_missing_ones_are_numbers_where_there_is_no_signature() -> None:
    body = inference.request({}, [{"a": True}, {"a": None}])
    assert body["inputs"][0]["datatype"] == "FP64"
    assert body["inputs"][0]["data"] == [1.0, None]


def test_no_rows_is_an_error() -> None:
    with pytest.raises(BadInput) as caught:
        inference.request(SIGNATURE, [])
    assert json.loads(caught.value.resolution.partition("such as ")[2]) == [
        {"user_id": 1, "score": 1.0, "genre": "text", "fresh": True}
    ]


def test_predictions_of_several_outputs_are_one_dictionary_a_row() -> None:
    outputs = [
        {"name": "label", "shape": [2, 1], "datatype": "BYTES", "data": ["a", "b"]},
        {"name": "p", "shape": [2, 2], "datatype": "FP64", "data": [0.1, 0.9, 0.4, 0.6]},
    ]
    assert inference.predictions({"outputs": outputs}) == [
        {"label": "a", "p": [0.1, 0.9]},
        {"label": "b", "p": [0.4, 0.6]},
    ]


def test_example_calls_are_valid_and_carry_the_same_request() -> None:
    body = inference.sample_request(SIGNATURE)
    python = inference.python_call("http://127.0.0.1:1/v2/models/m/infer", body)
    assigned = next(n for n in ast.parse(python).body if isinstance(n, ast.Assign))
    assert ast.literal_eval(assigned.value) == body
    curl = shlex.split(inference.curl_call("http://127.0.0.1:1/v2/models/m/infer", body))
    assert json.loads(curl[-1]) == body


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_signature_has_a_sample_and_an_example_row(kind: Kind) -> None:
    """The row that is advised where there is none makes the very request that `deploy` prints."""
    signature = {"inputs": kind.inputs}
    sample = inference.sample_request(signature)
    with pytest.raises(BadInput) as caught:
        inference.request(signature, [])
    assert inference.request(signature, from_json(caught.value.resolution.partition("such as ")[2])) == sample
    assert json.loads(json.dumps(sample, allow_nan=False)) == sample


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_of_every_kind_of_signature_become_a_request(kind: Kind) -> None:
    body = inference.request({"inputs": kind.inputs}, from_json(kind.rows))
    assert body["inputs"]
    for given in body["inputs"]:
        assert given["shape"][0] == len(kind.got)
        assert len(given["data"]) == math.prod(given["shape"])
        assert all(
            v is None or type(v) in TYPES[given["datatype"].rstrip("0123456789")] for v in given["data"]
        )
    json.dumps(body, allow_nan=False)


@pytest.mark.parametrize(
    ("inputs", "rows", "found"),
    [
        ([tensor("int64", -1, 3)], "[[1, 2, 3]]", ("input", [1, 3], "INT64", [1, 2, 3])),
        ([tensor("int8", -1, 2)], "[[1, 2]]", ("input", [1, 2], "INT8", [1, 2])),
        ([tensor("str", -1)], '[["abc"]]', ("input", [1], "BYTES", ["abc"])),
        ([tensor("float32", -1, 1, 2)], "[[1, 2], [[[3, 4]]]]", ("input", [2, 1, 2], "FP32", [1, 2, 3, 4])),
        ([tensor("float64", -1, -1, -1)], "[[[1, 2]]]", ("input", [1, 1, 2], "FP64", [1, 2])),
        ([tensor("float64", -1, 2, name="a")], '[{"a": "[1, 2]"}]', ("a", [1, 2], "FP64", [1, 2])),
        ([column("array", items={"type": "string"})], '[{"x": ["a"]}]', ("x", [1, 1], "BYTES", ['["a"]'])),
        ([column("array", items={"type": "double"})], '[{"x": "[1]"}]', ("x", [1, 1], "BYTES", ["[1]"])),
        ([column("any")], '[{"x": "[1]"}]', ("x", [1, 1], "BYTES", ['"[1]"'])),
        ([{"type": "double"}, {"type": "long"}], "[[1, 2]]", ("input-0", [1, 1], "FP64", [1])),
        ([], "[[1, 0.5]]", ("input", [1, 2], "FP64", [1, 0.5])),
        ([], '[["a", 1]]', ("0", [1, 1], "BYTES", ["a"])),
    ],
)
def test_what_a_request_holds(inputs: list[dict[str, Any]], rows: str, found: tuple[Any, ...]) -> None:
    first = inference.request({"inputs": inputs}, from_json(rows))["inputs"][0]
    assert (first["name"], first["shape"], first["datatype"], first["data"]) == found


NAMED = [column("long", "a"), column("string", "b")]


@pytest.mark.parametrize(
    ("inputs", "example", "data"),
    [
        (
            NAMED,
            {"dataframe_split": {"columns": ["a", "b"], "data": [[7, "Oslo"], [8, "Rome"]]}},
            [[7], ["Oslo"]],
        ),
        (NAMED, {"inputs": {"a": 7, "b": "Oslo"}}, [[7], ["Oslo"]]),
        (NAMED, {"inputs": [{"a": 7, "b": "Oslo"}]}, [[7], ["Oslo"]]),
        ([column("long")], {"inputs": 7}, [[7]]),
        ([column("binary")], {"inputs": [{"x": "dGV4dA==\n"}]}, [["dGV4dA=="]]),
        ([{"type": "long"}, {"type": "long"}], {"dataframe_split": {"data": [[7, 8]]}}, [[7], [8]]),
        ([tensor("int64", -1, 2)], {"inputs": [[7, 8], [9, 0]]}, [[7, 8]]),
        ([tensor("int64", -1)], {"inputs": [7, 8]}, [[7]]),
        (
            [tensor("int64", -1, name="a"), tensor("str", -1, name="b")],
            {"inputs": {"a": [7, 8], "b": ["Oslo", "Rome"]}},
            [[7], ["Oslo"]],
        ),
        ([], {"inputs": [[7, 8]]}, [[7, 8]]),
        (NAMED, {"inputs": {"a": 7}}, [[1], ["text"]]),
        (NAMED, {"dataframe_split": {"columns": ["a", "b"], "data": [[7, "Oslo" * 999]]}}, [[1], ["text"]]),
        (NAMED, {"messages": [{"role": "user"}]}, [[1], ["text"]]),
        (NAMED, [7], [[1], ["text"]]),
        (NAMED, None, [[1], ["text"]]),
    ],
)
def test_the_sample_is_the_example_of_the_model_where_that_fits(
    inputs: list[dict[str, Any]], example: Any, data: list[Any]
) -> None:
    assert [i["data"] for i in inference.sample_request({"inputs": inputs}, example)["inputs"]] == data


@pytest.mark.parametrize(
    ("inputs", "rows", "message"),
    [
        ([tensor("int64", -1, 3)], "[[1, 2]]", "Row 1 has 2 values, input takes [3] a row."),
        (
            [tensor("int64", -1, 3)],
            "[[1, 2, 3], [1, 2, 0.5]]",
            "Row 2: input is 0.5, the model expects INT64.",
        ),
        ([tensor("float64", -1, -1)], "[[1, 2], [3]]", "Row 2 has 1 values, the first has 2."),
        ([tensor("float64", -1, 2)], "[[1, Infinity]]", "Row 1: input is inf, the model expects FP64."),
        ([tensor("float32", -1, 1)], "[[1e39]]", "Row 1: input is 1e+39, the model expects FP32."),
        (
            [tensor("float64", -1, 2)],
            "[[[1], [2], [3]]]",
            "Row 1 has the shape [3, 1], input takes [2] a row.",
        ),
        (
            [tensor("float64", -1, 2, 2)],
            "[[[1, 2], [3]]]",
            "Row 1 has lists of unequal length, input takes [2, 2] a row.",
        ),
        ([tensor("str", -1, name="a"), tensor("bool", -1, name="b")], '[{"a": "x"}]', "Row 1: b missing."),
        ([column("binary")], '[{"x": "text!"}]', "Row 1: x is 'text!', the model expects base64."),
        (
            [column("array", items={"type": "double"})],
            '[{"x": [Infinity]}]',
            "Row 1: x is [inf], the model expects JSON.",
        ),
        (
            [column("map", values={"type": "long"})],
            '[{"x": "a"}]',
            "Row 1: x is 'a', the model expects JSON.",
        ),
        ([column("datetime")], '[{"x": 5}]', "Row 1: x is 5, the model expects a time."),
        ([], '[{"x": 1.5}, {"x": Infinity}]', "Row 2: x is inf, the model expects FP64."),
    ],
)
def test_what_a_signature_does_not_take(inputs: list[dict[str, Any]], rows: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        inference.request({"inputs": inputs}, from_json(rows))
    assert caught.value.message == message
    assert caught.value.resolution


def test_values_that_only_python_has() -> None:
    rows = [{"x": b"\xff", "at": datetime(2024, 1, 31, 12), "v": (1.5, float("nan"))}]
    inputs = [column("binary"), column("datetime", "at"), column("array", "v", items={"type": "double"})]
    body = inference.request({"inputs": inputs}, rows)
    assert [i["data"] for i in body["inputs"]] == [["/w=="], ["2024-01-31T12:00:00"], ["[1.5, null]"]]


def test_a_tensor_signature_gets_a_tensor_of_its_shape() -> None:
    spec = {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 3]}}]}
    [sample] = inference.sample_request(spec)["inputs"]
    assert (sample["shape"], sample["datatype"], len(sample["data"])) == ([1, 2, 3], "FP32", 6)
