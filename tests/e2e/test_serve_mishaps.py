"""Deploys that fail, and models that are lost: what is said, and what goes on answering."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.credit import BACK, FIRST, ROWS, SECOND, answer, answers, at_version_one, body, deployed
from support.matcha import Matcha, until


@pytest.fixture(autouse=True)
def _at_version_one(stack: Matcha, credit: str) -> None:
    at_version_one(stack)


@contextmanager
def broken(stack: Matcha, saved: str) -> Iterator[str]:
    """A folder with a model whose packages are all right, and which does not load."""
    folder = stack.project / "broken model"
    shutil.copytree(stack.project / saved, folder)
    for file in (*folder.glob("model.*"), *folder.glob("python_model.*")):
        file.write_bytes(b"no model at all")
    try:
        yield folder.name
    finally:
        shutil.rmtree(folder)


def restart(stack: Matcha) -> None:
    """End MLServer as a crash would, and await the next one with its models."""
    killed = stack.services()["mlserver"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: stack.services().get("mlserver", killed) != killed, BACK)
    url = stack.url("model-deployer", "base-url")
    until(lambda: is_live(url), BACK)


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/live", timeout=5).is_success
    except httpx.HTTPError:
        return False


def is_as_recorded(stack: Matcha) -> bool:
    return bool(stack.json("status", code=None)["healthy"]) and stack.json("plan")["steps"] == []


def live(stack: Matcha, service: str) -> str:
    """The list of deployments that the service reads when it starts."""
    return (stack.stack / "live" / service / "deployments.json").read_text()


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is one message and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert [line.startswith("Error: ") for line in done.stderr.splitlines()].count(True) == 1, done.stderr
    assert "Next:" in done.stderr
    return done.stderr


# Deploys that fail


@pytest.mark.parametrize("saved", ["saved credit 0", "saved older"], ids=["shared environment", "its own"])
def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving(
    stack: Matcha, credit: str, older: None, saved: str
) -> None:
    before = stack.services()
    with broken(stack, saved) as folder:
        error = said(stack("deploy", folder, "--name", "credit", code=1))
    assert "models:/credit/1 goes on answering" in error
    assert answer(credit) == FIRST
    assert is_as_recorded(stack)
    assert stack.services() == before, "no process of a model that is not served"
    assert not any(folder in live(stack, name) for name in ("mlserver", "monitoring"))

    restart(stack)
    until(lambda: answers(credit, FIRST), BACK)
    until(lambda: is_as_recorded(stack), BACK)
    assert deployed(stack)["credit"] == "1"


def test_a_new_name_that_cannot_be_loaded_leaves_nothing(stack: Matcha, credit: str, older: None) -> None:
    stack("deploy", "models:/older/1")
    before = stack.services()
    with broken(stack, "saved older") as folder:
        said(stack("deploy", folder, "--name", "brand-new", code=1))
    assert httpx.post(stack.predict_url("brand-new"), json=body(ROWS), timeout=30).status_code == 404
    assert "brand-new" not in deployed(stack)
    assert stack.json("predict", "older", "--json", '[{"x": 1.0}]')["predictions"] == ["1.7.2"]
    assert stack.services() == before, "the process that both would share stays"
    assert is_as_recorded(stack)
    stack("undeploy", "older")


@pytest.fixture(scope="module")
def fatal(stack: Matcha) -> None:
    """Models that end the process that loads them, in folders."""
    stack("run", "--", "python", "fatal.py")


@pytest.mark.parametrize("saved", ["saved fatal", "saved fatal own", "saved fatal older"])
def test_a_model_that_ends_the_server_takes_no_other_down(
    stack: Matcha, credit: str, older: None, fatal: None, saved: str
) -> None:
    stack("deploy", "models:/older/1")
    names = set(stack.services())
    error = said(stack("deploy", saved, "--name", "fatal", code=1))
    assert "fatal could not be loaded" in error
    assert "ended while it loaded" in error
    assert "fatal" not in deployed(stack)
    assert not [f for f in stack.stack.glob("live/*/deployments.json") if "fatal" in f.read_text()]
    until(lambda: answers(credit, FIRST), BACK)
    until(lambda: stack("predict", "older", "--json", '[{"x": 1.0}]', code=None).returncode == 0, BACK)
    until(lambda: is_as_recorded(stack), BACK)
    assert set(stack.services()) == names
    stack("undeploy", "older")


# Deployed models that are lost


@pytest.fixture
def lost(stack: Matcha) -> Iterator[Path]:
    """A model that was deployed from a folder as `lost`; its copy is gone, its folder now elsewhere."""
    folder = stack.project / "lost model"
    elsewhere = stack.project / "elsewhere"
    shutil.copytree(stack.project / "saved credit 1000", folder)
    stack("deploy", folder.name, "--name", "lost")
    folder.rename(elsewhere)
    shutil.rmtree(stack.stack / "volumes" / "mlserver" / "models" / "lost")
    restart(stack)
    try:
        yield elsewhere
    finally:
        stack("undeploy", "lost", code=None)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_a_lost_model_is_shown_and_holds_up_nothing(stack: Matcha, credit: str, lost: Path) -> None:
    until(lambda: answers(credit, FIRST), BACK)
    until(lambda: troubles(stack).get("lost", "").startswith("FileNotFoundError"), BACK)
    shown = stack("status", code=1).stdout
    assert "lost: FileNotFoundError" in shown
    assert "Next: matcha provision" in shown
    assert any("lost" in f["message"] and not f["ok"] for f in stack.json("doctor", code=None))
    [step] = stack.json("plan")["steps"]
    assert (step["key"], step["action"]) == ("deployments", "repair")
    assert "lost: FileNotFoundError" in step["reason"]

    done = stack("deploy", "models:/credit/2", "--name", "other")
    assert answer(stack.predict_url("other")) == SECOND
    assert "lost" in done.stdout, "what else does not answer is told"
    stack("undeploy", "other")

    os.kill(stack.services()["monitoring"], signal.SIGKILL)
    (stack.stack / "live" / "monitoring" / "deployments.json").write_text("[]")
    assert "lost could not be loaded" in said(stack("provision", "--yes", code=1))
    assert [name for name, why in troubles(stack).items() if why] == ["lost"]
    assert all(c["healthy"] for c in stack.json("status", code=1)["components"]), "the rest is repaired"
    assert "models:/credit/1" in live(stack, "monitoring")

    lost.rename(stack.project / "lost model")
    stack("provision", "--yes")
    assert answer(stack.predict_url("lost")) == SECOND
    assert is_as_recorded(stack)


def troubles(stack: Matcha) -> dict[str, Any]:
    """What `status` says of each model: empty where it answers."""
    return {m["name"]: m["detail"] for m in stack.json("status", code=None)["models"]}
