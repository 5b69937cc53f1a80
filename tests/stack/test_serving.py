"""The model server as it runs, with real models and stock clients."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import (
    CAPTURE_TOKEN,
    CODE,
    TOKEN,
    Bench,
    Load,
    Receiver,
    body,
    free_ports,
    tensor,
    versions,
)
from serving_malformed import CASES, array, changed, good, two, typed

from matcha import environments

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent
SERVED = ("mixed", "fail", "slow", "texts", "frame", "holes", "params", "two", "tensor", "unsigned")


@pytest.fixture(scope="session")
def python() -> Path:
    lock = CODE.parent / "requirements.lock"
    return environments.install(lock, environments.python_for(">=3.10,<3.13")) / "bin" / "python"


@pytest.fixture(scope="session")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    made = subprocess.run(
        [str(python), "-W", "ignore", str(HERE / "serving_models.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


Make = Callable[..., Bench]


def maker(python: Path, models: Path, root: Path) -> tuple[Make, list[Bench]]:
    made: list[Bench] = []

    def make(name: str = "serving", **env: str) -> Bench:
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{models / 'registry.db'}"}
        made.append(Bench(python, root / name, **{**tracking, **env}))
        return made[-1]

    return make, made


def stop_all(made: list[Bench]) -> None:
    for bench in made:
        if bench.process is not None and bench.process.poll() is None:
            bench.kill()


@pytest.fixture
def make(python: Path, models: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes serving processes that end with the test."""
    make, made = maker(python, models, tmp_path)
    yield make
    stop_all(made)


