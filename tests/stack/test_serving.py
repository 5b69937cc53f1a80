"""The model server as it runs: requests good and bad, over HTTP and gRPC, and who may ask what."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import CAPTURE_TOKEN, TOKEN, Bench, body, credit, maker, stop_all, tensor
from serving_malformed import CASES, array, changed, good, times, two, typed

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
SERVED = ("mixed", "fail", "slow", "texts", "frame", "holes", "params", "two", "tensor", "unsigned", "times")


@pytest.fixture(scope="module")
def server(
    serving_python: Path, serving_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """One process for the tests that change nothing."""
    make, made = maker(serving_python, serving_models, tmp_path_factory.mktemp("server"))
    bench = make(MATCHA_MAX_BODY_MB="1").start()
    errors = bench.put(credit(1), *({"name": n, "uri": str(serving_models / n)} for n in SERVED))
    assert not any(errors.values()), errors
    yield bench
    stop_all(made)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux shows it as a file")
def test_what_a_model_runs_finds_no_token_in_the_environment(server: Bench) -> None:
    environ = Path(f"/proc/{server.running.pid}/environ").read_bytes()
    assert b"MATCHA_MODELS_DIR" in environ
    assert TOKEN.encode() not in environ
    assert CAPTURE_TOKEN.encode() not in environ


# Requests


@pytest.mark.parametrize(
    ("model", "content", "status", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_malformed_requests_are_refused_by_name(
    server: Bench, model: str, content: Any, status: int, words: tuple[str, ...]
) -> None:
    answer = server.infer(model, content)
    assert answer.status_code == status, answer.text
    said = answer.json()["error"]
    assert all(word in said for word in words), said
    assert len(said) < 600
    assert "authorization" not in said.lower()


def test_a_plain_request_is_answered(server: Bench) -> None:
    answer = server.infer("credit", body(*good(3), id="mine"))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["id"] == "mine"
    assert found["model_version"] == found["parameters"]["model_version"] == "1"
    assert found["outputs"][0]["shape"] == [3, 1]


def test_every_way_to_write_a_column_is_the_same(server: Bench) -> None:
    ways = [
        changed("age"),
        changed("age", shape=[2, 1]),
        changed("age", shape=[2, 1], data=[[1.0], [1.0]]),
        changed("age", datatype="FP32"),
        changed("age", datatype="INT32", data=[1, 1]),
        changed("age", parameters={"content_type": "np"}),
        {**changed("age"), "parameters": {"content_type": "pd"}},
        {**changed("age"), "parameters": {"binary_data_output": True}},
    ]
    answers = [server.infer("credit", way) for way in ways]
    assert [a.status_code for a in answers] == [200] * len(ways)
    assert len({json.dumps(a.json()["outputs"]) for a in answers}) == 1


def test_every_type_of_column_reaches_the_model(server: Bench) -> None:
    some = server.infer("mixed", typed(score=([None], "FP64")))
    every = server.infer("mixed", typed(seen=(["2026-01-02T03:04:05Z"], "BYTES"), note=([None], "BYTES")))
    assert some.json()["outputs"][0]["data"] == [None]
    assert every.json()["outputs"][0]["data"] == [1 * 2 + 1.5 + 8]


def test_each_time_of_a_column_is_read_as_it_is_written(server: Bench) -> None:
    written = {
        "2024-02-01": "2024-02-01 00:00:00",
        "2024-02-01T00:00:00": "2024-02-01 00:00:00",
        "2024-02-01T00:00:00.5": "2024-02-01 00:00:00.500000",
        "2024-02-01 10:00": "2024-02-01 10:00:00",
        "2024-02-01T10:00:00Z": "2024-02-01 10:00:00",
        "2024-02-01T10:00:00+02:00": "2024-02-01 08:00:00",
        "2024-02-01T10:00:00-05:00": "2024-02-01 15:00:00",
        None: "NaT",
    }
    answer = server.infer("times", times(*written))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == list(written.values())
    alone = server.infer("times", times(None))
    assert alone.json()["outputs"][0]["data"] == ["NaT"]


@pytest.mark.parametrize(
    ("model", "content", "data"),
    [
        ("tensor", array([[1.0, 1, 1, 1], [-1.0, -1, -1, -1]], [2, 4]), [1, 0]),
        ("tensor", array([1.0, 1, 1, 1, -1, -1, -1, -1], [2, 4], "FP32"), [1, 0]),
        ("unsigned", array([1.0, 1, 1, 1], [1, 4]), [1]),
        ("two", two(), [6.0]),
        ("texts", body(tensor("x", [1.0, 2.0])), ["row 1.0", "row 2.0"]),
        ("holes", body(tensor("x", [1.0, 2.0])), [None, 1.0]),
        ("params", {**body(tensor("x", [1.5])), "parameters": {"factor": 4.0}}, [6.0]),
        ("params", body(tensor("x", [1.5])), [3.0]),
    ],
    ids=["nested", "narrower", "unsigned", "two tensors", "texts", "NaN is null", "parameter", "its default"],
)
def test_answers(server: Bench, model: str, content: Any, data: list[Any]) -> None:
    answer = server.infer(model, content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == data


def test_a_frame_has_an_output_a_column(server: Bench) -> None:
    outputs = server.infer("frame", body(tensor("x", [1.0]))).json()["outputs"]
    assert {o["name"]: o["data"][0] for o in outputs} == {"x": 1.0, "label": "a", "at": "2026-01-02T00:00:00"}


@pytest.mark.parametrize("asked", [["label"], ["label", "x"], []])
def test_only_the_outputs_asked_for_come_in_their_order(server: Bench, asked: list[str]) -> None:
    wanted = [{"name": name} for name in asked]
    answer = server.infer("frame", body(tensor("x", [1.0]), outputs=wanted)).json()
    assert [o["name"] for o in answer["outputs"]] == (asked or ["x", "label", "at"])


def test_the_version_in_the_path_is_the_real_one(server: Bench) -> None:
    content = body(*good())
    assert server.infer("credit/versions/1", content).status_code == 200
    assert server.infer("credit/versions/2", content).status_code == 404


def test_metadata_says_what_to_send(server: Bench) -> None:
    found = httpx.get(f"{server.url}/v2/models/credit").json()
    assert found["versions"] == ["1"]
    assert [i["name"] for i in found["inputs"]] == ["age", "income", "debt", "years"]
    assert httpx.get(f"{server.url}/v2/health/ready").is_success


def test_a_slow_prediction_holds_nobody_up(server: Bench) -> None:
    asking, answers = server.ask_slowly()
    assert httpx.get(f"{server.url}/v2/health/live", timeout=60).is_success
    assert server.infer("credit", body(*good())).status_code == 200
    assert asking.is_alive()
    (server.root / "go").touch()
    asking.join(60)
    assert [a.status_code for a in answers] == [200]


def test_the_stock_grpc_client(server: Bench, serving_python: Path) -> None:
    found = server.over_grpc(serving_python, "serving_grpc.py")
    assert found["live"]
    assert found["ready"]
    assert (found["id"], found["given_id"], found["version"], found["shape"]) == ("mine", True, "1", [2, 1])
    assert found["texts"] == ["row 1.0"]
    assert found["holes"] == [True, False]
    assert "INVALID_ARGUMENT" in found["missing"]
    assert "'years'" in found["missing"]
    assert "INVALID_ARGUMENT" in found["wrong_type"]
    assert "'x'" in found["wrong_type"]
    assert "NOT_FOUND" in found["unknown_model"]
    assert "model failed: KeyError" in found["fails"]
    assert "RESOURCE_EXHAUSTED" in found["large"]
    assert "PERMISSION_DENIED" in found["load"]
    assert "PERMISSION_DENIED" in found["unload"]


# Who may ask what


def test_other_web_pages_are_refused(server: Bench) -> None:
    content = body(*good())
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ):
        assert server.infer("credit", content, **headers).status_code == 403
        assert httpx.get(f"{server.url}/v2/models/credit", headers=headers).status_code == 403
        assert (
            httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics", headers=headers).status_code == 403
        )
    assert server.infer("credit", content, Origin=server.url).status_code == 200


@pytest.mark.parametrize("action", ["load", "unload"])
def test_nobody_loads_models_behind_the_list(server: Bench, action: str) -> None:
    url = f"{server.url}/v2/repository/models/credit/{action}"
    answer = httpx.post(url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 403
    assert "matcha deploy" in answer.json()["error"]
    assert server.infer("credit", body(*good())).status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], "é"])
def test_only_the_token_changes_the_list(server: Bench, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".strip().encode()}
    url = f"{server.url}/matcha/deployments"
    assert httpx.put(url, json={"deployments": []}, headers=headers).status_code == 401
    assert httpx.get(url, headers=headers).status_code == 401
    assert server.infer("credit", body(*good())).status_code == 200


def test_bodies_are_bounded(server: Bench) -> None:
    large = json.dumps(body(*(tensor(n, [1.0] * 100_000) for n in ("age", "income", "debt", "years"))))
    packed = gzip.compress(large.encode())
    assert len(packed) < 2**20 < len(large)
    url = f"{server.url}/v2/models/credit/infer"
    json_type = {"Content-Type": "application/json"}
    whole = server.infer("credit", large)
    chunked = httpx.post(url, content=iter([large.encode()]), headers=json_type)
    bomb = server.infer("credit", packed, **{"Content-Encoding": "gzip"})
    assert [a.status_code for a in (whole, chunked, bomb)] == [413] * 3
    assert "1 MiB" in whole.json()["error"]
    small = gzip.compress(json.dumps(body(*good())).encode())
    assert server.infer("credit", small, **{"Content-Encoding": "gzip"}).status_code == 200


def test_what_is_not_json_says_so(server: Bench) -> None:
    content = json.dumps(body(*good()))
    form = server.infer("credit", content, **{"Content-Type": "application/x-www-form-urlencoded"})
    binary = server.infer("credit", content, **{"Inference-Header-Content-Length": "10"})
    assert form.status_code == binary.status_code == 400
    assert "Content-Type: application/json" in form.json()["error"]
    assert "binary" in binary.json()["error"].lower()
    missing = httpx.get(f"{server.url}/no/such/path")
    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found"})


def test_metrics_count_requests_by_model(server: Bench) -> None:
    server.infer("credit", body(*good()))
    server.infer("never-heard-of", body(*good()))
    text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    assert 'model_infer_request_success_total{model="credit"' in text
    assert "never-heard-of" not in text


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"name": "../up", "uri": "models:/credit/1"}, "a name is"),
        ({"name": "x"}, "no uri"),
        ({"name": "x", "uri": 3}, "uri is not text"),
        ({"name": "x", "uri": "models:/credit/1", "settings": {"sample": 2}}, "sample"),
        ({"name": "x", "uri": "models:/credit/1", "settings": {"sample": "all"}}, "sample"),
        ({"name": "x", "uri": "models:/credit/1", "process": "abc"}, "no process"),
        ({"name": "credit", "uri": "models:/credit/1"}, "named twice"),
        ("credit", "not an object"),
    ],
)
def test_entries_that_cannot_be_served_say_why(server: Bench, entry: Any, why: str) -> None:
    kept = [{"name": n, "uri": httpx_uri(server, n)} for n in SERVED]
    errors = server.put(credit(1), *kept, entry)
    name = entry["name"] if isinstance(entry, dict) else ""
    assert why in errors[name]
    assert server.infer("texts", body(tensor("x", [1.0]))).status_code == 200


def httpx_uri(server: Bench, name: str) -> str:
    shown = httpx.get(f"{server.url}/matcha/deployments", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return str(next(entry["uri"] for entry in shown if entry["name"] == name))


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"deployments": 3}', b"\xff"])
def test_a_list_that_is_none_changes_nothing(server: Bench, content: bytes) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.put(f"{server.url}/matcha/deployments", content=content, headers=headers).status_code == 400
    assert server.infer("credit", body(*good())).status_code == 200
