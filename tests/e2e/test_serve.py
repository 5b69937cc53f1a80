"""Deployed models, asked by stock clients: curl, urllib, tritonclient, `matcha predict`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from support.clients import v2_client
from support.credit import BACK, FIRST, ROWS, SECOND, answer, answers, at_version_one, body
from support.jobs import Trained
from support.matcha import Matcha, until


@pytest.fixture(autouse=True)
def _at_version_one(stack: Matcha, credit: str) -> None:
    at_version_one(stack)


def predict(stack: Matcha, name: str, *how: str) -> list[float]:
    return [round(value, 6) for value in stack.json("predict", name, *how)["predictions"]]


# How a model is named


def test_by_version(credit: str) -> None:
    assert answer(credit) == FIRST


def test_by_alias(stack: Matcha) -> None:
    done = stack.json("deploy", "models:/credit@champion", "--name", "by-alias")
    assert (done["deployment"]["model"], done["deployment"]["version"]) == ("credit", "1")
    assert answer(done["url"]) == FIRST
    stack("undeploy", "by-alias")


def test_by_run(stack: Matcha, trained: Trained) -> None:
    done = stack.json("deploy", f"runs:/{trained.runs[1]}/model", "--name", "by-run")
    assert answer(done["url"]) == SECOND
    stack("undeploy", "by-run")


def test_by_path(stack: Matcha) -> None:
    done = stack.json("deploy", "saved credit 1000", "--name", "by-path")
    assert answer(done["url"]) == SECOND
    stack("undeploy", "by-path")


def test_another_model_does_not_take_a_name_unasked(stack: Matcha, credit: str) -> None:
    """Names of models come to the same deployment name where they differ in what an address cannot hold."""
    copy = "import mlflow; mlflow.MlflowClient().copy_model_version('models:/credit/2', 'Credit')"
    stack("run", "--", "python", "-c", copy)
    refused = stack("deploy", "models:/Credit/1", code=2).stderr
    assert "models:/credit/1" in refused
    assert "--name" in refused
    assert answer(credit) == FIRST
    stack("deploy", "models:/Credit/1", "--name", "credit")
    assert answer(credit) == SECOND
    stack("deploy", "models:/credit/1", code=2)
    stack("deploy", "models:/credit/1", "--name", "credit")


def test_what_is_trained_by_run_fits_the_serving_environment(stack: Matcha) -> None:
    deployed = [d for model in stack.json("models") for d in model["deployments"]]
    assert [d["environment"] for d in deployed if d["name"] == "credit"] == [""]
    assert "serving" not in " ".join(name for name in stack.services() if name != "mlserver")


def test_an_undeployed_model_is_gone_and_others_stay(stack: Matcha, credit: str) -> None:
    url = stack.json("deploy", "models:/credit/2", "--name", "for-now")["url"]
    stack("undeploy", "for-now")
    assert httpx.post(url, json=body(ROWS), timeout=30).status_code == 404
    assert answer(credit) == FIRST
    assert "for-now" in stack("undeploy", "for-now", code=1).stderr


# Who asks


def test_the_printed_calls_work_as_they_are(stack: Matcha) -> None:
    done = stack("deploy", "models:/credit/1")
    assert done.stderr.count("Loading a model runs its code: deploy what you trust.") == 1
    printed = done.stdout
    python = printed.partition("# Python\n")[2].partition("# shell\n")[0]
    shell = printed.partition("# shell\n")[2].partition("\nNext:")[0]
    assert json.loads(output_of("python3", "-c", python)) == pytest.approx([3.0])
    assert json.loads(output_of("bash", "-c", shell))["outputs"][0]["data"] == pytest.approx([3.0])


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc, tritonclient.http

def infer(kind, client, how, options):
    inputs = [kind.InferInput("income", [2, 1], "FP64"), kind.InferInput("age", [2, 1], "INT64")]
    inputs[0].set_data_from_numpy(np.array([[50.0], [40.0]]), **how)
    inputs[1].set_data_from_numpy(np.array([[30], [60]]), **how)
    assert client.is_model_ready("credit")
    result = client.infer("credit", inputs, request_id="mine", **options)
    name = client.get_model_metadata("credit").outputs[0].name if kind is tritonclient.grpc else \\
        client.get_model_metadata("credit")["outputs"][0]["name"]
    return result.as_numpy(name).ravel().tolist()

http, grpc = sys.argv[1:]
plain = {"outputs": [tritonclient.http.InferRequestedOutput("output-1", binary_data=False)]}
print(json.dumps([
    infer(tritonclient.http, tritonclient.http.InferenceServerClient(http), {"binary_data": False}, plain),
    infer(tritonclient.grpc, tritonclient.grpc.InferenceServerClient(grpc), {}, {}),
]))
"""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v2_client(tmp_path_factory.mktemp("triton"))


