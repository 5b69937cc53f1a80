"""The list of deployments: models come, change and go without a restart; what a restart keeps; the end."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import Bench, Load, Make, body, credit, free_ports, tensor, versions
from serving_malformed import changed, good

from support.matcha import until

pytestmark = pytest.mark.stack


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


def test_models_come_and_go_without_a_restart(changing: Bench, serving_models: Path) -> None:
    bench = changing
    fixed = {"name": "texts", "uri": str(serving_models / "texts")}
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


def test_a_version_that_does_not_load_leaves_the_old_one(changing: Bench, serving_models: Path) -> None:
    bench = changing
    bench.put(credit(1))
    for uri in (
        str(serving_models / "broken"),
        "models:/credit/99",
        "models:/nothing/1",
        str(serving_models / "nowhere"),
    ):
        error = bench.put({"name": "credit", "uri": uri, "version": "9"})["credit"]
        assert error
        assert "version 1 goes on answering" in error
        assert "abc.def" not in error
        assert bench.infer("credit", body(*good())).json()["model_version"] == "1"
    assert bench.put({"name": "new", "uri": str(serving_models / "broken")})["new"].startswith(
        "RuntimeError: the weights"
    )
    assert bench.infer("new", body(*good())).status_code == 404
    assert "abc.def" not in bench.log.read_text()
    assert bench.put(credit(2)) == {"credit": ""}


def test_a_model_that_does_not_end_loading_holds_up_nothing(make_server: Make, serving_models: Path) -> None:
    bench = make_server(MATCHA_LOAD_SECONDS="30").start()
    bench.put(credit(1))
    endless = {"name": "credit", "uri": str(serving_models / "endless"), "version": "9"}
    error = bench.put(endless)["credit"]
    assert "did not load within 30 seconds" in error
    assert "version 1 goes on answering" in error
    assert bench.put(credit(2)) == {"credit": ""}


def test_a_model_brings_its_own_modules(changing: Bench, serving_models: Path) -> None:
    """Two versions whose helper module has one name: the new one must not meet the old code."""
    bench = changing
    for version in ("1", "2", "1"):
        entry = {"name": "code", "uri": str(serving_models / f"code{version}"), "version": version}
        assert bench.put(entry) == {"code": ""}
        assert bench.infer("code", body(tensor("x", [0.0]))).json()["outputs"][0]["data"] == [float(version)]


def test_a_folder_with_new_content_is_loaded_again(
    changing: Bench, serving_models: Path, tmp_path: Path
) -> None:
    bench = changing
    link = tmp_path / "current"
    entry = {"name": "code", "uri": str(link)}
    for version in ("code1", "code2"):
        link.unlink(missing_ok=True)
        link.symlink_to(serving_models / version)
        assert bench.put(entry) == {"code": ""}
        found = bench.infer("code", body(tensor("x", [0.0]))).json()["outputs"][0]["data"]
        assert found == [float(version[-1])]


def test_batching_keeps_requests_apart(changing: Bench, serving_models: Path) -> None:
    bench = changing
    batched = {"max_batch_size": 8, "max_batch_time": 0.05}
    for version in (1, 2):  # the second is a reload, at which MLServer forgets batching
        bench.put(credit(version, settings=batched), rows(serving_models, version, batched))
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


def rows(serving_models: Path, version: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "rows",
        "uri": str(serving_models / "rows"),
        "version": str(version),
        "settings": settings,
    }


# Restarts and ends


def test_a_killed_server_serves_the_same_without_a_tracker(make_server: Make) -> None:
    bench = make_server().start()
    bench.write_live(credit(2))
    bench.put(credit(2))
    before = bench.infer("credit", body(*good(2))).json()["outputs"]
    bench.kill()
    bench.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    bench.start().wait_ready("credit")
    after = bench.infer("credit", body(*good(2))).json()
    assert after["outputs"] == before
    assert after["model_version"] == "2"


def test_a_copy_that_was_cut_short_is_fetched_again(make_server: Make) -> None:
    bench = make_server().start()
    bench.write_live(credit(2))
    bench.put(credit(2))
    bench.kill()
    copied = max((bench.root / "models" / "credit").glob("*/model*"), key=lambda p: p.stat().st_size)
    copied.write_bytes(copied.read_bytes()[:10])
    (bench.root / "models" / ".tmp-left").mkdir()
    bench.start().wait_ready("credit")
    assert bench.infer("credit", body(*good())).status_code == 200
    assert not (bench.root / "models" / ".tmp-left").exists()


def test_a_broken_list_does_not_keep_it_from_starting(make_server: Make) -> None:
    bench = make_server()
    bench.live.write_text('{"deployments": [')
    bench.start()
    assert bench.put(credit(1)) == {"credit": ""}


def test_what_comes_late_is_tried_again(make_server: Make, serving_models: Path, tmp_path: Path) -> None:
    """After a reboot everything starts at once, and a tracker may need longer than the server."""
    bench = make_server(MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_ports(1)[0]}")
    bench.write_live(credit(1), {"name": "late", "uri": str(tmp_path / "late")})
    bench.start()
    assert httpx.get(f"{bench.url}/v2/models/late").status_code == 404
    (tmp_path / "late").symlink_to(serving_models / "texts")
    bench.wait_ready("late")
    assert bench.shown() == {
        "credit": "ConnectionError: the experiment tracker does not answer",
        "late": "",
    }


def test_it_ends_with_the_requests_under_way_answered(make_server: Make, serving_models: Path) -> None:
    bench = make_server().start()
    bench.put({"name": "slow", "uri": str(serving_models / "slow")})
    asking, answers = bench.ask_slowly()
    bench.running.send_signal(signal.SIGTERM)
    until(lambda: refuses(bench.http_port), 60)
    (bench.root / "go").touch()
    asking.join(60)
    assert [a.status_code for a in answers] == [200]
    assert bench.running.wait(60) == 0


def refuses(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_a_prediction_that_hangs_does_not_keep_it(make_server: Make, serving_models: Path) -> None:
    bench = make_server().start()
    bench.put({"name": "slow", "uri": str(serving_models / "slow")})
    asking, answers = bench.ask_slowly()
    assert bench.stop() < 30
    asking.join(60)
    assert [a for a in answers if a.is_success] == []
