"""MLflow as a component: addresses of models, descriptions of models, REST, the launcher's choice."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from matcha import inside
from matcha.access import Output
from matcha.component import ModelRegistry
from matcha.components.mlflow import COMPONENT, component, folder, models, uris
from matcha.components.mlflow.rest import Tracker, Unknown
from matcha.errors import BadInput, MatchaError, NotFound, NotProvisioned
from support.access import FolderAccess

MLFLOW = COMPONENT(COMPONENT.Options())
ID = "m-" + "0123456789abcdef" * 2
ML_MODEL = """
flavors:
  python_function: {loader_module: mlflow.sklearn}
  sklearn: {sklearn_version: 1.9.1}
run_id: r1
model_id: m-1
signature:
  inputs: '[{"type": "double", "name": "größe", "required": true}]'
  outputs: '[{"type": "long", "required": true}]'
  params: null
"""


# Addresses


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("models:/movie/3", uris.Registered("movie", "3")),
        ("models:/movie/003", uris.Registered("movie", "3")),
        ("MODELS:/movie/3", uris.Registered("movie", "3")),
        ("models:/movie/Latest", uris.Registered("movie", "latest")),
        ("models:/movie@champion", uris.Registered("movie", alias="champion")),
        ("models:/a@b@c", uris.Registered("a@b", alias="c")),
        ("models:/a@b/2", uris.Registered("a@b", "2")),
        ("models:/movie", uris.Registered("movie")),
        ("models:/mövie %20 #?&x/1", uris.Registered("mövie %20 #?&x", "1")),
        (f"models:/{ID}", uris.Logged(ID)),
        ("models:/m-short", uris.Registered("m-short")),
        ("runs:/abc/model", uris.OfRun("abc", "model")),
        ("runs:/abc/deep/er/", uris.OfRun("abc", "deep/er")),
        ("mlflow-artifacts:/1/x", uris.Stored("mlflow-artifacts:/1/x")),
        ("./saved model", uris.Folder(Path("saved model"))),
        ("/tmp/x", uris.Folder(Path("/tmp/x"))),
        ("file:///tmp/a%20b", uris.Folder(Path("/tmp/a b"))),
        ("movie", uris.Folder(Path("movie"))),
    ],
)
def test_what_an_address_says(uri: str, expected: uris.ModelURI) -> None:
    assert uris.parse(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "   ",
        "models:",
        "models:/",
        "models:movie/1",
        "models:/ /1",
        "models:/movie/",
        "models://1",
        "models:/movie@",
        "models:/@champion",
        "models:/a/b/3",
        "models:/movie/Production",
        "models:/movie/-1",
        "models:/movie/٣",
        "runs:/",
        "runs:/abc",
        "runs:/abc/",
        "runs:/abc/../../etc",
        "runs:abc/model",
        "s3://bucket/model",
        "a\0b",
    ],
)
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(BadInput) as failed:
        uris.parse(uri)
    assert "Known forms: models:/NAME/VERSION" in failed.value.details
    assert failed.value.resolution


def test_a_stage_is_answered_with_how_aliases_are_written() -> None:
    with pytest.raises(BadInput, match="is not the address") as failed:
        uris.parse("models:/movie/Production")
    assert "movie@Production" in failed.value.details


# Descriptions of models


def files(**named: str) -> Callable[[str], bytes | None]:
    written = {name.replace("__", "."): text.encode() for name, text in named.items()}
    return written.get


def test_a_model_is_described() -> None:
    found = folder.read(
        "here",
        files(
            MLmodel=ML_MODEL,
            requirements__txt="# made by MLflow\nmlflow==3.17.2\n\nnumpy==2.4.6  # exact\n",
            python_env__yaml="python: 3.11.7\n",
        ),
    )
    assert found == folder.Model(
        run_id="r1",
        model_id="m-1",
        requirements=("mlflow==3.17.2", "numpy==2.4.6"),
        python="3.11.7",
        signature={
            "inputs": [{"type": "double", "name": "größe", "required": True}],
            "outputs": [{"type": "long", "required": True}],
        },
        flavors=("python_function", "sklearn"),
    )


@pytest.mark.parametrize(
    ("written", "example"),
    [('{"inputs": [1]}', {"inputs": [1]}), ("{", None), ("", None)],
)
def test_the_example_of_a_model_is_read_where_it_can_be(written: str, example: Any) -> None:
    described = "saved_input_example_info: {serving_input_path: serving_input_example.json}"
    found = folder.read("here", files(MLmodel=described, serving_input_example__json=written))
    assert found is not None
    assert found.example == example


def test_an_old_model_has_only_a_conda_environment() -> None:
    conda = "dependencies: [python=3.10.4, pip<23, {pip: ['scikit-learn==1.2', mlflow]}]"
    found = folder.read("here", files(MLmodel="flavors: {}", conda__yaml=conda))
    assert found is not None
    assert (found.python, found.requirements) == ("3.10.4", ("scikit-learn==1.2", "mlflow"))


@pytest.mark.parametrize("conda", ["[]", "dependencies: 3", "dependencies: [{pip: 3}, 4]", "null"])
def test_a_strange_conda_environment_says_nothing(conda: str) -> None:
    found = folder.read("here", files(MLmodel="{}", conda__yaml=conda))
    assert found == folder.Model()


def test_a_folder_without_a_description_is_no_model() -> None:
    assert folder.read("here", files(requirements__txt="numpy")) is None


@pytest.mark.parametrize(
    "text", ["signature: {inputs: '[{'}", "a: [", "!!python/object/apply:os.system [id]", "\x00"]
)
def test_a_broken_description_is_named(text: str) -> None:
    with pytest.raises(MatchaError, match="here/MLmodel cannot be read"):
        folder.read("here", files(MLmodel=text))


# A server that answers what a test says


class Scripted:
    """Answers each path with what `say` was told, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.asked: list[str] = []
        answers, asked = self.answers, self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                known = answers.get(self.path.partition("?")[0], [(404, b"{}")])
                code, body = known.pop(0) if len(known) > 1 else known[0]
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def say(self, path: str, *bodies: Any, code: int = 200) -> None:
        raw = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
        self.answers[path] = [(code, body) for body in raw]

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.end()