def test_tritonclient_over_http_and_grpc(stack: Matcha, triton: Path) -> None:
    http = stack.url("model-deployer", "base-url").removeprefix("http://")
    grpc = stack.url("model-deployer", "grpc-url")
    done = subprocess.run(
        [str(triton), "-c", TRITON, http, grpc], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [pytest.approx(FIRST), pytest.approx(FIRST)]


def test_predict_takes_json_csv_and_parquet(stack: Matcha) -> None:
    folder = stack.project
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "rows.csv").write_text("income,age\n50.0,30\n40.0,60\n")
    write = "import pandas as pd; pd.read_csv('rows.csv').to_parquet('rows.parquet')"
    stack("run", "--", "python", "-c", write)
    assert predict(stack, "credit", "--json", json.dumps(ROWS)) == FIRST
    for name in ("rows.json", "rows.csv", "rows.parquet"):
        assert predict(stack, "credit", "--input", name) == FIRST
    assert predict(stack, "credit", "rows.csv") == FIRST
    lines = stack("predict", "credit", "-", stdin=json.dumps(ROWS)).stdout.splitlines()
    assert [round(float(line), 6) for line in lines] == FIRST


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([{"income": 50.0}], "age"),
        ([{"income": 50.0, "age": 30, "town": "x"}], "town"),
        ([{"income": "much", "age": 30}], "income"),
        ([{"income": 50.0, "age": 30.5}], "age"),
        ([{"income": 50.0, "age": None}], "age"),
    ],
)
def test_predict_names_the_column_that_is_wrong(stack: Matcha, rows: list[Any], word: str) -> None:
    done = stack("predict", "credit", "--json", json.dumps(rows), code=2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr


INPUTS: list[dict[str, Any]] = body(ROWS)["inputs"]


def changed(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{**INPUTS[0], **fields}, INPUTS[1]]}


MALFORMED: list[tuple[str, Any, str]] = [
    ("missing", {"inputs": INPUTS[:1]}, "age"),
    ("unknown", {"inputs": [*INPUTS, {**INPUTS[0], "name": "town"}]}, "town"),
    ("misnamed", changed(name="Income"), "Income"),
    ("type", changed(datatype="BYTES", data=["x", "y"]), "income"),
    ("shape", changed(shape=[3, 1]), "income"),
    ("nan", json.dumps(body([{"income": 1.0, "age": float("nan")}])), "age"),
]


