"""What a first provision on the local target tells before it downloads anything; the index never answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from matcha import environments
from matcha.components.mlflow import MLflow

TO_INSTALL = r"1 environment to install, about (\d+) MB to download\.\n"
NO_INDEX = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}


@pytest.fixture
def new(matcha):
    """MLflow alone, on the local target, for a user whose caches are empty."""
    matcha.write(kept=("experiment-tracker",))
    matcha.file.write_text(matcha.file.read_text().replace("target: fake", "target: local"))
    yield matcha
    done = matcha("destroy", "--yes", "--delete-data")
    assert done.code == 0, done.err
    assert [path.name for path in matcha.folder.iterdir()] == ["matcha.yaml"]


@pytest.fixture
def megabytes(new, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the lock says of the files for this machine, to a user who has none of them."""
    monkeypatch.setenv("HOME", str(new.home))
    for name in ("XDG_CACHE_HOME", "MATCHA_CACHE_DIR"):  # the command is not told of them either
        monkeypatch.delenv(name, raising=False)
    [environment] = MLflow(MLflow.Options()).environments()
    size = environments.download_size([(Path(environment.lock), environments.python_for(environment.python))])
    assert size
    return round(size / 1e6)


def test_the_download_is_told_before_anything_is_asked_or_done(new, megabytes: int) -> None:
    for command in (("plan",), ("provision",)):
        done = new(*command, **NO_INDEX)
        told = re.search(TO_INSTALL, done.out + done.err)
        assert told, done
        assert int(told[1]) == megabytes > 50
    assert done.err.index("to download") < done.err.index("This has to be confirmed")
    assert not (new.folder / ".matcha").exists()


def test_the_download_is_told_before_it_begins(new) -> None:
    done = new("provision", "--yes", **NO_INDEX)
    assert done.code == 1
    assert "The package index cannot be reached." in done.err
    told = re.search(TO_INSTALL, done.err)
    assert told, done.err
    assert told.end() < done.err.index("MLflow: installing")
