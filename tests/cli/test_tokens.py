"""`matcha tokens`: on a target that exposes nothing for real, with servers that do not answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Done, Project  # type: ignore[import-not-found]
from matcha.component import Deployment
from matcha.state import State, decode, encode

SERVING = ("experiment-tracker", "model-deployer")
EXPOSED = "targets:\n  fake: {expose: models.example.com}\n"
BEARER = re.compile(r"^matcha_[0-9a-f]{12}_[0-9a-f]{64}$", re.MULTILINE)


@pytest.fixture
def exposed(tmp_path: Path) -> Project:
    """Provisioned, with a model that is served by its record."""
    made = Project(tmp_path / "project")
    made.write(EXPOSED, SERVING)
    made("provision", "--yes")
    served = Deployment(name="credit", asked="models:/credit/1", uri="models:/credit/1")
    change(made, lambda state: state.with_deployment(served))
    return made


def change(project: Project, edit: Callable[[State], State]) -> None:
    record = project.folder / ".matcha" / "state.json"
    record.write_bytes(encode(edit(decode(record.read_bytes()))))


def kept(project: Project) -> str:
    """Everything that is on the disk of the project."""
    return "".join(p.read_text() for p in project.folder.rglob("*") if p.is_file())


def create(project: Project, *arguments: str) -> Done:
    done = project("tokens", "create", *arguments)
    assert done.code == 0, done.err
    return done


def test_a_token_is_made_shown_once_listed_and_revoked(exposed: Project) -> None:
    done = create(exposed, "shop", "--model", "credit", "--expires", "30")
    [bearer] = BEARER.findall(done.out)
    assert "shop may ask credit at https://models.example.com\n" in done.out
    curl = done.out.splitlines()[-1]
    assert "https://models.example.com/v2/models/credit/infer" in curl and '"$MATCHA_TOKEN"' in curl
    assert bearer not in curl  # others on the machine see what stands in a command line
    assert bearer not in kept(exposed)
    assert hashlib.sha256(bearer.encode()).hexdigest() in kept(exposed)
    listed = exposed("tokens", "list")
    assert listed.code == 0 and bearer.rpartition("_")[2] not in listed.out
    [row] = [line for line in listed.out.splitlines() if line.startswith("shop")]
    assert row.split()[1:3] == [bearer.split("_")[1], "credit"] and "never" not in row
    ended = exposed("tokens", "revoke", "shop")
    assert ended.code == 0
    assert ended.out.startswith(f"The token shop ({bearer.split('_')[1]}) lets nobody in any more.\n")
    assert exposed("tokens", "list").out == "No tokens.\nNext: matcha tokens create NAME\n"


def test_servers_that_did_not_hear_of_it_are_named(exposed: Project) -> None:
    """Nothing answers here: they read the list by themselves."""
    said = "model-deployer did not answer. It goes by the new list within about a minute."
    assert said in create(exposed, "shop").out
    assert said in exposed("tokens", "revoke", "shop").out


def test_programs_read_json(exposed: Project) -> None:
    made = json.loads(create(exposed, "shop", "--output", "json").out)
    assert BEARER.match(made["bearer"]) and made["url"] == "https://models.example.com"
    assert made["token"]["models"] == [] and made["token"]["expires"] == 0
    [listed] = json.loads(exposed("tokens", "list", "--output", "json").out)
    assert listed == made["token"]
    revoked = json.loads(exposed("tokens", "revoke", listed["id"], "--output", "json").out)
    assert revoked["token"] == listed


def test_a_name_is_taken_once(exposed: Project) -> None:
    create(exposed, "shop")
    again = exposed("tokens", "create", "shop")
    assert (again.code, again.out) == (2, "")
    assert 'There is a token "shop" already' in again.err and "matcha tokens revoke shop" in again.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "a b"), 2, '"a b" cannot be the name of a token.'),
        (("create", "-x"), 2, ""),
        (("create", "shop", "--expires", "0"), 2, "A token ends after 1 to 36500 days, not after 0."),
        (("create", "shop", "--model", "credi"), 1, 'Did you mean "credit"?'),
        (("revoke", "shop"), 1, 'There is no token "shop".'),
    ],
)
def test_what_cannot_be_done_is_said(exposed: Project, arguments: list[str], code: int, said: str) -> None:
    done = exposed("tokens", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert exposed("tokens", "list").out.startswith("No tokens.")


def test_nothing_is_made_where_nothing_is_exposed(exposed: Project) -> None:
    create(exposed, "shop")
    exposed.write("", SERVING)
    done = exposed("tokens", "create", "reports")
    assert done.code == 2 and "targets.fake.expose in matcha.yaml" in done.err
    assert exposed("tokens", "list").out.splitlines()[1].startswith("shop")
    revoked = exposed("tokens", "revoke", "shop")
    assert revoked.code == 0
    assert "model-deployer did not answer." in revoked.out, "it lets applications in until `provision`"


def test_a_token_that_was_not_kept_is_not_shown(exposed: Project) -> None:
    exposed.write("targets:\n  fake: {expose: models.example.com, fail: [tokens]}\n", SERVING)
    done = exposed("tokens", "create", "shop")
    assert (done.code, done.out) == (1, "")
    assert exposed("tokens", "list").out.startswith("No tokens.")


def test_tokens_outlive_a_provision_and_go_with_the_stack(exposed: Project) -> None:
    create(exposed, "shop")
    change(exposed, lambda state: state.without_deployment("credit"))  # which no server here would load
    assert exposed("provision", "--yes").code == 0
    assert "shop" in exposed("tokens", "list").out
    assert exposed("destroy", "--yes", "--delete-data").code == 0
    assert exposed("tokens", "list").code == 1
    assert "shop" not in kept(exposed)


def test_on_this_machine_no_token_is_needed(tmp_path: Path) -> None:
    made = Project(tmp_path / "project")
    made.file.write_text("target: local\n")
    done = made("tokens", "create", "shop")
    assert (done.code, done.out) == (2, "")
    assert "A stack of the local target is not exposed, and needs no tokens." in done.err


def test_get_shows_where_applications_reach_models(exposed: Project) -> None:
    shown = exposed("get", "model-deployer", "public-url")
    assert shown == (0, "https://models.example.com\n", "")
    exposed.write("", SERVING)
    assert exposed("get", "model-deployer", "public-url").code == 2
