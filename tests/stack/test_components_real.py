"""MLflow, ZenML and DVC for real: the locked servers, stock clients, kills and strangers."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from matcha.access import Output
from matcha.components.dvc import DVC
from matcha.components.mlflow import MLflow
from matcha.components.zenml import ZenML, wiring
from matcha.components.zenml.rest import Server
from matcha.errors import BadInput, NotFound
from support.access import FarAccess, FolderAccess
from support.clients import LOG_MODELS, PIPELINE, workspace
from support.cutting import Moment, cutting
from support.serving import Running, interpreter, running, status

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

MLFLOW = MLflow(MLflow.Options())
ZENML = ZenML(ZenML.Options())
DVC_ = DVC(DVC.Options())
ODD = "mövie %20 #?&x@y"


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> FolderAccess:
    return FolderAccess(tmp_path_factory.mktemp("a stack") / "with space")


@pytest.fixture(scope="module")
def mlflow(access: FolderAccess) -> Iterator[Running]:
    with running(MLFLOW, access) as service:
        yield service


@pytest.fixture(scope="module")
def zenml(access: FolderAccess) -> Iterator[Running]:
    with running(ZENML, access) as service:
        yield service


def run(code: str, folder: Path, variables: Mapping[str, Output]) -> str:
    """What the script printed, run as a user would in the workspace environment."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(code)
    home = folder.with_name("home")
    home.mkdir(exist_ok=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    env |= {name: output.value for name, output in variables.items()}
    done = subprocess.run(
        [workspace(), "script.py"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def strangers(pid: int) -> list[str]:
    """Addresses off this machine to which the processes of a group talk."""
    group = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    remote = [c.raddr.ip for process in group for c in process.net_connections() if c.raddr]
    return [ip for ip in remote if not ip.startswith("127.") and ip != "::1"]


# MLflow


@pytest.fixture(scope="module")
def logged(mlflow: Running, access: FolderAccess) -> tuple[str, str]:
    """Run and logged model that a stock client left."""
    said = run(LOG_MODELS, access.root / "project", MLFLOW.client_env(access))
    _, run_id, model_id = next(line for line in said.splitlines() if line.startswith("RUN")).split()
    return run_id, model_id


def test_mlflow_runs_directly_in_one_process(mlflow: Running) -> None:
    assert "starting its own command" not in mlflow.log
    assert not psutil.Process(mlflow.pid).children()


def test_mlflow_keeps_all_below_its_folders(mlflow: Running, logged: tuple[str, str]) -> None:
    assert list(mlflow.access.folder("mlflow-cwd").iterdir()) == []
    stored = Path(mlflow.access.store("artifacts"))
    assert any(path.name == "readme.txt" for path in stored.rglob("*"))


def test_a_registered_model_is_resolved(access: FolderAccess, logged: tuple[str, str]) -> None:
    found = MLFLOW.resolve(access, "models:/movie@champion")
    assert (found.uri, found.model, found.version) == ("models:/movie/1", "movie", "1")
    assert found.aliases == ("champion",)
    assert found.experiment_id == "0"
    assert [column["name"] for column in found.signature["inputs"]] == ["a", "b"]
    assert any(line.startswith("scikit-learn==") for line in found.requirements)
    assert found.python.startswith("3.")
    assert set(found.flavors) == {"python_function", "sklearn"}
    assert MLFLOW.resolve(access, "models:/movie/1") == found


def test_latest_is_the_highest_number(access: FolderAccess, logged: tuple[str, str]) -> None:
    assert MLFLOW.resolve(access, "models:/movie/latest").version == "2"


def test_a_name_that_no_uri_can_hold_is_resolved_to_its_logged_model(
    access: FolderAccess, logged: tuple[str, str]
) -> None:
    found = MLFLOW.resolve(access, f"models:/{ODD}/1")
    assert (found.model, found.uri) == (ODD, f"models:/{logged[1]}")


def test_runs_and_logged_models_are_resolved(access: FolderAccess, logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    by_run = MLFLOW.resolve(access, f"runs:/{run_id}/model")
    assert (by_run.uri, by_run.run_id) == (f"models:/{model_id}", run_id)
    assert MLFLOW.resolve(access, f"models:/{model_id}") == by_run
    stored = MLFLOW.resolve(access, f"mlflow-artifacts:/0/models/{model_id}/artifacts")
    assert stored.signature == by_run.signature


def test_a_saved_model_is_resolved(access: FolderAccess, logged: tuple[str, str]) -> None:
    folder = access.root / "project" / "saved model"
    found = MLFLOW.resolve(access, str(folder))
    assert (found.uri, found.run_id) == (str(folder.resolve()), "")
    assert found.signature["inputs"]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("models:/moovie/1", 'Did you mean "movie"?'),
        ("models:/movie/9", "Versions: 1, 2."),
        ("models:/movie@chamion", 'Did you mean "champion"?'),
        ("models:/empty/latest", ""),
        ("models:/m-" + "0" * 32, ""),
        ("runs:/0000/model", ""),
        ("runs:/{run}/modle", 'Did you mean "model"?'),
        ("mlflow-artifacts:/../../etc", ""),
        ("movie", "models:/movie"),
    ],
)
def test_what_mlflow_does_not_know(
    access: FolderAccess, logged: tuple[str, str], uri: str, says: str
) -> None:
    with pytest.raises(NotFound) as failed:
        MLFLOW.resolve(access, uri.replace("{run}", logged[0]))
    assert says in failed.value.details


def test_a_name_alone_is_answered_with_what_there_is(access: FolderAccess, logged: tuple[str, str]) -> None:
    with pytest.raises(BadInput) as failed:
        MLFLOW.resolve(access, "models:/movie")
    assert failed.value.details == "Versions: 1, 2; aliases: champion."


def test_registered_models_are_listed(access: FolderAccess, logged: tuple[str, str]) -> None:
    found = {model.name: model for model in MLFLOW.models(access)}
    assert found["movie"].versions == ("2", "1")
    assert found["movie"].aliases == {"champion": "1"}
    assert found["empty"].versions == ()
    assert ODD in found


def test_holdings_of_a_running_stack(access: FolderAccess, logged: tuple[str, str]) -> None:
    held = {holding.what: holding.count for holding in MLFLOW.holdings(access)}
    assert held["registered models"] == 3
    assert held["runs"] >= 2
    assert held["logged models"] == 2


def test_mlflow_answers_to_no_stranger(mlflow: Running) -> None:
    path = f"{mlflow.url}/api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{mlflow.url}/api/2.0/mlflow/experiments/create"
    assert status(path) == 200
    assert status(path, Host="evil.example") == 403
    assert status(path, Origin="http://evil.example") == 403
    assert status(path, Origin=mlflow.url) == 200
    assert status(create, "POST", Origin="http://localhost:1", Content_Type="application/json") == 403
    assert status(f"{mlflow.url}/ajax-api/3.0/mlflow/assistant/config") == 404
    assert status(mlflow.url + "/") == 200


def test_whether_mlflow_works_depends_on_its_database_and_whether_it_is_alive_does_not(
    tmp_path: Path,
) -> None:
    """Nor does either on an experiment: `mlflow gc` takes the first one, too."""
    own = FolderAccess(tmp_path)
    with running(MLFLOW, own) as service:
        health, database = service.service.health, own.database("mlflow")
        assert database
        for statement, works in (
            ("DELETE FROM experiments", True),
            ("ALTER TABLE experiments RENAME TO gone", False),
        ):
            with closing(sqlite3.connect(database, timeout=30)) as link, link:
                link.execute(statement)
            assert (status(service.url + health.path) == 200) is works
            assert status(service.url + health.alive) == 200


def test_mlflow_outlives_a_kill(mlflow: Running, access: FolderAccess, logged: tuple[str, str]) -> None:
    mlflow.kill()
    mlflow.start()
    assert MLFLOW.resolve(access, "models:/movie/1").model == "movie"


def test_another_layout_of_mlflow_starts_by_its_own_command(tmp_path: Path) -> None:
    """A copy of MLflow whose private variable has another name: links, but for the one file."""
    access = FolderAccess(tmp_path / "stack")
    python = interpreter(MLFLOW.environments()[0])
    shadow = other_mlflow(python, tmp_path / "shadow")
    service = Running(MLFLOW, access)
    path = ":".join([str(shadow), *map(str, service.service.code)])
    try:
        service.start(PYTHONPATH=path)
        assert "starting its own command" in service.log
        created = httpx.post(
            f"{service.url}/api/2.0/mlflow/experiments/create", json={"name": "x"}, trust_env=False
        )
        experiment = created.json()["experiment_id"]
        found = httpx.get(
            f"{service.url}/api/2.0/mlflow/experiments/get",
            params={"experiment_id": experiment},
            trust_env=False,
        )
        assert found.json()["experiment"]["artifact_location"] == f"mlflow-artifacts:/{experiment}"
        assert status(service.url + "/api/2.0/mlflow/experiments/search", Host="evil.example") == 403
    finally:
        service.stop()


def other_mlflow(python: Path, shadow: Path) -> Path:
    asked = [str(python), "-c", "import importlib.util as u; print(u.find_spec('mlflow').origin)"]
    package = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()).parent
    server = shadow / "mlflow" / "server"
    server.mkdir(parents=True)
    for source, place in ((package, server.parent), (package / "server", server)):
        for path in source.iterdir():
            if path.name not in ("server", "constants.py", "__pycache__"):
                (place / path.name).symlink_to(path)
    constants = (package / "server" / "constants.py").read_text()
    (server / "constants.py").write_text(constants.replace("_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_OTHER"))
    return shadow


# ZenML


@pytest.fixture(scope="module")
def wired(mlflow: Running, zenml: Running, access: FolderAccess) -> Mapping[str, Output]:
    """The variables of a client, after setup."""
    ZENML.setup(access)
    return ZENML.client_env(access)


def test_setup_again_changes_nothing(access: FolderAccess, wired: Mapping[str, Output]) -> None:
    before = access.secrets()
    ZENML.setup(access)
    assert access.secrets() == before
    assert census(access) == ONE_OF_EACH


ONE_OF_EACH = {
    "service_accounts": 1,
    "api_keys": 1,
    "orchestrator": 1,
    "artifact_store": 1,
    "experiment_tracker": 1,
    "model_registry": 1,
    "stacks": 1,
}


def census(access: FolderAccess) -> dict[str, int]:
    """How many of each thing of Matcha's ZenML has."""
    with admin(access) as server:
        accounts = server.get("/service_accounts")["items"]
        keys = [k for a in accounts for k in server.get(f"/service_accounts/{a['id']}/api_keys")["items"]]
        components = server.get("/components", name="startswith:matcha", size=100)["items"]
        kinds = [component["body"]["type"] for component in components]
        stacks = server.get("/stacks", name="matcha")["items"]
    counted = {"service_accounts": len(accounts), "api_keys": len(keys), "stacks": len(stacks)}
    return {**counted, **{kind: kinds.count(kind) for kind in kinds}}


def admin(access: FolderAccess) -> Server:
    server = Server(access.url("pipeline"))
    server.login(username=wiring.ADMINISTRATOR, password=access.secret(wiring.PASSWORD))
    return server


def test_a_pipeline_runs_on_the_stack_and_logs_to_mlflow(
    access: FolderAccess, wired: Mapping[str, Output]
) -> None:
    project = access.root / "pipeline project"
    said = run(PIPELINE, project, {**MLFLOW.client_env(access), **wired})
    assert "STATUS completed matcha" in said
    assert [path.name for path in project.iterdir()] == ["script.py"], "a client wrote into the project"
    written = [path for path in Path(wired["ZENML_CONFIG_PATH"].value).rglob("*") if path.is_file()]
    key = wired["ZENML_STORE_API_KEY"].value.encode()
    assert written
    assert not [path for path in written if key in path.read_bytes()], "a client wrote the key down"
    runs = httpx.post(
        f"{access.url('experiment-tracker')}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": ["0", "1", "2"], "filter": "metrics.from_zenml = 3"},
        trust_env=False,
    )
    assert len(runs.json()["runs"]) == 1
    assert any(Path(access.store("pipelines")).rglob("data.json"))
    assert [(h.count, h.what) for h in ZENML.holdings(access)] == [(1, "pipeline runs")]