@pytest.mark.parametrize(("what", "content", "word"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_a_malformed_request_is_told_which_input(credit: str, what: str, content: Any, word: str) -> None:
    sent = content if isinstance(content, str) else json.dumps(content)
    got = httpx.post(credit, content=sent, headers={"Content-Type": "application/json"}, timeout=30)
    assert 400 <= got.status_code < 500, got.text
    assert word in got.json()["error"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_in_the_browser_gets_nothing(stack: Matcha, credit: str, origin: str) -> None:
    base = stack.url("model-deployer", "base-url")
    for url in (credit, f"{base}/v2/repository/models/credit/load", f"{base}/v2/repository/index"):
        got = httpx.post(url, content=json.dumps(body(ROWS)), headers={"Origin": origin}, timeout=30)
        assert got.status_code == 403, url
        assert "access-control-allow-origin" not in got.headers
        assert "130" not in got.text
    assert httpx.get(base, headers={"Host": "evil.example"}, timeout=30).status_code == 403
    assert answer(credit) == FIRST


# Changes and mishaps


class Load:
    """Clients that ask all the time, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures: list[str] = []
        self.answers: list[float] = []  # of the first row, in the order of their coming
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._done.is_set():
                try:
                    got = client.post(self.url, json=body(ROWS))
                    if got.status_code == 200:
                        self.answers.append(round(got.json()["outputs"][0]["data"][0], 6))
                    else:
                        self.failures.append(f"{got.status_code} {got.text[:200]}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in self._threads:
                thread.join(90)


def test_a_new_version_loses_no_request(stack: Matcha, credit: str) -> None:
    load = Load(credit)
    with load.running():
        until(lambda: load.answers, 60)
        for version in ("2", "1"):
            stack("deploy", f"models:/credit/{version}")
        enough = max(100, len(load.answers) + 20)
        until(lambda: len(load.answers) > enough or load.failures, 240)
    assert load.failures == []
    assert set(load.answers) == {FIRST[0], SECOND[0]}
    assert {load.answers[0], *load.answers[-4:]} == {FIRST[0]}


def test_a_model_with_other_packages_has_its_own_process_at_the_same_address(
    stack: Matcha, credit: str, older: None
) -> None:
    before = stack.services()
    done = stack.json("deploy", "models:/older/1")
    assert done["url"] == stack.predict_url("older")
    assert stack.json("predict", "older", "--json", '[{"x": 1.0}]')["predictions"] == ["1.7.2"]
    added = {name: pid for name, pid in stack.services().items() if name not in before}
    assert len(added) == 1
    serving = {"mlserver": before["mlserver"], **added}
    for secret in stack.secrets().values():
        assert not [n for n, pid in serving.items() if secret in str(psutil.Process(pid).environ())]
    assert {name: stack.services()[name] for name in before} == before
    assert answer(credit) == FIRST

    os.kill(next(iter(added.values())), signal.SIGKILL)
    older = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]}
    until(lambda: httpx.post(done["url"], json=older, timeout=60).status_code == 200, BACK)
    stack("undeploy", "older")
    assert stack.services() == before


def test_a_dedicated_model_has_a_process_of_its_own_and_comes_back_without_a_lost_request(
    stack: Matcha, credit: str
) -> None:
    before = set(stack.services())
    load = Load(credit)
    with load.running():
        until(lambda: load.answers, 60)
        stack("deploy", "models:/credit/2", "--dedicated")
        assert set(stack.services()) == {*before, "dedicated-credit"}
        assert answer(credit) == SECOND
        shown = {m["name"]: m for m in stack.json("status")["models"]}
        assert (shown["credit"]["dedicated"], shown["credit"]["healthy"]) == (True, True)
        assert "credit (version 2, dedicated)" in stack("models").stdout
        stack("deploy", "models:/credit/1")
    assert load.failures == []
    assert set(load.answers) == {FIRST[0], SECOND[0]}
    assert set(stack.services()) == before


def test_killed_servers_come_back_serving_what_they_served(stack: Matcha, credit: str) -> None:
    stack("deploy", "models:/credit/2", "--name", "second")
    second = stack.predict_url("second")
    killed = stack.services()["mlserver"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: answers(credit, FIRST) and answers(second, SECOND), BACK)
    assert stack.services()["mlserver"] != killed
    stack("undeploy", "second")
    assert answer(credit) == FIRST


def test_serving_goes_on_without_mlflow(stack: Matcha, credit: str) -> None:
    """Also when the serving process starts meanwhile."""
    with frozen(stack.services()["mlflow"]):
        assert answer(credit) == FIRST
        os.kill(stack.services()["mlserver"], signal.SIGKILL)
        until(lambda: answers(credit, FIRST), BACK)
    until(lambda: stack("status", code=None).returncode == 0, BACK)
    assert answer(credit) == FIRST


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A server that does not answer. The health check may end it meanwhile."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        if process.is_running():
            process.resume()