@pytest.fixture(scope="module")
def server(python: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One process for the tests that change nothing."""
    make, made = maker(python, models, tmp_path_factory.mktemp("server"))
    bench = make(MATCHA_MAX_BODY_MB="1").start()
    errors = bench.put(credit(1), *({"name": n, "uri": str(models / n)} for n in SERVED))
    assert not any(errors.values()), errors
    yield bench
    stop_all(made)


@pytest.fixture(scope="module")
def _shared(python: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    make, made = maker(python, models, tmp_path_factory.mktemp("changing"))
    yield make().start()
    stop_all(made)


@pytest.fixture
def changing(_shared: Bench) -> Iterator[Bench]:
    """One process for the tests that change the list; each finds it empty."""
    yield _shared
    assert _shared.put() == {}


def credit(version: int, **more: Any) -> dict[str, Any]:
    uri = f"models:/credit/{version}"
    return {"name": "credit", "uri": uri, "model": "credit", "version": str(version), **more}


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
    slow = threading.Thread(target=server.infer, args=("slow", body(tensor("seconds", [2.0]))))
    slow.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert httpx.get(f"{server.url}/v2/health/live").is_success
    assert server.infer("credit", body(*good())).status_code == 200
    assert time.monotonic() - began < 1.2
    slow.join(10)


def test_the_stock_grpc_client(server: Bench, python: Path) -> None:
    ran = subprocess.run(
        [str(python), str(HERE / "serving_grpc.py"), f"127.0.0.1:{server.grpc_port}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
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


# The list


def test_a_new_version_loses_no_request(changing: Bench) -> None:
    bench = changing
    assert bench.put(credit(1)) == {"credit": ""}
    with Load(bench, "credit", body(*good()), clients=4) as load:
        for version in (2, 3, 1, 2):
            assert bench.put(credit(version)) == {"credit": ""}
            load.wait_for(str(version))
    assert len(load.answers) > 20
    assert load.failures() == []
    assert versions(load.answers) == ["1", "2", "3"]


def test_models_come_and_go_without_a_restart(changing: Bench, models: Path) -> None:
    bench = changing
    fixed = {"name": "texts", "uri": str(models / "texts")}
    process = bench.running.pid
    bench.put(credit(1), fixed)
    log = bench.log.read_text()
    assert bench.put(credit(1), fixed) == {"credit": "", "texts": ""}
    assert bench.log.read_text() == log, "applying the same list again does nothing"
    bench.put(fixed)
    assert bench.infer("credit", body(*good())).status_code == 404
    assert bench.infer("texts", body(tensor("x", [1.0]))).status_code == 200
    assert [p.name for p in (bench.root / "models").iterdir() if not p.name.startswith(".")] == ["texts"]
    assert bench.running.pid == process


def test_a_version_that_does_not_load_leaves_the_old_one(changing: Bench, models: Path) -> None:
    bench = changing
    bench.put(credit(1))
    for uri in (str(models / "broken"), "models:/credit/99", "models:/nothing/1", str(models / "nowhere")):
        error = bench.put({"name": "credit", "uri": uri, "version": "9"})["credit"]
        assert error
        assert "version 1 goes on answering" in error
        assert "abc.def" not in error
        assert bench.infer("credit", body(*good())).json()["model_version"] == "1"
    assert bench.put({"name": "new", "uri": str(models / "broken")})["new"].startswith(
        "RuntimeError: the weights"
    )
    assert bench.infer("new", body(*good())).status_code == 404
    assert "abc.def" not in bench.log.read_text()
    assert bench.put(credit(2)) == {"credit": ""}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"name": "../up", "uri": "models:/credit/1"}, "a name is"),
        ({"name": "x"}, "no uri"),
        ({"name": "x", "uri": 3}, "uri is not text"),
        ({"name": "x", "uri": "models:/credit/1", "settings": {"sample": 2}}, "sample"),
        ({"name": "x", "uri": "models:/credit/1", "settings": {"sample": "all"}}, "sample"),
        ({"name": "x", "uri": "models:/credit/1", "environment": "abc"}, "no process"),
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


def test_a_model_brings_its_own_modules(changing: Bench, models: Path) -> None:
    """Two versions whose helper module has one name: the new one must not meet the old code."""
    bench = changing
    for version in ("1", "2", "1"):
        entry = {"name": "code", "uri": str(models / f"code{version}"), "version": version}
        assert bench.put(entry) == {"code": ""}
        assert bench.infer("code", body(tensor("x", [0.0]))).json()["outputs"][0]["data"] == [float(version)]


def test_a_folder_with_new_content_is_loaded_again(changing: Bench, models: Path, tmp_path: Path) -> None:
    bench = changing
    link = tmp_path / "current"
    entry = {"name": "code", "uri": str(link)}
    for version in ("code1", "code2"):
        link.unlink(missing_ok=True)
        link.symlink_to(models / version)
        assert bench.put(entry) == {"code": ""}
        found = bench.infer("code", body(tensor("x", [0.0]))).json()["outputs"][0]["data"]
        assert found == [float(version[-1])]


def test_batching_keeps_requests_apart(changing: Bench, models: Path) -> None:
    bench = changing
    batched = {"max_batch_size": 8, "max_batch_time": 0.05}
    for version in (1, 2):  # the second is a reload, at which MLServer forgets batching
        bench.put(credit(version, settings=batched), rows(models, version, batched))
    bad = changed("debt", data=[1.0, None])
    with Load(bench, "credit", body(*good(), id="kept"), clients=8) as load:
        load.wait_for("2")
        refusals = [bench.infer("credit", bad) for _ in range(20)]
    assert load.failures() == []
    assert {r.status_code for r in refusals} == {400}
    assert all("'debt'" in r.json()["error"] for r in refusals)
    assert bench.infer("credit", body(*good(), id="kept")).json()["id"] == "kept"
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: bench.infer("rows", body(tensor("x", [1.0]))).json(), range(32)))
    assert {tuple(a["outputs"][0]["shape"]) for a in answers} == {(1, 1)}
    assert max(a["outputs"][0]["data"][0] for a in answers) > 1, (
        "the model saw rows of several requests at once"
    )


def rows(models: Path, version: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": "rows", "uri": str(models / "rows"), "version": str(version), "settings": settings}


# Restarts and ends


def test_a_killed_server_serves_the_same_without_a_tracker(make: Make) -> None:
    bench = make().start()
    bench.write_live(credit(2))
    bench.put(credit(2))
    before = bench.infer("credit", body(*good(2))).json()["outputs"]
    bench.kill()
    bench.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    bench.start().wait_ready("credit")
    after = bench.infer("credit", body(*good(2))).json()
    assert after["outputs"] == before
    assert after["model_version"] == "2"


def test_a_copy_that_was_cut_short_is_fetched_again(make: Make) -> None:
    bench = make().start()
    bench.write_live(credit(2))
    bench.put(credit(2))
    bench.kill()
    copied = max((bench.root / "models" / "credit").glob("*/model*"), key=lambda p: p.stat().st_size)
    copied.write_bytes(copied.read_bytes()[:10])
    (bench.root / "models" / ".tmp-left").mkdir()
    bench.start().wait_ready("credit")
    assert bench.infer("credit", body(*good())).status_code == 200
    assert not (bench.root / "models" / ".tmp-left").exists()


def test_a_broken_list_does_not_keep_it_from_starting(make: Make) -> None:
    bench = make()
    bench.live.write_text('{"deployments": [')
    bench.start()
    assert bench.put(credit(1)) == {"credit": ""}


def test_what_comes_late_is_tried_again(make: Make, models: Path, tmp_path: Path) -> None:
    """After a reboot everything starts at once, and a tracker may need longer than the server."""
    bench = make(MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_ports(1)[0]}")
    bench.write_live(credit(1), {"name": "late", "uri": str(tmp_path / "late")})
    bench.start()
    assert httpx.get(f"{bench.url}/v2/models/late").status_code == 404
    (tmp_path / "late").symlink_to(models / "texts")
    bench.wait_ready("late")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    shown = httpx.get(f"{bench.url}/matcha/deployments", headers=headers).json()
    assert {e["name"]: e["error"] for e in shown} == {
        "credit": "ConnectionError: the experiment tracker does not answer",
        "late": "",
    }


def test_it_ends_with_the_requests_under_way_answered(make: Make, models: Path) -> None:
    bench = make().start()
    bench.put({"name": "slow", "uri": str(models / "slow")})
    answers: list[httpx.Response] = []
    ask = threading.Thread(target=lambda: answers.append(bench.infer("slow", body(tensor("seconds", [2.0])))))
    ask.start()
    time.sleep(0.5)
    assert bench.stop() < 8
    ask.join(10)
    assert [a.status_code for a in answers] == [200]
    assert bench.running.returncode == 0


def test_a_prediction_that_hangs_does_not_keep_it(make: Make, models: Path) -> None:
    bench = make().start()
    bench.put({"name": "slow", "uri": str(models / "slow")})
    hang = threading.Thread(target=_ask_in_vain, args=(bench,), daemon=True)
    hang.start()
    time.sleep(0.5)
    assert bench.stop() < 15
    hang.join(5)


def _ask_in_vain(bench: Bench) -> None:
    with pytest.raises(httpx.HTTPError):
        bench.infer("slow", body(tensor("seconds", [60.0]))).raise_for_status()


# Capture


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_served_requests_are_captured(make: Make, receiver: Receiver, models: Path) -> None:
    bench = make(MATCHA_CAPTURE_URL=receiver.url).start()
    quiet = {"name": "texts", "uri": str(models / "texts"), "settings": {"sample": 0}}
    bench.put(credit(1), quiet)
    began = time.time()
    bench.infer("texts", body(tensor("x", [1.0])))
    bench.infer("credit", body(*good()[:3]))
    bench.infer("credit", changed("age", shape=[2, 1], data=[[5.0], [6.0]]) | {"id": "mine"})
    bench.stop()
    (line,) = receiver.wait(1)
    assert (line["d"], line["v"], line["id"], line["n"]) == ("credit", "1", "mine", 2)
    assert began <= line["t"] <= time.time()
    assert line["in"][0] == ["age", "FP64", [2, 1], [5.0, 6.0]]
    assert line["out"][0][:3] == ["output-1", "FP64", [2, 1]]
    assert receiver.authorizations == {f"Bearer {CAPTURE_TOKEN}"}
    assert receiver.dropped == [0]


def test_captures_wait_for_a_receiver_that_is_down(make: Make) -> None:
    (port,) = free_ports(1)
    bench = make(MATCHA_CAPTURE_URL=f"http://127.0.0.1:{port}").start()
    bench.put(credit(1))
    assert {bench.infer("credit", body(*good())).status_code for _ in range(20)} == {200}
    time.sleep(1.5)
    late = Receiver(port)
    try:
        assert len(late.wait(20)) == 20
    finally:
        late.close()


# Another environment


def test_a_model_of_another_environment_answers_behind_the_same_address(
    make: Make, receiver: Receiver, models: Path
) -> None:
    child = make("child", MATCHA_ENVIRONMENT="other", MATCHA_CAPTURE_URL=receiver.url).start()
    main = make("main", MATCHA_CAPTURE_URL=receiver.url).start()
    signature = {
        "inputs": json.dumps(
            [{"type": "double", "name": n, "required": True} for n in ("age", "income", "debt", "years")]
        )
    }
    away = credit(2, environment="other", forward=child.url, signature=signature)
    here = {"name": "texts", "uri": str(models / "texts")}
    assert child.put(here, away) == {"credit": ""}
    assert main.put(here, away) == {"texts": "", "credit": ""}

    answer = main.infer("credit", {**body(*good(2)), "id": "mine"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model_version"], answer.json()["id"]) == ("2", "mine")
    refused = main.infer("credit", body(*good()[:3]))
    assert refused.status_code == 400
    assert "'years'" in refused.json()["error"]

    failed = child.put(here, {**away, "uri": "models:/credit/99", "version": "99"})["credit"]
    assert failed
    assert main.put(here, {**away, "uri": "models:/credit/99", "version": "99"})["credit"]
    assert main.infer("credit", body(*good())).json()["model_version"] == "2"

    child.kill()
    down = main.infer("credit", body(*good()))
    assert down.status_code == 503
    assert "environment" in down.json()["error"]
    child.write_live(here, away)
    child.start().wait_ready("credit")
    assert main.infer("credit", body(*good())).status_code == 200
    main.stop()
    assert {line["d"] for line in receiver.wait(3)} == {"credit"}
    assert len(receiver.lines) == 3, "captured once each, by the main server"


def test_a_model_moves_between_environments_without_losing_a_request(make: Make) -> None:
    child = make("child", MATCHA_ENVIRONMENT="other").start()
    main = make("main").start()
    away = credit(2, environment="other", forward=child.url)
    main.put(credit(1))
    with Load(main, "credit", body(*good()), clients=3) as load:
        load.wait_for("1")
        child.put(away, unload=False)
        main.put(away)
        load.wait_for("2")
        child.put(credit(3), unload=False)
        main.put(credit(3))
        child.put(credit(3))
        load.wait_for("3")
    assert load.failures() == []
    assert child.infer("credit", body(*good())).status_code == 404