def test_a_moved_tracker_is_registered_again(access: FolderAccess, wired: Mapping[str, Output]) -> None:
    true = access.urls["experiment-tracker"]
    try:
        access.urls["experiment-tracker"] = "http://127.0.0.1:1"
        ZENML.setup(access)
        assert tracker_uri(access) == "http://127.0.0.1:1"
    finally:
        access.urls["experiment-tracker"] = true
    ZENML.setup(access)
    assert tracker_uri(access) == true
    assert census(access) == ONE_OF_EACH


def tracker_uri(access: FolderAccess) -> str:
    with admin(access) as server:
        found = server.find("/components", name="matcha-experiment-tracker")
    assert found is not None
    return str(found["metadata"]["configuration"]["tracking_uri"])


def test_parts_that_a_user_added_stay(access: FolderAccess, wired: Mapping[str, Output]) -> None:
    with admin(access) as server:
        stack = wired["ZENML_ACTIVE_STACK_ID"].value
        builder = server.post(
            "/components",
            {"name": "own", "type": "image_builder", "flavor": "local", "configuration": {}},
        )
        have = server.get(f"/stacks/{stack}")["metadata"]["components"]
        ids = {kind: [part["id"] for part in held] for kind, held in have.items()}
        server.put(f"/stacks/{stack}", {"components": {**ids, "image_builder": [builder["id"]]}})
        ZENML.setup(access)
        assert "image_builder" in server.get(f"/stacks/{stack}")["metadata"]["components"]


