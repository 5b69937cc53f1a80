"""What the mark of the secrets that pods read tells, and what it does not."""

from __future__ import annotations

import pytest
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec

from matcha.targets.kubernetes.names import SECRETS
from matcha.targets.kubernetes.pod import secret_variable, variable
from matcha.targets.kubernetes.rotation import CHANGED, KEY, LOST, Held, mark, reads, told

OWN = {KEY: "k", "own": "1"}
THEIRS = {"password": "hunter2"}


def template() -> PodTemplateSpec:
    """Reads one value of the stack's own Secret and one of the user's, the latter in both containers."""
    theirs = secret_variable("B", "password", "theirs")
    init = Container(name="init", env=[theirs])
    main = Container(name="main", env=[variable("P", "plain"), secret_variable("A", "own"), theirs])
    return PodTemplateSpec(spec=PodSpec(initContainers=[init], containers=[main]))


def held(own: dict[str, str] | None, theirs: dict[str, str] | None) -> Held:
    return Held({SECRETS: own, "theirs": theirs})


WAS = mark(template(), held(OWN, THEIRS))


def test_what_is_read_counts_once() -> None:
    assert reads(template()) == [(SECRETS, "own"), ("theirs", "password")]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (held(OWN, THEIRS), ""),
        (held({**OWN, "more": "2"}, {**THEIRS, "more": "2"}), ""),
        (held({**OWN, "own": "2"}, THEIRS), CHANGED),
        (held(OWN, {"password": "hunter3"}), CHANGED),
        (held({"own": "1"}, THEIRS), CHANGED),
        (held({KEY: "another", "own": "1"}, THEIRS), CHANGED),
        (held({KEY: "k"}, THEIRS), LOST),
        (held(None, THEIRS), LOST),
        (held(OWN, None), ""),
        (held(OWN, {}), ""),
        (Held({SECRETS: OWN}), ""),
        (Held({"theirs": {"password": "hunter3"}}), ""),
        (Held(), ""),
    ],
)
def test_what_there_is_to_say(now: Held, said: str) -> None:
    assert told(template(), WAS, now) == said
    assert told(template(), "", now) == ""


def test_there_is_no_mark_of_what_is_not_known_and_none_of_nothing() -> None:
    assert len(WAS) == 32
    assert mark(template(), held({"own": "1"}, THEIRS)) == ""
    assert mark(template(), Held({SECRETS: OWN})) == ""
    assert mark(PodTemplateSpec(spec=PodSpec(containers=[])), held(OWN, THEIRS)) == ""
