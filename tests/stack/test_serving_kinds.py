"""Every kind of signature as it runs: the calls that `deploy` prints, and what `predict` sends, are taken."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from serving_bench import Bench, body, maker, stop_all, tensor

from matcha import inference
from matcha.api.rows import from_json
from support.signatures import KINDS, REFUSED, Kind

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
AWAY = ("binary", "str-alone", "string")


def signature(kind: Kind) -> dict[str, str]:
    return {"inputs": json.dumps(kind.inputs)}


@pytest.fixture(scope="module")
def server(
    serving_python: Path, serving_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """Serves every kind, and those of `AWAY` once more from the process of another environment."""
    make, made = maker(serving_python, serving_models, tmp_path_factory.mktemp("kinds"))
    child, bench = make("child", MATCHA_PROCESS="other").start(), make("main").start()
    entries = [{"name": k.name, "uri": str(serving_models / f"kind-{k.name}")} for k in KINDS]
    away = [
        {
            **e,
            "name": f"away-{k.name}",
            "process": "other",
            "forward": child.url,
            "signature": signature(k),
        }
        for k, e in zip(KINDS, entries, strict=True)
        if k.name in AWAY
    ]
    refused = [{"name": name, "uri": str(serving_models / f"kind-{name}")} for name in REFUSED]
    for one in (child, bench):
        errors = one.put(*entries, *away, *refused)
        assert not any(error for name, error in errors.items() if name not in REFUSED), errors
    yield bench
    stop_all(made)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_printed_calls_are_answered(server: Bench, kind: Kind) -> None:
    url, sample = (
        f"{server.url}/v2/models/{kind.name}/infer",
        inference.sample_request({"inputs": kind.inputs}),
    )
    curl = server.infer(kind.name, shlex.split(inference.curl_call(url, sample))[-1])
    assert curl.status_code == 200, curl.text
    ran = subprocess.run(
        [sys.executable, "-c", inference.python_call(url, sample)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(curl.json()["outputs"][0]["data"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_predict_brings_the_values_as_they_are(server: Bench, kind: Kind) -> None:
    sent = inference.request({"inputs": kind.inputs}, from_json(kind.rows))
    answer = server.infer(kind.name, msgspec.json.encode(sent))
    assert answer.status_code == 200, answer.text
    assert inference.predictions(answer.json()) == kind.got


def test_tensors_that_v2_has_no_datatype_for_are_not_served(server: Bench) -> None:
    errors = server.shown()
    assert "complex128, for which the V2 protocol has no datatype" in errors["complex"]
    assert "datetime64[ns], for which the V2 protocol has no datatype" in errors["times"]


@pytest.mark.parametrize("prefix", ["", "away-"], ids=["here", "in another environment"])
@pytest.mark.parametrize(
    ("parameters", "text", "got"),
    [
        ({}, "dGV4dA==", "x=b'text'"),
        ({}, "text", "x=b'\\xb5\\xecm'"),
        ({}, "dGV4\ndA==\n", "x=b'text'"),
        ({"content_type": "base64"}, "dGV4dA==", "x=b'text'"),
        ({"content_type": "str"}, "text", "x=b'text'"),
        ({}, "text!", "input 'x': row 0 holds 'text!': not base64"),
        ({"content_type": "base64"}, "text!", "input 'x': row 0 holds 'text!': not base64"),
    ],
)
def test_text_of_a_binary_column_is_base64_unless_the_request_says_otherwise(
    server: Bench, prefix: str, parameters: dict[str, str], text: str, got: str
) -> None:
    answer = server.infer(f"{prefix}binary", body(tensor("x", [text], "BYTES", parameters=parameters))).json()
    assert (answer["outputs"][0]["data"][0] if "outputs" in answer else answer["error"]) == got


@pytest.mark.parametrize("prefix", ["", "away-"], ids=["here", "in another environment"])
def test_bytes_over_grpc_are_what_they_are(server: Bench, serving_python: Path, prefix: str) -> None:
    found = server.over_grpc(serving_python, "serving_grpc_bytes.py", prefix)
    for model in ("str-alone", "string"):
        refused = found.pop(f"{model} b'\\xff\\x00'")
        assert "INVALID_ARGUMENT" in refused
        assert "'x'" in refused
    assert found == {
        "binary b'text'": "x=b'text'",
        "binary b'\\xff\\x00'": "x=b'\\xff\\x00'",
        "str-alone b'text'": "<U4 'text'",
        "string b'text'": "x='text'",
    }