def test_a_lost_key_is_replaced(access: FolderAccess, wired: Mapping[str, Output]) -> None:
    access.keep_secret(wiring.KEY, "ZENKEY_eyJub3QiOiAib25lIn0=")
    ZENML.setup(access)
    with Server(access.url("pipeline")) as server:
        server.login(password=access.secret(wiring.KEY))
        assert server.get("/current-user")["name"] == "matcha"
    assert census(access) == ONE_OF_EACH


SETUP = """
import json, sys
from pathlib import Path
from support.access import FolderAccess
from matcha.components.zenml import ZenML
ZenML(ZenML.Options()).setup(FolderAccess(Path(sys.argv[1]), json.loads(sys.argv[2])))
"""
REQUESTS = 13  # of a whole setup


@pytest.fixture(scope="module")
def unwired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderAccess]:
    """A stack whose ZenML nobody uses."""
    access = FolderAccess(tmp_path_factory.mktemp("unwired"), {"experiment-tracker": "http://127.0.0.1:1"})
    with running(ZENML, access):
        yield access


@pytest.fixture
def forgotten(unwired: FolderAccess, tmp_path: Path) -> FolderAccess:
    """The same stack as if setup had never run."""
    with admin(unwired) as server:
        for path, query in (
            ("/stacks", {"name": "matcha"}),
            ("/components", {"name": "startswith:matcha", "size": "100"}),
            ("/service_accounts", {}),
        ):
            for item in server.get(path, **query)["items"]:
                server._send("DELETE", f"{path}/{item['id']}").raise_for_status()
    own = FolderAccess(tmp_path / "own", unwired.urls)
    own.keep_secret(wiring.PASSWORD, unwired.secret(wiring.PASSWORD))
    return own


