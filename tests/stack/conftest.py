"""Fixtures of the serving tests: the serving environment, models made in it, and processes that end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_bench import CODE, Bench, Make, maker, stop_all

from matcha import environments
from support import signatures

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def serving_python() -> Path:
    """The interpreter of the serving environment; MATCHA_TEST_PYTHON=3.12 tests another than the usual."""
    lock = CODE.parent / "requirements.lock"
    version = os.environ.get("MATCHA_TEST_PYTHON") or environments.python_for(">=3.10,<3.13")
    return environments.install(lock, version) / "bin" / "python"


@pytest.fixture(scope="session")
def serving_models(serving_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "kinds.json").write_text(signatures.as_json())
    made = subprocess.run(
        [str(serving_python), "-W", "ignore", str(HERE / "serving_models.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


@pytest.fixture
def make_server(serving_python: Path, serving_models: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes serving processes that end with the test."""
    make, made = maker(serving_python, serving_models, tmp_path)
    yield make
    stop_all(made)


@pytest.fixture(scope="module")
def _changing(
    serving_python: Path, serving_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    make, made = maker(serving_python, serving_models, tmp_path_factory.mktemp("changing"))
    yield make().start()
    stop_all(made)


@pytest.fixture
def changing(_changing: Bench) -> Iterator[Bench]:
    """One process for the tests that change the list; each finds it empty."""
    yield _changing
    assert _changing.put() == {}
