"""ZenML as a component, as far as it needs no ZenML; `tests/stack` has the rest."""

from __future__ import annotations

import importlib
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from matcha.access import Output
from matcha.components.zenml import COMPONENT, wiring
from matcha.errors import MatchaError, NotProvisioned
from support.access import FolderAccess

ZENML = COMPONENT(COMPONENT.Options())
URLS = {"pipeline": "http://127.0.0.1:8237", "experiment-tracker": "http://127.0.0.1:5001"}


def registered(root: Path) -> FolderAccess:
    """A stack that was set up."""
    access = FolderAccess(root, URLS)
    for name in (wiring.PASSWORD, wiring.KEY, wiring.STACK_ID, wiring.PROJECT_ID):
        access.keep_secret(name, f"value of {name}")
    return access


def test_its_version_is_the_locked_one() -> None:
    (environment,) = ZENML.environments()
    assert re.search(
        rf"^zenml(\[.*\])?=={re.escape(ZENML.version)} ", environment.lock.read_text(), re.MULTILINE
    )
    assert environment.image.endswith(f":{ZENML.version}")


def test_secrets_reach_the_server_by_name_only() -> None:
    (service,) = ZENML.services(())
    assert service.secrets == {
        "ZENML_DEFAULT_USER_PASSWORD": "zenml-admin-password",
        "ZENML_SERVER_JWT_SECRET_KEY": "zenml-jwt-key",
        "ZENML_SECRETS_STORE_ENCRYPTION_KEY": "zenml-encryption-key",
    }
    assert not set(service.secrets) & set(service.env)
    assert service.irreplaceable == ("zenml-encryption-key",)


def test_the_encryption_key_is_used() -> None:
    """ZenML ignores it unless the type of its secrets store is given too."""
    assert ZENML.services(())[0].env["ZENML_SECRETS_STORE_TYPE"] == "sql"


def test_clients_get_the_registered_stack(tmp_path: Path) -> None:
    client = ZENML.client_env(registered(tmp_path))
    assert client["ZENML_STORE_URL"] == Output(URLS["pipeline"])
    assert client["ZENML_STORE_API_KEY"] == Output("value of zenml-api-key", sensitive=True)
    assert client["ZENML_ACTIVE_STACK_ID"].value == "value of zenml-stack-id"
    assert client["ZENML_ACTIVE_PROJECT_ID"].value == "value of zenml-project-id"
    assert client["ZENML_ANALYTICS_OPT_IN"].value == "false"
    assert Path(client["ZENML_CONFIG_PATH"].value).stat().st_mode & 0o777 == 0o700


def test_clients_get_nothing_before_the_stack_is_registered(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path, URLS)
    access.keep_secret(wiring.KEY, "k")
    with pytest.raises(NotProvisioned):
        ZENML.client_env(access)


def test_only_the_password_is_sensitive(tmp_path: Path) -> None:
    outputs = ZENML.outputs(registered(tmp_path))
    assert {name for name, output in outputs.items() if output.sensitive} == {"server-password"}
    assert set(outputs) == {"flavor", "server-url", "server-username", "server-password"}


@pytest.mark.parametrize(
    ("artifacts", "flavor"), [("/data/x", "local"), ("s3://bucket/x", "s3"), ("az://box/x", "azure")]
)
def test_the_artifact_store_follows_the_object_store(artifacts: str, flavor: str) -> None:
    store = next(p for p in wiring.parts(artifacts, URLS["experiment-tracker"]) if p.type == "artifact_store")
    assert (store.flavor, store.configuration) == (flavor, {"path": artifacts})


def test_setup_runs_again_when_its_parts_change() -> None:
    assert ZENML.setup_digest() == COMPONENT(COMPONENT.Options()).setup_digest() != ""


def test_setup_without_a_server_says_so(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path, {**URLS, "pipeline": "http://127.0.0.1:9"})
    access.keep_secret(wiring.PASSWORD, "secret-password")
    with pytest.raises(MatchaError, match="does not answer") as failed:
        ZENML.setup(access)
    assert "secret-password" not in f"{failed.value.message}{failed.value.details}"


def test_holdings(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    assert ZENML.holdings(access) == ()
    (tmp_path / "databases").mkdir()
    with closing(sqlite3.connect(tmp_path / "databases" / "zenml.db")) as connection:
        connection.executescript("CREATE TABLE pipeline_run (id); INSERT INTO pipeline_run VALUES (1), (2);")
    assert [(h.count, h.what) for h in ZENML.holdings(access)] == [(2, "pipeline runs")]


def test_holdings_of_a_server_that_does_not_answer_are_not_zero(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path, {"pipeline": "http://127.0.0.1:9"})
    access.keep_secret(wiring.KEY, "k")
    assert [(h.count, h.what) for h in ZENML.holdings(access)] == [(-1, "pipeline runs")]


# The launcher


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    for place in ZENML.services(())[0].code:
        monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "matcha_zenml", raising=False)
    return importlib.import_module("matcha_zenml")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////data/a b/zenml.db", "sqlite:////data/a b/zenml.db"),
        ("mysql+pymysql://u:p+q@host/zenml", "mysql://u:p+q@host/zenml"),
        ("mysql://u:p@host/zenml", "mysql://u:p@host/zenml"),
        (
            "mysql+pymysql://u:p%40@host/zenml?ssl_ca=%2Fca.pem&ssl_check_hostname=true",
            "mysql://u:p%40@host/zenml?ssl_ca=%2Fca.pem&ssl_verify_server_cert=true",
        ),
    ],
)
def test_zenml_picks_the_driver_itself(launcher: Any, url: str, expected: str) -> None:
    assert launcher.store_url(url) == expected


def test_the_dashboard_may_load_nothing_from_elsewhere(launcher: Any) -> None:
    assert "://" not in launcher.POLICY
    assert "*" not in launcher.POLICY
