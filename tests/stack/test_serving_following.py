"""A replica comes to the list of its file by itself, and says when it takes requests."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_bench import Bench, Load, Make, body, credit, free_ports
from serving_malformed import good

from support.matcha import until

pytestmark = pytest.mark.stack


def is_ready(bench: Bench) -> bool:
    return httpx.get(f"{bench.url}/matcha/ready", timeout=5).is_success


def version(bench: Bench) -> str:
    answer = bench.infer("credit", body(*good()))
    return str(answer.json()["model_version"]) if answer.is_success else str(answer.status_code)


class Mounted:
    """A live file as a cluster mounts it: a link to a folder that is swapped whole."""

    def __init__(self, bench: Bench) -> None:
        self.folder = bench.root / "mounted"
        self.folder.mkdir()
        self.number = 0
        bench.live = self.folder / "deployments.json"

    def write(self, *entries: Any) -> None:
        self.number += 1
        made = self.folder / f"..{self.number}"
        made.mkdir()
        (made / "deployments.json").write_text(json.dumps({"deployments": entries}))
        swapped = self.folder / "..tmp"
        swapped.symlink_to(made.name)
        swapped.rename(self.folder / "..data")
        if not (self.folder / "deployments.json").is_symlink():
            (self.folder / "deployments.json").symlink_to("..data/deployments.json")


def test_a_replica_that_nobody_told_follows_its_file(make_server: Make, serving_models: Path) -> None:
    bench = make_server()
    mounted = Mounted(bench)
    mounted.write(credit(1))
    bench.start()
    until(lambda: is_ready(bench), 60)
    assert version(bench) == "1"
    mounted.write(credit(2), {"name": "texts", "uri": str(serving_models / "texts")})
    until(lambda: version(bench) == "2", 30)
    assert bench.shown() == {"credit": "", "texts": ""}
    mounted.write(credit(2))
    until(lambda: bench.shown() == {"credit": ""}, 30)
    (mounted.folder / "..data").unlink()
    time.sleep(3)
    assert version(bench) == "2", "a list that is not there is no empty one"


def test_what_was_told_stands_until_the_file_says_it(make_server: Make) -> None:
    """A deploy tells first and writes then; a file of the deploy before it may be on its way meanwhile."""
    bench = make_server()
    mounted = Mounted(bench)
    mounted.write(credit(1, deployed_at="1"))
    bench.start()
    until(lambda: is_ready(bench), 60)
    assert bench.put(credit(2, deployed_at="2")) == {"credit": ""}
    assert bench.put(credit(3, deployed_at="3")) == {"credit": ""}
    mounted.write(credit(2, deployed_at="2"))
    with Load(bench, "credit", body(*good()), clients=1) as load:
        time.sleep(10)  # more than it waits for somebody to tell what the file says
    assert {v for _, v in load.answers} == {"3"}
    mounted.write(credit(3, deployed_at="3"))
    time.sleep(8)
    assert version(bench) == "3"
    mounted.write(credit(1, deployed_at="4"))
    until(lambda: version(bench) == "1", 30)


def test_one_bad_model_keeps_no_replica_from_its_requests(make_server: Make, serving_models: Path) -> None:
    bench = make_server()
    bench.write_live({"name": "broken", "uri": str(serving_models / "broken")}, credit(1))
    bench.start()
    until(lambda: is_ready(bench), 60)
    assert version(bench) == "1"
    assert "the weights are gone" in bench.shown()["broken"]


def test_a_replica_without_its_models_is_not_ready(make_server: Make) -> None:
    """The tracker is away: another replica may have them."""
    bench = make_server(MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_ports(1)[0]}")
    bench.write_live(credit(1))
    bench.start()
    until(lambda: "does not answer" in bench.shown().get("credit", ""), 60)
    answer = httpx.get(f"{bench.url}/matcha/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert httpx.get(f"{bench.url}/v2/health/live").is_success, "nobody restarts it for that"
