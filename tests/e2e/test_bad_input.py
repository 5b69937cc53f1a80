"""What goes wrong, and what is said of it: never a traceback, always what to type next."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support.matcha import Matcha

SMALL = "components: {pipeline: null, model-deployer: null, monitoring: null}\n"
NEXT = ("Next: ", "Did you mean ", "Known: ")  # how an error ends


@pytest.fixture(scope="module")
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matcha]:
    """MLflow alone: what is tested here is Matcha's own."""
    folder = tmp_path_factory.mktemp("small")
    matcha = Matcha(folder / "project", folder / "home")
    (matcha.project / "matcha.yaml").write_text(SMALL)
    try:
        matcha("provision", "--yes")
        yield matcha
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
        left = matcha.left()
        for process in matcha.processes():
            process.kill()
        assert left == []


@pytest.fixture
def small(_small: Matcha) -> Matcha:
    """Whole again, whatever the last test did."""
    if _small("status", code=None).returncode:
        _small("provision", "--yes")
    return _small


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is one message and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert [line.startswith("Error: ") for line in done.stderr.splitlines()].count(True) == 1, done.stderr
    return done.stderr


# Words that Matcha or the stack does not know


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("stack: default\ncomponent: {}\n", 2, ("component", 'Did you mean "components"?')),
        ("stack: defualt\n", 1, ("defualt", 'Did you mean "default"?')),
        ("target: locl\n", 1, ("locl", 'Did you mean "local"?')),
        ("components:\n  model-deployr: mlserver\n", 2, ("components.model-deployr", "model-deployer")),
        ("components:\n  pipeline: zenmll\n", 2, ("components.pipeline", 'Did you mean "zenml"?')),
        (
            "components:\n  model-deployer:\n    flavor: mlserver\n    max-bdy-mb: 4\n",
            4,
            ("components.model-deployer.max-bdy-mb", 'Did you mean "max-body-mb"?'),
        ),
        (
            "components:\n  model-deployer:\n    flavor: mlserver\n    max-body-mb: much\n",
            4,
            ("components.model-deployer.max-body-mb", "int"),
        ),
        ("components: {experiment-tracker: null}\n", 1, ("experiment-tracker", "needs")),
        ("models:\n  movie:\n    sample: 2\n", 3, ("models.movie.sample", "<= 1.0, found 2")),
        ("stack: [default]\n", 1, ("unknown stack", 'Did you mean "default"?')),
        ("components: {pipeline: [zenml]}\n", 1, ("components.pipeline", "zenml")),
        ("components:\n  pipeline:\n    flavor: [a]\n", 3, ("components.pipeline.flavor", "zenml")),
        (
            "targets:\n  local:\n    ports:\n      mlflow: 99999\n",
            4,
            ("targets.local.ports.mlflow", "<= 65535, found 99999"),
        ),
        ("targets:\n  local:\n    port: {}\n", 3, ("targets.local.port", 'Did you mean "ports"?')),
        ("stack: [default\n", 2, ("not valid YAML",)),
    ],
)
def test_the_stack_file_is_told_by_path_and_line(
    fresh: Matcha, text: str, line: int, words: tuple[str, ...]
) -> None:
    (fresh.project / "matcha.yaml").write_text(text)
    error = said(fresh("provision", "--yes", code=2))
    assert f"matcha.yaml:{line}:" in error
    for word in words:
        assert word in error
    assert error.rstrip().splitlines()[-1].startswith(NEXT)
    assert not (fresh.project / ".matcha").exists()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("provison",), 2, "provision"),
        (("status", "--outptu", "json"), 2, "--output"),
        (("get", "pipelin"), 2, 'Did you mean "pipeline"?'),
        (("get", "experiment-tracker", "url"), 2, "tracking-url"),
        (("logs", "mlfow"), 2, 'Did you mean "mlflow"?'),
        (("open", "zeml"), 2, 'Did you mean "zenml"?'),
        (("provision", "--target", "lokal"), 2, 'Did you mean "local"?'),
        (("example", "get", "recomendation"), 2, 'Did you mean "recommendation"?'),
        (("deploy", "not a uri"), 1, 'no saved model in the folder "not a uri"'),
        (("run", "--", "no-such-program"), 127, "no-such-program"),
        (("--project", "/no/such/folder", "status"), 2, "/no/such/folder"),
    ],
)
def test_unknown_names_are_told_with_what_exists(
    stack: Matcha, command: tuple[str, ...], code: int | None, words: str
) -> None:
    assert words in said(stack(*command, code=code))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("deploy", "models:/nobody/1"), "credit"),
        (("deploy", "models:/credti/1"), 'Did you mean "credit"?'),
        (("deploy", "models:/credit/99"), "Versions: 1"),
        (("deploy", "models:/credit@champoin"), 'Did you mean "champion"?'),
        (("undeploy", "nobody"), "credit"),
        (("undeploy", "credti"), 'Did you mean "credit"?'),
        (("predict", "nobody", "--json", "[{}]"), "credit"),
        (("monitor", "nobody"), "credit"),
    ],
)
@pytest.mark.usefixtures("credit")
def test_unknown_models_and_deployments_are_told_with_those_there_are(
    stack: Matcha, command: tuple[str, ...], words: str
) -> None:
    assert words in said(stack(*command, code=1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-r nothere.txt\n", "requirements.txt:1: there is no file nothere.txt"),
        ("numpy\na b c\n", "requirements.txt:2: not a requirement: a b c"),
        ("-r requirements.txt\n", "requirements.txt:1: requirements.txt includes itself"),
    ],
)
def test_requirements_that_are_none_are_told_by_line(small: Matcha, text: str, words: str) -> None:
    listed = small.project / "requirements.txt"
    listed.write_text(text)
    try:
        error = said(small("run", "--", "python", "-c", "", code=2))
        assert words in error
        assert "\nNext: Correct requirements.txt:" in error
    finally:
        listed.unlink()


