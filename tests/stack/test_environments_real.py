"""The committed locks, seeds and lists, with the real packages."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from matcha import environments, pythons
from support.required import lacking

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
COMPONENTS = ROOT / "src" / "matcha" / "components"
IMPORTS = {
    "mlflow": "mlflow.server.fastapi_app, pandas, pyarrow.parquet",
    "zenml": "zenml.zen_server.zen_server_api",
    "mlserver": "mlserver.cli, mlserver_mlflow, mlflow.pyfunc, sklearn, pandas",
    "monitoring": "fastapi, uvicorn, httpx, orjson, prometheus_client, evidently, fairlearn.metrics",
    "dvc": "dvc.repo, dvc.cli",
    "workspace": "mlflow, zenml.client, dvc.repo, sklearn, pandas, httpx, msgspec, typer",
}
# What each server would do at its start to a database that is not of its own version.
MIGRATION = ("Creating initial MLflow database", "Updating database tables", "Creating database tables")


def lock_of(component: str) -> Path:
    return COMPONENTS / component / "requirements.lock"


def python(component: str, code: str, folder: Path, version: str = "", **variables: str) -> str:
    """What the code printed and logged, run in the component's environment."""
    lock = lock_of(component)
    env = environments.install(lock, version or environments.python_for(">=3.10,<3.13"))
    quiet = {"ZENML_ANALYTICS_OPT_IN": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [env / "bin" / "python", "-c", code],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder), **quiet, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_lock_is_tried_here() -> None:
    assert set(IMPORTS) == {path.parent.name for path in COMPONENTS.glob("*/requirements.lock")}


@pytest.mark.parametrize("component", IMPORTS)
def test_a_lock_installs_and_its_packages_import(component: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    variables = {"_MLFLOW_SERVER_FILE_STORE": store, "ZENML_CONFIG_PATH": str(tmp_path / "zenml")}
    assert python(
        component, f"import {IMPORTS[component]}; print('imported')", tmp_path, **variables
    ).endswith("imported\n")


def test_a_lock_installs_on_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = environments.python_for(f">=3.10,<3.13,!={running}")
    if pythons.interpreter(other) == other:
        lacking(f"there is no other Python than {running} on this machine")
    monkeypatch.setenv("MATCHA_CACHE_DIR", str(tmp_path / "cache"))
    code = f"import sys, {IMPORTS['mlserver']}; print(sys.version)"
    assert f"\n{other}." in "\n" + python("mlserver", code, tmp_path, other)


@pytest.mark.parametrize("component", ["mlflow", "mlserver", "monitoring", "zenml"])
def test_listed_modules_are_those_of_the_lock(component: str, tmp_path: Path) -> None:
    names = environments.warm_modules(COMPONENTS / component / "warm.txt")
    code = (
        "import sys, sysconfig; from pathlib import Path\n"
        "site = Path(sysconfig.get_paths()['purelib'])\n"
        "for name in sys.stdin.read().split():\n"
        "    path = site.joinpath(*name.split('.'))\n"
        "    print(path.with_suffix('.py').exists() or (path / '__init__.py').exists())\n"
    ).replace("sys.stdin.read().split()", repr(names))
    found = python(component, code, tmp_path).split()
    assert len(found) > 200
    assert found.count("True") > 0.95 * len(found)


# Seeds


def loaded(component: str, path: Path) -> Path:
    """A database made from the seed, as the local target makes it."""
    script = (COMPONENTS / component / "seed.sql").read_text().replace("{fresh-uuid}", uuid.uuid4().hex)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def schema(path: Path) -> set[tuple[str, str]]:
    connection = sqlite3.connect(path)
    found = set(connection.execute("SELECT type, name FROM sqlite_master"))
    connection.close()
    return found


OPEN = {
    "mlflow": (
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
        "store = SqlAlchemyStore('sqlite:///{database}', 'mlflow-artifacts:/')\n"
        "print('FOUND', store.get_experiment('0').name)"
    ),
    "zenml": (
        "from zenml.zen_server.utils import initialize_zen_store, zen_store\n"
        "initialize_zen_store()\n"
        "print('FOUND', zen_store().get_project('default').name, zen_store().get_store_info().id)"
    ),
}


@pytest.mark.parametrize("component", OPEN)
def test_a_server_finds_its_seed_migrated(component: str, tmp_path: Path) -> None:
    def opened(database: Path) -> str:
        return python(
            component,
            OPEN[component].replace("{database}", str(database)),
            tmp_path,
            ZENML_SERVER="true",
            ZENML_STORE_URL=f"sqlite:///{database}",
            ZENML_CONFIG_PATH=str(tmp_path / database.stem),
        )

    fresh = opened(tmp_path / "fresh.db")
    assert any(line in fresh for line in MIGRATION), "the fresh database shows what a migration looks like"

    seeded = loaded(component, tmp_path / "seeded.db")
    before = schema(seeded)
    output = opened(seeded)

    assert "FOUND" in output
    assert not [line for line in MIGRATION if line in output]
    assert before == schema(seeded) == schema(tmp_path / "fresh.db")


def test_every_zenml_server_has_an_id_of_its_own(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        connection = sqlite3.connect(loaded("zenml", tmp_path / f"{name}.db"))
        ids |= set(connection.execute("SELECT id FROM server_settings"))
        connection.close()
    assert len(ids) == 2


def test_the_seeds_are_what_the_locked_packages_make() -> None:
    if pythons.interpreter("3.11") == "3.11":
        lacking("the seeds are made with Python 3.11, which is not on this machine")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "seed", "--compare"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