@pytest.fixture
def tracker(server: Scripted) -> Iterator[Tracker]:
    with Tracker(server.url) as made:
        yield made


def test_pages_are_read_to_the_end(server: Scripted, tracker: Tracker) -> None:
    server.say("/api/2.0/mlflow/x", {"xs": [{"n": 1}], "next_page_token": "a+b"}, {"xs": [{"n": 2}]})
    assert [x["n"] for x in tracker.pages("/x", "xs")] == [1, 2]
    assert server.asked[1].endswith("page_token=a%2Bb")


def test_names_are_quoted(server: Scripted, tracker: Tracker) -> None:
    with pytest.raises(Unknown):
        tracker.get("/registered-models/get", name="a/b?c=%20&ü #")
    assert server.asked == ["/api/2.0/mlflow/registered-models/get?name=a%2Fb%3Fc%3D%2520%26%C3%BC+%23"]


def test_what_mlflow_says_is_passed_on(server: Scripted, tracker: Tracker) -> None:
    server.say("/api/2.0/mlflow/x", {"error_code": "INVALID", "message": "no such thing"}, code=400)
    with pytest.raises(MatchaError) as failed:
        tracker.get("/x")
    assert "400" in failed.value.message
    assert failed.value.details == "no such thing"


def test_an_answer_that_is_no_json_is_passed_on_short(server: Scripted, tracker: Tracker) -> None:
    server.say("/api/2.0/mlflow/x", b"<html>" + b"x" * 10_000, code=502)
    with pytest.raises(MatchaError) as failed:
        tracker.get("/x")
    assert len(failed.value.details) <= 500


def test_a_dead_server_is_said(server: Scripted) -> None:
    server.end()
    with Tracker(server.url, timeout=2) as tracker, pytest.raises(MatchaError) as failed:
        tracker.get("/x")
    assert failed.value.resolution == "matcha status"