def setup_process(access: FolderAccess, url: str) -> subprocess.Popen[bytes]:
    """`setup` as a process of its own, whose ZenML is at `url`."""
    urls = json.dumps({**access.urls, "pipeline": url})
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen([sys.executable, "-c", SETUP, str(access.root), urls], env=env)


@pytest.mark.sweep(sample=("1-before", "4-after", "7-before", "7-after", "10-before", "13-after"))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", range(1, REQUESTS + 1))
def test_a_setup_killed_at_any_request_is_finished_by_the_next(
    forgotten: FolderAccess, at: int, moment: Moment
) -> None:
    with cutting(forgotten.url("pipeline"), at, moment) as cutter:
        process = setup_process(forgotten, cutter.url)
        cutter.pid = process.pid
        assert process.wait(60) == -9, f"setup made only {cutter.seen} requests"
    ZENML.setup(forgotten)
    assert census(forgotten) == ONE_OF_EACH
    with Server(forgotten.url("pipeline")) as server:
        server.login(password=forgotten.secret(wiring.KEY))
        assert server.get(f"/stacks/{forgotten.secret(wiring.STACK_ID)}")["name"] == "matcha"


def test_a_whole_setup_makes_as_many_requests_as_are_killed(forgotten: FolderAccess) -> None:
    with cutting(forgotten.url("pipeline"), 0, "before") as cutter:
        assert setup_process(forgotten, cutter.url).wait(60) == 0
        assert cutter.seen == REQUESTS


def test_a_machine_with_another_port_has_a_stack_for_it(
    access: FolderAccess, wired: Mapping[str, Output]
) -> None:
    """Of a shared stack: what ZenML keeps is no machine's own, and pipelines find their MLflow."""
    usual, tracker = "http://127.0.0.1:1", access.url("experiment-tracker")
    far = FarAccess(access.root, access.urls, {"experiment-tracker": usual})
    try:
        ZENML.setup(far)
        assert tracker_uri(access) == usual
        given = ZENML.client_env(far)
        assert given["ZENML_ACTIVE_STACK_ID"] != wired["ZENML_ACTIVE_STACK_ID"]
        said = run(PIPELINE, access.root / "far project", {**MLFLOW.client_env(far), **given})
        assert f"STATUS completed matcha-{tracker.rpartition(':')[2]}" in said
        ZENML.setup(far)
        assert tracker_uri(access) == usual
        assert ZENML.client_env(far) == given
    finally:
        ZENML.setup(access)
    assert ZENML.client_env(access)["ZENML_ACTIVE_STACK_ID"] == wired["ZENML_ACTIVE_STACK_ID"]


