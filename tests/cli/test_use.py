"""Outputs, variables, models and jobs: what can be asked of a stack whose servers do not answer."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from matcha.component import Deployment
from matcha.registry import component_catalogue
from matcha.state import decode, encode

MLFLOW = component_catalogue()["experiment-tracker"]["mlflow"].version
NONE_DEPLOYED = 'Error: No model is deployed as "movie".\nNone exist yet.\n'
FLAVOR = {"data-version-control": "dvc", "experiment-tracker": "mlflow"}


def test_get(stack) -> None:
    store = stack.folder / ".matcha" / "store" / "datasets"
    assert stack("get") == (
        0,
        "data-version-control\n"
        "  flavor      dvc\n"
        f"  remote-url  {store}\n"
        "\n"
        "experiment-tracker\n"
        "  flavor        mlflow\n"
        "  tracking-url  http://127.0.0.1:9000\n",
        "",
    )
    values = json.loads(stack("get", "--output", "json").out)
    assert {resource: properties["flavor"] for resource, properties in values.items()} == FLAVOR
    assert YAML(typ="safe").load(stack("get", "--output", "yaml").out) == values


def test_get_narrowed(stack) -> None:
    assert stack("get", "experiment-tracker", "tracking-url") == (0, "http://127.0.0.1:9000\n", "")
    one = stack("get", "experiment-tracker", "tracking-url", "--output", "json")
    assert json.loads(one.out) == {"experiment-tracker": {"tracking-url": "http://127.0.0.1:9000"}}
    assert list(json.loads(stack("get", "experiment-tracker", "--output", "json").out)) == [
        "experiment-tracker"
    ]


def test_get_what_matcha_does_not_know(stack) -> None:
    assert stack("get", "experiment-traker") == (
        2,
        "",
        'Error: Unknown resource "experiment-traker".\nDid you mean "experiment-tracker"?\n',
    )
    done = stack("get", "experiment-tracker", "url")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith('Error: experiment-tracker has no property "url".\n')


def test_env_can_be_evaluated(stack) -> None:
    done = stack("env")
    assert (done.code, done.err) == (0, "")
    words = [shlex.split(each) for each in done.out.splitlines()]
    assert all(word[0] == "export" and len(word) == 2 for word in words)
    variables = dict(word[1].partition("=")[::2] for word in words)
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9000"
    assert variables["MATCHA_PROJECT"] == str(stack.folder)
    assert json.loads(stack("env", "--output", "json").out) == variables


@pytest.fixture
def other_mlflow(tmp_path: Path) -> str:
    """A folder for PYTHONPATH in which an old MLflow is installed, as far as metadata goes."""
    info = tmp_path / "site" / "mlflow-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow\nVersion: 1.0\n")
    return str(info.parent)


def differs() -> str:
    return f"mlflow 1.0 is installed here, the stack runs {MLFLOW}."


def test_doctor_names_client_libraries_of_other_versions(stack, other_mlflow: str) -> None:
    well = "Nothing installed beside Matcha differs from the stack."
    assert stack("doctor") == (0, f"✓ client libraries  {well}\n\nAll is well.\n", "")
    ill = (
        f"✗ client libraries  {differs()}\n"
        "                    Fix: Run your code with `matcha run -- ...`, or install the stack's versions.\n"
        "\n"
        "1 problem found.\n"
    )
    path = os.pathsep.join(filter(None, (other_mlflow, os.environ.get("PYTHONPATH"))))
    assert stack("doctor", PYTHONPATH=path) == (1, ill, "")
    assert stack("doctor", "--fix", PYTHONPATH=path) == (1, ill, ""), "nothing that Matcha mends by itself"
    [finding] = json.loads(stack("doctor", "--output", "json", PYTHONPATH=path).out)
    assert (finding["check"], finding["ok"], finding["fixable"]) == ("client libraries", False, False)


CONNECT = """
import json, sys, warnings
import matcha

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    variables = matcha.connect(sys.argv[1])
ours = [w for w in caught if w.category is UserWarning]
print(json.dumps([[str(w.message), w.filename, w.lineno] for w in ours]))
"""


def test_connect_warns_of_client_libraries_of_other_versions(stack, other_mlflow: str) -> None:
    """And the warning points at the line that connects."""

    def warned(**env: str) -> list[list[object]]:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, str(stack.folder)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    assert warned() == []
    path = os.pathsep.join(filter(None, (other_mlflow, os.environ.get("PYTHONPATH"))))
    assert warned(PYTHONPATH=path) == [[differs(), "<string>", 7]]


@pytest.fixture
def secretive(matcha):
    """A stack one of whose components has a password; its server never answers, which `get` does not mind."""
    matcha.write(kept=["experiment-tracker", "pipeline"])
    matcha("provision", "--yes")
    return matcha


def test_secrets_are_hidden_unless_asked_for(secretive) -> None:
    note = "Secrets are hidden; --show-sensitive shows them.\n"
    hidden = secretive("get", "pipeline", "server-password")
    assert hidden == (0, "********\n", note)
    shown = secretive("get", "pipeline", "server-password", "--show-sensitive")
    assert (shown.code, shown.err) == (0, "")
    secret = shown.out.strip()
    assert secret.startswith("secret-")
    everything = [
        secretive("get"),
        secretive("get", "--output", "json"),
        secretive("get", "--output", "yaml"),
    ]
    assert all(secret not in done.out + done.err for done in everything)
    assert everything[0].err == note
    assert secret in secretive("get", "--show-sensitive", "--output", "json").out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "movie"], 2, "Error: Name the rows to predict, once.\n"),
        (["predict", "movie", "a.csv", "--json", "[]"], 2, "Error: Name the rows to predict, once.\n"),
        (["predict", "movie", "--json", "{"], 2, "Error: --json: not JSON: "),
        (["predict", "movie", "--json", "3"], 2, "Error: --json: expected a list of objects, one a row.\n"),
        (["predict", "movie", "-"], 2, "Error: stdin: not JSON: "),
        (["predict", "movie", "--json", "[]"], 1, NONE_DEPLOYED),
        (["undeploy", "movie"], 1, NONE_DEPLOYED),
        (["monitor", "movie"], 1, NONE_DEPLOYED),
        (["models"], 1, "Error: MLflow does not answer at http://127.0.0.1:9000.\n"),
        (["deploy", "models:/movie/1"], 1, ""),
        (["deploy", "models:/movie/1", "--name", ""], 2, 'Error: "" cannot be a deployment name.\n'),
        (["run", "--gpu", "-1", "--", "true"], 2, "Error: "),
    ],
)
def test_what_cannot_be_done_says_why(stack, arguments: list[str], code: int, said: str) -> None:
    done = stack(*arguments, stdin="not json")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def serving(stack):
    """The same with a deployment on record: nothing asked here comes as far as its server."""
    record = stack.folder / ".matcha" / "state.json"
    movie = Deployment(name="movie", asked="models:/movie/1", uri="models:/movie/1")
    record.write_bytes(encode(decode(record.read_bytes()).with_deployment(movie)))
    return stack


@pytest.mark.parametrize(("name", "hint"), [("moive", 'Did you mean "movie"?'), ("credit", "Known: movie.")])
@pytest.mark.parametrize(
    "arguments",
    [("predict", "--json", "[]"), ("undeploy",), ("monitor",)],
    ids=lambda arguments: arguments[0],
)
def test_a_name_nothing_is_deployed_as_is_told_with_those_there_are(
    serving, arguments: tuple[str, ...], name: str, hint: str
) -> None:
    command, *more = arguments
    said = f'Error: No model is deployed as "{name}".\n{hint}\n'
    assert serving(command, name, *more) == (1, "", said)


@pytest.mark.parametrize("command", ["get", "env", "logs", "open", "models", "stop", "start", "status"])
def test_without_a_stack_the_next_command_is_provision(matcha, command: str) -> None:
    assert matcha(command) == (1, "", "Error: There is no running stack here.\nNext: matcha provision\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "movie", "--json", "[]"],
        ["models"],
        ["monitor"],
        ["deploy", "models:/movie/1"],
        ["undeploy", "movie"],
        ["run", "--", "true"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_stopped_stack_is_to_be_started(stack, arguments: list[str]) -> None:
    assert stack("stop").code == 0
    done = stack(*arguments)
    assert done == (1, "", "Error: The stack is stopped.\nNext: matcha start\n")