@pytest.mark.parametrize(
    "command",
    [("status",), ("get",), ("stop",), ("start",), ("env",), ("deploy", "models:/m/1"), ("models",)],
)
def test_without_a_stack_provision_is_named(fresh: Matcha, command: tuple[str, ...]) -> None:
    assert "Next: matcha provision" in said(fresh(*command, code=1))
    assert list(fresh.project.iterdir()) == []


def test_a_program_reads_the_error_as_json(fresh: Matcha) -> None:
    done = fresh("status", "--output", "json", code=1)
    error = json.loads(done.stdout)["error"]
    assert error["resolution"] == "matcha provision"


def test_debug_shows_the_traceback(fresh: Matcha) -> None:
    assert "Traceback" in fresh("--debug", "status", code=1).stderr


# A component that cannot start


def test_a_broken_database_is_told_with_the_end_of_the_log(small: Matcha) -> None:
    small("stop")
    database = small.stack / "databases" / "mlflow" / "mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"this is no database" * 100)
    try:
        error = said(small("start", code=1))
        assert "Error: mlflow does not start" in error
        assert "file is not a database" in error, "the last lines of its log"
        assert "Next: matcha logs mlflow" in error
        assert small.json("status", code=1)["healthy"] is False
    finally:
        small("stop")
        database.write_bytes(good)
    small("provision", "--yes")
    assert small.json("status")["healthy"] is True


# The record


@pytest.mark.parametrize(
    ("text", "words"),
    [("{half a reco", "corrupt"), ('{"schema_version": 99}', "newer Matcha"), ("", "corrupt")],
)
def test_a_record_that_cannot_be_read_is_named_and_kept(small: Matcha, text: str, words: str) -> None:
    record = small.project / ".matcha" / "state.json"
    good = record.read_bytes()
    record.write_text(text)
    try:
        for command in (("status",), ("provision", "--yes"), ("destroy", "--yes")):
            error = said(small(*command, code=1))
            assert words in error
            assert str(record) in error
        assert record.read_text() == text
        copies = [p for p in record.parent.glob("state.json.corrupt-*") if p.read_text() == text]
        assert copies
        assert str(copies[0]) in error
    finally:
        record.write_bytes(good)
        for copy in record.parent.glob("state.json.corrupt-*"):
            copy.unlink()


def test_a_corrupt_record_has_a_way_out(small: Matcha) -> None:
    record = small.project / ".matcha" / "state.json"
    record.write_text("{half a reco")
    error = said(small("destroy", "--yes", code=1))
    assert error.rstrip().endswith("matcha destroy --yes --delete-data\nNext: matcha doctor")
    assert "Fix: matcha doctor --fix" in small("doctor", code=1).stdout
    assert "Fix: matcha provision" in small("doctor", "--fix", code=1).stdout
    small("provision", "--yes")
    assert small.json("status")["healthy"] is True
    for copy in record.parent.glob("state.json.corrupt-*"):
        copy.unlink()