def test_zenml_answers_to_no_stranger(zenml: Running, wired: Mapping[str, Output]) -> None:
    assert status(zenml.url + "/api/v1/info") == 200
    assert status(zenml.url + "/api/v1/info", Host="evil.example") == 403
    assert status(zenml.url + "/api/v1/info", Origin="http://evil.example") == 403
    assert status(zenml.url + "/api/v1/login", "POST", Origin="http://localhost:1") == 403
    assert status(zenml.url + "/api/v1/current-user") == 401
    with urllib.request.urlopen(zenml.url, timeout=10) as page:
        assert "://" not in page.headers["content-security-policy"]
        assert page.headers["access-control-allow-origin"] is None


def test_key_and_sessions_outlive_a_restart(
    zenml: Running, access: FolderAccess, wired: Mapping[str, Output]
) -> None:
    key = access.secret(wiring.KEY)
    with Server(zenml.url) as server:
        server.login(password=key)
        token = server._client.headers["Authorization"]
    zenml.kill()
    zenml.start()
    with Server(zenml.url) as server:
        server._client.headers["Authorization"] = token
        assert server.get("/current-user")["name"] == "matcha"
        server.login(password=key)
    ZENML.setup(access)
    assert access.secret(wiring.KEY) == key


def test_new_secrets_of_an_old_stack_become_the_password(zenml: Running, access: FolderAccess) -> None:
    old = access.secret(wiring.PASSWORD)
    zenml.stop()
    access.keep_secret(wiring.PASSWORD, "quite-another-password")
    zenml.start()
    try:
        with admin(access) as server:
            assert server.get("/current-user")["name"] == wiring.ADMINISTRATOR
        assert guessed(zenml, old) == 401
    finally:
        zenml.stop()
        access.keep_secret(wiring.PASSWORD, old)
        zenml.start()


def guessed(zenml: Running, password: str) -> int:
    answer = httpx.post(
        f"{zenml.url}/api/v1/login", data={"username": "admin", "password": password}, trust_env=False
    )
    return answer.status_code


def test_guessing_a_password_is_slowed_down(zenml: Running) -> None:
    answers = [guessed(zenml, f"guess {n}") for n in range(40)]
    assert set(answers) == {401, 429}
    assert answers[-1] == 429


def test_secrets_are_in_no_log_and_no_command(
    mlflow: Running, zenml: Running, access: FolderAccess, wired: Mapping[str, Output]
) -> None:
    hidden = [value for name, value in access.secrets().items() if not name.endswith("-id")]
    for service in (mlflow, zenml):
        shown = service.log + " ".join(psutil.Process(service.pid).cmdline())
        assert not [value for value in hidden if value in shown]


def test_nobody_talks_to_the_outside(mlflow: Running, zenml: Running) -> None:
    assert strangers(mlflow.pid) == strangers(zenml.pid) == []
    listening = [
        connection.laddr.ip
        for service in (mlflow, zenml)
        for connection in psutil.Process(service.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}


# DVC


def test_a_stock_dvc_pushes_to_the_remote(access: FolderAccess, tmp_path: Path) -> None:
    dvc = interpreter(DVC_.environments()[0]).with_name("dvc")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": "/dev/null"}
    env |= {name: output.value for name, output in DVC_.client_env(access).items()}

    def do(*command: Any) -> None:
        subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=120)

    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    do("git", "init", "-q")
    do(dvc, "init", "-q")
    do(dvc, "remote", "add", "--local", "matcha", DVC_.outputs(access)["remote-url"].value)
    do(dvc, "add", "-q", "data.csv")
    do(dvc, "push", "-q", "-r", "matcha")
    assert [(h.count, h.what) for h in DVC_.holdings(access)] == [(1, "dataset objects")]
    (tmp_path / "data.csv").unlink()
    subprocess.run(["rm", "-rf", tmp_path / ".dvc" / "cache"], check=True)
    do(dvc, "pull", "-q", "-r", "matcha")
    assert (tmp_path / "data.csv").read_text() == "a,b\n1,2\n"
