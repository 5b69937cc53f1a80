"""Rows to V2 requests and responses to predictions."""

import ast
import json
import shlex
from typing import Any

import pytest

from matcha import inference
from matcha.errors import BadInput

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
        ({"user_id": 1, "score": [1]}, "Row 1: score is [1], the model expects FP64."),
        ({"user_id": 1, "score": 1, "fresh": "maybe"}, "Row 1: fresh is 'maybe', the model expects BOOL."),
        ({"user_id": 1e400, "score": 1}, "Row 1: user_id is inf, the model expects INT64."),
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
        ({"user_id": 1, "film": 2}, "Give every row user_id, score."),
        ({"user_id": 1}, "Give every row user_id, score."),
        ({"user_id": "x", "score": 1}, "Give user_id as a whole number."),
        ({"user_id": 1, "score": "x"}, "Give score as a number."),
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


def test_a_tensor_signature_gets_a_tensor_of_its_shape() -> None:
    spec = {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 3]}}]}
    [sample] = inference.sample_request(spec)["inputs"]
    assert (sample["shape"], sample["datatype"], len(sample["data"])) == ([1, 2, 3], "FP32", 6)