# Destroying by mistake


ALONE = "components: {pipeline: null, model-deployer: null, monitoring: null, experiment-tracker: null}\n"


@pytest.mark.parametrize("text", [SMALL, ALONE, "nonsense: 1\n"], ids=["named", "taken out", "broken"])
def test_the_only_copy_of_runs_is_known_whatever_the_file_says(small: Matcha, text: str) -> None:
    tracker = small.url("experiment-tracker", "tracking-url")
    httpx.post(f"{tracker}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).raise_for_status()
    file = small.project / "matcha.yaml"
    file.write_text(text)
    try:
        error = said(small("destroy", "--yes", code=1))
    finally:
        file.write_text(SMALL)
    assert re.search(r"only copy of \d+ runs?\.", error)
    assert small.json("status")["healthy"] is True


# Two at once, and what one of them left


def provision(matcha: Matcha) -> subprocess.Popen[str]:
    return matcha.popen(
        "provision", "--yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def holding_the_lock(matcha: Matcha) -> subprocess.Popen[str]:
    """A provision that is frozen while it waits for a server."""
    matcha("stop")
    run = provision(matcha)
    assert run.stdout is not None
    for line in run.stdout:
        if "MLflow: waiting for" in line:
            break
    run.send_signal(signal.SIGSTOP)
    assert (matcha.project / ".matcha" / "lock").exists()
    return run


def test_two_provisions_at_once(small: Matcha) -> None:
    small("stop")
    runs = [provision(small) for _ in range(2)]
    outputs = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert small.json("status")["healthy"] is True
    ready, same = sorted(outputs, key=lambda text: "Nothing to do" in text)
    assert "Ready in" in ready
    assert "Nothing to do" in same


def test_who_holds_the_lock_is_told_and_it_can_be_broken(small: Matcha) -> None:
    first = holding_the_lock(small)
    try:
        assert f"pid {first.pid}" in json.dumps(small.json("status", code=1)["lock"])
        second = provision(small)
        assert second.stdout is not None
        waiting = next((line for line in second.stdout if "waiting for" in line), "it did not wait")
        assert f"pid {first.pid}" in waiting
        assert f"pid {first.pid}" in small("force-unlock", "--yes").stdout
        rest = second.communicate(timeout=240)[0]
        assert second.returncode == 0, rest
    finally:
        first.send_signal(signal.SIGCONT)
    told = first.communicate(timeout=240)[0]
    assert first.returncode == 1, told
    assert "lost the stack's lock" in told
    assert small.json("status")["healthy"] is True


def test_a_lock_left_behind_is_in_nobodys_way(small: Matcha) -> None:
    first = holding_the_lock(small)
    first.kill()
    first.communicate(timeout=30)
    assert (small.project / ".matcha" / "lock").exists()
    assert "Stack: waiting for" not in small("provision", "--yes").stderr
    assert "not locked" in small("force-unlock", "--yes").stdout


# Packages that cannot be had


def test_without_a_package_index_nothing_is_half_installed(fresh: Matcha, tmp_path: Path) -> None:
    (fresh.project / "matcha.yaml").write_text(SMALL)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        closed = server.getsockname()[1]
    caches = {"MATCHA_CACHE_DIR": str(tmp_path / "cache"), "UV_CACHE_DIR": str(tmp_path / "uv")}
    index = {**caches, "UV_DEFAULT_INDEX": f"http://127.0.0.1:{closed}/simple", "UV_HTTP_RETRIES": "0"}
    for _ in range(2):
        error = said(fresh("provision", "--yes", code=1, env=index))
        assert "package index cannot be reached" in error
        assert "Next: " in error
        assert not any((tmp_path / "cache" / "environments").glob("*/bin"))
    assert fresh("status", code=1, env=caches).returncode == 1
    fresh("provision", "--yes")  # with the index, or the cache that is full already: it goes on
    assert fresh.json("status")["healthy"] is True
    fresh("destroy", "--yes", "--delete-data")
    assert fresh.left() == []
