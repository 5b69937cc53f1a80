"""Captured requests, and models that a process of another environment serves."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from serving_bench import CAPTURE_TOKEN, TOKEN, Load, Make, Receiver, body, credit, free_ports, tensor
from serving_malformed import NAMES, changed, good

from matcha import environments
from matcha.component import ModelVersion
from matcha.components.mlserver.component import MLServer, Options
from support.listening import Handler, Listening

pytestmark = pytest.mark.stack


# Capture


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_served_requests_are_captured(make_server: Make, receiver: Receiver, serving_models: Path) -> None:
    bench = make_server(MATCHA_CAPTURE_URL=receiver.url).start()
    quiet = {"name": "texts", "uri": str(serving_models / "texts"), "settings": {"sample": 0}}
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


def test_captures_wait_for_a_receiver_that_is_down(make_server: Make) -> None:
    (port,) = free_ports(1)
    bench = make_server(MATCHA_CAPTURE_URL=f"http://127.0.0.1:{port}").start()
    bench.put(credit(1))
    with socket.create_server(("127.0.0.1", port)) as deaf:
        assert {bench.infer("credit", body(*good())).status_code for _ in range(20)} == {200}
        deaf.settimeout(60)
        deaf.accept()[0].close()  # the first attempt
    late = Receiver(port)
    try:
        assert len(late.wait(20)) == 20
    finally:
        late.close()


# Another environment


def test_a_model_of_another_environment_answers_behind_the_same_address(
    make_server: Make, receiver: Receiver, serving_models: Path
) -> None:
    child = make_server("child", MATCHA_PROCESS="other", MATCHA_CAPTURE_URL=receiver.url).start()
    main = make_server("main", MATCHA_CAPTURE_URL=receiver.url).start()
    signature = {
        "inputs": json.dumps([{"type": "double", "name": n, "required": True} for n in NAMES]),
        "outputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]),
    }
    away = credit(2, process="other", forward=child.url, signature=signature)
    here = {"name": "texts", "uri": str(serving_models / "texts")}
    assert child.put(here, away) == {"credit": ""}
    assert main.put(here, away) == {"texts": "", "credit": ""}

    shown, theirs = (httpx.get(f"{at.url}/v2/models/credit", timeout=30).json() for at in (main, child))
    assert shown == theirs
    assert [i["name"] for i in shown["inputs"]] == list(NAMES)
    assert [o["name"] for o in shown["outputs"]] == ["output-1"]

    answer = main.infer("credit", {**body(*good(2)), "id": "mine"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model_version"], answer.json()["id"]) == ("2", "mine")
    refused = main.infer("credit", body(*good()[:3]))
    assert refused.status_code == 400
    assert "'years'" in refused.json()["error"]

    missing = {**away, "uri": "models:/credit/99", "version": "99"}
    failed = child.put(here, missing)
    assert "goes on answering" not in failed["credit"], "the main server says what people's requests get"
    told = main.put(here, missing, failed=failed)
    assert told == {"texts": "", "credit": f"{failed['credit']} (version 2 goes on answering)"}
    assert main.infer("credit", body(*good())).json()["model_version"] == "2"
    assert main.shown() == {"texts": "", "credit": ""}, "version 2 answers"
    assert main.shown("refused") == {"texts": "", "credit": told["credit"]}
    main.put(here, away)
    child.put(here, away)
    assert main.shown() == main.shown("refused") == {"texts": "", "credit": ""}

    child.kill()
    down = main.infer("credit", body(*good()))
    assert down.status_code == 503
    assert "own process" in down.json()["error"]
    assert main.shown()["credit"] == "its own process does not answer"
    child.write_live(here, away)
    child.start().wait_ready("credit")
    assert main.infer("credit", body(*good())).status_code == 200
    assert main.shown() == {"texts": "", "credit": ""}
    main.stop()
    assert {line["d"] for line in receiver.wait(3)} == {"credit"}
    assert len(receiver.lines) == 3, "captured once each, by the main server"


def test_a_name_stays_as_it_is_where_another_process_could_not_load(make_server: Make) -> None:
    """Whether it was served here, by yet another process, or not at all."""
    child = make_server("child", MATCHA_PROCESS="other").start()
    main = make_server("main").start()
    away = {"process": "other", "forward": child.url}
    bad = {"name": "credit", "uri": "models:/credit/99", "version": "99", **away}
    main.put(credit(1))
    assert main.put(bad, failed={"credit": "no such version"}) == {
        "credit": "no such version (version 1 goes on answering)"
    }
    assert main.infer("credit", body(*good())).json()["model_version"] == "1"
    fresh = {**bad, "name": "fresh"}
    assert main.put(credit(1), fresh, failed={"fresh": "no"}) == {"credit": "", "fresh": "no"}
    assert main.infer("fresh", body(*good())).status_code == 404
    assert main.shown() == {"credit": "", "fresh": "no"}
    assert main.put_raw({"deployments": [], "failed": ["credit"]}, TOKEN).status_code == 400
    assert main.shown() == {"credit": "", "fresh": "no"}


class Replicas(Listening):
    """Of another process, one behind the other; each says which version it serves, and the last one again."""

    def __init__(self, *versions: str) -> None:
        left = list(versions)

        class Replica(Handler):
            def do_GET(self) -> None:
                version = left.pop(0) if len(left) > 1 else left[0]
                said = {"name": "credit", "platform": "mlflow", "versions": [version]}
                self.answer(body=json.dumps(said).encode())

        super().__init__(Replica)


def test_a_replica_of_the_other_process_that_is_late_refuses_nothing(make_server: Make) -> None:
    main = make_server().start()
    with closing(Replicas("1", "1", "2")) as late, closing(Replicas("1")) as never:
        for served, expected in ((late, ""), (never, "its own process still serves version 1")):
            told = main.put(credit(2, process="other", forward=served.url))
            assert expected in told["credit"] and bool(expected) == bool(told["credit"])


def test_it_is_shown_what_the_process_of_another_environment_lacks(make_server: Make) -> None:
    """The main server came up first, or the other one could not load what it is asked for."""
    child = make_server("child", MATCHA_PROCESS="other").start()
    main = make_server("main").start()
    away = {"process": "other", "forward": child.url}
    main.put(credit(2, **away))
    assert main.shown() == {"credit": "its own process has not loaded it yet"}
    child.put({**credit(99), **away})
    assert "99" in main.shown()["credit"]
    child.put({**credit(1), **away})
    assert main.shown() == {"credit": "its own process serves version 1"}
    child.put(credit(2, **away))
    assert main.shown() == {"credit": ""}


def test_a_model_moves_between_environments_without_losing_a_request(make_server: Make) -> None:
    child = make_server("child", MATCHA_PROCESS="other").start()
    main = make_server("main").start()
    away = credit(2, process="other", forward=child.url)
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


OLD = """
import sys, mlflow, numpy, pandas, sklearn
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
assert sklearn.__version__ == "1.5.2"
x = pandas.DataFrame(numpy.eye(4), columns=["age", "income", "debt", "years"])
model = LinearRegression(fit_intercept=False).fit(x, [1.0, 2.0, 3.0, 4.0])
mlflow.sklearn.save_model(model, sys.argv[1], signature=infer_signature(x, model.predict(x)))
"""


def test_a_model_of_older_packages_gets_an_environment_of_its_own(
    make_server: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its requirements to its answer, as deploy goes about it."""
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(tmp_path / "cache"))  # ends with the test
    component = MLServer(Options())
    python = environments.python_for(component.serving_lock().python)
    wanted = ("mlflow==2.20.0", "scikit-learn==1.5.2", "numpy<2", "pandas==2.2.3")
    model = ModelVersion(uri=str(tmp_path / "old"), requirements=wanted, python=python)
    lock = tmp_path / "own.lock"
    environments.compile_lock(component.own_environment(model), constraints=None, python=python, output=lock)
    made = component.model_environment("abc", lock, python)
    own = environments.install(made.lock, environments.python_for(made.python)) / "bin" / "python"
    subprocess.run(
        [str(own), "-W", "ignore", "-c", OLD, model.uri], check=True, capture_output=True, timeout=120
    )

    child = make_server("child", MATCHA_PROCESS="abc")
    child.python = own
    main = make_server("main").start()
    entry = {"name": "old", "uri": model.uri, "process": "abc", "forward": child.start().url}
    assert child.put(entry) == main.put(entry) == {"old": ""}
    answer = main.infer("old", body(*(tensor(n, [1.0]) for n in NAMES)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == pytest.approx([10.0])
    assert "'years'" in main.infer("old", body(*(tensor(n, [1.0]) for n in NAMES[:3]))).json()["error"]
