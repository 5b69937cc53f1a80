"""The planner's transitions, one data file."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

from matcha.component import Component
from matcha.errors import MatchaError
from matcha.planning import Resource, Wanted, before, in_order, make, only_for, removals, want
from matcha.state import Record, State
from matcha.target import Seen, Snapshot

CASES = YAML(typ="safe").load((Path(__file__).parent / "cases/planning.yaml").read_text())


def resource(case: dict[str, Any], key: str) -> Resource:
    digest, *needs = str(case["wanted"][key]).split() or [""]
    return Resource(
        key=key,
        digest=digest,
        needs=tuple(needs),
        parts=tuple(case.get("parts", {}).get(key, ())),
        recorded=key.startswith("setup/") or key == "deployments",
        remade_with=tuple(case.get("remade", {}).get(key, ())),
    )


def wanted(case: dict[str, Any]) -> Wanted:
    return Wanted(
        environments=(),
        services=(),
        secrets=(),
        stores=(),
        components=(),
        deployments=(),
        resources=tuple(resource(case, key) for key in case["wanted"]),
    )


def seen(text: str) -> Seen:
    condition, digest, detail = [*text.split(maxsplit=2), "", ""][:3]
    return Seen(condition, digest.strip("-"), detail)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_transition(case: dict[str, Any]) -> None:
    snapshot = Snapshot({key: seen(text) for key, text in case["seen"].items()})
    records = {key: Record(digest=digest) for key, digest in case.get("recorded", {}).items()}
    if not case.get("unrecorded"):
        records |= {key: Record(digest="") for key in case["seen"] if key.startswith("service/")}
    state = State(stack_id="s", stack="default", target="fake", resources=records)
    plan = make("default", "fake", wanted(case), snapshot, state)
    assert [[s.action, s.key, s.reason] for s in plan.steps] == case["steps"]
    if "unchanged" in case:
        assert list(plan.unchanged) == case["unchanged"]


def test_steps_wait_only_for_steps_of_the_plan() -> None:
    case = {"wanted": {"environment/a": "e1", "service/a": "d1 environment/a"}}
    plan = make("default", "fake", wanted(case), Snapshot({"environment/a": Seen("present", "e1")}), None)
    assert [(s.key, s.needs) for s in plan.steps] == [("service/a", ())]


def test_steps_wait_for_what_is_under_a_resource_that_is_as_it_should_be() -> None:
    """`stores` may be there, and what it stands on not."""
    case = {"wanted": {"foundation/f": "f1", "stores": "s1 foundation/f", "service/a": "d1 stores"}}
    plan = make("default", "fake", wanted(case), Snapshot({"stores": Seen("present", "s1")}), None)
    assert [(s.key, s.needs) for s in plan.steps] == [
        ("foundation/f", ()),
        ("service/a", ("foundation/f",)),
    ]


class Wired(Component):
    role = flavor = title = "tracker"

    def secrets(self) -> tuple[str, ...]:
        return ("key",)

    def setup_digest(self) -> str:
        return "s1"


def test_a_setup_waits_for_the_secrets_that_have_it_done_again() -> None:
    found = want([Wired(msgspec.defstruct("Options", [])())], [])
    done = {"setup/tracker": Record(digest="s1")}
    state = State(stack_id="s", stack="default", target="fake", resources=done)
    plan = make("default", "fake", found, Snapshot({}), state)
    assert [(s.key, s.reason, s.needs) for s in plan.steps] == [
        ("secrets", "not there yet", ()),
        ("setup/tracker", "secrets is made anew", ("secrets",)),
    ]


def test_parts_of_a_plan_are_what_a_resource_needs() -> None:
    case = {"wanted": {"e": "e1", "service/s": "d1 e", "deployments": "m1 service/s", "service/other": "o1"}}
    found = wanted(case)
    state = State(stack_id="s", stack="default", target="fake")
    plan = make("default", "fake", found, Snapshot({"service/old": Seen("running")}), state)
    keys = ["e", "service/s", "deployments", "service/other", "service/old"]
    assert [s.key for s in plan.steps] == keys
    assert [s.key for s in only_for(plan, "deployments", found).steps] == [*keys[:3], "service/old"]
    assert [s.key for s in before(plan, "deployments", found).steps] == keys[:2]
    assert [s.key for s in removals(plan).steps] == ["service/old"]


def test_a_part_of_a_plan_has_the_setups_that_its_steps_undo() -> None:
    """Or the next plan finds one that is not finished, though nobody was cut short."""
    found = wanted(
        {
            "wanted": {"service/a": "2", "service/b": "2", "setup/a": "1 service/a", "setup/b": "1 service/b",
                       "deployments": "1 service/a"},
            "remade": {"setup/a": ["service/a"], "setup/b": ["service/b"]},
        }
    )  # fmt: skip
    there = Snapshot({key: Seen("running", "1") for key in ("service/a", "service/b")})
    records = dict.fromkeys(("service/a", "service/b", "setup/a", "setup/b"), Record(digest="1"))
    plan = make("default", "fake", found, there, State(stack_id="s", stack="", target="", resources=records))
    assert [s.key for s in before(plan, "deployments", found).steps] == ["service/a", "setup/a"]
    assert [s.key for s in only_for(plan, "deployments", found).steps] == [
        "service/a",
        "setup/a",
        "deployments",
    ]


def test_a_circle_of_needs_is_named() -> None:
    circle = [Resource(key="a", digest="", needs=("b",)), Resource(key="b", digest="", needs=("a",))]
    with pytest.raises(MatchaError) as caught:
        in_order(circle)
    assert caught.value.details == "a -> b -> a"
