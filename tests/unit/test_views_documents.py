"""The JSON of each command: decodes strictly as its published schema's type, and hides secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha.access import Output
from matcha.api import types
from matcha.api.types import (
    ColumnReport,
    ComponentStatus,
    DeployResult,
    Destroyed,
    Finding,
    ModelStatus,
    NewToken,
    Prediction,
    Provisioned,
    Report,
    RevokedToken,
    ServedModel,
    StackStatus,
    TokenInfo,
    Window,
)
from matcha.cli.commands import PANELS
from matcha.component import Deployment
from matcha.errors import BadInput
from matcha.job import JobStatus
from matcha.planning import Plan, Step
from matcha.views import documents

OUTPUTS = {"pipeline": {"flavor": Output("zenml"), "server-password": Output("s3cret", sensitive=True)}}
PLAN = Plan(
    stack="default",
    target="local",
    steps=(Step(key="secrets", action="create", reason="not there yet"),),
    notes=("Download: 1 MB.",),
)
MOVIE = Deployment(name="movie", asked="models:/movie/3", uri="models:/movie/3", signature={"inputs": "[]"})
REPORT = Report(
    deployment="movie",
    version="3",
    status="drift",
    made="2026-11-05T11:00:00Z",
    window=Window("2026-11-05T10:00:00Z", "2026-11-05T11:00:00Z", 3),
    columns=(ColumnReport(name="age", drifted=True, score=0.4, threshold=0.2, kind="number"),),
    drifted=("age",),
    dataset_drift=True,
)
STATUS = StackStatus(
    stack="default",
    target="local",
    phase="ready",
    healthy=True,
    components=(
        ComponentStatus(
            role="experiment-tracker", flavor="mlflow", title="MLflow", condition="running", healthy=True
        ),
    ),
    models=(ModelStatus(name="movie", uri="models:/movie/3", healthy=True),),
)
PROVISIONED = documents.provisioned(Provisioned(plan=PLAN, outputs=OUTPUTS, seconds=1.23456))

TOKEN = TokenInfo(name="shop", id="a", models=("movie",), created=1.0)

DOCUMENTS: dict[str, Any] = {
    "deploy": DeployResult(deployment=MOVIE, url="http://x", python="", curl="", notes=("a",)),
    "destroy": Destroyed(removed=("a",)),
    "doctor": [Finding(check="python", ok=True, message="3.11")],
    "env": documents.variables(OUTPUTS["pipeline"]),
    "error": documents.error(BadInput("No.", details="d", resolution="matcha init")),
    "example get": documents.PathDocument("/p"),
    "example list": [documents.ExampleDocument("recommendation", "A movie recommender")],
    "force-unlock": documents.LockDocument(broken=True, owner="ann"),
    "get": documents.values(OUTPUTS),
    "init": documents.PathDocument("/p/matcha.yaml"),
    "jobs cancel": documents.DoneDocument("cancel", "train-1"),
    "jobs list": [JobStatus(name="train-1", condition="running", command=("python", "train.py"))],
    "jobs logs": documents.LogLine("train-1", "epoch 1"),
    "logs": documents.LogLine("mlflow", "started"),
    "models": [ServedModel(name="movie", versions=("3",), aliases={"a": "3"}, deployments=(MOVIE,))],
    "monitor": [REPORT],
    "open": documents.UrlDocument("http://x"),
    "plan": PLAN,
    "predict": Prediction(name="movie", version="3", predictions=[1, "a", None, [2.5]]),
    "provision": PROVISIONED,
    "schema": ["status"],
    "start": PROVISIONED,
    "status": STATUS,
    "stop": documents.DoneDocument("stop"),
    "tokens create": NewToken(token=TOKEN, bearer="matcha_a_b", url="https://x", notes=("a",)),
    "tokens list": [TOKEN],
    "tokens revoke": RevokedToken(token=TOKEN),
    "undeploy": documents.DoneDocument("undeploy", "movie"),
}


def test_every_schema_has_a_document_here() -> None:
    assert set(DOCUMENTS) == set(documents.SCHEMAS)


@pytest.mark.parametrize("command", sorted(documents.SCHEMAS))
def test_a_document_is_what_its_schema_says(command: str) -> None:
    raw = documents.to_json(DOCUMENTS[command])
    decoded = msgspec.json.decode(raw, type=documents.SCHEMAS[command], strict=True)
    assert documents.to_json(decoded) == raw


@pytest.mark.parametrize("command", sorted(documents.SCHEMAS))
def test_properties_of_a_document_stand_in_the_json_schema(command: str) -> None:
    schema = documents.schema(command)
    assert schema["title"] == f"matcha {command} --output json"
    document = json.loads(documents.to_json(DOCUMENTS[command]))
    top = schema.get("items", schema)
    sample = document[0] if isinstance(document, list) else document
    if "$ref" in top:
        described = schema["$defs"][top["$ref"].rpartition("/")[2]]
        assert set(described["required"]) <= set(sample)
        assert set(sample) <= set(described["properties"])


def test_secrets_are_masked_unless_asked_for() -> None:
    assert documents.values(OUTPUTS) == {"pipeline": {"flavor": "zenml", "server-password": "********"}}
    assert documents.values(OUTPUTS, show=True)["pipeline"]["server-password"] == "s3cret"
    assert "s3cret" not in documents.to_json(PROVISIONED)
    assert documents.hides(OUTPUTS, show=False)
    assert not documents.hides(OUTPUTS, show=True)
    assert not documents.hides({"cloud": {"flavor": Output("azure")}}, show=False)


def test_an_error_document() -> None:
    assert json.loads(documents.to_json(DOCUMENTS["error"])) == {
        "error": {
            "code": "BadInput",
            "message": "No.",
            "details": "d",
            "resolution": "matcha init",
            "docs_url": "",
        }
    }


def test_json_lines_are_lines() -> None:
    assert documents.to_json_line(documents.LogLine("a", "b\nc")) == '{"service":"a","line":"b\\nc"}\n'


def test_what_has_no_json_form_is_refused() -> None:
    assert documents.to_json({"p": Path("/x")}) == '{\n  "p": "/x"\n}\n'
    with pytest.raises(NotImplementedError):
        documents.to_json({"p": object()})


def test_yaml_reads_back() -> None:
    from ruamel.yaml import YAML

    values = {"pipeline": {"server-url": "http://127.0.0.1:1", "password": "'\"\n: #", "empty": ""}}
    assert YAML(typ="safe").load(documents.to_yaml(values)) == values


STRUCTS = [s for s in vars(types).values() if isinstance(s, type) and s.__module__ == types.__name__]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_a_result_is_described_by_the_fields_it_has(struct: Any) -> None:
    named = set(re.findall(r"`(\w+)`", struct.__dict__.get("__doc__") or ""))
    commands = {name for names in PANELS.values() for name in names}
    assert named - commands <= {field.name for field in msgspec.structs.fields(struct)}
