"""The state record: reading it, lifting older ones, changing it; one data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

from matcha import state as states
from matcha.component import Deployment
from matcha.state import Record, State, decode, encode

CASES = YAML(typ="safe").load((Path(__file__).parent / "cases/state.yaml").read_text())
EMPTY = State(stack_id="s", stack="default", target="local")


class Lift:
    """A migration as the data file describes it."""

    def __init__(self, to: int, rename: dict[str, str], add: dict[str, Any] | None = None) -> None:
        self.to, self.rename, self.add = to, rename, add or {}

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        renamed = {self.rename.get(key, key): value for key, value in data.items()}
        return {**renamed, **self.add, "schema_version": self.to}


@pytest.mark.parametrize("case", CASES["decode"], ids=lambda c: c["name"])
def test_decode(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for version, lift in case.get("migrations", {}).items():
        monkeypatch.setitem(states.MIGRATIONS, version, Lift(**lift))
    raw = msgspec.json.encode(case["raw"])
    if "error" in case:
        with pytest.raises(msgspec.MsgspecError, match=case["error"]):
            decode(raw)
        return
    found = decode(raw)
    shown = msgspec.to_builtins(found)
    assert {key: shown[key] for key in case["state"]} == case["state"]
    assert decode(encode(found)) == found


@pytest.mark.parametrize("case", CASES["change"], ids=lambda c: c["name"])
def test_change(case: dict[str, Any]) -> None:
    state = EMPTY
    for step in case["do"]:
        before = msgspec.to_builtins(state)
        verb, *words = step.split()
        changed = getattr(state, verb)(*argument(verb, words))
        assert msgspec.to_builtins(state) == before, "a state never changes"
        state = changed
    assert facts(state, case["state"]) == case["state"]


def argument(verb: str, words: list[str]) -> list[Any]:
    made: dict[str, Any] = {
        "with_resource": lambda: [words[0], Record(digest=words[1])],
        "with_deployment": lambda: [Deployment(name=words[0], asked=words[1], uri=words[1])],
    }
    return made[verb]() if verb in made else words


def facts(state: State, about: dict[str, Any]) -> dict[str, Any]:
    shown = {
        "serial": state.serial,
        "resources": {key: record.digest for key, record in state.resources.items()},
        "deployments": {key: deployment.uri for key, deployment in state.deployments.items()},
    }
    return {key: shown[key] for key in about}


def test_every_older_schema_that_was_ever_written_can_be_lifted() -> None:
    assert set(states.MIGRATIONS) == set(range(1, states.SCHEMA_VERSION))