def test_a_proxy_of_this_machine_is_not_asked(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.say("/api/2.0/mlflow/x", {"a": 1})
    with Tracker(server.url) as tracker:
        assert tracker.get("/x") == {"a": 1}


def test_an_artifact_that_is_missing_or_too_large_is_none(server: Scripted, tracker: Tracker) -> None:
    root = "/api/2.0/mlflow-artifacts/artifacts"
    server.say(f"{root}/1/large", b"x" * (5 * 2**20))
    server.say(f"{root}/1/there%20%25", b"text")
    assert tracker.artifact("1/large") is None
    assert tracker.artifact("1/missing") is None
    assert tracker.artifact("/1/there %") == b"text"


# Resolving, as far as it needs no MLflow


def test_a_folder_is_resolved_where_the_stack_runs(tmp_path: Path, tracker: Tracker) -> None:
    (tmp_path / "MLmodel").write_text(ML_MODEL)
    found = models.Resolver(tracker, local=True).resolve(str(tmp_path / ".." / tmp_path.name))
    assert (found.uri, found.run_id, found.model) == (str(tmp_path.resolve()), "r1", "")


def test_a_folder_is_refused_where_the_stack_runs_elsewhere(tmp_path: Path, tracker: Tracker) -> None:
    with pytest.raises(BadInput, match="cannot read it"):
        models.Resolver(tracker, local=False).resolve(str(tmp_path))


def test_a_name_without_its_scheme_is_recognised(server: Scripted, tracker: Tracker) -> None:
    server.say("/api/2.0/mlflow/registered-models/search", {"registered_models": [{"name": "movie"}]})
    with pytest.raises(NotFound) as failed:
        models.Resolver(tracker, local=True).resolve("movie")
    assert "models:/movie" in failed.value.details


def test_files_outside_the_stack_are_refused(server: Scripted, tracker: Tracker) -> None:
    info = {"info": {"artifact_uri": "s3://elsewhere/x", "source_run_id": "r"}}
    server.say(f"/api/2.0/mlflow/logged-models/{ID}", {"model": info})
    with pytest.raises(MatchaError, match="lie outside the stack"):
        models.Resolver(tracker, local=True).resolve(f"models:/{ID}")


def test_a_local_stack_is_told_by_its_store(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    assert models.is_local(access)


# The component


def test_it_keeps_the_registry_contract() -> None:
    assert isinstance(MLFLOW, ModelRegistry)


def test_its_version_is_the_locked_one() -> None:
    environment, code = MLFLOW.toolbox()
    assert re.search(rf"^mlflow=={re.escape(MLFLOW.version)} ", environment.lock.read_text(), re.MULTILINE)
    assert environment.image.endswith(f":v{MLFLOW.version}-full")
    assert (code / "matcha_mlflow.py").exists()


def test_a_tracker_that_hangs_is_given_up_soon_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        with pytest.raises(MatchaError) as late:
            MLFLOW.models(FolderAccess(tmp_path, {"experiment-tracker": url}))
    assert late.value.message == f"MLflow does not answer at {url}."
    assert late.value.details.startswith("Waited 0.3 s for /api/2.0/mlflow/model-versions/search")
    assert late.value.resolution == "matcha status"


def test_outputs_and_client_variables(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path, {"experiment-tracker": "http://127.0.0.1:5001"})
    assert MLFLOW.outputs(access)["tracking-url"] == Output("http://127.0.0.1:5001")
    client = MLFLOW.client_env(access)
    assert client["MLFLOW_TRACKING_URI"].value == "http://127.0.0.1:5001"
    assert client["MLFLOW_DISABLE_TELEMETRY"].value == client["DO_NOT_TRACK"].value == "true"
    with pytest.raises(NotProvisioned):
        MLFLOW.outputs(FolderAccess(tmp_path))


# What destroying it would lose


def database(access: FolderAccess) -> Path:
    place = access.root / "databases" / "mlflow.db"
    place.parent.mkdir()
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(
            """PRAGMA journal_mode=WAL;
            CREATE TABLE runs (lifecycle_stage); CREATE TABLE registered_models (name);
            CREATE TABLE logged_models (lifecycle_stage);
            INSERT INTO runs VALUES ('active'), ('active'), ('deleted');
            INSERT INTO logged_models VALUES ('active');"""
        )
    return place


def held(access: FolderAccess) -> list[tuple[int, str]]:
    return [(h.count, h.what) for h in MLFLOW.holdings(access)]


def test_holdings_of_a_stopped_stack(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path / "odd ?#%20 name")
    database(access)
    assert held(access) == [(2, "runs"), (1, "logged models")]


def test_holdings_while_mlflow_writes(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    with closing(sqlite3.connect(database(access))) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO runs VALUES ('active')")
        assert held(access) == [(2, "runs"), (1, "logged models")]


def test_holdings_that_cannot_be_counted_are_not_zero(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    database(access).write_bytes(b"no database" * 1000)
    assert held(access) == [(-1, "runs"), (-1, "registered models"), (-1, "logged models")]


def test_holdings_of_a_stack_that_was_never_made(tmp_path: Path) -> None:
    assert held(FolderAccess(tmp_path)) == []


def test_holdings_are_asked_of_the_server_where_there_is_no_file(tmp_path: Path, server: Scripted) -> None:
    access = FolderAccess(tmp_path, {"experiment-tracker": server.url})
    server.say("/api/2.0/mlflow/experiments/search", {"experiments": [{"experiment_id": "0"}]})
    server.say("/api/2.0/mlflow/runs/search", {"runs": [{}, {}, {}]})
    server.say("/api/2.0/mlflow/registered-models/search", {})
    assert held(access) == [(3, "runs")]
    server.end()
    assert held(access) == [(-1, "runs")]


# The launcher


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as the service sees it: its folders on the path, nothing of Matcha."""
    import importlib

    for place in MLFLOW.services(())[0].code:
        monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "matcha_mlflow", raising=False)
    return importlib.import_module("matcha_mlflow")


@pytest.fixture
def package(tmp_path: Path, launcher: Any) -> Path:
    """A folder laid out as the pinned MLflow is."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "fastapi_app.py").touch()
    lines = [f'{name} = "{value}"' for name, value in launcher.PRIVATE.items()]
    (tmp_path / "server" / "constants.py").write_text("OTHER = 3\n" + "\n".join(lines))
    return tmp_path


def test_the_known_layout_is_run_directly(launcher: Any, package: Path) -> None:
    assert launcher.as_known(package)


def test_another_name_of_a_variable_is_noticed(launcher: Any, package: Path) -> None:
    constants = package / "server" / "constants.py"
    constants.write_text(constants.read_text().replace("_FILE_STORE", "_BACKEND_STORE"))
    assert not launcher.as_known(package)


def test_a_missing_constant_or_module_is_noticed(launcher: Any, package: Path) -> None:
    (package / "server" / "fastapi_app.py").unlink()
    assert not launcher.as_known(package)
    (package / "server" / "fastapi_app.py").touch()
    (package / "server" / "constants.py").write_text("def broken(:")
    assert not launcher.as_known(package)
    (package / "server" / "constants.py").unlink()
    assert not launcher.as_known(package)


def test_mlflow_gets_hosts_as_it_compares_them(launcher: Any) -> None:
    import fnmatch

    allowed = launcher.allowed_hosts(("localhost", "[::1]", "localhost:5001")).split(",")
    assert allowed[:3] == ["localhost", "[::1]", "localhost:5001"]
    patterns = [one for one in allowed if "*" in one]
    assert any(fnmatch.fnmatch("[::1]:5001", one) for one in patterns)
    assert not any(fnmatch.fnmatch("localhost.evil.example:80", one) for one in patterns)


@pytest.mark.parametrize(
    ("path", "said", "told"),
    [
        (
            "/api/3.0/mlflow/server-info",
            b'{"multipart_downloads_enabled": true, "multipart_uploads_enabled": true, "store_type": "S"}',
            {
                "multipart_downloads_enabled": False,
                "multipart_uploads_enabled": False,
                "store_type": "S",
            },
        ),
        ("/elsewhere", b'{"multipart_downloads_enabled": true}', {"multipart_downloads_enabled": True}),
        ("/ajax-api/3.0/mlflow/server-info", b"[1, 2]", [1, 2]),
    ],
)
def test_clients_are_told_to_fetch_artifacts_from_the_server(
    launcher: Any, path: str, said: bytes, told: Any
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(said)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said[:7], "more_body": True})
        await send({"type": "http.response.body", "body": said[7:]})

    transport = httpx.ASGITransport(app=launcher.ThroughTheServer(app))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            return await client.get(path)

    answer = asyncio.run(ask())
    assert answer.json() == told
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_shared_code_imports_nothing_of_matcha() -> None:
    for place in (inside.FOLDER, *MLFLOW.services(())[0].code):
        for path in place.glob("*.py"):
            assert not re.search(r"^\s*(from|import) matcha(\.|\s)", path.read_text(), re.MULTILINE), path
